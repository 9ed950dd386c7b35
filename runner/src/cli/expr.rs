//! `mayfly expr`: evaluates expressions of `${{ }}` without a workflow.

use std::{
    fs::File,
    io::{self, BufRead, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;

use super::{CommandResult, Exit, Failure};
use crate::{
    expression::{
        CONTEXTS, ErrorKind, Names,
        batch::{self, Answer, FUNCTIONS},
        coerce, json,
        value::{Object, Value},
    },
    printable,
};

/// Longest line of a batch, and largest file of contexts, in bytes.
const MAX_INPUT: u64 = 4 << 20;

/// Evaluates an expression of the workflow language, as in `${{ }}`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mayfly expr \"startsWith('refs/heads/main', 'refs/')\"
  mayfly expr 'github.event.labels.*.name' --context contexts.json --json
  echo '{\"expr\": \"x > 1\", \"contexts\": {\"x\": 2}}' | mayfly expr --batch

Exit codes: 0 it has a value, 1 it could not be evaluated, 2 it is no expression.
With --batch: 0 when all lines were answered, whatever the answers.")]
pub struct ExprArgs {
    /// The expression, with or without `${{ }}`.
    #[arg(required_unless_present = "batch", allow_hyphen_values = true)]
    expression: Option<String>,
    /// JSON object with the contexts by name; a context of GitHub's that is not there is null.
    #[arg(long, value_name = "FILE")]
    context: Option<PathBuf>,
    /// Print {"value": ...} or {"error": {"kind", "message"}} on one line.
    #[arg(long)]
    json: bool,
    /// Read lines {"expr": ..., "contexts": {...}} from standard input and answer each on one line.
    #[arg(long, conflicts_with_all = ["expression", "context", "json"])]
    batch: bool,
}

/// Runs the command.
pub fn expr(args: &ExprArgs) -> CommandResult {
    let Some(expression) = &args.expression else {
        answer_lines(io::stdin().lock(), io::stdout().lock()).context("answering a batch")?;
        return Ok(Exit::Success);
    };
    let contexts = match &args.context {
        Some(file) => read_contexts(file).map_err(Failure::usage)?,
        None => Object::new(),
    };
    let given = contexts.iter().map(|(name, _)| name);
    let names = Names::new(given.chain(CONTEXTS.iter().copied()).chain(FUNCTIONS));
    let result = batch::evaluate(expression, &names, &contexts);
    let exit = match &result {
        Ok(_) => Exit::Success,
        Err(error) if error.kind == ErrorKind::Evaluation => Exit::Failed,
        Err(_) => Exit::Usage,
    };
    if args.json {
        let answer = result.map_or_else(Answer::Refused, Answer::Value);
        println!("{}", serde_json::to_string(&answer)?);
        return Ok(exit);
    }
    match result {
        Ok(value) => println!("{}", printable::lines(&text(&value))),
        Err(error) => {
            return Err(Failure {
                exit,
                cause: error.into(),
            });
        }
    }
    Ok(exit)
}

/// A value for a person: a string as it is, all else as `toJSON` writes it.
fn text(value: &Value) -> String {
    match value {
        Value::String(_) => coerce::to_text(value),
        other => json::to_json(other),
    }
}

fn read_contexts(file: &Path) -> anyhow::Result<Object> {
    let what = || format!("reading contexts from {}", file.display());
    let mut text = String::new();
    let opened = File::open(file).with_context(what)?;
    opened
        .take(MAX_INPUT + 1)
        .read_to_string(&mut text)
        .with_context(what)?;
    if text.len() as u64 > MAX_INPUT {
        anyhow::bail!("{}: larger than {MAX_INPUT} bytes", what());
    }
    match json::from_json(&text).with_context(what)? {
        Value::Object(object) => Ok((*object).clone()),
        _ => anyhow::bail!(
            "{}: not a JSON object; write {{\"github\": {{...}}}}",
            what()
        ),
    }
}

/// Answers each line, at once; a line that is none gets an error and the next is read.
fn answer_lines(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input
            .by_ref()
            .take(MAX_INPUT + 1)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        let answer = if read as u64 > MAX_INPUT && line.last() != Some(&b'\n') {
            input.skip_until(b'\n')?;
            Answer::Input(format!(
                "not a line of a batch: longer than {MAX_INPUT} bytes"
            ))
        } else {
            batch::answer(&line)
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        output.write_all(&text)?;
        output.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_answered_in_order_and_a_bad_one_stops_nothing() {
        let long = "x".repeat(MAX_INPUT as usize + 5);
        let input = format!("{{\"expr\":\"1\"}}\n\nnonsense\n{long}\n{{\"expr\":\"2\"}}");
        let mut output = Vec::new();
        answer_lines(input.as_bytes(), &mut output).unwrap();
        let output = String::from_utf8(output).unwrap();
        let lines: Vec<_> = output.lines().collect();
        assert_eq!((lines[0], lines[4]), (r#"{"value":1}"#, r#"{"value":2}"#));
        for (at, part) in [(1, "EOF"), (2, "expected"), (3, "longer than")] {
            assert!(
                lines[at].contains("\"input\"") && lines[at].contains(part),
                "{}",
                lines[at]
            );
        }
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn contexts_are_an_object_of_bounded_size() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.json");
        std::fs::write(&file, r#"{"github": {"ref": "x"}}"#).unwrap();
        assert!(read_contexts(&file).unwrap().get("GITHUB").is_some());
        for (content, part) in [("[]", "not a JSON object"), ("{", "reading contexts from")] {
            std::fs::write(&file, content).unwrap();
            assert!(read_contexts(&file).unwrap_err().to_string().contains(part));
        }
        std::fs::write(&file, " ".repeat(MAX_INPUT as usize + 1)).unwrap();
        let error = read_contexts(&file).unwrap_err().to_string();
        assert!(error.contains("larger than"), "{error}");
    }
}
