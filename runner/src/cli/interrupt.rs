//! Interrupt, termination and hang-up while a command waits for a machine: what was begun is undone.

use std::{future::Future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Exit, Failure};

/// Signals by which a person or a service manager ends a command.
const ENDING: [SignalKind; 3] = [
    SignalKind::interrupt(),
    SignalKind::terminate(),
    SignalKind::hangup(),
];

/// Waits for one of the ending signals and tells its number.
#[derive(Debug)]
pub struct Interrupts(Vec<(i32, Signal)>);

impl Interrupts {
    /// Takes the signals over from their default, which would leave files and sockets behind.
    pub fn take() -> io::Result<Self> {
        ENDING
            .into_iter()
            .map(|kind| Ok((kind.as_raw_value(), signal(kind)?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The next ending signal.
    pub async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Runs `work` unless a signal comes first; then it is dropped, and with it all that it holds.
    pub async fn guard<T, E: Into<Failure>>(
        &mut self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            number = self.next() => Err(interrupted(number)),
            result = work => result.map_err(Into::into),
        }
    }
}

/// The failure of a command that a signal ended: 128 + its number, as shells count.
pub fn interrupted(number: i32) -> Failure {
    Failure {
        exit: Exit::Command(u8::try_from(128 + number).unwrap_or(u8::MAX)),
        cause: anyhow::anyhow!("ended by signal {number}"),
    }
}
