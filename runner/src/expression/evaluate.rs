//! Evaluates a syntax tree.
//!
//! Operands and arguments are evaluated only when they are needed. What functions build is counted,
//! so that no expression can take more than [`MAX_MEMORY`].

use std::cmp::Ordering;

use super::coerce::{compare, equals, is_primitive, to_number, to_text, truthy};
use super::error::ExpressionError;
use super::format::{FormatFault, Piece, pieces};
use super::json::{from_json, to_json};
use super::syntax::{Comparison, Function, Node};
use super::value::{Object, Value, fold};

/// Bytes that one evaluation may build.
pub const MAX_MEMORY: usize = 10 * 1024 * 1024;

/// Answers `success()`, `failure()`, `always()` and `cancelled()`; the arguments are job ids,
/// which only the conditions of jobs may give.
pub type StatusCheck<'a> = &'a dyn Fn(Function, &[Value]) -> bool;

/// Answers `hashFiles()`, with the message of what went wrong.
pub type HashFiles<'a> = &'a dyn Fn(&[String]) -> Result<String, String>;

/// What an expression is evaluated against.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// Contexts by name; a context that is absent is null.
    pub contexts: &'a Object,
    /// The status functions; without it `success()` and `always()` hold, the others do not.
    pub status: Option<StatusCheck<'a>>,
    /// `hashFiles()`; without it the function is an error.
    pub hash_files: Option<HashFiles<'a>>,
}

impl<'a> Scope<'a> {
    /// A scope of contexts alone.
    pub fn new(contexts: &'a Object) -> Self {
        Self {
            contexts,
            status: None,
            hash_files: None,
        }
    }
}

impl std::fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope")
            .field("contexts", self.contexts)
            .finish_non_exhaustive()
    }
}

/// A value on its way through an expression.
struct Operand {
    value: Value,
    /// Made by `*`: a further access goes to each item.
    filtered: bool,
}

impl From<Value> for Operand {
    fn from(value: Value) -> Self {
        Operand {
            value,
            filtered: false,
        }
    }
}

impl From<bool> for Operand {
    fn from(value: bool) -> Self {
        Value::Bool(value).into()
    }
}

type Evaluated = Result<Operand, ExpressionError>;

/// Evaluates a tree.
pub(super) fn evaluate(node: &Node, scope: &Scope<'_>) -> Result<Value, ExpressionError> {
    let mut evaluator = Evaluator { scope, memory: 0 };
    Ok(evaluator.node(node)?.value)
}

struct Evaluator<'a> {
    scope: &'a Scope<'a>,
    memory: usize,
}

impl Evaluator<'_> {
    fn node(&mut self, node: &Node) -> Evaluated {
        match node {
            Node::Literal(value) => Ok(value.clone().into()),
            Node::Context(name) => Ok(self
                .scope
                .contexts
                .get(name)
                .cloned()
                .unwrap_or_default()
                .into()),
            Node::Not(operand) => Ok((!truthy(&self.node(operand)?.value)).into()),
            Node::Compare(comparison, left, right) => {
                let (left, right) = (self.node(left)?.value, self.node(right)?.value);
                Ok(holds(*comparison, &left, &right).into())
            }
            Node::All(operands) => self.until(operands, |value| !truthy(value)),
            Node::Any(operands) => self.until(operands, truthy),
            Node::Index(base, index) => self.index(base, index),
            Node::Filter(base) => self.filter(base),
            Node::Call(function, arguments) => self.call(*function, arguments),
        }
    }

    /// The first operand that decides, else the last.
    fn until(&mut self, operands: &[Node], decides: fn(&Value) -> bool) -> Evaluated {
        let mut result = Operand::from(Value::Null);
        for operand in operands {
            result = self.node(operand)?;
            if decides(&result.value) {
                break;
            }
        }
        Ok(result)
    }

    fn index(&mut self, base: &Node, index: &Node) -> Evaluated {
        let base = self.node(base)?;
        if is_primitive(&base.value) {
            return Ok(Value::Null.into());
        }
        let index = Index::new(&self.node(index)?.value);
        let Some(items) = base.value.as_array().filter(|_| base.filtered) else {
            return Ok(index.of(&base.value).cloned().unwrap_or_default().into());
        };
        let found: Vec<Value> = items
            .iter()
            .filter_map(|item| index.of(item))
            .cloned()
            .collect();
        self.filtered(found)
    }

    fn filter(&mut self, base: &Node) -> Evaluated {
        let base = self.node(base)?;
        let mut found = Vec::new();
        match base.value.as_array().filter(|_| base.filtered) {
            Some(items) => items.iter().for_each(|item| children(item, &mut found)),
            None => children(&base.value, &mut found),
        }
        self.filtered(found)
    }

    fn filtered(&mut self, found: Vec<Value>) -> Evaluated {
        self.count(found.len() * size_of::<Value>())?;
        Ok(Operand {
            value: Value::array(found),
            filtered: true,
        })
    }

    /// Counts bytes that a function builds.
    fn count(&mut self, bytes: usize) -> Result<(), ExpressionError> {
        self.memory += bytes;
        if self.memory > MAX_MEMORY {
            return Err(ExpressionError::evaluation(
                "The maximum allowed memory size was exceeded",
            ));
        }
        Ok(())
    }

    fn text(&mut self, node: &Node) -> Result<String, ExpressionError> {
        Ok(to_text(&self.node(node)?.value))
    }

    fn built(&mut self, text: String) -> Evaluated {
        self.count(text.len())?;
        Ok(Value::from(text).into())
    }

    fn call(&mut self, function: Function, arguments: &[Node]) -> Evaluated {
        match function {
            Function::Case => self.case(arguments),
            Function::Contains => self.contains(arguments),
            Function::StartsWith => self.compare_ends(arguments, |text, end| text.starts_with(end)),
            Function::EndsWith => self.compare_ends(arguments, |text, end| text.ends_with(end)),
            Function::Format => self.format(arguments),
            Function::Join => self.join(arguments),
            Function::ToJson => {
                let value = self.node(&arguments[0])?.value;
                self.built(to_json(&value))
            }
            Function::FromJson => self.parse_json(&arguments[0]),
            Function::HashFiles => self.hash_files(arguments),
            Function::Success | Function::Failure | Function::Always | Function::Cancelled => {
                self.status(function, arguments)
            }
        }
    }

    fn case(&mut self, arguments: &[Node]) -> Evaluated {
        let (default, pairs) = arguments
            .split_last()
            .expect("the parser wants three arguments");
        for pair in pairs.chunks_exact(2) {
            match self.node(&pair[0])?.value {
                Value::Bool(true) => return self.node(&pair[1]),
                Value::Bool(false) => {}
                _ => {
                    let message = "case predicate must evaluate to a boolean value";
                    return Err(ExpressionError::evaluation(message));
                }
            }
        }
        self.node(default)
    }

    fn contains(&mut self, arguments: &[Node]) -> Evaluated {
        let search = self.node(&arguments[0])?.value;
        let nothing = search.as_array().is_some_and(<[Value]>::is_empty);
        if nothing || search.as_object().is_some() {
            return Ok(false.into());
        }
        let item = self.node(&arguments[1])?.value;
        let found = match &search {
            Value::Array(items) => items.iter().any(|candidate| equals(&item, candidate)),
            _ => is_primitive(&item) && fold(&to_text(&search)).contains(&fold(&to_text(&item))),
        };
        Ok(found.into())
    }

    fn compare_ends(&mut self, arguments: &[Node], holds: fn(&str, &str) -> bool) -> Evaluated {
        let text = self.node(&arguments[0])?.value;
        if !is_primitive(&text) {
            return Ok(false.into());
        }
        let end = self.node(&arguments[1])?.value;
        Ok((is_primitive(&end) && holds(&fold(&to_text(&text)), &fold(&to_text(&end)))).into())
    }

    fn format(&mut self, arguments: &[Node]) -> Evaluated {
        let format = self.text(&arguments[0])?;
        // The whole string is looked at before the first argument is evaluated.
        let pieces = pieces(&format, arguments.len() - 1).map_err(|fault| {
            let what = match fault {
                FormatFault::Invalid => "is invalid",
                FormatFault::Missing(_) => "references more arguments than were supplied",
            };
            ExpressionError::evaluation(format!("The following format string {what}: {format}"))
        })?;
        let mut texts: Vec<Option<String>> = vec![None; arguments.len() - 1];
        let mut out = String::new();
        for piece in pieces {
            let (index, specifiers) = match piece {
                Piece::Text(text) => {
                    self.count(text.len())?;
                    out.push_str(&text);
                    continue;
                }
                Piece::Argument { index, specifiers } => (index, specifiers),
            };
            let text = match &mut texts[index] {
                Some(text) => text,
                cached => cached.insert(self.text(&arguments[index + 1])?),
            };
            if !specifiers.is_empty() {
                let message = format!("The format specifiers '{specifiers}' are not valid here");
                return Err(ExpressionError::evaluation(message));
            }
            self.count(text.len())?;
            out.push_str(text);
        }
        Ok(Value::from(out).into())
    }

    fn join(&mut self, arguments: &[Node]) -> Evaluated {
        let value = self.node(&arguments[0])?.value;
        let items = match &value {
            Value::Array(items) => items,
            Value::Object(_) => return self.built(String::new()),
            primitive => return self.built(to_text(primitive)),
        };
        let separator = match arguments.get(1) {
            Some(node) if items.len() > 1 => Some(self.node(node)?.value).filter(is_primitive),
            _ => None,
        };
        let separator = separator.map_or_else(|| ",".to_owned(), |value| to_text(&value));
        let mut out = String::new();
        for (at, item) in items.iter().enumerate() {
            let text = to_text(item);
            self.count(text.len() + separator.len())?;
            if at > 0 {
                out.push_str(&separator);
            }
            out.push_str(&text);
        }
        Ok(Value::from(out).into())
    }

    fn parse_json(&mut self, argument: &Node) -> Evaluated {
        let text = self.text(argument)?;
        // A value takes a multiple of its text; nesting many `fromJSON(toJSON())` adds up.
        self.count(text.len())?;
        from_json(&text).map(Operand::from).map_err(|error| {
            let cause = if text.trim().is_empty() {
                "empty input".into()
            } else {
                error.to_string()
            };
            let message = format!("Error parsing JSON when evaluating fromJson: {cause}");
            ExpressionError::evaluation(message)
        })
    }

    fn hash_files(&mut self, arguments: &[Node]) -> Evaluated {
        let Some(hash_files) = self.scope.hash_files else {
            let message = "hashFiles cannot be used here: there is no workspace";
            return Err(ExpressionError::evaluation(message));
        };
        let patterns: Result<Vec<String>, _> = arguments
            .iter()
            .map(|argument| self.text(argument))
            .collect();
        let hash = hash_files(&patterns?).map_err(ExpressionError::evaluation)?;
        Ok(Value::from(hash).into())
    }

    fn status(&mut self, function: Function, arguments: &[Node]) -> Evaluated {
        let arguments: Result<Vec<Value>, _> = arguments
            .iter()
            .map(|argument| Ok(self.node(argument)?.value))
            .collect();
        let arguments = arguments?;
        Ok(match self.scope.status {
            Some(check) => check(function, &arguments),
            None => matches!(function, Function::Success | Function::Always),
        }
        .into())
    }
}

fn holds(comparison: Comparison, left: &Value, right: &Value) -> bool {
    match comparison {
        Comparison::Equal => equals(left, right),
        Comparison::NotEqual => !equals(left, right),
        Comparison::Less => compare(left, right) == Some(Ordering::Less),
        Comparison::LessEqual => compare(left, right).is_some_and(Ordering::is_le),
        Comparison::Greater => compare(left, right) == Some(Ordering::Greater),
        Comparison::GreaterEqual => compare(left, right).is_some_and(Ordering::is_ge),
    }
}

fn children(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Array(items) => found.extend(items.iter().cloned()),
        Value::Object(object) => found.extend(object.values().cloned()),
        _ => {}
    }
}

/// What stands between brackets: a key for objects, a number for arrays.
struct Index {
    key: Option<String>,
    place: Option<usize>,
}

impl Index {
    fn new(value: &Value) -> Self {
        let number = to_number(value);
        // The cast cuts the fraction off and saturates.
        let place = (number.is_finite() && number >= 0.0).then_some(number as usize);
        Index {
            key: is_primitive(value).then(|| to_text(value)),
            place,
        }
    }

    fn of<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        match value {
            Value::Array(items) => items.get(self.place?),
            Value::Object(object) => object.get(self.key.as_deref()?),
            _ => None,
        }
    }
}
