//! The configuration file: `$MAYFLY_CONFIG`, else `/etc/mayfly/config.toml`. What a command's flags and
//! `MAYFLY_*` variables say wins over it.

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::IgnoredAny};

use crate::{action::policy::PinPolicy, egress::policy::Mode};

/// Where the file is that no variable names; there need be none.
const PATH: &str = "/etc/mayfly/config.toml";

/// Sections that are read here, and not by `mayfly serve`.
pub(super) const SECTIONS: [&str; 2] = ["actions", "egress"];

/// What the configuration file says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `[actions]`.
    pub actions: ActionSettings,
    /// `[egress]`.
    pub egress: EgressSettings,
    // Those of `mayfly serve`, which reads them by itself and says what is wrong with them.
    github: IgnoredAny,
    serve: IgnoredAny,
    metrics: IgnoredAny,
    pools: IgnoredAny,
}

/// Where actions come from, and which may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActionSettings {
    /// A folder or URL below which repositories lie as `owner/repo`, with or without `.git`.
    pub mirror: Option<String>,
    /// What must be known of an action before it runs.
    pub pins: Option<PinPolicy>,
}

/// Which hosts the sandboxes of `run` and `exec` may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressSettings {
    /// The file of the policy.
    pub policy: Option<PathBuf>,
    /// `open`, `audit` or `enforce`; wins over the file's own.
    pub mode: Option<Mode>,
    /// Address and port of the name server that is asked for sandboxes, in place of the host's.
    pub resolver: Option<SocketAddr>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {cause}; mend MAYFLY_CONFIG or the file's rights", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// The file is wrong.
    #[error("the configuration {} is wrong: {cause}", .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        #[source]
        cause: Box<toml::de::Error>,
    },
}

impl Settings {
    /// Reads the configuration file of this process.
    ///
    /// # Errors
    /// [`SettingsError`] if it is wrong, or one that is named is not there.
    pub fn load() -> Result<Self, SettingsError> {
        match named() {
            Some(path) => Self::read(&path),
            None => match Self::read(Path::new(PATH)) {
                Err(SettingsError::Read { cause, .. })
                    if cause.kind() == io::ErrorKind::NotFound =>
                {
                    Ok(Self::default())
                }
                read => read,
            },
        }
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`SettingsError`] if it cannot be read or is wrong.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = fs::read_to_string(path).map_err(|cause| SettingsError::Read {
            path: path.to_owned(),
            cause,
        })?;
        toml::from_str(&text).map_err(|cause| SettingsError::Wrong {
            path: path.to_owned(),
            cause: Box::new(cause),
        })
    }
}

/// The configuration file of this process, whether it is there or not.
#[must_use]
pub fn file() -> PathBuf {
    named().unwrap_or_else(|| PathBuf::from(PATH))
}

fn named() -> Option<PathBuf> {
    let path = env::var_os("MAYFLY_CONFIG").filter(|path| !path.is_empty());
    path.map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Settings::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_is_read_and_what_it_does_not_know_is_refused_with_its_line() {
        let settings =
            read("[actions]\nmirror = \"/srv/git\"\npins = \"lock-on-first-use\"\n").unwrap();
        assert_eq!(settings.actions.mirror.as_deref(), Some("/srv/git"));
        assert_eq!(settings.actions.pins, Some(PinPolicy::LockOnFirstUse));
        assert_eq!(read("").unwrap(), Settings::default());
        for (text, part) in [
            ("[actions]\npin = \"audit\"\n", "line 2"),
            ("[actions]\npins = \"off\"\n", "`require`"),
            ("actions = 1\n", "line 1"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
        let missing = Settings::read(Path::new("/nowhere/config.toml")).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/config.toml"));
    }
}
