//! Progress of long work: bars on a terminal, plain lines elsewhere. Always on stderr.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use mayfly_images::progress::Event;

use crate::{
    action::resolve::{OnProgress, Progress},
    printable,
};

/// Shows the steps of one long operation.
#[derive(Debug)]
pub struct Steps {
    bar: Option<ProgressBar>,
    title: String,
    begun: Instant,
}

impl Steps {
    /// A display that shows nothing until the first step.
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            title: String::new(),
            begun: Instant::now(),
        }
    }

    /// Shows one event.
    pub fn show(&mut self, event: Event) {
        match event {
            Event::Step(title) => self.step(title),
            Event::Done { bytes, total } => self.done(bytes, total),
            Event::Output(line) => match &self.bar {
                Some(bar) => bar.set_message(format!("{}: {line}", self.title)),
                None => tracing::debug!("{line}"),
            },
        }
    }

    /// Ends the current step.
    pub fn finish(&mut self) {
        if self.title.is_empty() {
            return;
        }
        let took = self.begun.elapsed().as_secs_f32();
        let title = std::mem::take(&mut self.title);
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{title} ({took:.1} s)")),
            None => eprintln!("{title}: done after {took:.1} s"),
        }
    }

    fn step(&mut self, title: String) {
        self.finish();
        self.begun = Instant::now();
        match &self.bar {
            Some(bar) => {
                bar.unset_length();
                bar.set_style(ProgressStyle::default_spinner());
                bar.set_message(title.clone());
            }
            None => eprintln!("{title} …"),
        }
        self.title = title;
    }

    fn done(&self, bytes: u64, total: Option<u64>) {
        let Some(bar) = &self.bar else { return };
        if let Some(total) = total {
            let style =
                ProgressStyle::with_template("{spinner} {msg} {wide_bar} {bytes}/{total_bytes}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_length(total);
        }
        bar.set_position(bytes);
    }
}

/// Shows how many references are resolved: a bar on a terminal, nothing elsewhere.
#[derive(Debug)]
pub struct Resolving {
    bar: Option<ProgressBar>,
}

impl Resolving {
    /// A display that shows nothing until something is resolved.
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {pos}/{len} {wide_msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::no_length().with_style(style)
        });
        Self { bar }
    }

    /// What the resolver calls; the display ends when it is dropped.
    pub fn into_callback(self) -> OnProgress {
        Arc::new(move |progress: &Progress| {
            if let Some(bar) = &self.bar {
                bar.set_length(progress.known as u64);
                bar.set_position(progress.done as u64);
                bar.set_message(printable::line(&progress.name));
            }
        })
    }
}

impl Drop for Resolving {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
