//! Which file leads to which: bounds on depth, and circles, which no runner could run.

use super::MAX_DEPTH;
use super::graph::Mention;
use super::walk::Kind;

#[derive(Default)]
pub(super) struct Shape {
    kinds: Vec<Kind>,
    /// Where each is named first; nothing for those that were begun with.
    mentions: Vec<Option<Mention>>,
    children: Vec<Vec<usize>>,
}

/// How far the search from a file has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    /// How many files of its own kind are in the longest chain from it on.
    Done(usize),
}

impl Shape {
    pub(super) fn add(&mut self, kind: Kind, mention: Option<Mention>) {
        self.kinds.push(kind);
        self.mentions.push(mention);
        self.children.push(Vec::new());
    }

    pub(super) fn edge(&mut self, from: usize, to: usize) {
        if !self.children[from].contains(&to) {
            self.children[from].push(to);
        }
    }

    pub(super) fn mention(&self, at: usize) -> Option<Mention> {
        self.mentions[at].clone()
    }

    /// All that a file leads to, itself included.
    pub(super) fn reached(&self, from: usize) -> Vec<usize> {
        let mut seen = vec![false; self.kinds.len()];
        let mut open = vec![from];
        let mut reached = Vec::new();
        while let Some(at) = open.pop() {
            if !std::mem::replace(&mut seen[at], true) {
                reached.push(at);
                open.extend(&self.children[at]);
            }
        }
        reached
    }

    /// Files that lead back to themselves, and chains that are too long.
    pub(super) fn offenders(&self) -> Vec<(Mention, String)> {
        let mut states = vec![State::New; self.kinds.len()];
        let mut offenders = Vec::new();
        for start in 0..self.kinds.len() {
            self.search(start, &mut states, &mut offenders);
        }
        offenders
    }

    /// Depth first, without recursion: a chain may be as long as there are files.
    fn search(&self, start: usize, states: &mut [State], offenders: &mut Vec<(Mention, String)>) {
        let mut path = vec![(start, 0)];
        while let Some((at, child)) = path.last().copied() {
            match (states[at], self.children[at].get(child)) {
                (State::Done(_), _) => {
                    path.pop();
                }
                (_, Some(&next)) => {
                    states[at] = State::Open;
                    if let Some(last) = path.last_mut() {
                        last.1 += 1;
                    }
                    match states[next] {
                        State::New => path.push((next, 0)),
                        State::Open => offenders.extend(self.circle(next)),
                        State::Done(_) => {}
                    }
                }
                (_, None) => {
                    let length = self.length(at, states);
                    states[at] = State::Done(length);
                    // Said once, of the first that is too deep.
                    if length == MAX_DEPTH + 1 {
                        offenders.extend(self.deep(at));
                    }
                    path.pop();
                }
            }
        }
    }

    fn length(&self, at: usize, states: &[State]) -> usize {
        let of = |child: &usize| match states[*child] {
            State::Done(length) if self.kinds[*child] == self.kinds[at] => length,
            _ => 0,
        };
        1 + self.children[at].iter().map(of).max().unwrap_or_default()
    }

    fn circle(&self, at: usize) -> Option<(Mention, String)> {
        let mention = self.named(at)?;
        let message = format!(
            "`{}` uses itself through others; take one of the uses away",
            mention.text
        );
        Some((mention, message))
    }

    fn deep(&self, at: usize) -> Option<(Mention, String)> {
        let mention = self.named(at)?;
        let what = match self.kinds[at] {
            Kind::Action => "actions use each other",
            Kind::Workflow => "workflows call each other",
        };
        let message =
            format!("from here {what} more than {MAX_DEPTH} deep, which GitHub does not run");
        Some((mention, message))
    }

    /// A place that names a file; for one that was begun with, a place in it.
    fn named(&self, at: usize) -> Option<Mention> {
        let first = || {
            self.children[at]
                .iter()
                .find_map(|child| self.mention(*child))
        };
        self.mention(at).or_else(first)
    }
}
