//! The output of a step on its way: bytes, lines, commands, and what they change.

use std::sync::atomic::{AtomicUsize, Ordering};

use indexmap::IndexMap;

use super::{
    commands::{CommandReader, Effect, MatcherTarget, Policy, parse},
    containers::Paths,
    lines::{LineSplitter, MAX_LINE, Piece},
    log::StepLog,
    masking::Masker,
    matcher::{MatcherError, StepMatchers},
    reporter::Reporter,
    task::Task,
};

/// Sum of names and values, in bytes, that commands of one step may set.
const MAX_SET: usize = 16 << 20;
/// The same of all steps of one job: a job may have thousands, and the worker keeps all of it.
const MAX_SET_BY_JOB: usize = 64 << 20;

/// What a step changed in the job.
#[derive(Default)]
pub(super) struct Changes {
    /// Outputs of the step.
    pub(super) outputs: IndexMap<String, String>,
    /// Values for later stages of the same action.
    pub(super) state: IndexMap<String, String>,
    /// The same of steps inside of it, by their identity.
    pub(super) states: IndexMap<String, IndexMap<String, String>>,
    /// What is to be run after all steps.
    pub(super) posts: Vec<Task>,
    /// Environment variables for later steps.
    pub(super) env: IndexMap<String, String>,
    /// Directories for `PATH`, in the order in which they were added.
    pub(super) path: Vec<String>,
    /// Whether a command failed, and the step with it.
    pub(super) failed: bool,
}

impl Changes {
    /// Takes over what a step inside of this one changed beyond the action around them both.
    pub(super) fn absorb(&mut self, id: &str, inner: Changes) {
        self.env.extend(inner.env);
        self.path.extend(inner.path);
        for (id, state) in inner.states {
            self.states.entry(id).or_default().extend(state);
        }
        let known = self.states.entry(id.to_owned()).or_default();
        known.extend(inner.state);
    }
}

/// One of a process's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Takes the output of one step.
pub(super) struct StepOutput<'a, R> {
    pub(super) log: StepLog<'a, R>,
    pub(super) changes: Changes,
    masker: &'a Masker,
    reader: CommandReader,
    matchers: StepMatchers<'a>,
    splitters: [LineSplitter; 2],
    /// For each stream, whether the rest of a line that is too long is thrown away.
    dropping: [bool; 2],
    /// Bytes that this step set, and those that all steps of the job did.
    set: usize,
    set_by_job: &'a AtomicUsize,
    /// Whether that was too much, and was told.
    is_over: bool,
}

impl<'a, R: Reporter> StepOutput<'a, R> {
    /// The output of a step; `set_by_job` counts the bytes that the job's steps set.
    pub(super) fn new(
        log: StepLog<'a, R>,
        masker: &'a Masker,
        policy: Policy,
        echo: bool,
        set_by_job: &'a AtomicUsize,
        matchers: StepMatchers<'a>,
    ) -> Self {
        let splitter = || LineSplitter::new(masker.clone(), MAX_LINE);
        Self {
            log,
            changes: Changes::default(),
            masker,
            reader: CommandReader::new(policy, echo),
            matchers,
            splitters: [splitter(), splitter()],
            dropping: [false; 2],
            set: 0,
            is_over: false,
            set_by_job,
        }
    }

    /// Makes ready for the next step of the same record: its commands are read anew.
    pub(super) fn next_step(&mut self, policy: Policy, echo: bool) {
        let splitter = || LineSplitter::new(self.masker.clone(), MAX_LINE);
        self.splitters = [splitter(), splitter()];
        self.reader = CommandReader::new(policy, echo);
        self.dropping = [false; 2];
    }

    /// What runs next calls the sandbox's paths like this; gives what they were called before.
    pub(super) fn set_paths(&mut self, paths: Paths) -> Paths {
        self.matchers.set_paths(paths.clone());
        self.log.set_paths(paths)
    }

    /// Takes bytes of one stream; returns when the reporter took what they mean.
    pub(super) async fn feed(&mut self, stream: Stream, bytes: &[u8]) {
        let mut pieces = Vec::new();
        self.splitters[stream as usize].feed(bytes, &mut |piece| pieces.push(piece));
        self.take(stream, pieces).await;
    }

    /// Both streams ended.
    pub(super) async fn end(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut pieces = Vec::new();
            self.splitters[stream as usize].finish(&mut |piece| pieces.push(piece));
            self.take(stream, pieces).await;
        }
    }

    async fn take(&mut self, stream: Stream, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Line(line) => {
                    self.dropping[stream as usize] = false;
                    for effect in self.reader.read(&line) {
                        self.apply(effect).await;
                    }
                }
                Piece::Part { masked, first } => self.part(stream, &masked, first).await,
            }
        }
    }

    /// A part of a line that is too long to be a command: one that pretends to be is not logged,
    /// for it may be an `add-mask` that shows what it should hide.
    async fn part(&mut self, stream: Stream, masked: &str, first: Option<String>) {
        if let Some(first) = first {
            let command = parse(&first, None).filter(|_| self.reader.is_command(&first));
            self.dropping[stream as usize] = command.is_some();
            if let Some(command) = command {
                let name = command.name;
                let message = format!("The `{name}` command is longer than {MAX_LINE} bytes.");
                self.log.error(&message).await;
                self.changes.failed = true;
            }
        }
        if !self.dropping[stream as usize] {
            self.log.masked(masked).await;
        }
    }

    /// Lets an effect of a command take place.
    pub(super) async fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Text(text) => {
                if !self.matchers.take(&text, &mut self.log).await {
                    self.log.line(&text).await;
                }
            }
            Effect::AddMatcher { file, line } => {
                let added = self.matchers.add(&file).await;
                self.matchers_changed(added, &line).await;
            }
            Effect::RemoveMatcher { target, line } => {
                let removed = match target {
                    MatcherTarget::Owner(owner) => Ok(self.matchers.remove(&[owner])),
                    MatcherTarget::File(file) => self.matchers.remove_file(&file).await,
                };
                self.matchers_changed(removed, &line).await;
            }
            Effect::Line(text) => self.log.line(&text).await,
            Effect::Debug(text) => self.log.debug(&text).await,
            Effect::Annotation(annotation) => self.log.annotate(annotation).await,
            Effect::Mask(text) => {
                if let Err(error) = self.masker.add(&text) {
                    self.log.error(&error.to_string()).await;
                    self.changes.failed = true;
                }
            }
            Effect::Fail => self.changes.failed = true,
            Effect::Output(name, value) => {
                if self.count(&name, &value).await {
                    self.changes.outputs.insert(name, value);
                }
            }
            Effect::State(name, value) => {
                if self.count(&name, &value).await {
                    self.changes.state.insert(name, value);
                }
            }
            Effect::Env(name, value) => {
                if self.count(&name, &value).await {
                    self.changes.env.insert(name, value);
                }
            }
            Effect::Path(directory) => {
                if self.count(&directory, "").await {
                    self.changes.path.push(directory);
                }
            }
        }
    }

    /// Says what a command did to the problem matchers; one that failed fails the step.
    async fn matchers_changed(
        &mut self,
        changed: Result<Option<String>, MatcherError>,
        line: &str,
    ) {
        match changed {
            Ok(Some(text)) => self.log.debug(&text).await,
            Ok(None) => {}
            Err(error) => {
                let message = format!("Unable to process command '{line}' successfully.");
                self.log.error(&message).await;
                self.log.error(&error.to_string()).await;
                self.changes.failed = true;
            }
        }
    }

    /// Counts what commands set; too much fails the step once.
    async fn count(&mut self, name: &str, value: &str) -> bool {
        let size = name.len() + value.len();
        self.set = self.set.saturating_add(size);
        let all = self.set_by_job.fetch_add(size, Ordering::Relaxed);
        let (who, limit) = if self.set > MAX_SET {
            ("commands of this step", MAX_SET >> 20)
        } else if all.saturating_add(size) > MAX_SET_BY_JOB {
            ("steps of this job", MAX_SET_BY_JOB >> 20)
        } else {
            return true;
        };
        if !std::mem::replace(&mut self.is_over, true) {
            let message = format!("The {who} set more than {limit} MiB of values.");
            self.log.error(&message).await;
        }
        self.changes.failed = true;
        false
    }
}
