//! Reads tables of the configuration file so that everything that is wrong is told at once, each thing
//! with file, line, key and what to write there.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde::Serialize;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

/// Something in a configuration file that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, if it is about one.
    pub line: Option<usize>,
    /// The key, like `pools[0].capacity`; empty if it is about the whole file.
    pub key: String,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.what)
    }
}

/// A file that is read, and what was found wrong so far.
pub(super) struct Reader<'t> {
    file: &'t Path,
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
}

/// A table of the file. A key that nobody asked for is unknown.
pub(super) struct Section<'r, 't> {
    reader: &'r Reader<'t>,
    name: String,
    table: Option<&'r DeTable<'t>>,
    start: Option<usize>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str) -> Self {
        let problems = RefCell::default();
        Self {
            file,
            text,
            problems,
        }
    }

    /// Remembers what is wrong.
    pub(super) fn problem(&self, at: Option<usize>, key: &str, what: impl Into<String>) {
        let line = at.map(|at| {
            1 + self.text.as_bytes()[..at.min(self.text.len())]
                .iter()
                .filter(|b| **b == b'\n')
                .count()
        });
        self.problems.borrow_mut().push(Problem {
            file: self.file.to_owned(),
            line,
            key: key.to_owned(),
            what: what.into(),
        });
    }

    /// All that was found wrong, each once.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut once: Vec<Problem> = Vec::new();
        for problem in self.problems.into_inner() {
            if !once.contains(&problem) {
                once.push(problem);
            }
        }
        once
    }

    /// The file itself as a section.
    pub(super) fn root<'r>(&'r self, table: &'r DeTable<'t>) -> Section<'r, 't> {
        self.section(String::new(), Some(table), None)
    }

    fn section<'r>(
        &'r self,
        name: String,
        table: Option<&'r DeTable<'t>>,
        start: Option<usize>,
    ) -> Section<'r, 't> {
        let asked = RefCell::default();
        Section {
            reader: self,
            name,
            table,
            start,
            asked,
        }
    }
}

impl<'r, 't> Section<'r, 't> {
    /// The full name of a key here.
    fn full(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    fn value(&self, key: &'static str) -> Option<&'r Spanned<DeValue<'t>>> {
        self.asked.borrow_mut().insert(key);
        self.table?.get(key)
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Whether the key is there and a text.
    pub(super) fn is_text(&self, key: &'static str) -> bool {
        self.value(key)
            .is_some_and(|value| value.get_ref().is_str())
    }

    /// Says what is wrong with a key, at its line or at its section's.
    pub(super) fn wrong(&self, key: &'static str, what: impl Into<String>) {
        let at = self.value(key).map(|value| value.span().start);
        self.reader
            .problem(at.or(self.start), &self.full(key), what);
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str) -> Option<&'r str> {
        let value = self.value(key)?.get_ref();
        let text = value.as_str();
        if text.is_none() {
            let what = format!("is a {}; write a text, in quotes", value.type_str());
            self.wrong(key, what);
        }
        text
    }

    /// A text that must be there; `next` says what to write.
    pub(super) fn required(&self, key: &'static str, next: &str) -> Option<&'r str> {
        if !self.has(key) {
            self.wrong(key, format!("is missing; {next}"));
        }
        self.text(key)
    }

    /// What `parse` makes of a text.
    pub(super) fn parsed<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = parse(self.text(key)?);
        parsed.map_err(|what| self.wrong(key, what)).ok()
    }

    /// A whole number in a range.
    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.value(key)?.get_ref();
        let number = value
            .as_integer()
            .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (low, high) = range.into_inner();
            self.wrong(key, format!("is no whole number from {low} to {high}"));
        }
        number
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        let list = self.value(key)?.get_ref().as_array();
        let text = |value: &Spanned<DeValue<'_>>| value.get_ref().as_str().map(str::to_owned);
        let texts: Option<Vec<String>> = list.and_then(|list| list.iter().map(text).collect());
        if texts.is_none() {
            self.wrong(key, "is no list of texts; write it as [\"one\", \"two\"]");
        }
        texts
    }

    /// A table below this one; an empty one where it is missing.
    pub(super) fn table(&self, key: &'static str) -> Section<'r, 't> {
        let value = self.value(key);
        let table = value.and_then(|value| value.get_ref().as_table());
        if value.is_some() && table.is_none() {
            self.wrong(
                key,
                format!("is no table; begin it with [{}]", self.full(key)),
            );
        }
        let start = value.map(|value| value.span().start);
        self.reader.section(self.full(key), table, start)
    }

    /// The tables of a list, as `[[key]]` makes them.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'r, 't>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let tables = |list: &'r DeArray<'t>| -> Option<Vec<Section<'r, 't>>> {
            let numbered = list.iter().enumerate();
            let section = |(index, value): (usize, &'r Spanned<DeValue<'t>>)| {
                let name = format!("{}[{index}]", self.full(key));
                let table = value.get_ref().as_table()?;
                let start = value.span().start;
                Some(self.reader.section(name, Some(table), Some(start)))
            };
            numbered.map(section).collect()
        };
        let found = value.get_ref().as_array().and_then(tables);
        if found.is_none() {
            self.wrong(
                key,
                format!(
                    "is no list of tables; begin each with [[{}]]",
                    self.full(key)
                ),
            );
        }
        found.unwrap_or_default()
    }

    /// Says which keys are unknown. Called when all known ones were asked for.
    pub(super) fn finish(&self) {
        let asked = self.asked.borrow();
        let keys = self.table.into_iter().flat_map(|table| table.keys());
        for key in keys.filter(|key| !asked.contains(key.get_ref().as_ref())) {
            let known: Vec<&str> = asked.iter().copied().collect();
            let what = format!("is unknown; known here: {}", known.join(", "));
            let name = self.full(key.get_ref());
            self.reader.problem(Some(key.span().start), &name, what);
        }
    }
}
