//! What a line of output means: text for the log, an annotation, or a change to the job.

use std::fmt;

use serde::Serialize;

use super::{Command, is_known, parse};

/// Longest message of an annotation, in characters; the rest is cut off.
const MAX_MESSAGE: usize = 4096;

/// Shortest token of `stop-commands` that is hidden in the log from then on (official runner).
const MIN_MASKED_TOKEN: usize = 7;

const DISABLED: &str = "command is disabled. Please upgrade to using Environment Files or opt into unsecure command execution by setting the `ACTIONS_ALLOW_UNSECURE_COMMANDS` environment variable to `true`. For more information see: https://github.blog/changelog/2020-10-01-github-actions-deprecating-set-env-and-add-path-commands/";

const DEPRECATED: &str = "command is deprecated and will be disabled soon. Please upgrade to using Environment Files. For more information see: https://github.blog/changelog/2022-10-11-github-actions-deprecating-save-state-and-set-output-commands/";

const BAD_STOP_TOKEN: &str = "You cannot use a endToken that is an empty string, the string 'pause-logging', or another workflow command. For more information see: https://docs.github.com/actions/learn-github-actions/workflow-commands-for-github-actions#example-stopping-and-starting-workflow-commands or opt into insecure command execution by setting the `ACTIONS_ALLOW_UNSECURE_STOPCOMMAND_TOKENS` environment variable to `true`.";

/// How grave an annotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth knowing.
    Notice,
    /// Probably wrong.
    Warning,
    /// Wrong.
    Error,
}

impl Level {
    /// The marker before the message in a log.
    #[must_use]
    pub fn marker(self) -> &'static str {
        match self {
            Self::Notice => "##[notice]",
            Self::Warning => "##[warning]",
            Self::Error => "##[error]",
        }
    }
}

/// A message about the job, perhaps about a place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Annotation {
    /// How grave it is.
    pub level: Level,
    /// The message, of at most 4096 characters once it is reported.
    pub message: String,
    /// Its title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The code that its tool gives it, if a problem matcher found one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The file it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// First line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Last line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_line: Option<u32>,
    /// First column, from 1; only within one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// Last column, from 1; only within one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_column: Option<u32>,
}

impl Annotation {
    /// An annotation without a place.
    #[must_use]
    pub fn new(level: Level, message: &str) -> Self {
        Self {
            level,
            message: message.to_owned(),
            title: None,
            code: None,
            file: None,
            line: None,
            end_line: None,
            column: None,
            end_column: None,
        }
    }

    /// Cuts the message to what is reported. Only after masking: half a secret is not found.
    pub(in crate::job) fn cut(&mut self) {
        if let Some((end, _)) = self.message.char_indices().nth(MAX_MESSAGE) {
            self.message.truncate(end);
        }
    }

    fn of_command(level: Level, command: &Command) -> Self {
        let text = |name: &str| command.property(name).map(str::to_owned);
        let number = |name: &str| command.property(name)?.trim().parse::<u32>().ok();
        Self {
            title: text("title"),
            file: text("file"),
            line: number("line"),
            end_line: number("endLine"),
            column: number("col"),
            end_column: number("endColumn"),
            ..Self::new(level, &command.data)
        }
        .with_valid_range()
    }

    /// Mends or drops ranges that make no sense, as the official runner does.
    fn with_valid_range(mut self) -> Self {
        self.line = self.line.or(self.end_line);
        self.column = self.column.or(self.end_column);
        let many_lines = self.end_line.is_some() && self.line != self.end_line;
        if self.line.is_none() || many_lines {
            (self.column, self.end_column) = (None, None);
        }
        if self.end_line.is_some() && self.end_line < self.line {
            (self.line, self.end_line) = (None, None);
        }
        if self.end_column.is_some() && self.end_column < self.column {
            (self.column, self.end_column) = (None, None);
        }
        self
    }
}

/// What a line of output means.
#[derive(Clone, PartialEq, Eq)]
pub enum Effect {
    /// An ordinary line of output: for problem matchers, and for the log.
    Text(String),
    /// A line for the log.
    Line(String),
    /// A line for the log if the person asked for debug output.
    Debug(String),
    /// A message about the job; its line in the log is made from it.
    Annotation(Annotation),
    /// Hide this text from now on.
    Mask(String),
    /// Set an output of the step.
    Output(String, String),
    /// Save a value for the action's later stages.
    State(String, String),
    /// Set an environment variable for later steps.
    Env(String, String),
    /// Put a directory before `PATH` for later steps.
    Path(String),
    /// Add the problem matchers of a file.
    AddMatcher {
        /// The file.
        file: String,
        /// The command, for what is said when it fails.
        line: String,
    },
    /// Remove problem matchers.
    RemoveMatcher {
        /// Whose, or those of a file.
        target: MatcherTarget,
        /// The command, for what is said when it fails.
        line: String,
    },
    /// The command failed, and the step with it.
    Fail,
}

/// Which problem matchers to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MatcherTarget {
    /// Those of an owner.
    Owner(String),
    /// Those that a file describes.
    File(String),
}

impl fmt::Debug for Effect {
    /// Names the kind only: the texts may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text",
            Self::Line(_) => "Line",
            Self::Debug(_) => "Debug",
            Self::Annotation(_) => "Annotation",
            Self::Mask(_) => "Mask",
            Self::Output(..) => "Output",
            Self::State(..) => "State",
            Self::Env(..) => "Env",
            Self::Path(_) => "Path",
            Self::AddMatcher { .. } => "AddMatcher",
            Self::RemoveMatcher { .. } => "RemoveMatcher",
            Self::Fail => "Fail",
        })
    }
}

/// What a job allows that is refused by default.
#[derive(Debug, Default, Clone, Copy)]
pub struct Policy {
    /// `set-env` and `add-path` work (`ACTIONS_ALLOW_UNSECURE_COMMANDS`).
    pub unsecure_commands: bool,
    /// Any token of `stop-commands` works (`ACTIONS_ALLOW_UNSECURE_STOPCOMMAND_TOKENS`).
    pub unsecure_stop_tokens: bool,
}

/// Reads the lines of one step, standard output and standard error together.
#[derive(Debug)]
pub struct CommandReader {
    /// What must come before commands hold again.
    token: Option<String>,
    echo: bool,
    policy: Policy,
}

impl CommandReader {
    /// A reader for a step; with `echo`, commands are also logged.
    #[must_use]
    pub fn new(policy: Policy, echo: bool) -> Self {
        Self {
            token: None,
            echo,
            policy,
        }
    }

    /// What `line` means, in the order in which it takes effect.
    pub fn read(&mut self, line: &str) -> Vec<Effect> {
        let Some(command) = parse(line, self.token.as_deref()) else {
            return vec![Effect::Text(line.to_owned())];
        };
        if let Some(token) = &self.token {
            if !token.eq_ignore_ascii_case(&command.name) {
                return vec![Effect::Text(line.to_owned())];
            }
            self.token = None;
            return vec![Effect::Line(line.to_owned())];
        }
        let silent = ["add-mask", "debug", "notice", "warning", "error"];
        let mut effects = Vec::new();
        if self.echo && !silent.contains(&command.name.as_str()) {
            effects.push(Effect::Line(line.to_owned()));
        }
        match self.run(&command, line) {
            Ok(found) => effects.extend(found),
            Err(cause) => {
                let shown = if silent.contains(&command.name.as_str()) {
                    &command.name
                } else {
                    line
                };
                effects.push(error(&format!(
                    "Unable to process command '{shown}' successfully."
                )));
                effects.push(error(&cause));
                effects.push(Effect::Fail);
            }
        }
        effects
    }

    /// Whether `line` is, or may be, a command that holds now.
    #[must_use]
    pub fn is_command(&self, line: &str) -> bool {
        self.token.is_none() && parse(line, None).is_some()
    }

    fn run(&mut self, command: &Command, line: &str) -> Result<Vec<Effect>, String> {
        let data = || command.data.clone();
        Ok(match command.name.as_str() {
            "add-mask" => self.add_mask(command),
            "debug" => vec![Effect::Debug(data())],
            "notice" => vec![Effect::Annotation(Annotation::of_command(
                Level::Notice,
                command,
            ))],
            "warning" => vec![Effect::Annotation(Annotation::of_command(
                Level::Warning,
                command,
            ))],
            "error" => vec![Effect::Annotation(Annotation::of_command(
                Level::Error,
                command,
            ))],
            "group" => vec![Effect::Line(format!("##[group]{}", command.data))],
            "endgroup" => vec![Effect::Line("##[endgroup]".to_owned())],
            "echo" => self.set_echo(command)?,
            "stop-commands" => self.stop(command, line)?,
            "set-output" => {
                vec![
                    deprecated(command),
                    Effect::Output(name_of(command)?, data()),
                ]
            }
            "save-state" => {
                vec![
                    deprecated(command),
                    Effect::State(name_of(command)?, data()),
                ]
            }
            "set-env" => self.set_env(command)?,
            "add-path" => self.add_path(command)?,
            "add-matcher" => vec![add_matcher(command, line)],
            "remove-matcher" => vec![remove_matcher(command, line)],
            name => vec![warning(&format!(
                "Can't find command extension for ##[{name}.command]."
            ))],
        })
    }

    fn add_mask(&self, command: &Command) -> Vec<Effect> {
        if command.data.trim().is_empty() {
            return vec![warning(
                "Can't add secret mask for empty string in ##[add-mask] command.",
            )];
        }
        let mut effects = vec![Effect::Mask(command.data.clone())];
        if self.echo {
            effects.push(Effect::Line("::add-mask::***".to_owned()));
        }
        effects
    }

    fn set_echo(&mut self, command: &Command) -> Result<Vec<Effect>, String> {
        match command.data.trim().to_ascii_uppercase().as_str() {
            "ON" => self.echo = true,
            "OFF" => self.echo = false,
            _ => {
                return Err(format!(
                    "Invalid echo command value. Possible values can be: 'on', 'off'. Current value is: '{}'.",
                    command.data
                ));
            }
        }
        Ok(Vec::new())
    }

    fn stop(&mut self, command: &Command, line: &str) -> Result<Vec<Effect>, String> {
        let token = &command.data;
        let weak =
            token.is_empty() || is_known(token) || token.eq_ignore_ascii_case("pause-logging");
        if weak && !self.policy.unsecure_stop_tokens {
            return Err(BAD_STOP_TOKEN.to_owned());
        }
        let mut effects = Vec::new();
        if token.chars().count() >= MIN_MASKED_TOKEN {
            effects.push(Effect::Mask(token.clone()));
        }
        effects.push(Effect::Line(line.to_owned()));
        self.token = Some(token.clone());
        Ok(effects)
    }

    fn set_env(&self, command: &Command) -> Result<Vec<Effect>, String> {
        self.check_unsecure(command)?;
        let name = name_of(command)?;
        if name.eq_ignore_ascii_case("NODE_OPTIONS") {
            return Ok(vec![error(
                "Can't update NODE_OPTIONS environment variable using ::set-env:: command.",
            )]);
        }
        Ok(vec![Effect::Env(name, command.data.clone())])
    }

    fn add_path(&self, command: &Command) -> Result<Vec<Effect>, String> {
        self.check_unsecure(command)?;
        if command.data.is_empty() {
            return Err("Required value is missing in ##[add-path] command.".to_owned());
        }
        Ok(vec![Effect::Path(command.data.clone())])
    }

    fn check_unsecure(&self, command: &Command) -> Result<(), String> {
        if self.policy.unsecure_commands {
            return Ok(());
        }
        Err(format!("The `{}` {DISABLED}", command.name))
    }
}

fn add_matcher(command: &Command, line: &str) -> Effect {
    if command.data.is_empty() {
        return warning("File path must be specified.");
    }
    Effect::AddMatcher {
        file: command.data.clone(),
        line: line.to_owned(),
    }
}

fn remove_matcher(command: &Command, line: &str) -> Effect {
    let target = match (command.property("owner"), command.data.as_str()) {
        (Some(owner), "") => MatcherTarget::Owner(owner.to_owned()),
        (None, file) if !file.is_empty() => MatcherTarget::File(file.to_owned()),
        (Some(_), _) => {
            return warning(
                "Either specify an owner name or a file path in ##[remove-matcher] command. Both \
                 values cannot be set.",
            );
        }
        (None, _) => {
            return warning(
                "Either an owner name or a file path must be specified in ##[remove-matcher] \
                 command.",
            );
        }
    };
    let line = line.to_owned();
    Effect::RemoveMatcher { target, line }
}

fn name_of(command: &Command) -> Result<String, String> {
    let missing = || {
        format!(
            "Required field 'name' is missing in ##[{}] command.",
            command.name
        )
    };
    command
        .property("name")
        .map(str::to_owned)
        .ok_or_else(missing)
}

fn deprecated(command: &Command) -> Effect {
    warning(&format!("The `{}` {DEPRECATED}", command.name))
}

fn warning(message: &str) -> Effect {
    Effect::Annotation(Annotation::new(Level::Warning, message))
}

fn error(message: &str) -> Effect {
    Effect::Annotation(Annotation::new(Level::Error, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Effects in short, for comparison.
    fn read(reader: &mut CommandReader, line: &str) -> Vec<String> {
        let short = |effect: Effect| match effect {
            Effect::Text(text) => format!("text {text}"),
            Effect::Line(text) => format!("line {text}"),
            Effect::AddMatcher { file, .. } => format!("add-matcher {file}"),
            Effect::RemoveMatcher { target, .. } => format!("remove-matcher {target:?}"),
            Effect::Debug(text) => format!("debug {text}"),
            Effect::Annotation(a) => format!("{}{}", a.level.marker(), a.message),
            Effect::Mask(text) => format!("mask {text}"),
            Effect::Output(name, value) => format!("output {name}={value}"),
            Effect::State(name, value) => format!("state {name}={value}"),
            Effect::Env(name, value) => format!("env {name}={value}"),
            Effect::Path(path) => format!("path {path}"),
            Effect::Fail => "fail".to_owned(),
        };
        reader.read(line).into_iter().map(short).collect()
    }

    fn reader() -> CommandReader {
        CommandReader::new(Policy::default(), false)
    }

    fn annotation(line: &str) -> Annotation {
        match reader().read(line).remove(0) {
            Effect::Annotation(annotation) => annotation,
            _ => panic!("{line} is no annotation"),
        }
    }

    #[test]
    fn commands_have_their_effect_and_are_not_logged_themselves() {
        for (line, expected) in [
            ("plain", "text plain"),
            ("::debug::x", "debug x"),
            ("::error::boom", "##[error]boom"),
            ("::group::Build", "line ##[group]Build"),
            ("::endgroup::", "line ##[endgroup]"),
            ("::add-mask::hush", "mask hush"),
            ("::Unknown::x", "text ::Unknown::x"),
            (
                "::add-mask:: ",
                "##[warning]Can't add secret mask for empty string in ##[add-mask] command.",
            ),
        ] {
            assert_eq!(read(&mut reader(), line), [expected], "{line}");
        }
        let output = read(&mut reader(), "::set-output name=a::b");
        assert!(output[0].starts_with("##[warning]The `set-output` command is deprecated"));
        assert_eq!(output[1], "output a=b");
    }

    #[test]
    fn matchers_are_added_by_file_and_removed_by_owner_or_file() {
        for (line, expected) in [
            ("::add-matcher::m.json", "add-matcher m.json"),
            ("##[add-matcher]m.json", "add-matcher m.json"),
            ("::add-matcher::", "##[warning]File path must be specified."),
            (
                "::remove-matcher owner=tsc::",
                "remove-matcher Owner(\"tsc\")",
            ),
            (
                "::remove-matcher::m.json",
                "remove-matcher File(\"m.json\")",
            ),
            (
                "::remove-matcher owner=a::m.json",
                "##[warning]Either specify an owner name or a file path in ##[remove-matcher] command. Both values cannot be set.",
            ),
            (
                "::remove-matcher::",
                "##[warning]Either an owner name or a file path must be specified in ##[remove-matcher] command.",
            ),
        ] {
            assert_eq!(read(&mut reader(), line), [expected], "{line}");
        }
    }

    #[test]
    fn nothing_is_a_command_between_stop_commands_and_its_token() {
        let mut reader = reader();
        let token = "a-long-token";
        let stop = format!("::stop-commands::{token}");
        assert_eq!(
            read(&mut reader, &stop),
            [format!("mask {token}"), format!("line {stop}")]
        );
        assert_eq!(read(&mut reader, "::error::x"), ["text ::error::x"]);
        assert!(!reader.is_command("::add-mask::x"));
        assert_eq!(
            read(&mut reader, "::A-Long-Token::"),
            ["line ::A-Long-Token::"]
        );
        assert_eq!(read(&mut reader, "::error::x"), ["##[error]x"]);
    }

    #[test]
    fn weak_stop_tokens_are_refused() {
        for token in ["", "error", "Pause-Logging"] {
            let mut reader = reader();
            let found = read(&mut reader, &format!("::stop-commands::{token}"));
            assert_eq!(found.last().unwrap(), "fail", "{token}");
            assert_eq!(read(&mut reader, "::error::x"), ["##[error]x"]);
        }
    }

    #[test]
    fn echo_logs_commands_but_never_a_mask() {
        let mut reader = reader();
        assert!(read(&mut reader, "::echo::on").is_empty());
        assert_eq!(
            read(&mut reader, "::group::x"),
            ["line ::group::x", "line ##[group]x"]
        );
        assert_eq!(
            read(&mut reader, "::add-mask::hush"),
            ["mask hush", "line ::add-mask::***"]
        );
        assert_eq!(read(&mut reader, "::error::x"), ["##[error]x"]);
        let bad = read(&mut reader, "::echo::maybe");
        assert!(bad[2].contains("Current value is: 'maybe'"), "{bad:?}");
        assert_eq!(bad[3], "fail");
    }

    #[test]
    fn set_env_and_add_path_need_permission() {
        let line = "::set-env name=A::1";
        let refused = read(&mut reader(), line);
        assert_eq!(
            refused[0],
            format!("##[error]Unable to process command '{line}' successfully.")
        );
        assert!(refused[1].starts_with("##[error]The `set-env` command is disabled"));
        assert_eq!(refused[2], "fail");
        let policy = Policy {
            unsecure_commands: true,
            ..Policy::default()
        };
        let mut allowed = CommandReader::new(policy, false);
        assert_eq!(read(&mut allowed, line), ["env A=1"]);
        assert_eq!(read(&mut allowed, "::add-path::/x"), ["path /x"]);
        let node = read(&mut allowed, "::set-env name=node_options::--x");
        assert!(
            node[0].starts_with("##[error]Can't update NODE_OPTIONS"),
            "{node:?}"
        );
        assert_eq!(read(&mut allowed, "::set-env ::x").last().unwrap(), "fail");
    }

    #[test]
    fn places_of_annotations_are_read_and_mended() {
        let full = annotation("::warning file=a.rs,line=3,endLine=3,col=2,endColumn=5,title=T::m");
        assert_eq!(
            (full.file.as_deref(), full.title.as_deref()),
            (Some("a.rs"), Some("T"))
        );
        assert_eq!((full.line, full.end_line), (Some(3), Some(3)));
        assert_eq!((full.column, full.end_column), (Some(2), Some(5)));
        let end_only = annotation("::error endLine=4::m");
        assert_eq!((end_only.line, end_only.end_line), (Some(4), Some(4)));
        let lines = annotation("::error line=1,endLine=2,col=3::m");
        assert_eq!((lines.line, lines.column), (Some(1), None));
        let backwards = annotation("::error line=5,endLine=2::m");
        assert_eq!((backwards.line, backwards.end_line), (None, None));
        let columns = annotation("::error col=5::m");
        assert_eq!(columns.column, None);
        let mut long = annotation(&format!("::error::{}", "é".repeat(9000)));
        long.cut();
        assert_eq!(long.message.chars().count(), 4096);
    }
}
