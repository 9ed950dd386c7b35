//! Which steps run, and which connections were opened during which.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// A step that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId(u64);

/// The steps of a job.
#[derive(Debug, Default)]
pub(super) struct Steps {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: BTreeMap<StepId, Vec<String>>,
    live: HashMap<u64, Live>,
}

/// A connection that is open.
#[derive(Debug)]
struct Live {
    /// Steps that ran when it was opened.
    steps: Vec<StepId>,
    closed: CancellationToken,
}

/// A connection's place among the steps; dropped with it.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    steps: &'a Steps,
    connection: u64,
    /// Words of the steps that ran when it was opened.
    pub(super) words: Vec<Vec<String>>,
    /// Cancelled when it must end with them.
    pub(super) closed: CancellationToken,
}

impl Steps {
    pub(super) fn begin(&self, words: Vec<String>) -> StepId {
        self.with(|state| {
            let id = StepId(state.next);
            state.next += 1;
            state.running.insert(id, words);
            id
        })
    }

    /// Ends a step, and with `close` the connections of which no step is left.
    pub(super) fn end(&self, step: StepId, close: bool) {
        self.with(|state| {
            state.running.remove(&step);
            if !close {
                return;
            }
            let running = &state.running;
            let over = |live: &&Live| {
                let began = live.steps.contains(&step);
                began && !live.steps.iter().any(|step| running.contains_key(step))
            };
            for live in state.live.values().filter(over) {
                live.closed.cancel();
            }
        });
    }

    /// Words of the steps that run.
    pub(super) fn words(&self) -> Vec<Vec<String>> {
        self.with(|state| state.running.values().cloned().collect())
    }

    /// A connection is opened.
    pub(super) fn enter(&self) -> Entered<'_> {
        self.with(|state| {
            let connection = state.next;
            state.next += 1;
            let closed = CancellationToken::new();
            let live = Live {
                steps: state.running.keys().copied().collect(),
                closed: closed.clone(),
            };
            state.live.insert(connection, live);
            Entered {
                steps: self,
                connection,
                words: state.running.values().cloned().collect(),
                closed,
            }
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.steps.with(|state| state.live.remove(&self.connection));
    }
}
