//! `--egress` and `--offline`: which policy the sandboxes of a command get.

use std::path::Path;

use clap::Args;

use crate::{
    cli::Failure,
    config::Settings,
    egress::policy::{Document, Mode, Preset},
};

/// The preset of those who name none.
const USUAL: Preset = Preset::Registries;

/// The network of sandboxes.
#[derive(Clone, Debug, Default, Args)]
pub struct EgressArgs {
    /// Which hosts the sandbox may reach: `open`, `audit` (all, and what is beyond GitHub and public
    /// registries is written down) or `enforce` (only those), or a policy file (docs/egress.md).
    /// Without it, `[egress]` of the configuration; without that, audit.
    #[arg(long, value_name = "MODE|FILE")]
    egress: Option<String>,
    /// Let the sandbox reach nothing.
    #[arg(long, conflicts_with = "egress")]
    offline: bool,
}

impl EgressArgs {
    /// The policy that is meant.
    ///
    /// # Errors
    /// A file or the configuration is wrong: exit code 2.
    pub fn document(&self) -> Result<Document, Failure> {
        if self.offline {
            return Ok(Document::of(Mode::Enforce, &[Preset::Locked]));
        }
        if let Some(said) = &self.egress {
            return named(said);
        }
        let settings = Settings::load().map_err(Failure::usage)?.egress;
        match (settings.policy, settings.mode) {
            (Some(file), mode) => {
                let mut document = Document::read(&file).map_err(Failure::usage)?;
                document.pool.mode = mode.or(document.pool.mode);
                Ok(document)
            }
            (None, mode) => Ok(Document::of(mode.unwrap_or(Mode::Audit), &[USUAL])),
        }
    }
}

/// A mode by its word, else a file.
pub(super) fn named(said: &str) -> Result<Document, Failure> {
    let modes = [Mode::Open, Mode::Audit, Mode::Enforce];
    match modes.into_iter().find(|mode| mode.word() == said) {
        Some(mode) => Ok(Document::of(mode, &[USUAL])),
        None => Document::read(Path::new(said)).map_err(Failure::usage),
    }
}

/// What the policy means, in one line.
pub fn line(document: &Document) -> String {
    let mode = document.pool.mode.unwrap_or(Mode::Audit);
    let presets: Vec<&str> = document
        .pool
        .presets
        .iter()
        .map(|preset| preset.word())
        .collect();
    let rules = document
        .pool
        .allow
        .iter()
        .filter(|rule| !rule.of_preset)
        .count();
    let mut named = match presets.as_slice() {
        [] => Vec::new(),
        ["locked"] => vec!["nothing".to_owned()],
        presets => vec![format!("hosts of preset {}", presets.join(", "))],
    };
    if rules > 0 || named.is_empty() {
        named.push(format!("{rules} rules of {}", document.origin));
    }
    let named = named.join(" and ");
    match mode {
        Mode::Open => "network: open; everything but the host's side is reachable".into(),
        Mode::Audit => format!(
            "network: audit; everything but the host's side is reachable, and what is beyond {named} is written down (--egress enforce denies it)"
        ),
        Mode::Enforce if named == "nothing" => "network: none".into(),
        Mode::Enforce => format!("network: enforce; only {named} can be reached"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(egress: Option<&str>, offline: bool) -> EgressArgs {
        EgressArgs {
            egress: egress.map(str::to_owned),
            offline,
        }
    }

    #[test]
    fn a_mode_a_file_or_nothing_at_all() {
        let said = |args: EgressArgs| line(&args.document().unwrap());
        assert_eq!(said(args(None, true)), "network: none");
        assert!(said(args(Some("enforce"), false)).contains("only hosts of preset registries"));
        assert!(said(args(Some("audit"), false)).contains("written down"));
        assert!(said(args(Some("open"), false)).starts_with("network: open"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "mode = \"enforce\"\n[[allow]]\nhost = \"a.example.com\"",
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(
            said(args(Some(path), false)),
            format!("network: enforce; only 1 rules of {path} can be reached")
        );
        let failure = args(Some("of"), false).document().unwrap_err();
        assert!(
            failure
                .cause
                .to_string()
                .contains("one of the modes open, audit, enforce")
        );
    }
}
