//! Becomes the program that a file names, with the variables that the file names.
//!
//! So what a step is given is neither in a command line nor with an engine of containers, which keeps
//! what it is told for longer than the step. The file is removed before the program begins.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStringExt, process::CommandExt},
    path::Path,
    process::Command,
};

use thiserror::Error;
use zeroize::Zeroizing;

/// Largest file that is read, in bytes.
const LIMIT: u64 = 64 << 20;

/// What a program is started with.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// Variables beside those that are there already.
    pub env: Vec<(OsString, OsString)>,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
}

/// Why a program was not started.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The file cannot be read or removed.
    #[error("{0}: {1}")]
    File(String, io::Error),
    /// The file is not as [`Launch::write`] writes it.
    #[error("{0} is not a file of variables and arguments")]
    Form(String),
    /// The program cannot be run.
    #[error("exec: {0:?}: {1}")]
    Program(OsString, io::Error),
}

impl LaunchError {
    /// The exit code, as a shell has it.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Program(_, error) if error.kind() == io::ErrorKind::NotFound => 127,
            Self::Program(..) => 126,
            Self::File(..) | Self::Form(_) => 125,
        }
    }
}

impl Launch {
    /// The file: how many variables there are, each as `NAME=VALUE`, and the arguments; each ends with
    /// a zero byte. Nothing if a part holds one.
    #[must_use]
    pub fn write<'a>(
        env: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
        argv: impl Iterator<Item = &'a str>,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let mut file = Zeroizing::new(format!("{}\0", env.len()).into_bytes());
        let mut part = |texts: &[&str]| {
            let clean = texts.iter().all(|text| !text.contains('\0'));
            texts
                .iter()
                .for_each(|text| file.extend_from_slice(text.as_bytes()));
            file.push(0);
            clean
        };
        let mut clean = true;
        for (name, value) in env {
            clean &= part(&[name, "=", value]);
        }
        for word in argv {
            clean &= part(&[word]);
        }
        clean.then_some(file)
    }

    /// Reads the file back.
    #[must_use]
    pub fn read(file: &[u8]) -> Option<Self> {
        let mut parts = file.strip_suffix(&[0])?.split(|byte| *byte == 0);
        let text = |part: &[u8]| OsString::from_vec(part.to_vec());
        let count: usize = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let mut launch = Self::default();
        for _ in 0..count {
            let pair = parts.next()?;
            let at = pair.iter().position(|byte| *byte == b'=')?;
            launch.env.push((text(&pair[..at]), text(&pair[at + 1..])));
        }
        launch.argv = parts.map(text).collect();
        (!launch.argv.is_empty()).then_some(launch)
    }
}

/// Becomes the program; returns only if it cannot.
#[must_use]
pub fn launch(path: &Path) -> LaunchError {
    let shown = path.display().to_string();
    let content = match take(path) {
        Ok(content) => Zeroizing::new(content),
        Err(error) => return LaunchError::File(shown, error),
    };
    let Some(Launch { env, argv }) = Launch::read(&content) else {
        return LaunchError::Form(shown);
    };
    let (program, arguments): (&OsStr, _) = (&argv[0], &argv[1..]);
    let error = Command::new(program).args(arguments).envs(env).exec();
    LaunchError::Program(program.to_owned(), error)
}

/// The content of a file that is gone then.
fn take(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > LIMIT {
        return Err(io::Error::other("it is too large"));
    }
    let content = fs::read(path)?;
    fs::remove_file(path)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let env = [("A", "1=2"), ("B", ""), ("C", "two\nlines")];
        let file = Launch::write(env.into_iter(), ["sh", "", "-c"].into_iter()).expect("clean");
        let launch = Launch::read(&file).expect("well formed");
        let own = |(name, value): (&str, &str)| (OsString::from(name), OsString::from(value));
        assert_eq!(launch.env, env.map(own));
        assert_eq!(launch.argv, ["sh", "", "-c"]);
    }

    #[test]
    fn a_zero_byte_would_be_another_argument_and_is_refused() {
        let none = std::iter::empty();
        assert!(Launch::write(none, ["a\0b"].into_iter()).is_none());
        assert!(Launch::write([("A", "x\0y")].into_iter(), ["a"].into_iter()).is_none());
    }

    #[test]
    fn other_files_start_nothing() {
        for file in [
            &b""[..],
            b"0\0",
            b"1\0A\0sh\0",
            b"2\0A=1\0",
            b"x\0sh\0",
            b"0\0sh",
        ] {
            assert_eq!(Launch::read(file), None, "{file:?}");
        }
    }

    #[test]
    fn a_program_that_cannot_be_run_has_a_shells_code_and_its_file_is_gone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("file");
        for (program, code) in [("/none/such", 127), ("/etc", 126)] {
            let none = std::iter::empty();
            let content = Launch::write(none, [program].into_iter()).expect("clean");
            fs::write(&path, &content).expect("writes");
            let error = launch(&path);
            assert_eq!(error.code(), code, "{error}");
            assert!(!path.exists());
        }
        assert_eq!(launch(&path).code(), 125, "it is gone");
    }
}
