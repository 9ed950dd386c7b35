//! The table at the end of a job: what was denied first, equal connections in one row.

use std::{collections::HashMap, fmt::Write};

use crate::{egress::policy::Verdict, printable};

use super::line::{Answer, Line};

/// Rows that are counted apart; further ones count as one.
const MOST_KEPT: usize = 4096;
/// Rows that are shown.
const MOST_SHOWN: usize = 40;

/// Connections by what they have in common.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: HashMap<Key, Row>,
    /// Connections for which there was no row left.
    surplus: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    /// Denied first.
    rank: u8,
    host: String,
    port: u16,
    protocol: String,
    steps: String,
    why: String,
}

#[derive(Clone, Debug, Default)]
struct Row {
    connections: u64,
    sent: u64,
    received: u64,
    unreachable: u64,
}

impl Table {
    pub(super) fn add(&mut self, line: &Line) {
        // Requests that passed are in the row of their connection.
        if line.within.is_some() && line.verdict == Verdict::Allow {
            return;
        }
        let host = match (&line.method, &line.path) {
            (Some(method), Some(path)) if line.within.is_some() => {
                format!("{method} {}{path}", line.host())
            }
            _ => line.host(),
        };
        let key = Key {
            rank: match line.verdict {
                Verdict::Deny => 0,
                Verdict::Audit => 1,
                Verdict::Allow => 2,
            },
            host,
            port: line.port,
            protocol: line.protocol.clone(),
            steps: line.steps.join(", "),
            why: match line.verdict {
                Verdict::Allow => String::new(),
                Verdict::Audit | Verdict::Deny => line.why.clone(),
            },
        };
        if self.rows.len() >= MOST_KEPT && !self.rows.contains_key(&key) {
            self.surplus += 1;
            return;
        }
        let row = self.rows.entry(key).or_default();
        row.connections += 1;
        row.sent += line.sent;
        row.received += line.received;
        row.unreachable += u64::from(matches!(line.answer, Some(Answer::Unreachable(_))));
    }

    /// Whether nothing was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Connections by verdict: denied, let pass by audit, allowed.
    #[must_use]
    pub fn counts(&self) -> [u64; 3] {
        let mut counts = [0; 3];
        for (key, row) in &self.rows {
            counts[usize::from(key.rank)] += row.connections;
        }
        counts
    }

    fn sorted(&self) -> Vec<(&Key, &Row)> {
        let mut rows: Vec<(&Key, &Row)> = self.rows.iter().collect();
        rows.sort_by(|one, other| one.0.cmp(other.0));
        rows
    }

    /// One line for each row, for a log.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let rows = self.sorted();
        let mut lines: Vec<String> = rows
            .iter()
            .take(MOST_SHOWN)
            .map(|(key, row)| text(key, row))
            .collect();
        lines.extend(self.rest(rows.len()));
        lines
    }

    /// The rows as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let rows = self.sorted();
        let mut out = String::from(
            "### Network\n\n| | host | port | step | connections | sent | received | |\n|---|---|---|---|---|---|---|---|\n",
        );
        for (key, row) in rows.iter().take(MOST_SHOWN) {
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "| {} | {} | {}/{} | {} | {} | {} | {} | {} |",
                word(key),
                cell(&key.host),
                key.port,
                key.protocol,
                cell(&key.steps),
                row.connections,
                bytes(row.sent),
                bytes(row.received),
                cell(&note(key, row)),
            );
        }
        if let Some(rest) = self.rest(rows.len()) {
            let _ = writeln!(out, "\n{rest}");
        }
        out
    }

    fn rest(&self, rows: usize) -> Option<String> {
        let more = rows.saturating_sub(MOST_SHOWN) as u64 + self.surplus;
        (more > 0).then(|| format!("… and {more} more; the record has all"))
    }
}

fn word(key: &Key) -> &'static str {
    match key.rank {
        0 => "denied",
        1 => "would be denied",
        _ => "allowed",
    }
}

fn note(key: &Key, row: &Row) -> String {
    match row.unreachable {
        0 => key.why.clone(),
        count if key.why.is_empty() => format!("{count} not reached"),
        count => format!("{}; {count} not reached", key.why),
    }
}

fn text(key: &Key, row: &Row) -> String {
    let mut said = format!(
        "{:<15} {}:{} ({})",
        word(key),
        printable::lines(&key.host),
        key.port,
        key.protocol
    );
    if row.connections > 1 {
        let _ = write!(said, " {} times", row.connections);
    }
    if row.sent + row.received > 0 {
        let _ = write!(
            said,
            ", {} sent, {} received",
            bytes(row.sent),
            bytes(row.received)
        );
    }
    if !key.steps.is_empty() {
        let _ = write!(said, ", in {}", printable::lines(&key.steps));
    }
    let note = note(key, row);
    if !note.is_empty() {
        let _ = write!(said, ": {}", printable::lines(&note));
    }
    said.replace('\n', " ")
}

fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{} kB", count / 1000),
        _ => format!("{} MB", count / 1_000_000),
    }
}

/// A text that cannot end a cell or begin anything else.
fn cell(text: &str) -> String {
    let mut safe = String::new();
    for c in printable::lines(text).chars() {
        match c {
            '\n' | '\r' => safe.push(' '),
            '|' | '<' | '>' | '`' | '[' | ']' | '*' | '_' | '\\' | '!' | '@' | '#' | '&' | '~' => {
                let _ = write!(safe, "&#{};", u32::from(c));
            }
            _ => safe.push(c),
        }
    }
    safe
}
