//! The syntax tree of an expression, and the names an expression may use.

use super::value::Value;

/// A node of the tree.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Literal(Value),
    /// A context, as written.
    Context(String),
    /// `base.name` or `base[index]`.
    Index(Box<Node>, Box<Node>),
    /// `base.*` or `base[*]`.
    Filter(Box<Node>),
    Not(Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    /// Operands of `&&`, two or more.
    All(Vec<Node>),
    /// Operands of `||`, two or more.
    Any(Vec<Node>),
    Call(Function, Vec<Node>),
}

/// A comparing operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

impl Node {
    /// The nodes directly below.
    pub fn children(&self) -> Vec<&Node> {
        match self {
            Node::Literal(_) | Node::Context(_) => Vec::new(),
            Node::Index(base, index) => vec![base, index],
            Node::Filter(base) | Node::Not(base) => vec![base],
            Node::Compare(_, left, right) => vec![left, right],
            Node::All(nodes) | Node::Any(nodes) | Node::Call(_, nodes) => nodes.iter().collect(),
        }
    }
}

/// A function of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// `case(predicate, value, …, default)`
    Case,
    /// `contains(search, item)`
    Contains,
    /// `endsWith(text, end)`
    EndsWith,
    /// `format(text, argument, …)`
    Format,
    /// `fromJSON(text)`
    FromJson,
    /// `join(array, separator)`
    Join,
    /// `startsWith(text, start)`
    StartsWith,
    /// `toJSON(value)`
    ToJson,
    /// `hashFiles(pattern, …)`
    HashFiles,
    /// `success()`
    Success,
    /// `failure()`
    Failure,
    /// `always()`
    Always,
    /// `cancelled()`
    Cancelled,
}

const MANY: usize = 255;

/// Functions that may be used wherever an expression may: name, fewest and most arguments.
const EVERYWHERE: &[(&str, Function, usize, usize)] = &[
    ("case", Function::Case, 3, MANY),
    ("contains", Function::Contains, 2, 2),
    ("endswith", Function::EndsWith, 2, 2),
    ("format", Function::Format, 1, MANY),
    ("fromjson", Function::FromJson, 1, 1),
    ("join", Function::Join, 1, 2),
    ("startswith", Function::StartsWith, 2, 2),
    ("tojson", Function::ToJson, 1, 1),
];

/// Functions that only some places have.
const SOMEWHERE: &[(&str, Function)] = &[
    ("hashfiles", Function::HashFiles),
    ("success", Function::Success),
    ("failure", Function::Failure),
    ("always", Function::Always),
    ("cancelled", Function::Cancelled),
];

/// The contexts that GitHub has.
pub const CONTEXTS: &[&str] = &[
    "github", "inputs", "vars", "needs", "strategy", "matrix", "secrets", "steps", "job", "jobs",
    "runner", "env",
];

/// What an expression may name at its place.
#[derive(Clone, Debug, Default)]
pub struct Names {
    contexts: Vec<String>,
    functions: Vec<(Function, usize, usize)>,
}

impl Names {
    /// The names at a place, written as in GitHub's schema: `github`, `hashFiles(1,255)`,
    /// `success(0,MAX)`. What is not a function of the language is taken as a context.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names = Names::default();
        for entry in entries {
            match entry.split_once('(') {
                None => names.contexts.push(entry.to_ascii_lowercase()),
                Some((name, limits)) => names.add_function(name, limits.trim_end_matches(')')),
            }
        }
        names
    }

    /// Every context and function: for texts whose names were checked before.
    pub fn everything() -> Self {
        let functions = SOMEWHERE
            .iter()
            .map(|(_, function)| (*function, 0, MANY))
            .collect();
        Self {
            contexts: CONTEXTS.iter().map(|&name| name.to_owned()).collect(),
            functions,
        }
    }

    fn add_function(&mut self, name: &str, limits: &str) {
        let name = name.to_ascii_lowercase();
        let Some((_, function)) = SOMEWHERE.iter().find(|(known, _)| *known == name) else {
            return;
        };
        let (least, most) = limits.split_once(',').unwrap_or(("0", "MAX"));
        let least = least.parse().unwrap_or(0);
        self.functions
            .push((*function, least, most.parse().unwrap_or(MANY)));
    }

    /// Whether a context may be used.
    pub fn has_context(&self, name: &str) -> bool {
        self.contexts
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
    }

    /// The contexts that may be used, in lower case.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.contexts.iter().map(String::as_str)
    }

    /// The function of a name with its fewest and most arguments.
    pub(super) fn function(&self, name: &str) -> Option<(Function, usize, usize)> {
        let name = name.to_ascii_lowercase();
        if let Some((_, function, least, most)) = EVERYWHERE.iter().find(|entry| entry.0 == name) {
            return Some((*function, *least, *most));
        }
        let (_, function) = SOMEWHERE.iter().find(|(known, _)| *known == name)?;
        self.functions
            .iter()
            .copied()
            .find(|entry| entry.0 == *function)
    }
}
