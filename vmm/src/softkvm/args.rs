//! The command line of `softkvm`.

use std::ffi::OsString;
use std::path::PathBuf;

/// What `softkvm --help` prints.
pub const HELP: &str = "\
Run a command on an emulated machine that has KVM.

Usage: softkvm [OPTIONS] [--] COMMAND [ARGUMENT...]
       softkvm --setup

The machine's root is this machine's file system; working directory, arguments, environment,
standard streams, signals and exit code are passed through. What the command writes in its working
directory, the home folder, Mayfly's state folder ($MAYFLY_STATE) and folders named by --write is
written for real; all else is thrown away when it ends. Everything is emulated: expect a command to
take 30 to 100 times as long.

Options:
      --write DIR     Also write this folder for real (may be repeated; it must exist)
      --memory SIZE   Memory of the machine, such as 3G or 2048M
                      [default: half of what is available, from 2G to 8G]
      --cpus N        Number of CPUs [default: 1; with more the machine hangs now and then]
      --no-network    Give the machine no network
      --setup         Only fetch what the machine needs, and a newer kernel if there is one
  -v, --verbose       Show on stderr what is started and what the machine's kernel says
  -h, --help          Print this help
  -V, --version       Print the version

Exit code: that of the command, 128 + n if signal n ended it, 126 or 127 if it cannot be started,
125 if the machine itself fails.

Examples:
  softkvm mayfly doctor
  softkvm --memory 4G --write /srv/results -- cargo test -p mayfly-tests
";

/// Exit code for a failure of the machine, as in `env`, `timeout` and `docker run`.
pub const EXIT_MACHINE_FAILED: u8 = 125;

/// Why a command line is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// An option that does not exist.
    #[error("unknown option {0}; `softkvm --help` lists them, and `--` starts the command")]
    Unknown(String),
    /// An option without its value.
    #[error("{0} needs a value; see `softkvm --help`")]
    NoValue(&'static str),
    /// A value that does not fit.
    #[error("{value} is not {expected} for {option}")]
    BadValue {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// No command.
    #[error("no command given; try `softkvm --help`")]
    NoCommand,
}

/// What to do, all values checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Print [`HELP`].
    Help,
    /// Print the version.
    Version,
    /// Fetch what the machine needs.
    Setup {
        /// Say what is done.
        verbose: bool,
    },
    /// Run a command.
    Run(Request),
}

/// A command and the machine it runs on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Program and arguments, at least one.
    pub command: Vec<OsString>,
    /// Folders to write for real, beside the usual ones.
    pub write: Vec<PathBuf>,
    /// Memory in MiB, if not the default.
    pub memory_mib: Option<u64>,
    /// CPUs, if not the default.
    pub cpus: Option<u32>,
    /// No network device.
    pub no_network: bool,
    /// Show what happens.
    pub verbose: bool,
}

/// Reads the arguments after the program's name.
///
/// # Errors
///
/// An option that is unknown, lacks its value or has a wrong one; no command.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, ArgsError> {
    let mut arguments = arguments.into_iter();
    let mut request = Request::default();
    let mut setup = false;
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().unwrap_or_default();
        if !text.starts_with('-') || text == "-" {
            request.command.push(argument);
            break;
        }
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (text, None),
        };
        let mut value = |option| {
            inline
                .clone()
                .or_else(|| arguments.next())
                .ok_or(ArgsError::NoValue(option))
        };
        match name {
            "--" => break,
            "-h" | "--help" => return Ok(Action::Help),
            "-V" | "--version" => return Ok(Action::Version),
            "-v" | "--verbose" => request.verbose = true,
            "--setup" => setup = true,
            "--no-network" => request.no_network = true,
            "--write" => request.write.push(value("--write")?.into()),
            "--memory" => request.memory_mib = Some(parse_memory(&value("--memory")?)?),
            "--cpus" => request.cpus = Some(parse_cpus(&value("--cpus")?)?),
            _ => return Err(ArgsError::Unknown(text.to_owned())),
        }
    }
    request.command.extend(arguments);
    match (setup, request.command.is_empty()) {
        (true, _) => Ok(Action::Setup {
            verbose: request.verbose,
        }),
        (false, true) => Err(ArgsError::NoCommand),
        (false, false) => Ok(Action::Run(request)),
    }
}

fn parse_memory(value: &OsString) -> Result<u64, ArgsError> {
    let text = value.to_string_lossy();
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1024),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1),
        _ => (&*text, 0),
    };
    let mib = digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(factor));
    mib.filter(|mib| (512..=1 << 20).contains(mib))
        .ok_or_else(|| ArgsError::BadValue {
            option: "--memory",
            value: text.clone().into_owned(),
            expected: "a size from 512M to 1024G",
        })
}

fn parse_cpus(value: &OsString) -> Result<u32, ArgsError> {
    let text = value.to_string_lossy();
    let cpus = text.parse().ok().filter(|count| (1..=255).contains(count));
    cpus.ok_or_else(|| ArgsError::BadValue {
        option: "--cpus",
        value: text.clone().into_owned(),
        expected: "a number from 1 to 255",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Action, ArgsError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn request(line: &str) -> Request {
        match parse_line(line).unwrap() {
            Action::Run(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_end_at_the_command_whose_own_options_are_left_alone() {
        let request = request("-v --cpus 3 ls --help -v");
        assert!(request.verbose);
        assert_eq!(request.cpus, Some(3));
        assert_eq!(request.command, ["ls", "--help", "-v"]);
    }

    #[test]
    fn two_dashes_start_a_command_that_looks_like_an_option() {
        assert_eq!(request("-- -odd --").command, ["-odd", "--"]);
    }

    #[test]
    fn values_may_follow_an_equals_sign() {
        let request = request("--write=/a --write /b --memory=3G x");
        assert_eq!(request.write, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(request.memory_mib, Some(3072));
    }

    #[test]
    fn wrong_lines_are_refused_by_what_is_wrong_with_them() {
        assert_eq!(parse_line(""), Err(ArgsError::NoCommand));
        assert_eq!(parse_line("--"), Err(ArgsError::NoCommand));
        assert_eq!(
            parse_line("--cpu 1 x"),
            Err(ArgsError::Unknown("--cpu".to_owned()))
        );
        assert_eq!(parse_line("--write"), Err(ArgsError::NoValue("--write")));
        for line in [
            "--memory 5 x",
            "--memory 1M x",
            "--memory 99999999999999999999G x",
            "--memory 17592186044416G x",
        ] {
            assert!(
                matches!(parse_line(line), Err(ArgsError::BadValue { .. })),
                "{line}"
            );
        }
        assert!(matches!(
            parse_line("--cpus 0 x"),
            Err(ArgsError::BadValue { .. })
        ));
    }
}
