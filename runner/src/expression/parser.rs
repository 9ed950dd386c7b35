//! Builds the syntax tree.
//!
//! The parser is Mayfly's own. The crate `github-actions-expressions` was looked at: it takes any
//! context and function name, reports no position within GitHub's words, limits depth by another
//! count and folds accesses into one node, so that depth and lazy evaluation could not be exact.
//!
//! Two depth limits apply, as at GitHub: the service counts nested groups, arguments and operators
//! while it reads a workflow, the runner counts the levels of the finished tree. An expression
//! passes if both take it.

use super::error::{ErrorKind, ExpressionError};
use super::format::FormatFault;
use super::lexer::{Lexeme, Symbol};
use super::syntax::{Comparison, Function, Names, Node};
use super::value::Value;

/// Deepest nesting.
pub const MAX_DEPTH: usize = 50;

/// Builds the tree of an expression; `None` if there are no symbols.
pub(super) fn parse(
    source: &str,
    lexemes: &[Lexeme<'_>],
    names: &Names,
    check_formats: bool,
) -> Result<Option<Node>, ExpressionError> {
    if lexemes.is_empty() {
        return Ok(None);
    }
    let mut parser = Parser {
        source,
        lexemes,
        at: 0,
        depth: 0,
        names,
        check_formats,
    };
    let node = parser.expression()?;
    if parser.at < lexemes.len() {
        return Err(parser.unexpected());
    }
    if too_deep(&node, 1) {
        return Err(parser.too_deep());
    }
    Ok(Some(node))
}

fn too_deep(node: &Node, level: usize) -> bool {
    level > MAX_DEPTH
        || node
            .children()
            .into_iter()
            .any(|child| too_deep(child, level + 1))
}

struct Parser<'a> {
    source: &'a str,
    lexemes: &'a [Lexeme<'a>],
    at: usize,
    depth: usize,
    names: &'a Names,
    check_formats: bool,
}

type Parsed = Result<Node, ExpressionError>;

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Symbol> {
        self.lexemes.get(self.at).map(|lexeme| &lexeme.symbol)
    }

    fn eat(&mut self, symbol: &Symbol) -> bool {
        let found = self.peek() == Some(symbol);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &Symbol) -> Result<(), ExpressionError> {
        if self.eat(symbol) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn blame(&self, what: &str, lexeme: &Lexeme<'_>) -> ExpressionError {
        ExpressionError::at(
            ErrorKind::Parsing,
            what,
            lexeme.text,
            lexeme.start,
            self.source,
        )
    }

    /// The symbol at hand does not belong here, or the expression ends too early.
    fn unexpected(&self) -> ExpressionError {
        match (self.lexemes.get(self.at), self.lexemes.last()) {
            (Some(lexeme), _) => self.blame("Unexpected symbol", lexeme),
            (None, Some(last)) => self.blame("Unexpected end of expression", last),
            (None, None) => {
                ExpressionError::whole(ErrorKind::Parsing, "An expression was expected")
            }
        }
    }

    fn too_deep(&self) -> ExpressionError {
        ExpressionError::whole(
            ErrorKind::Parsing,
            format!("Exceeded max expression depth {MAX_DEPTH}"),
        )
    }

    fn deeper(&mut self, parse: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.depth == MAX_DEPTH {
            return Err(self.too_deep());
        }
        self.depth += 1;
        let node = parse(self);
        self.depth -= 1;
        node
    }

    fn expression(&mut self) -> Parsed {
        self.deeper(Self::any)
    }

    fn any(&mut self) -> Parsed {
        self.chain(&Symbol::Or, Self::all, Node::Any)
    }

    fn all(&mut self) -> Parsed {
        self.chain(&Symbol::And, Self::equality, Node::All)
    }

    /// Operands joined by `&&` or `||`, as one node.
    fn chain(
        &mut self,
        operator: &Symbol,
        operand: fn(&mut Self) -> Parsed,
        join: fn(Vec<Node>) -> Node,
    ) -> Parsed {
        let first = operand(self)?;
        if self.peek() != Some(operator) {
            return Ok(first);
        }
        self.deeper(|parser| {
            let mut operands = vec![first];
            while parser.eat(operator) {
                operands.push(operand(parser)?);
            }
            Ok(join(operands))
        })
    }

    fn equality(&mut self) -> Parsed {
        let mut left = self.comparison()?;
        loop {
            let operator = match self.peek() {
                Some(Symbol::Equal) => Comparison::Equal,
                Some(Symbol::NotEqual) => Comparison::NotEqual,
                _ => return Ok(left),
            };
            self.at += 1;
            left = Node::Compare(operator, Box::new(left), Box::new(self.comparison()?));
        }
    }

    fn comparison(&mut self) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let operator = match self.peek() {
                Some(Symbol::Less) => Comparison::Less,
                Some(Symbol::LessEqual) => Comparison::LessEqual,
                Some(Symbol::Greater) => Comparison::Greater,
                Some(Symbol::GreaterEqual) => Comparison::GreaterEqual,
                _ => return Ok(left),
            };
            self.at += 1;
            left = Node::Compare(operator, Box::new(left), Box::new(self.unary()?));
        }
    }

    fn unary(&mut self) -> Parsed {
        if self.eat(&Symbol::Not) {
            return self.deeper(|parser| Ok(Node::Not(Box::new(parser.unary()?))));
        }
        let (node, indexable) = self.primary()?;
        if indexable {
            self.accesses(node)
        } else {
            Ok(node)
        }
    }

    fn primary(&mut self) -> Result<(Node, bool), ExpressionError> {
        let Some(lexeme) = self.lexemes.get(self.at) else {
            return Err(self.unexpected());
        };
        let literal = match &lexeme.symbol {
            Symbol::Null => Value::Null,
            Symbol::Bool(value) => Value::Bool(*value),
            Symbol::Number(value) => Value::Number(*value),
            Symbol::String(text) => Value::string(text),
            Symbol::LeftParen => {
                self.at += 1;
                let node = self.expression()?;
                self.expect(&Symbol::RightParen)?;
                return Ok((node, true));
            }
            Symbol::Name => {
                self.at += 1;
                return Ok((self.name(lexeme)?, true));
            }
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok((Node::Literal(literal), false))
    }

    /// `.name`, `.*`, `[index]` and `[*]` after a group, a call or a context.
    fn accesses(&mut self, mut node: Node) -> Parsed {
        let depth = self.depth;
        loop {
            if self.eat(&Symbol::Dot) {
                node = self.property(node)?;
            } else if self.eat(&Symbol::LeftBracket) {
                node = self.index(node)?;
            } else {
                self.depth = depth;
                return Ok(node);
            }
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(self.too_deep());
            }
        }
    }

    fn property(&mut self, base: Node) -> Parsed {
        let Some(lexeme) = self.lexemes.get(self.at) else {
            return Err(self.unexpected());
        };
        let node = match lexeme.symbol {
            Symbol::Star => Node::Filter(Box::new(base)),
            Symbol::Name => {
                let name = Node::Literal(Value::string(lexeme.text));
                Node::Index(Box::new(base), Box::new(name))
            }
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(node)
    }

    fn index(&mut self, base: Node) -> Parsed {
        let node = if self.eat(&Symbol::Star) {
            Node::Filter(Box::new(base))
        } else {
            Node::Index(Box::new(base), Box::new(self.expression()?))
        };
        self.expect(&Symbol::RightBracket)?;
        Ok(node)
    }

    fn name(&mut self, lexeme: &Lexeme<'_>) -> Parsed {
        if !self.eat(&Symbol::LeftParen) {
            return if self.names.has_context(lexeme.text) {
                Ok(Node::Context(lexeme.text.to_owned()))
            } else {
                Err(self.blame("Unrecognized named-value", lexeme))
            };
        }
        let mut arguments = Vec::new();
        if !self.eat(&Symbol::RightParen) {
            loop {
                arguments.push(self.expression()?);
                if self.eat(&Symbol::RightParen) {
                    break;
                }
                self.expect(&Symbol::Comma)?;
            }
        }
        let function = self.check_call(lexeme, &arguments)?;
        Ok(Node::Call(function, arguments))
    }

    fn check_call(
        &self,
        name: &Lexeme<'_>,
        arguments: &[Node],
    ) -> Result<Function, ExpressionError> {
        let Some((function, least, most)) = self.names.function(name.text) else {
            return Err(self.blame("Unrecognized function", name));
        };
        if arguments.len() < least {
            return Err(self.blame("Too few parameters supplied", name));
        }
        if arguments.len() > most {
            return Err(self.blame("Too many parameters supplied", name));
        }
        if function == Function::Case && arguments.len().is_multiple_of(2) {
            let what = "Even number of parameters supplied, requires an odd number of parameters";
            return Err(self.blame(what, name));
        }
        if function == Function::Format && self.check_formats {
            self.check_format(name, arguments)?;
        }
        Ok(function)
    }

    /// A format string that stands in the expression is checked before anything runs.
    fn check_format(&self, name: &Lexeme<'_>, arguments: &[Node]) -> Result<(), ExpressionError> {
        let [Node::Literal(Value::String(text)), rest @ ..] = arguments else {
            return Ok(());
        };
        let given = rest.len();
        let what = match super::format::pieces(text, given) {
            Ok(_) => return Ok(()),
            Err(FormatFault::Invalid) => format!("Invalid format string '{text}'"),
            Err(FormatFault::Missing(index)) => {
                format!(
                    "Format string references {{{index}}} but only {given} argument(s) provided"
                )
            }
        };
        Err(self.blame(&what, name))
    }
}
