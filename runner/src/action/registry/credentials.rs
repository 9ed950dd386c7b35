//! Logins at registries: what `docker login` wrote, or the same text in the environment.
//!
//! `DOCKER_AUTH_CONFIG` holds such a text; else `config.json` in `$DOCKER_CONFIG` or `~/.docker` is read.
//! Programs that such a file names (credential helpers) are not run.

use std::{
    collections::HashMap,
    env, fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::Zeroizing;

/// Longest text that is read.
const MAX_BYTES: u64 = 1 << 20;
/// What Docker calls its own registry in this file.
const DOCKER_HUB: &str = "index.docker.io";

/// A name and a password for a registry.
#[derive(Clone)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password or token.
    pub password: SecretString,
}

/// Logins by registry.
#[derive(Clone, Default)]
pub struct Credentials {
    logins: Arc<HashMap<String, Login>>,
    /// Registries whose login a program would have to tell.
    helped: Arc<Helped>,
}

#[derive(Default)]
struct Helped {
    all: bool,
    registries: Vec<String>,
}

/// Why the logins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("cannot read the logins at registries in {}: {cause}; mend DOCKER_CONFIG or the file's rights", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// It is not what Docker writes. What stands there is not said: it may be a password.
    #[error(
        "the logins at registries in {place} are not as Docker writes them (line {line}); run `docker login` again"
    )]
    Wrong {
        /// The file or the variable.
        place: String,
        /// 1-based; 0 for an entry that is wrong in itself.
        line: usize,
    },
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Auth>,
    #[serde(default, rename = "credsStore")]
    store: String,
    #[serde(default, rename = "credHelpers")]
    helpers: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<SecretString>,
    username: Option<String>,
    password: Option<SecretString>,
}

impl Credentials {
    /// The logins of this process's user.
    ///
    /// # Errors
    /// [`CredentialsError`] if there is a file or a variable with logins that cannot be used.
    pub fn load() -> Result<Self, CredentialsError> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        if let Some(text) = set("DOCKER_AUTH_CONFIG") {
            let text = Zeroizing::new(text.to_string_lossy().into_owned());
            return Self::parse(&text, "DOCKER_AUTH_CONFIG");
        }
        let folder = set("DOCKER_CONFIG").map(PathBuf::from);
        let home = || set("HOME").map(|home| PathBuf::from(home).join(".docker"));
        match folder.or_else(home) {
            Some(folder) => Self::read(&folder.join("config.json")),
            None => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self, CredentialsError> {
        let failed = |cause| CredentialsError::Read {
            path: path.to_owned(),
            cause,
        };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
            Ok(found) if found.len() > MAX_BYTES => {
                return Err(failed(io::Error::from(io::ErrorKind::FileTooLarge)));
            }
            Ok(_) => {}
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads a text as Docker writes it; `place` is what an error calls it.
    ///
    /// # Errors
    /// [`CredentialsError::Wrong`].
    pub fn parse(text: &str, place: &str) -> Result<Self, CredentialsError> {
        let wrong = |line| CredentialsError::Wrong {
            place: place.to_owned(),
            line,
        };
        let file: File = serde_json::from_str(text).map_err(|error| wrong(error.line()))?;
        let mut logins = HashMap::new();
        for (registry, auth) in file.auths {
            // An entry without a password only says that a helper has one.
            if let Some(login) = auth.login().ok_or_else(|| wrong(0))? {
                logins.insert(host(&registry).to_owned(), login);
            }
        }
        let helped = Helped {
            all: !file.store.is_empty(),
            registries: file
                .helpers
                .keys()
                .map(|name| host(name).to_owned())
                .collect(),
        };
        Ok(Self {
            logins: Arc::new(logins),
            helped: Arc::new(helped),
        })
    }

    /// The login at a registry, by its name in images.
    #[must_use]
    pub fn of(&self, registry: &str) -> Option<&Login> {
        self.logins.get(key(registry))
    }

    /// What to do where a registry asks for a login that is not known.
    #[must_use]
    pub fn mend(&self, registry: &str) -> &'static str {
        let helped = self.helped.all
            || self
                .helped
                .registries
                .iter()
                .any(|name| name == key(registry));
        match (self.of(registry), helped) {
            (Some(_), _) => "look at the login in Docker's config.json or DOCKER_AUTH_CONFIG",
            (None, true) => {
                "its login is in a credential helper, which is not run: put it into DOCKER_AUTH_CONFIG"
            }
            (None, false) => "if it is private, `docker login` or DOCKER_AUTH_CONFIG gives a login",
        }
    }
}

impl Auth {
    /// The login, if there is one; nothing if it is broken.
    fn login(self) -> Option<Option<Login>> {
        let (username, password) = match (self.auth, self.username, self.password) {
            (Some(auth), ..) if !auth.expose_secret().is_empty() => {
                let plain = STANDARD.decode(auth.expose_secret().as_bytes()).ok()?;
                let plain = Zeroizing::new(plain);
                let (name, password) = std::str::from_utf8(&plain).ok()?.split_once(':')?;
                // Docker pads with zeros.
                let password = password.trim_end_matches('\0').to_owned();
                (name.to_owned(), SecretString::from(password))
            }
            (_, Some(name), Some(password)) => (name, password),
            _ => return Some(None),
        };
        let given = !username.is_empty() && !password.expose_secret().is_empty();
        Some(given.then_some(Login { username, password }))
    }
}

/// How a registry is called here, by its name in images.
fn key(registry: &str) -> &str {
    match registry {
        "docker.io" => DOCKER_HUB,
        other => other,
    }
}

/// The host in what Docker calls a registry: `https://index.docker.io/v1/`, `ghcr.io`.
fn host(text: &str) -> &str {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    key(text.split('/').next().unwrap_or(text))
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_writes_is_read_and_never_shown() {
        let auth = STANDARD.encode("ada:s3cret:with colon");
        let text = format!(
            r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{auth}"}},
                "ghcr.io": {{"username": "bob", "password": "t0ken"}}, "x.example": {{}}}},
                "credHelpers": {{"y.example": "pass"}}, "HttpHeaders": {{}}}}"#
        );
        let found = Credentials::parse(&text, "a file").unwrap();
        let shown = |registry| {
            let login = found.of(registry)?;
            Some((login.username.as_str(), login.password.expose_secret()))
        };
        assert_eq!(shown("docker.io"), Some(("ada", "s3cret:with colon")));
        assert_eq!(shown("ghcr.io"), Some(("bob", "t0ken")));
        assert_eq!((shown("x.example"), shown("y.example")), (None, None));
        assert!(found.mend("y.example").contains("credential helper"));
        assert!(found.mend("x.example").contains("`docker login`"));
        let debug = format!("{found:?} {:?}", found.of("ghcr.io"));
        assert!(
            !debug.contains("t0ken") && !debug.contains("bob"),
            "{debug}"
        );
    }

    #[test]
    fn what_is_wrong_is_said_without_what_stands_there() {
        for text in [
            "{\"auths\": s3cret}",
            r#"{"auths": {"x": {"auth": "s3cret"}}}"#,
        ] {
            let error = Credentials::parse(text, "a file").unwrap_err().to_string();
            assert!(
                error.contains("a file") && !error.contains("s3cret"),
                "{error}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let none = Credentials::read(&folder.path().join("config.json")).unwrap();
        assert!(none.of("ghcr.io").is_none());
    }
}
