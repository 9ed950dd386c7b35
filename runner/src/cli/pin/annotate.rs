//! What `mayfly pin` found, for GitHub: annotations at the lines meant, and a summary of the step.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

use super::report::{Report, short};
use crate::action::resolve::Offender;
use crate::cli::Failure;

/// Longest summary: GitHub takes 1 MiB of a step.
const MAX_SUMMARY: usize = 1 << 20;

/// Prints annotations, and adds to the file that `GITHUB_STEP_SUMMARY` names.
pub(super) fn print(report: &Report) -> Result<(), Failure> {
    for offender in &report.offenders {
        println!("{}", annotation(offender));
    }
    for note in &report.notes {
        println!("::notice title=mayfly pin::{}", data(note));
    }
    let (entries, offenders) = (report.graph.entries.len(), report.offenders.len());
    println!("{entries} references, {offenders} offenders");
    if let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        file.write_all(summary(report).as_bytes())?;
    }
    Ok(())
}

/// `::error file=…,line=…,col=…,title=…::message`. A place in another repository is part of the text:
/// GitHub can show only files of this one.
fn annotation(offender: &Offender) -> String {
    let mention = &offender.mention;
    let title = property(&format!("mayfly pin: {}", offender.wrong.word()));
    let own = !mention.file.contains('@');
    if own {
        let (file, line, column) = (property(&mention.file), mention.line, mention.column);
        let message = data(&offender.message);
        return format!("::error file={file},line={line},col={column},title={title}::{message}");
    }
    format!(
        "::error title={title}::{}",
        data(&format!("{mention}: {}", offender.message))
    )
}

/// The summary in Markdown.
fn summary(report: &Report) -> String {
    let mut text = "### mayfly pin\n\n".to_owned();
    if report.offenders.is_empty() {
        let _ = writeln!(
            text,
            "All {} references are pinned.\n",
            report.graph.entries.len()
        );
    } else {
        text.push_str("| what | where | why |\n|---|---|---|\n");
        for offender in &report.offenders {
            let (place, message) = (cell(&offender.mention.to_string()), cell(&offender.message));
            let _ = writeln!(text, "| {} | {place} | {message} |", offender.wrong.word());
        }
        text.push('\n');
    }
    text.push_str("| reference | commit | version | depth | change |\n|---|---|---|---|---|\n");
    for row in report.rows() {
        let _ = writeln!(
            text,
            "| {} | `{}` | {} | {} | {} |",
            cell(&row.reference),
            short(&row.commit),
            cell(&row.version),
            row.depth,
            cell(&row.change)
        );
        if text.len() > MAX_SUMMARY / 2 {
            text.push_str("\nThe rest is left out.\n");
            break;
        }
    }
    text
}

/// A text that cannot end a table's cell, nor be HTML or a link.
fn cell(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '|' | '<' | '>' | '[' | ']' | '*' | '!' | '&' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A message of a workflow command.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// A property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::resolve::{Mention, Wrong};

    #[test]
    fn hostile_texts_stay_in_their_places() {
        let offender = |file: &str| Offender {
            wrong: Wrong::Moved,
            mention: Mention {
                file: file.to_owned(),
                line: 3,
                column: 9,
                text: String::new(),
            },
            message: "50 %\n::stop-commands::x".to_owned(),
        };
        assert_eq!(
            annotation(&offender("a,b:c.yml")),
            "::error file=a%2Cb%3Ac.yml,line=3,col=9,title=mayfly pin%3A moved::50 %25%0A::stop-commands::x"
        );
        let nested = annotation(&offender("o/r@v1:action.yml"));
        assert!(nested.starts_with("::error title=mayfly pin%3A moved::o/r@v1:action.yml:3:9: 50"));
        assert_eq!(cell("a|b\n<img>"), "a&#124;b &#60;img&#62;");
    }
}
