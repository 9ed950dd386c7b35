//! Shells of `run:` steps: which program with which arguments.

use crate::job::words::words;

/// How a script is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::job) struct Shell {
    /// The program, and what to take where it is not installed.
    pub(in crate::job) programs: Vec<String>,
    /// Its arguments as one text, `{0}` being the script.
    pub(in crate::job) arguments: String,
    /// The extension of the script's file, with its dot.
    pub(in crate::job) extension: &'static str,
    /// Whether the script gets PowerShell's lines around it.
    powershell: bool,
}

/// Why a `shell:` cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::job) enum ShellError {
    /// Not built in and without `{0}`.
    #[error(
        "Invalid shell option. Shell must be a valid built-in (bash, sh, cmd, powershell, pwsh) \
         or a format string containing '{{0}}'"
    )]
    NoScript,
    /// A `{…}` other than `{0}`.
    #[error("Invalid shell option '{0}': the only placeholder is {{0}}")]
    Placeholder(String),
    /// Only on Windows.
    #[error("The shell '{0}' is not available on Linux")]
    WindowsOnly(String),
}

impl Shell {
    /// The shell for a `shell:` option; empty is the default one.
    pub(in crate::job) fn new(option: &str) -> Result<Self, ShellError> {
        if option.trim().is_empty() {
            // Without pipefail, unlike `shell: bash`.
            return Ok(Self::script(&["bash", "sh"], "-e {0}"));
        }
        let (program, arguments) = option.split_once(' ').unwrap_or((option, ""));
        let arguments = arguments.trim_start();
        let mut shell = match program.to_ascii_lowercase().as_str() {
            "bash" => Self::script(&[program], "--noprofile --norc -e -o pipefail {0}"),
            "sh" => Self::script(&[program], "-e {0}"),
            "python" => Self {
                extension: ".py",
                // Debian has no `python`; what scripts mean by it today is the third version.
                ..Self::script(&[program, "python3"], "{0}")
            },
            "pwsh" => Self {
                extension: ".ps1",
                powershell: true,
                ..Self::script(&[program], "-command \". '{0}'\"")
            },
            "cmd" | "powershell" => return Err(ShellError::WindowsOnly(program.to_owned())),
            _ => Self {
                extension: "",
                ..Self::script(&[program], "")
            },
        };
        if !arguments.is_empty() {
            shell.arguments = arguments.to_owned();
        }
        if !shell.arguments.contains("{0}") {
            return Err(ShellError::NoScript);
        }
        Ok(shell)
    }

    /// The same for a job's container, whose shells the runner does not know.
    pub(in crate::job) fn in_container(option: &str) -> Result<Self, ShellError> {
        if option.trim().is_empty() {
            return Ok(Self::script(&["sh"], "-e {0}"));
        }
        Self::new(option)
    }

    fn script(programs: &[&str], arguments: &str) -> Self {
        Self {
            programs: programs.iter().map(|&program| program.to_owned()).collect(),
            arguments: arguments.to_owned(),
            extension: ".sh",
            powershell: false,
        }
    }

    /// The arguments for the script at `path`.
    pub(in crate::job) fn arguments_for(&self, path: &str) -> Result<Vec<String>, ShellError> {
        let bad = || ShellError::Placeholder(self.arguments.clone());
        let mut text = String::new();
        let mut rest = self.arguments.as_str();
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            let (put, length) = if rest.starts_with("{0}") {
                (path, 3)
            } else if rest.starts_with("{{") {
                ("{", 2)
            } else if rest.starts_with("}}") {
                ("}", 2)
            } else {
                return Err(bad());
            };
            text.push_str(put);
            rest = &rest[length..];
        }
        text.push_str(rest);
        Ok(words(&text))
    }

    /// The script with what the shell needs around it.
    pub(in crate::job) fn wrap(&self, script: &str) -> String {
        if !self.powershell {
            return script.to_owned();
        }
        format!(
            "$ErrorActionPreference = 'stop'\n{script}\n\
             if ((Test-Path -LiteralPath variable:\\LASTEXITCODE)) {{ exit $LASTEXITCODE }}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(option: &str) -> String {
        let shell = Shell::new(option).unwrap();
        let arguments = shell.arguments_for("/t/x").unwrap();
        format!("{}: {}", shell.programs.join("|"), arguments.join("|"))
    }

    #[test]
    fn each_shell_has_the_command_of_the_documentation() {
        for (option, expected) in [
            ("", "bash|sh: -e|/t/x"),
            ("bash", "bash: --noprofile|--norc|-e|-o|pipefail|/t/x"),
            ("sh", "sh: -e|/t/x"),
            ("python", "python|python3: /t/x"),
            ("pwsh", "pwsh: -command|. '/t/x'"),
            ("bash -x {0}", "bash: -x|/t/x"),
            ("perl {0}", "perl: /t/x"),
            (
                "/opt/my sh -c \"cat {0}\" '{{' \\\"",
                "/opt/my: sh|-c|cat /t/x|'{'|\"",
            ),
            ("x {0} \"\" a\\b \\\\\"q q\\\\\"", "x: /t/x||a\\b|\\q q\\"),
        ] {
            assert_eq!(command(option), expected, "{option}");
        }
    }

    #[test]
    fn shells_that_cannot_run_a_script_are_refused() {
        for option in ["perl", "perl -w", "bash -x"] {
            assert_eq!(Shell::new(option), Err(ShellError::NoScript), "{option}");
        }
        assert!(matches!(Shell::new("cmd"), Err(ShellError::WindowsOnly(_))));
        let shell = Shell::new("x {0} {1}").unwrap();
        assert!(matches!(
            shell.arguments_for("p"),
            Err(ShellError::Placeholder(_))
        ));
    }

    #[test]
    fn powershell_stops_at_the_first_error() {
        let script = Shell::new("pwsh").unwrap().wrap("x");
        assert!(
            script.starts_with("$ErrorActionPreference = 'stop'\nx\nif ("),
            "{script}"
        );
        assert_eq!(Shell::new("").unwrap().wrap("x"), "x");
    }
}
