//! Watches over a step's process: its output, and how it is stopped.

use std::{future::Future, pin::pin, time::Duration};

use tokio::{sync::mpsc, time::sleep};

use crate::sandbox::{Exec, ExecEvent, ExecInput, ExecStatus, SandboxError};

use super::{
    output::{StepOutput, Stream},
    reporter::Reporter,
};

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// How long a process has after SIGINT (official runner).
const AFTER_INT: Duration = Duration::from_millis(7500);

/// How long a process has after SIGTERM (official runner).
const AFTER_TERM: Duration = Duration::from_millis(2500);

/// How long the sandbox has to report the end of a killed process.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// Why a process was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The job was cancelled.
    Cancelled,
    /// The step used up its time.
    TimedOut,
    /// The job's time to end after a cancellation is over: kill at once.
    GraceOver,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ending {
    /// Its status; none if it was killed and the sandbox did not tell its end.
    pub(super) status: Option<ExecStatus>,
    /// Why it was stopped, if it was.
    pub(super) stop: Option<Stop>,
}

/// Reads a process's output until it ends, or until `stop` says so and the signals did their work.
///
/// # Errors
/// [`SandboxError::Lost`] when the sandbox is gone.
pub(super) async fn supervise<R: Reporter>(
    mut exec: Exec,
    output: &mut StepOutput<'_, R>,
    stop: impl Future<Output = Stop>,
    grace_over: impl Future<Output = ()>,
) -> Result<Ending, SandboxError> {
    let (mut stop, mut grace_over) = (pin!(stop), pin!(grace_over));
    let mut reason = None;
    let mut signals = Signals::default();
    let status = loop {
        tokio::select! {
            event = exec.events.recv() => match event {
                Some(ExecEvent::Stdout(bytes)) => output.feed(Stream::Stdout, &bytes).await,
                Some(ExecEvent::Stderr(bytes)) => output.feed(Stream::Stderr, &bytes).await,
                Some(ExecEvent::Exited(status)) => break Some(status),
                None => {
                    output.end().await;
                    let what = "the connection ended while a step was running";
                    return Err(SandboxError::Lost(what.to_owned()));
                }
            },
            why = &mut stop, if reason.is_none() => {
                reason = Some(why);
                signals.next(&exec.input);
            }
            () = signals.due(), if signals.sent > 0 => {
                if !signals.next(&exec.input) {
                    break None;
                }
            }
            () = &mut grace_over, if reason != Some(Stop::GraceOver) => {
                reason = Some(Stop::GraceOver);
                signals.kill(&exec.input);
            }
        }
    };
    output.end().await;
    // Dropping the exec kills a process that did not end; what an ended one left in the background
    // lives on for later steps, as at GitHub.
    Ok(Ending {
        status,
        stop: reason,
    })
}

/// SIGINT, SIGTERM, SIGKILL, with the time that each has.
#[derive(Default)]
struct Signals {
    sent: usize,
    timer: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

const STEPS: [(i32, Duration); 3] = [
    (SIGINT, AFTER_INT),
    (SIGTERM, AFTER_TERM),
    (SIGKILL, AFTER_KILL),
];

impl Signals {
    /// Sends the next signal; false if there is none left.
    fn next(&mut self, input: &mpsc::Sender<ExecInput>) -> bool {
        let Some((signal, time)) = STEPS.get(self.sent) else {
            return false;
        };
        self.sent += 1;
        self.timer = Some(Box::pin(sleep(*time)));
        // A guest that does not read its input is beyond signals: dropping the exec kills.
        let _ = input.try_send(ExecInput::Signal(*signal));
        true
    }

    /// Goes straight to SIGKILL.
    fn kill(&mut self, input: &mpsc::Sender<ExecInput>) {
        self.sent = STEPS.len() - 1;
        self.next(input);
    }

    /// Returns when the last signal had its time.
    async fn due(&mut self) {
        match &mut self.timer {
            Some(timer) => timer.await,
            None => std::future::pending().await,
        }
    }
}
