//! Files that describe problem matchers: reading and checking them, in the official runner's words.
//!
//! They come from the guest. As in the official runner, names are read without regard to case, and
//! comments and a comma behind the last item do no harm.

use serde_json::{Map, Value};

use super::pattern::{Pattern, PatternError};

/// Largest file, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// Why a file describes no problem matchers.
#[derive(Debug, thiserror::Error)]
pub(in crate::job) enum ConfigError {
    #[error("Could not find file '{0}'.")]
    Missing(String),
    #[error("{0}")]
    Unreadable(String),
    #[error("The file '{file}' is not valid JSON: {cause}")]
    Json {
        file: String,
        cause: serde_json::Error,
    },
    #[error("The file '{file}' has a wrong value: '{name}' must be {expected}")]
    Kind {
        file: String,
        name: &'static str,
        expected: &'static str,
    },
    #[error("Owner must not be empty")]
    EmptyOwner,
    #[error("Duplicate owner name '{0}'")]
    DuplicateOwner(String),
    #[error("Matcher '{owner}' contains unexpected default severity '{severity}'")]
    Severity { owner: String, severity: String },
    #[error("Matcher '{0}' does not contain any patterns")]
    NoPatterns(String),
    #[error("Only the last pattern in a multiline matcher may set 'loop'")]
    Loop,
    #[error("The loop pattern must set 'message'")]
    LoopWithoutMessage,
    #[error("Invalid pattern '{pattern}': {cause}")]
    Pattern {
        pattern: String,
        cause: PatternError,
    },
    #[error("The property '{0}' is set twice")]
    SetTwice(&'static str),
    #[error("The property '{name}' is set to {value} which is out of range")]
    OutOfRange { name: &'static str, value: i64 },
    #[error("At least one pattern must set 'message'")]
    NoMessage,
}

/// One problem matcher.
#[derive(Debug)]
pub(super) struct MatcherConfig {
    /// Its name; another of the same name takes its place.
    pub(super) owner: String,
    /// The severity of what its patterns give none; empty is an error.
    pub(super) severity: String,
    /// Its patterns, one for each line of a problem; never empty.
    pub(super) patterns: Vec<PatternConfig>,
}

/// One pattern, and the number of the group for each property.
#[derive(Debug)]
pub(super) struct PatternConfig {
    pub(super) pattern: Pattern,
    pub(super) file: Option<usize>,
    pub(super) line: Option<usize>,
    pub(super) column: Option<usize>,
    pub(super) severity: Option<usize>,
    pub(super) code: Option<usize>,
    pub(super) message: Option<usize>,
    pub(super) from_path: Option<usize>,
    /// Whether it may match again and again after the patterns before it.
    pub(super) looped: bool,
}

/// Reads the file named `file`.
pub(super) fn read(file: &str, content: &[u8]) -> Result<Vec<MatcherConfig>, ConfigError> {
    let mut matchers: Vec<MatcherConfig> = Vec::new();
    for entry in entries(file, content)? {
        let matcher = Reader { file, map: &entry }.matcher()?;
        let same = |known: &MatcherConfig| known.owner.eq_ignore_ascii_case(&matcher.owner);
        if matchers.iter().any(same) {
            return Err(ConfigError::DuplicateOwner(matcher.owner));
        }
        matchers.push(matcher);
    }
    Ok(matchers)
}

/// The owners in the file named `file`, which may be wrong in all else.
pub(super) fn owners(file: &str, content: &[u8]) -> Result<Vec<String>, ConfigError> {
    let entries = entries(file, content)?;
    let owner = |map: &Map<String, Value>| Reader { file, map }.text("owner");
    entries.iter().map(owner).collect()
}

/// The objects in `problemMatcher`.
fn entries(file: &str, content: &[u8]) -> Result<Vec<Map<String, Value>>, ConfigError> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let text = plain_json(&String::from_utf8_lossy(content));
    let parsed = serde_json::from_str(&text).map_err(|cause| ConfigError::Json {
        file: file.to_owned(),
        cause,
    })?;
    let map = match parsed {
        Value::Object(map) => map,
        Value::Null => Map::new(),
        _ => return Err(kind(file, "problemMatcher", "in an object")),
    };
    Reader { file, map: &map }.objects("problemMatcher")
}

fn kind(file: &str, name: &'static str, expected: &'static str) -> ConfigError {
    let file = file.to_owned();
    ConfigError::Kind {
        file,
        name,
        expected,
    }
}

/// Reads one object of a file.
struct Reader<'a> {
    file: &'a str,
    map: &'a Map<String, Value>,
}

impl Reader<'_> {
    fn matcher(&self) -> Result<MatcherConfig, ConfigError> {
        let (owner, severity) = (self.text("owner")?, self.text("severity")?);
        if owner.is_empty() {
            return Err(ConfigError::EmptyOwner);
        }
        let known = ["", "error", "warning", "notice"];
        if !known.iter().any(|s| s.eq_ignore_ascii_case(&severity)) {
            return Err(ConfigError::Severity { owner, severity });
        }
        let entries = self.objects("pattern")?;
        if entries.is_empty() {
            return Err(ConfigError::NoPatterns(owner));
        }
        let (mut set, mut patterns) = (Vec::new(), Vec::new());
        for (index, map) in entries.iter().enumerate() {
            let may_loop = index > 0 && index + 1 == entries.len();
            let file = self.file;
            patterns.push(Reader { file, map }.pattern(may_loop, &mut set)?);
        }
        if !set.contains(&"message") {
            return Err(ConfigError::NoMessage);
        }
        Ok(MatcherConfig {
            owner,
            severity,
            patterns,
        })
    }

    fn pattern(
        &self,
        may_loop: bool,
        set: &mut Vec<&'static str>,
    ) -> Result<PatternConfig, ConfigError> {
        let looped = self.flag("loop")?;
        if looped && !may_loop {
            return Err(ConfigError::Loop);
        }
        if looped && self.number("message")?.is_none() {
            return Err(ConfigError::LoopWithoutMessage);
        }
        let source = self.text("regexp")?;
        let pattern = Pattern::new(&source).map_err(|cause| ConfigError::Pattern {
            pattern: source,
            cause,
        })?;
        let count = pattern.group_count();
        let mut group = |name| self.group(name, count, set);
        Ok(PatternConfig {
            file: group("file")?,
            line: group("line")?,
            column: group("column")?,
            severity: group("severity")?,
            code: group("code")?,
            message: group("message")?,
            from_path: group("fromPath")?,
            looped,
            pattern,
        })
    }

    /// The number of the group for a property, which only one pattern may set.
    fn group(
        &self,
        name: &'static str,
        count: usize,
        set: &mut Vec<&'static str>,
    ) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.number(name)? else {
            return Ok(None);
        };
        if set.contains(&name) {
            return Err(ConfigError::SetTwice(name));
        }
        set.push(name);
        let group = usize::try_from(value).ok().filter(|group| *group < count);
        group
            .map(Some)
            .ok_or(ConfigError::OutOfRange { name, value })
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let exact = self.map.get(name);
        let found = exact.or_else(|| {
            let mut entries = self.map.iter();
            let other = entries.find(|(key, _)| key.eq_ignore_ascii_case(name));
            other.map(|(_, value)| value)
        });
        found.filter(|value| !value.is_null())
    }

    fn text(&self, name: &'static str) -> Result<String, ConfigError> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(_) => Err(kind(self.file, name, "a string")),
        }
    }

    fn number(&self, name: &'static str) -> Result<Option<i64>, ConfigError> {
        let number = match self.get(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_i64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        let wrong = || kind(self.file, name, "a whole number");
        number.map(Some).ok_or_else(wrong)
    }

    fn flag(&self, name: &'static str) -> Result<bool, ConfigError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(_) => Err(kind(self.file, name, "true or false")),
        }
    }

    fn objects(&self, name: &'static str) -> Result<Vec<Map<String, Value>>, ConfigError> {
        let wrong = || kind(self.file, name, "a list of objects");
        let object = |value: &Value| value.as_object().cloned().ok_or_else(wrong);
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(object).collect(),
            Some(_) => Err(wrong()),
        }
    }
}

/// `text` without comments and without commas before a closing bracket; lines stay where they are.
fn plain_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Where a comma stands in `out` that nothing but blanks follows.
    let mut comma = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '"' => string_length(rest),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        if token.starts_with("//") || token.starts_with("/*") {
            out.extend(token.chars().filter(|c| *c == '\n'));
            continue;
        }
        if let (']' | '}', Some(at)) = (c, comma) {
            out.replace_range(at..=at, " ");
        }
        match c {
            ',' => comma = Some(out.len()),
            c if c.is_whitespace() => {}
            _ => comma = None,
        }
        out.push_str(token);
    }
    out
}

/// Length of the string at the beginning of `text`, its quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        read("m.json", json.as_bytes()).unwrap_err().to_string()
    }

    /// A file of one matcher with the given patterns.
    fn patterns(patterns: &str) -> String {
        format!(r#"{{"problemMatcher":[{{"owner":"o","pattern":[{patterns}]}}]}}"#)
    }

    #[test]
    fn a_file_is_read_whatever_the_case_of_its_names_with_comments_and_commas() {
        let json = "\u{feff}{ // a comment
            \"ProblemMatcher\": [ /* and
            another */ { \"Owner\": \"a//b\", \"SEVERITY\": \"Warning\", \"pattern\": [
              { \"regexp\": \"^(.*),]$\", \"file\": \"1\" },
              { \"regexp\": \"(\\\\d+) (.*)\", \"line\": 1, \"message\": 2, \"loop\": true, },
            ], }, ] }";
        let matchers = read("m.json", json.as_bytes()).unwrap();
        let matcher = &matchers[0];
        assert_eq!(
            (matcher.owner.as_str(), matcher.severity.as_str()),
            ("a//b", "Warning")
        );
        assert_eq!(matcher.patterns[0].file, Some(1));
        let last = &matcher.patterns[1];
        assert_eq!(
            (last.line, last.message, last.looped),
            (Some(1), Some(2), true)
        );
        assert_eq!(owners("m.json", json.as_bytes()).unwrap(), ["a//b"]);
        assert!(read("m.json", b"{}").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_in_the_official_runners_words() {
        for (json, message) in [
            (
                r#"{"problemMatcher":[{}]}"#.to_owned(),
                "Owner must not be empty",
            ),
            (
                r#"{"problemMatcher":[{"owner":"o","severity":"bad"}]}"#.to_owned(),
                "Matcher 'o' contains unexpected default severity 'bad'",
            ),
            (patterns(""), "Matcher 'o' does not contain any patterns"),
            (
                patterns(r#"{"regexp":"x","file":0}"#),
                "At least one pattern must set 'message'",
            ),
            (
                patterns(r#"{"regexp":"x","message":1}"#),
                "The property 'message' is set to 1 which is out of range",
            ),
            (
                patterns(r#"{"regexp":"x","message":-1}"#),
                "The property 'message' is set to -1 which is out of range",
            ),
            (
                patterns(r#"{"regexp":"x","message":0},{"regexp":"x","message":0}"#),
                "The property 'message' is set twice",
            ),
            (
                patterns(r#"{"regexp":"x","message":0,"loop":true}"#),
                "Only the last pattern in a multiline matcher may set 'loop'",
            ),
            (
                patterns(r#"{"regexp":"x","message":0},{"regexp":"x","loop":true}"#),
                "The loop pattern must set 'message'",
            ),
            (
                patterns(r#"{"regexp":"(x","message":0}"#),
                "Invalid pattern '(x': not enough )'s",
            ),
            (
                patterns("7"),
                "The file 'm.json' has a wrong value: 'pattern' must be a list of objects",
            ),
            (
                r#"{"problemMatcher":[{"owner":[]}]}"#.to_owned(),
                "The file 'm.json' has a wrong value: 'owner' must be a string",
            ),
        ] {
            assert_eq!(error(&json), message);
        }
        let one = r#"{"owner":"O","pattern":[{"regexp":"x","message":0}]}"#;
        let two = format!(
            r#"{{"problemMatcher":[{one},{}]}}"#,
            one.to_ascii_lowercase()
        );
        assert_eq!(error(&two), "Duplicate owner name 'o'");
        let json = error("{\n  \"problemMatcher\": [}");
        assert!(
            json.starts_with("The file 'm.json' is not valid JSON: "),
            "{json}"
        );
        assert!(json.contains("line 2"), "{json}");
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_read_without_a_panic(text in "[{}\\[\\],:\"\\\\/*a-cé\\n ]{0,80}") {
            let _ = read("m.json", text.as_bytes());
            let _ = owners("m.json", text.as_bytes());
        }

        #[test]
        fn plain_json_stays_as_it_is(text in "(\\[|\\]|\"[a-z\\[\\],/*]{0,4}\"|1|,1| |\\{|\\}){0,30}") {
            if serde_json::from_str::<Value>(&text).is_ok() {
                proptest::prop_assert_eq!(plain_json(&text), text);
            }
        }
    }
}
