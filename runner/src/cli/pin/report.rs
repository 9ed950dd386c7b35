//! What `mayfly pin` found, as a table, as lines, or as JSON.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use crate::action::lockfile::PinKey;
use crate::action::resolve::{Entry, Graph, Locks, Mention, Offender, Pin};
use crate::printable;

/// What was found and done.
pub(super) struct Report {
    pub(super) graph: Graph,
    pub(super) offenders: Vec<Offender>,
    /// What the lock said before, short.
    before: BTreeMap<PinKey, String>,
    /// Files that were written.
    pub(super) written: Vec<PathBuf>,
    /// Entries that left the lock.
    pub(super) removed: Vec<PinKey>,
    /// What else to say.
    pub(super) notes: Vec<String>,
}

/// One line of the table.
pub(super) struct Row {
    pub(super) reference: String,
    pub(super) commit: String,
    pub(super) version: String,
    pub(super) depth: usize,
    pub(super) change: String,
}

impl Report {
    pub(super) fn new(graph: Graph, offenders: Vec<Offender>, locks: &Locks) -> Self {
        let before = |key: &PinKey| {
            let id = match key {
                PinKey::Action(key) => locks.action(key)?.commit.hex(),
                PinKey::Image(key) => locks.image(key)?.digest,
                PinKey::Local(path) => locks.local(path)?.content.unwrap_or_default(),
            };
            Some((key.clone(), id))
        };
        let before = graph.entries.keys().filter_map(before).collect();
        Self {
            graph,
            offenders,
            before,
            written: Vec::new(),
            removed: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        let row = |(key, entry): (&PinKey, &Entry)| {
            let (id, version) = named(entry);
            let change = self.change(key, entry, id.as_deref());
            Row {
                reference: key.to_string(),
                commit: id.unwrap_or_else(|| "-".to_owned()),
                version: version.unwrap_or_else(|| "-".to_owned()),
                depth: entry.depth,
                change,
            }
        };
        self.graph.entries.iter().map(row).collect()
    }

    /// What became of an entry, against the lock as it was.
    fn change(&self, key: &PinKey, entry: &Entry, id: Option<&str>) -> String {
        let Some(id) = id else {
            return "not known".to_owned();
        };
        let moved = match &entry.pin {
            Some(Pin::Action(pin)) => pin.moved.as_ref().map(|moved| moved.commit.hex()),
            Some(Pin::Image(pin)) => pin.moved.clone(),
            _ => None,
        };
        match (self.before.get(key), moved) {
            (_, Some(moved)) => format!("kept, moved to {}", short(&moved)),
            (Some(before), None) if before == id => "none".to_owned(),
            (Some(before), None) => format!("was {}", short(before)),
            (None, None) => "new".to_owned(),
        }
    }

    /// For a person on a terminal a table, elsewhere a line for each entry; offenders after that.
    pub(super) fn print(&self) {
        let rows = self.rows();
        if std::io::stdout().is_terminal() {
            print!("{}", table(&rows));
        } else {
            for row in &rows {
                let Row {
                    reference,
                    commit,
                    version,
                    depth,
                    change,
                } = row;
                let line = format!("{commit} {version} {depth} {reference} ({change})");
                println!("{}", printable::line(&line));
            }
        }
        for offender in &self.offenders {
            println!("{}", printable::line(&offender.to_string()));
        }
        for key in &self.removed {
            println!("{}", printable::line(&format!("removed {key}")));
        }
        for path in &self.written {
            println!("wrote {}", path.display());
        }
        for note in &self.notes {
            eprintln!("{}", printable::line(note));
        }
    }

    /// For programs; fields are added, never changed.
    pub(super) fn json(&self) -> Json {
        let entries: Vec<Json> = self
            .graph
            .entries
            .iter()
            .map(|(key, entry)| self.entry(key, entry))
            .collect();
        let offender = |offender: &Offender| {
            let mut found = place(&offender.mention);
            found["kind"] = json!(offender.wrong.word());
            found["message"] = json!(offender.message);
            found
        };
        json!({
            "version": 1,
            "ok": self.offenders.is_empty(),
            "entries": entries,
            "offenders": self.offenders.iter().map(offender).collect::<Vec<_>>(),
            "removed": self.removed.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "written": self.written.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }

    fn entry(&self, key: &PinKey, entry: &Entry) -> Json {
        let (id, version) = named(entry);
        let mut found = json!({
            "reference": key.to_string(),
            "depth": entry.depth,
            "change": self.change(key, entry, id.as_deref()),
            "uses": entry.uses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "places": entry.mentions.iter().map(place).collect::<Vec<_>>(),
        });
        match &entry.pin {
            Some(Pin::Action(pin)) => {
                found["commit"] = json!(pin.commit.hex());
                found["tree"] = json!(pin.tree.hex());
                found["content"] = json!(pin.content.to_string());
                found["version"] = json!(version);
                found["moved_to"] = json!(pin.moved.as_ref().map(|moved| moved.commit.hex()));
                found["resolved"] = json!({"at": pin.resolved.at, "from": pin.resolved.from});
            }
            Some(Pin::Image(pin)) => {
                found["digest"] = json!(pin.digest);
                found["platforms"] = pin
                    .platforms
                    .iter()
                    .cloned()
                    .map(|(name, digest)| (name, json!(digest)))
                    .collect();
                found["moved_to"] = json!(pin.moved);
            }
            Some(Pin::Local(content)) => {
                found["content"] = json!(content.map(|content| content.to_string()));
            }
            None => {}
        }
        found
    }
}

/// What an entry is known by, and its version.
fn named(entry: &Entry) -> (Option<String>, Option<String>) {
    match &entry.pin {
        Some(Pin::Action(pin)) => (Some(pin.commit.hex()), Some(pin.version.clone())),
        Some(Pin::Image(pin)) => (Some(pin.digest.clone()), None),
        Some(Pin::Local(content)) => {
            let text = content.map(|content| format!("sha256-{}", content.hex()));
            (Some(text.unwrap_or_default()), None)
        }
        None => (None, None),
    }
}

fn place(mention: &Mention) -> Json {
    json!({
        "file": mention.file,
        "line": mention.line,
        "column": mention.column,
        "text": mention.text,
    })
}

/// The first digits of a digest, which a person can compare.
pub(super) fn short(id: &str) -> String {
    let digits = id.split([':', '-']).next_back().unwrap_or(id);
    digits.chars().take(12).collect()
}

fn table(rows: &[Row]) -> String {
    let head = ["REFERENCE", "COMMIT", "VERSION", "DEPTH", "CHANGE"].map(str::to_owned);
    let mut lines = vec![head];
    for row in rows {
        let Row {
            reference,
            commit,
            version,
            depth,
            change,
        } = row;
        let cells = [
            reference.clone(),
            short(commit),
            version.clone(),
            depth.to_string(),
            change.clone(),
        ];
        lines.push(cells.map(|cell| printable::line(&cell)));
    }
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths = [0, 1, 2, 3].map(width);
    let mut text = String::new();
    for line in &lines {
        for (cell, width) in line.iter().zip(widths) {
            text.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(&line[4]);
        text.push('\n');
    }
    text
}
