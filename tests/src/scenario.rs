//! Scenario files of `tests/workflows/`: a workflow and, in the comments at its top, what comes of it.
//!
//! The header is all lines at the top that begin with `#`. Those of the form `# KEY: VALUE` with a
//! known key are read, a line with an unknown `expect` key is an error, all others are prose.
//!
//! | key | value | how often |
//! |---|---|---|
//! | `expect` | `success`, `failure` (a job failed) or `invalid` (refused before anything ran) | once |
//! | `expect-exit` | exit code; without it 0, 1 or 2 as `expect` has it | at most once |
//! | `args` | arguments of `mayfly run` after the file, in words; `'…'` and `"…"` hold blanks | any |
//! | `container-image` | reference for which an image of the static busybox is given (`--container-image`) | any |
//! | `env` | `NAME=VALUE` in the environment of `mayfly` | any |
//! | `expect-line` | a line that must be there: all of it, blanks around it aside | any |
//! | `expect-no-line` | a line that must not be there | any |
//! | `expect-part` | text that some line must hold | any |
//! | `expect-no-part` | text that no line may hold | any |
//! | `expect-job` | `NAME=RESULT` of a job by its display name | any; if there is one, all jobs |
//!
//! Lines are those of all jobs' logs as GitHub writes them (`##[group]Run …`; the echo of a script
//! is coloured, so that it never equals what the script prints), of step summaries, and of standard
//! error. With `--list`, `--graph` or `--dry-run` they are those of standard output and error.
//!
//! The workflow is run as `.github/workflows/NAME.yml` of a fresh git checkout. What is in the folder
//! `NAME.d/` beside the file, if there is one, is copied to the top of that checkout before.

use std::{fs, path::Path};

use serde_json::Value;

use crate::Ended;

/// A scenario file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scenario {
    /// `expect`.
    pub expected: Expected,
    /// `expect-exit`.
    pub exit: Option<i32>,
    /// `args`.
    pub arguments: Vec<String>,
    /// `container-image`.
    pub container_images: Vec<String>,
    /// `env`.
    pub env: Vec<(String, String)>,
    /// `expect-line`, `expect-no-line`, `expect-part` and `expect-no-part`.
    lines: Vec<LineRule>,
    /// `expect-job`.
    jobs: Vec<(String, String)>,
}

/// What comes of a scenario.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// All jobs succeed.
    #[default]
    Success,
    /// A job fails.
    Failure,
    /// Nothing is run.
    Invalid,
}

#[derive(Debug, PartialEq, Eq)]
struct LineRule {
    text: String,
    whole: bool,
    wanted: bool,
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// What is wrong with its header.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", file.display()))
    }

    /// Reads the header of a scenario.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut scenario = Self::default();
        let mut expected = None;
        for line in text.lines().take_while(|line| line.starts_with('#')) {
            let Some((key, value)) = line.trim_start_matches(['#', ' ']).split_once(':') else {
                continue;
            };
            scenario.entry(key, value.trim(), &mut expected)?;
        }
        scenario.expected = expected.ok_or("the header has no `# expect:` line")?;
        Ok(scenario)
    }

    fn entry(
        &mut self,
        key: &str,
        value: &str,
        expected: &mut Option<Expected>,
    ) -> Result<(), String> {
        let mut rule = |whole, wanted| {
            let text = value.to_owned();
            self.lines.push(LineRule {
                text,
                whole,
                wanted,
            });
        };
        match key {
            "expect" => *expected = Some(Expected::named(value)?),
            "expect-exit" => self.exit = Some(value.parse().map_err(|e| format!("{value}: {e}"))?),
            "container-image" => self.container_images.push(value.to_owned()),
            "args" => self.arguments.extend(words(value)?),
            "env" => self.env.push(pair(value.split_once('='), value)?),
            "expect-line" => rule(true, true),
            "expect-no-line" => rule(true, false),
            "expect-part" => rule(false, true),
            "expect-no-part" => rule(false, false),
            "expect-job" => self.jobs.push(pair(value.rsplit_once('='), value)?),
            unknown if unknown.starts_with("expect") => {
                return Err(format!("unknown key `{unknown}`"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether events are asked for as JSON; a plan is read as a person does.
    #[must_use]
    pub fn wants_events(&self) -> bool {
        let plans = ["--list", "--graph", "--dry-run", "--json"];
        !self
            .arguments
            .iter()
            .any(|argument| plans.contains(&argument.as_str()))
    }

    /// Judges what a run said.
    ///
    /// # Errors
    /// All that is not as expected, and the whole output.
    pub fn judge(&self, ended: &Ended) -> Result<(), String> {
        let mut wrong = Vec::new();
        let code = self.exit.unwrap_or(self.expected.exit());
        if ended.code != code {
            wrong.push(format!("exit code {} instead of {code}", ended.code));
        }
        let said = Said::new(ended, self.wants_events());
        for rule in &self.lines {
            let holds = said.has(rule);
            if holds != rule.wanted {
                let (what, be) = (if rule.whole { "line" } else { "part" }, rule.wanted);
                wrong.push(format!(
                    "{what} there: {holds}, expected {be}: {}",
                    rule.text
                ));
            }
        }
        if !self.jobs.is_empty() {
            let (mut jobs, mut expected) = (said.jobs.clone(), self.jobs.clone());
            jobs.sort();
            expected.sort();
            if jobs != expected {
                wrong.push(format!("jobs {jobs:?} instead of {expected:?}"));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let all = said.lines.join("\n");
        Err(format!("{}\n--- it said:\n{all}", wrong.join("\n")))
    }
}

impl Expected {
    fn named(word: &str) -> Result<Self, String> {
        match word {
            "success" => Ok(Self::Success),
            "failure" => Ok(Self::Failure),
            "invalid" => Ok(Self::Invalid),
            other => Err(format!(
                "`expect: {other}` is none of success, failure, invalid"
            )),
        }
    }

    fn exit(self) -> i32 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Invalid => 2,
        }
    }
}

/// What a run said, in lines, and how its jobs ended.
struct Said {
    lines: Vec<String>,
    jobs: Vec<(String, String)>,
}

impl Said {
    fn new(ended: &Ended, events: bool) -> Self {
        let mut said = Self {
            lines: ended.stderr.lines().map(str::to_owned).collect(),
            jobs: Vec::new(),
        };
        for line in ended.stdout.lines() {
            match serde_json::from_str::<Value>(line) {
                Ok(event) if events => said.event(&event),
                _ => said.lines.push(line.to_owned()),
            }
        }
        said
    }

    fn event(&mut self, event: &Value) {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str() {
            Some("log") => self.lines.push(text("line")),
            Some("summary") => self
                .lines
                .extend(text("markdown").lines().map(str::to_owned)),
            Some("job_finished") => self.jobs.push((text("name"), text("result"))),
            _ => {}
        }
    }

    fn has(&self, rule: &LineRule) -> bool {
        self.lines.iter().any(|line| {
            if rule.whole {
                line.trim() == rule.text
            } else {
                line.contains(&rule.text)
            }
        })
    }
}

fn pair(split: Option<(&str, &str)>, whole: &str) -> Result<(String, String), String> {
    let (name, value) = split.ok_or_else(|| format!("`{whole}` is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Words as a shell would split them, quotes of both kinds considered, nothing else.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("a quote is not closed: {text}"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "# A title: not a key\n# expect: failure\n# args: --input 'a=b c' -s X=\"\"\n\
                          # env: A=b=c\n# expect-line: hello\n# expect-no-part: secret\n# expect-job: a (x=1)=failure\n\
                          on: push\n# expect: success\n";

    fn ended(code: i32, stdout: &str) -> Ended {
        let stdout = stdout.to_owned();
        let stderr = String::new();
        Ended {
            code,
            stdout,
            stderr,
        }
    }

    #[test]
    fn a_header_is_read_up_to_the_first_line_that_is_no_comment() {
        let scenario = Scenario::parse(HEADER).unwrap();
        assert_eq!(scenario.expected, Expected::Failure);
        assert_eq!(scenario.arguments, ["--input", "a=b c", "-s", "X="]);
        assert_eq!(scenario.env, [("A".to_owned(), "b=c".to_owned())]);
        assert!(Scenario::parse("on: push\n# expect: success").is_err());
        assert!(Scenario::parse("# expect: fine").is_err());
        assert!(Scenario::parse("# expect: success\n# expect-lines: x").is_err());
        assert!(Scenario::parse("# expect: success\n# args: 'x").is_err());
    }

    #[test]
    fn a_run_is_judged_by_exit_code_lines_and_jobs() {
        let scenario = Scenario::parse(HEADER).unwrap();
        let job = r#"{"event":"job_finished","name":"a (x=1)","result":"failure"}"#;
        let log = |line: &str| format!("{{\"event\":\"log\",\"line\":\"{line}\"}}\n");
        let good = log(" hello ") + job;
        scenario.judge(&ended(1, &good)).unwrap();
        for (code, said, wrong) in [
            (0, good.clone(), "exit code 0 instead of 1"),
            (1, log("echo hello") + job, "line there: false"),
            (
                1,
                good.clone() + "\n" + &log("the secret is"),
                "part there: true",
            ),
            (1, log("hello"), "jobs [] instead of"),
        ] {
            let error = scenario.judge(&ended(code, &said)).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
