//! The files by which a step tells the runner something: `GITHUB_ENV`, `GITHUB_OUTPUT`,
//! `GITHUB_PATH`, `GITHUB_STATE` and `GITHUB_STEP_SUMMARY`.

/// Largest `GITHUB_ENV`, `GITHUB_OUTPUT`, `GITHUB_PATH` and `GITHUB_STATE`, in bytes.
pub const MAX_FILE: u64 = 16 << 20;

/// Largest step summary, in bytes (GitHub's limit).
pub const MAX_SUMMARY: u64 = 1 << 20;

/// Directory of the files, below the temporary directory of the job.
pub const DIRECTORY: &str = "_runner_file_commands";

/// A file of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvFile {
    /// Environment variables for later steps.
    Env,
    /// Outputs of the step.
    Output,
    /// Directories to put before `PATH` for later steps.
    Path,
    /// Values for the later stages of the same action.
    State,
    /// Markdown for the job's page.
    StepSummary,
}

impl EnvFile {
    /// All files, in the order in which they take effect.
    pub const ALL: [Self; 5] = [
        Self::Path,
        Self::Env,
        Self::StepSummary,
        Self::Output,
        Self::State,
    ];

    /// The key in the `github` context; `GITHUB_` and this in upper case is the variable.
    #[must_use]
    pub fn context_name(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Output => "output",
            Self::Path => "path",
            Self::State => "state",
            Self::StepSummary => "step_summary",
        }
    }

    /// The beginning of the file's name.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Env => "set_env_",
            Self::Output => "set_output_",
            Self::Path => "add_path_",
            Self::State => "save_state_",
            Self::StepSummary => "step_summary_",
        }
    }

    /// The variable that holds the file's path.
    #[must_use]
    pub fn variable(self) -> String {
        format!("GITHUB_{}", self.context_name().to_ascii_uppercase())
    }

    /// Largest size in bytes.
    #[must_use]
    pub fn limit(self) -> u64 {
        match self {
            Self::StepSummary => MAX_SUMMARY,
            _ => MAX_FILE,
        }
    }
}

/// Why a file does not say what it should. The words are those of the official runner; what they
/// quote is whole, as it is cut only after secrets in it were masked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    /// A line without `=` and `<<`.
    #[error("Invalid format '{0}'")]
    Format(String),
    /// `=value`.
    #[error("Invalid format '{0}'. Name must not be empty")]
    EmptyName(String),
    /// `<<DELIMITER` or `NAME<<`.
    #[error("Invalid format '{0}'. Name must not be empty and delimiter must not be empty")]
    EmptyNameOrDelimiter(String),
    /// The file ends before the delimiter.
    #[error("Invalid value. Matching delimiter not found '{0}'")]
    NoDelimiter(String),
    /// The file ends in the midst of a line of the value.
    #[error("Invalid value. EOF marker missing new line.")]
    NoNewline,
    /// A zero byte, which no environment can hold.
    #[error("Invalid value. '{0}' must not contain a NUL character")]
    Nul(String),
}

/// Reads `NAME=VALUE` and `NAME<<DELIMITER` entries. What comes before an error holds.
#[must_use]
pub fn pairs(content: &[u8]) -> (Vec<(String, String)>, Option<EnvFileError>) {
    let text = text(content);
    let mut lines = Lines { text: &text, at: 0 };
    let mut found = Vec::new();
    while let Some((line, _)) = lines.next() {
        if line.is_empty() {
            continue;
        }
        match entry(line, &mut lines) {
            Ok(pair) => found.push(pair),
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}

/// Reads the lines of `GITHUB_PATH`; empty ones are left out.
#[must_use]
pub fn paths(content: &[u8]) -> (Vec<String>, Option<EnvFileError>) {
    let mut found = Vec::new();
    for line in text(content)
        .split(['\n', '\r'])
        .filter(|line| !line.is_empty())
    {
        if line.contains('\0') {
            return (found, Some(EnvFileError::Nul(line.to_owned())));
        }
        found.push(line.to_owned());
    }
    (found, None)
}

/// The file as text, without a byte order mark.
#[must_use]
pub fn text(content: &[u8]) -> String {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    String::from_utf8_lossy(content).into_owned()
}

fn entry(line: &str, lines: &mut Lines<'_>) -> Result<(String, String), EnvFileError> {
    let (name, value) = match (line.find('='), line.find("<<")) {
        (Some(equals), heredoc) if heredoc.is_none_or(|heredoc| equals < heredoc) => {
            if equals == 0 {
                return Err(EnvFileError::EmptyName(line.to_owned()));
            }
            (&line[..equals], line[equals + 1..].to_owned())
        }
        (_, Some(heredoc)) => {
            let (name, delimiter) = (&line[..heredoc], &line[heredoc + 2..]);
            if name.is_empty() || delimiter.is_empty() {
                return Err(EnvFileError::EmptyNameOrDelimiter(line.to_owned()));
            }
            (name, heredoc_value(delimiter, lines)?)
        }
        _ => return Err(EnvFileError::Format(line.to_owned())),
    };
    if name.contains('\0') || value.contains('\0') {
        return Err(EnvFileError::Nul(name.to_owned()));
    }
    Ok((name.to_owned(), value))
}

fn heredoc_value(delimiter: &str, lines: &mut Lines<'_>) -> Result<String, EnvFileError> {
    let start = lines.at;
    let mut end = start;
    loop {
        match lines.next() {
            None => return Err(EnvFileError::NoDelimiter(delimiter.to_owned())),
            Some((line, _)) if line == delimiter => return Ok(lines.text[start..end].to_owned()),
            Some((_, false)) => return Err(EnvFileError::NoNewline),
            // The value ends before the newline of its last line.
            Some((_, true)) => end = lines.at - 1,
        }
    }
}

/// Lines as on Linux: only a line feed ends one.
struct Lines<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lines<'a> {
    /// The next line without its line feed, and whether it had one.
    fn next(&mut self) -> Option<(&'a str, bool)> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        match rest.find('\n') {
            Some(end) => {
                self.at += end + 1;
                Some((&rest[..end], true))
            }
            None => {
                self.at = self.text.len();
                Some((rest, false))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn good(content: &str) -> Vec<(String, String)> {
        let (found, error) = pairs(content.as_bytes());
        assert_eq!(error, None, "{content:?}");
        found
    }

    fn bad(content: &str) -> String {
        pairs(content.as_bytes()).1.unwrap().to_string()
    }

    fn own(entries: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        entries.iter().map(own).collect()
    }

    #[test]
    fn simple_and_heredoc_entries_are_read() {
        for (content, expected) in [
            ("A=1\n\nB=2=3\n", own(&[("A", "1"), ("B", "2=3")])),
            ("A=1", own(&[("A", "1")])),
            ("A=\n", own(&[("A", "")])),
            ("A=b<<c\n", own(&[("A", "b<<c")])),
            (" A = 1 \n", own(&[(" A ", " 1 ")])),
            ("\u{feff}A=1\r\n", own(&[("A", "1\r")])),
            ("A<<EOF\nEOF\n", own(&[("A", "")])),
            ("A<<EOF\nx\nEOF", own(&[("A", "x")])),
            (
                "A<<EOF\nx\n\ny=1\nEOF\nB=2",
                own(&[("A", "x\n\ny=1"), ("B", "2")]),
            ),
            ("A<<EOF\n\n\nEOF\n", own(&[("A", "\n")])),
            ("A<<=\nx\n=\n", own(&[("A", "x")])),
            ("A<<EOF\n EOF\nEOF \nEOF\n", own(&[("A", " EOF\nEOF ")])),
            ("A=1\nA=2\n", own(&[("A", "1"), ("A", "2")])),
            ("", own(&[])),
        ] {
            assert_eq!(good(content), expected, "{content:?}");
        }
    }

    #[test]
    fn errors_speak_the_words_of_the_official_runner() {
        for (content, expected) in [
            ("no separator\n", "Invalid format 'no separator'"),
            ("=x\n", "Invalid format '=x'. Name must not be empty"),
            (
                "<<EOF\nx\nEOF\n",
                "Invalid format '<<EOF'. Name must not be empty and delimiter must not be empty",
            ),
            (
                "A<<\nx\n",
                "Invalid format 'A<<'. Name must not be empty and delimiter must not be empty",
            ),
            (
                "A<<EOF\nx\n",
                "Invalid value. Matching delimiter not found 'EOF'",
            ),
            (
                "A<<EOF\n",
                "Invalid value. Matching delimiter not found 'EOF'",
            ),
            ("A<<EOF\nx", "Invalid value. EOF marker missing new line."),
            (
                "A=\0\n",
                "Invalid value. 'A' must not contain a NUL character",
            ),
        ] {
            assert_eq!(bad(content), expected, "{content:?}");
        }
    }

    #[test]
    fn entries_before_an_error_hold() {
        let (found, error) = pairs(b"A=1\nB=2\nbroken\nC=3\n");
        assert_eq!(found, own(&[("A", "1"), ("B", "2")]));
        assert!(error.is_some());
    }

    #[test]
    fn paths_are_lines() {
        let (found, error) = paths(b"/a b\r\n\n/c\n");
        assert_eq!(
            (found, error),
            (vec!["/a b".to_owned(), "/c".to_owned()], None)
        );
    }

    proptest! {
        #[test]
        fn any_file_is_read_without_a_panic(content in proptest::collection::vec(
            prop_oneof![Just(b'<'), Just(b'='), Just(b'\n'), Just(b'E'), any::<u8>()], 0..80,
        )) {
            let _ = pairs(&content);
            let _ = paths(&content);
        }

        #[test]
        fn a_heredoc_gives_back_the_value(value in "[a-z=<\\n\\r é]{0,40}") {
            let found = good(&format!("NAME<<ghadelimiter\n{value}\nghadelimiter\n"));
            prop_assert_eq!(found, own(&[("NAME", &value)]));
        }
    }
}
