//! What a long operation tells the person who waits for it.

use std::fmt;

/// One thing that a build or an import says. A terminal shows steps as bars, a log as lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step begins, and the one before it is done.
    Step(String),
    /// How much of the current step is done.
    Done {
        /// Bytes done.
        bytes: u64,
        /// All bytes, where that is known.
        total: Option<u64>,
    },
    /// A line that a tool said in the current step.
    Output(String),
}

/// Where [`Event`]s go.
pub struct Progress<'a> {
    listener: &'a mut dyn FnMut(Event),
}

impl<'a> Progress<'a> {
    /// Sends everything to `listener`.
    pub fn new(listener: &'a mut dyn FnMut(Event)) -> Self {
        Self { listener }
    }

    /// Begins a step.
    pub fn step(&mut self, title: impl Into<String>) {
        (self.listener)(Event::Step(title.into()));
    }

    /// Says how much of the step is done.
    pub fn done(&mut self, bytes: u64, total: Option<u64>) {
        (self.listener)(Event::Done { bytes, total });
    }

    /// Passes on what a tool said.
    pub fn output(&mut self, line: impl Into<String>) {
        (self.listener)(Event::Output(line.into()));
    }
}

impl fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}
