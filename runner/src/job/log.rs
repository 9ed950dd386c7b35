//! The log of one record of a job: lines and annotations, masked on their way to the reporter.

use std::borrow::Cow;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    commands::{Annotation, Level},
    containers::Paths,
    masking::Masker,
    outcome::{AnnotationCounts, Conclusion, StepRecord},
    reporter::{Event, EventKind, Origin, Reporter},
};

/// Annotations of each level that one record reports; further ones are in its log only.
const MAX_ANNOTATIONS: u32 = 10;

/// The log of one record.
pub(super) struct StepLog<'a, R> {
    reporter: &'a R,
    masker: &'a Masker,
    job: &'a str,
    number: u32,
    debug: bool,
    /// The checkout: files of annotations are named relative to it.
    workspace: String,
    /// What the sandbox's paths are called where the step runs.
    paths: Paths,
    counts: AnnotationCounts,
    started: Instant,
}

impl<'a, R: Reporter> StepLog<'a, R> {
    pub(super) fn new(
        reporter: &'a R,
        masker: &'a Masker,
        job: &'a str,
        number: u32,
        debug: bool,
        workspace: &str,
    ) -> Self {
        Self {
            reporter,
            masker,
            job,
            number,
            debug,
            workspace: workspace.to_owned(),
            paths: Paths::default(),
            counts: AnnotationCounts::default(),
            started: Instant::now(),
        }
    }

    /// The same for a step that calls the sandbox's paths like this.
    pub(super) fn called(self, paths: &Paths) -> Self {
        let paths = paths.clone();
        Self { paths, ..self }
    }

    /// What runs next calls the sandbox's paths like this; gives what they were called before.
    pub(super) fn set_paths(&mut self, paths: Paths) -> Paths {
        std::mem::replace(&mut self.paths, paths)
    }

    /// What hides secrets in this log.
    pub(super) fn masker(&self) -> &Masker {
        self.masker
    }

    /// A record of the runner's own begins.
    pub(super) async fn start(&self, name: &str) {
        self.start_as(name, Origin::default()).await;
    }

    /// The record begins.
    pub(super) async fn start_as(&self, name: &str, origin: Origin<'_>) {
        let name = self.masker.mask(name);
        let (step, name) = (self.number, &*name);
        self.report(EventKind::StepStarted { step, name, origin })
            .await;
    }

    /// Text for the log; each of its lines is one there.
    pub(super) async fn line(&self, text: &str) {
        self.masked(&self.masker.mask(text)).await;
    }

    /// Text that is masked already.
    pub(super) async fn masked(&self, text: &str) {
        let step = self.number;
        for line in text.split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line);
            self.report(EventKind::Log { step, line }).await;
        }
    }

    /// A line that is only logged where debug output is wanted.
    pub(super) async fn debug(&self, text: &str) {
        if self.debug {
            self.line(&format!("##[debug]{text}")).await;
        }
    }

    /// An error.
    pub(super) async fn error(&mut self, message: &str) {
        self.annotate(Annotation::new(Level::Error, message)).await;
    }

    /// A warning.
    pub(super) async fn warning(&mut self, message: &str) {
        self.annotate(Annotation::new(Level::Warning, message))
            .await;
    }

    /// A message about the job: a line, and an annotation unless there were too many.
    pub(super) async fn annotate(&mut self, annotation: Annotation) {
        self.annotate_with(annotation, None).await;
    }

    /// The same, but the line in the log says `text`.
    pub(super) async fn annotate_as(&mut self, annotation: Annotation, text: &str) {
        let text = self.masker.mask(text);
        self.annotate_with(annotation, Some(&text)).await;
    }

    /// Whether a further annotation of this level is reported.
    pub(super) fn has_room(&self, level: Level) -> bool {
        let count = match level {
            Level::Notice => self.counts.notice,
            Level::Warning => self.counts.warning,
            Level::Error => self.counts.error,
        };
        count < MAX_ANNOTATIONS
    }

    async fn annotate_with(&mut self, mut annotation: Annotation, text: Option<&str>) {
        let mask = |text: &mut String| {
            if let Cow::Owned(masked) = self.masker.mask(text) {
                *text = masked;
            }
        };
        mask(&mut annotation.message);
        annotation.cut();
        annotation.title.iter_mut().for_each(mask);
        annotation.code.iter_mut().for_each(mask);
        annotation.file.iter_mut().for_each(mask);
        self.make_relative(&mut annotation);
        let text = text.unwrap_or(&annotation.message);
        let line = format!("{}{text}", annotation.level.marker());
        self.masked(&line).await;
        let count = match annotation.level {
            Level::Notice => &mut self.counts.notice,
            Level::Warning => &mut self.counts.warning,
            Level::Error => &mut self.counts.error,
        };
        *count = count.saturating_add(1);
        if *count <= MAX_ANNOTATIONS {
            let (step, annotation) = (self.number, &annotation);
            self.report(EventKind::Annotation { step, annotation })
                .await;
        }
    }

    /// Markdown for the job's page, masked line by line.
    pub(super) async fn summary(&self, markdown: &str) {
        let masked: Vec<_> = markdown
            .lines()
            .map(|line| self.masker.mask(line))
            .collect();
        let (step, markdown) = (self.number, &*masked.join("\n"));
        self.report(EventKind::Summary { step, markdown }).await;
    }

    /// The record ends.
    pub(super) async fn finish(
        self,
        name: &str,
        outcome: Conclusion,
        conclusion: Conclusion,
    ) -> StepRecord {
        let record = StepRecord {
            number: self.number,
            name: self.masker.mask(name).into_owned(),
            outcome,
            conclusion,
            duration: self.started.elapsed(),
            annotations: self.counts,
        };
        self.report(EventKind::StepFinished { record: &record })
            .await;
        record
    }

    fn make_relative(&self, annotation: &mut Annotation) {
        if let Some(file) = &mut annotation.file {
            let outside = self.paths.outside(file);
            let inside = outside.strip_prefix(&self.workspace);
            *file = match inside.and_then(|inside| inside.strip_prefix('/')) {
                Some(inside) => inside.to_owned(),
                None => outside,
            };
        }
    }

    async fn report(&self, kind: EventKind<'_>) {
        let (time, job) = (Timestamp::now(), self.job);
        self.reporter.report(&Event { time, job, kind }).await;
    }
}
