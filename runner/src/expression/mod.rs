//! The expression language of `${{ }}`: values, parser, evaluation.
//!
//! ```
//! use mayfly::expression::{Expression, Names, Scope, value::{Object, Value}};
//!
//! let names = Names::new(["github", "hashFiles(1,255)"]);
//! let expression = Expression::parse("github.ref == 'refs/heads/main'", &names)?;
//! let github = Object::from_iter([("ref", "refs/heads/main")]);
//! let contexts = Object::from_iter([("github", github)]);
//! assert_eq!(expression.evaluate(&Scope::new(&contexts))?, Value::Bool(true));
//! # Ok::<(), mayfly::expression::ExpressionError>(())
//! ```

pub mod batch;
pub mod coerce;
mod error;
mod evaluate;
mod format;
pub mod json;
mod lexer;
mod parser;
mod syntax;
#[cfg(test)]
mod tests;
pub mod value;

pub use error::{ErrorKind, ExpressionError};
pub use evaluate::{HashFiles, MAX_MEMORY, Scope, StatusCheck};
pub use lexer::{MAX_LENGTH, is_name};
pub use parser::MAX_DEPTH;
pub use syntax::{CONTEXTS, Function, Names};

use syntax::Node;
use value::Value;

/// An expression that was read and may be evaluated.
#[derive(Clone, Debug)]
pub struct Expression {
    root: Node,
}

impl Expression {
    /// Reads an expression (without `${{ }}`) of a workflow file that may use the given names. A
    /// format string that stands in it is checked here, before anything runs.
    ///
    /// # Errors
    /// [`ExpressionError`] of the kind lexing or parsing, with its position.
    pub fn parse(source: &str, names: &Names) -> Result<Self, ExpressionError> {
        Self::read(source, names, true)
    }

    /// Reads an expression as the runner does: a format string is looked at only when it is
    /// evaluated.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_unchecked(source: &str, names: &Names) -> Result<Self, ExpressionError> {
        Self::read(source, names, false)
    }

    fn read(source: &str, names: &Names, check_formats: bool) -> Result<Self, ExpressionError> {
        let lexemes = lexer::lex(source)?;
        match parser::parse(source, &lexemes, names, check_formats)? {
            Some(root) => Ok(Self { root }),
            None => Err(ExpressionError::whole(
                ErrorKind::Parsing,
                "An expression was expected",
            )),
        }
    }

    /// The value of the expression.
    pub fn evaluate(&self, scope: &Scope<'_>) -> Result<Value, ExpressionError> {
        evaluate::evaluate(&self.root, scope)
    }

    /// Whether the expression calls one of the status functions.
    pub fn checks_status(&self) -> bool {
        use Function::{Always, Cancelled, Failure, Success};
        let status =
            |node: &Node| matches!(node, Node::Call(Success | Failure | Always | Cancelled, _));
        has(&self.root, &status)
    }

    /// Whether the expression reads a context.
    pub fn reads(&self, context: &str) -> bool {
        has(
            &self.root,
            &|node| matches!(node, Node::Context(name) if name.eq_ignore_ascii_case(context)),
        )
    }

    /// The names of properties read directly off a context (`needs.build` and `needs['build']`).
    pub fn properties_of(&self, context: &str) -> Vec<String> {
        let mut found = Vec::new();
        collect_properties(&self.root, context, &mut found);
        found
    }
}

fn has(node: &Node, matches: &dyn Fn(&Node) -> bool) -> bool {
    matches(node) || node.children().into_iter().any(|child| has(child, matches))
}

fn collect_properties(node: &Node, context: &str, found: &mut Vec<String>) {
    if let Node::Index(base, index) = node
        && let (Node::Context(name), Node::Literal(Value::String(key))) = (&**base, &**index)
        && name.eq_ignore_ascii_case(context)
    {
        found.push(key.to_string());
    }
    for child in node.children() {
        collect_properties(child, context, found);
    }
}
