//! Expressions as GitHub's own implementation (`@actions/expressions`) evaluates them and as Mayfly does.
//!
//! Tables and a seeded generator make expressions that both must answer alike: the same value, or an
//! error of the same stage with the same words. Where the official runner (C#) decides otherwise than
//! the package, Mayfly follows the runner: those expressions stand apart, each group with its rule.

mod cases;

use std::collections::BTreeMap;

use mayfly::expression::batch;
use mayfly_tests::npm;
use serde_json::{Value, json};

#[test]
fn expressions_are_answered_as_by_githubs_own_implementation() {
    let alike = cases::alike();
    assert!(alike.len() >= 5000, "{} expressions", alike.len());
    let differing = cases::differing();
    let all: Vec<&String> = alike
        .iter()
        .chain(differing.iter().flat_map(|(_, group)| group))
        .collect();
    let Some(theirs) = github(&all) else { return };
    let answers: BTreeMap<&String, (Value, Value)> = all
        .iter()
        .zip(theirs)
        .map(|(expr, theirs)| (*expr, (theirs, mayfly(expr))))
        .collect();
    let mut unexpected = Vec::new();
    let mut errors = BTreeMap::<String, usize>::new();
    for expr in &alike {
        let (theirs, own) = &answers[expr];
        let stage = theirs["error"]["kind"].as_str().unwrap_or("value");
        *errors.entry(stage.to_owned()).or_default() += 1;
        if !same(theirs, own) {
            unexpected.push(format!("{expr}\n    GitHub {theirs}\n    Mayfly {own}"));
        }
    }
    println!("{} cases run: {errors:?}", alike.len());
    println!("{} differences not accounted for", unexpected.len());
    for (rule, group) in &differing {
        let differ = |expr: &&String| !same(&answers[*expr].0, &answers[*expr].1);
        let found: Vec<&String> = group.iter().filter(differ).collect();
        println!("{} of {} differ by rule: {rule}", found.len(), group.len());
        for expr in &found {
            let (theirs, own) = &answers[*expr];
            let shown = |value: &Value| value.to_string().chars().take(120).collect::<String>();
            let expr: String = expr.chars().take(80).collect();
            println!(
                "    {expr}: GitHub {}, Mayfly {}",
                shown(theirs),
                shown(own)
            );
        }
        assert!(
            !found.is_empty(),
            "no difference left, drop the rule: {rule}"
        );
    }
    assert!(
        unexpected.is_empty(),
        "{} differences:\n{}",
        unexpected.len(),
        unexpected[..unexpected.len().min(60)].join("\n")
    );
}

/// What the batch of `mayfly expr` answers.
fn mayfly(expr: &str) -> Value {
    let answer = batch::answer(question(expr).to_string().as_bytes());
    serde_json::to_value(&answer).expect("an answer is JSON")
}

fn question(expr: &str) -> Value {
    json!({"expr": expr, "contexts": cases::contexts()})
}

/// What the package answers, in order; `None`, said, where node or the package is not there.
fn github(all: &[&String]) -> Option<Vec<Value>> {
    let answers = npm::ask("expressions.mjs", all.iter().map(|expr| question(expr)))?;
    assert_eq!(answers.len(), all.len());
    Some(answers)
}

/// The same value, or an error of the same stage with the same words.
fn same(theirs: &Value, own: &Value) -> bool {
    match (&theirs["error"], &own["error"]) {
        (Value::Null, Value::Null) => same_value(&theirs["value"], &own["value"]),
        (theirs, own) => theirs["kind"] == own["kind"] && same_words(theirs, own),
    }
}

/// Mayfly tells the position too; the package calls the end of an expression a symbol, and leaves
/// the quotes of a string away.
fn same_words(theirs: &Value, own: &Value) -> bool {
    let text = |error: &Value| error["message"].as_str().unwrap_or_default().to_owned();
    let (theirs_text, own_text) = (text(theirs), text(own));
    if theirs_text == "Unexpected symbol: 'EOF'" {
        return own_text.starts_with("Unexpected end of expression: ");
    }
    let same = own_text.starts_with(&theirs_text) || own_text.ends_with(&theirs_text);
    let depth = "Exceeded max expression depth 50";
    let quoted = theirs_text.replacen(": '", ": ''", 1);
    same || own_text.starts_with(&quoted)
        || (theirs_text.starts_with(depth) && own_text == depth)
        || (theirs_text == "ErrorExceededMaxLength"
            && own_text == "Exceeded max expression length 21000")
}

fn same_value(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same_value(l, r))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|((a, l), (b, r))| a == b && same_value(l, r))
        }
        _ => left == right,
    }
}
