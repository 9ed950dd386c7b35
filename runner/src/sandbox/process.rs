//! Follows a process in a sandbox: its output to the caller, the caller's input and signals to it.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
};

use mayfly_guest::wire::{Answer, ExitStatus, Frame, FrameKind, STDIN_WINDOW};
use tokio::sync::{Notify, mpsc};

use super::{
    Exec, ExecEvent, ExecInput, ExecStatus, SandboxError,
    link::{self, Link, LinkReader, LinkWriter, unexpected},
};

/// Events that wait for the caller: with the guest's pieces of 64 KiB a megabyte.
const EVENTS: usize = 16;
/// Inputs that wait for the guest.
const INPUTS: usize = 16;
/// Bytes of standard input that wait for credit before the caller is held up.
const PENDING: usize = 256 << 10;
/// Largest piece of standard input that is sent at once.
const PIECE: usize = 32 << 10;

/// Follows the process that `link` has just started until it ends or the caller drops the result.
pub(super) fn follow(link: Link) -> Exec {
    let (event_sender, events) = mpsc::channel(EVENTS);
    let (input, inputs) = mpsc::channel(INPUTS);
    let (signals, urgent) = mpsc::channel(INPUTS);
    tokio::spawn(async move {
        let Link { mut reader, writer } = link;
        let credit = Credit::new();
        let result = tokio::select! {
            result = carry_output(&mut reader, &event_sender, &credit) => result,
            never = carry_input(writer, inputs, urgent, &credit) => match never {},
        };
        if let Err(error) = result {
            // The caller sees the stream close without an exit; the reason is for the log.
            tracing::warn!(%error, "a process in the sandbox was lost");
        }
    });
    Exec {
        events,
        input,
        signals,
    }
}

/// Bytes of standard input that the guest still takes.
struct Credit {
    left: AtomicUsize,
    returned: Notify,
}

impl Credit {
    fn new() -> Self {
        Self {
            left: AtomicUsize::new(STDIN_WINDOW),
            returned: Notify::new(),
        }
    }

    /// Takes back what the guest says it consumed, which cannot be more than it was given.
    fn give_back(&self, bytes: u32) -> Result<(), SandboxError> {
        let left = self.left.load(Ordering::Relaxed) + bytes as usize;
        if left > STDIN_WINDOW {
            let text = "more standard input was consumed than sent".to_owned();
            return Err(SandboxError::Protocol(text));
        }
        self.left.fetch_add(bytes as usize, Ordering::Relaxed);
        self.returned.notify_one();
        Ok(())
    }
}

/// Until the process ended and the caller has it all, or the caller is gone.
async fn carry_output(
    reader: &mut LinkReader,
    events: &mpsc::Sender<ExecEvent>,
    credit: &Credit,
) -> Result<(), SandboxError> {
    loop {
        let frame = tokio::select! {
            frame = reader.frame() => frame?,
            () = events.closed() => return Ok(()),
        };
        let frame = frame.ok_or_else(|| SandboxError::Lost("the guest agent hung up".into()))?;
        let Some(event) = event(frame, credit)? else {
            continue;
        };
        let last = matches!(event, ExecEvent::Exited(_));
        // The caller may have left meanwhile; then nobody waits for more.
        if events.send(event).await.is_err() || last {
            return Ok(());
        }
    }
}

fn event(frame: Frame, credit: &Credit) -> Result<Option<ExecEvent>, SandboxError> {
    const WHAT: &str = "following a process";
    match frame.kind {
        FrameKind::Stdout => Ok(Some(ExecEvent::Stdout(frame.payload))),
        FrameKind::Stderr => Ok(Some(ExecEvent::Stderr(frame.payload))),
        FrameKind::Credit => {
            let bytes = frame.number();
            let bytes = bytes.map_err(|error| SandboxError::Protocol(error.to_string()))?;
            credit.give_back(bytes)?;
            Ok(None)
        }
        _ => match link::answer(&frame, WHAT)? {
            Answer::Exited(ExitStatus::Code(code @ 0..=255)) => {
                Ok(Some(ExecEvent::Exited(ExecStatus::Code(code))))
            }
            Answer::Exited(ExitStatus::Signal(signal @ 1..=64)) => {
                Ok(Some(ExecEvent::Exited(ExecStatus::Signal(signal))))
            }
            answer => Err(unexpected(&format!("{answer:?}"), WHAT)),
        },
    }
}

/// Sends what the caller sends, signals ahead of standard input that has no credit yet. Never
/// returns: the process's end or a broken connection shows in its output.
async fn carry_input(
    mut writer: LinkWriter,
    mut inputs: mpsc::Receiver<ExecInput>,
    mut urgent: mpsc::Receiver<i32>,
    credit: &Credit,
) -> std::convert::Infallible {
    let mut pending = VecDeque::new();
    let mut open = true;
    let mut ended = false;
    loop {
        let room = open && pending.len() < PENDING;
        let sent = tokio::select! {
            biased;
            Some(signal) = urgent.recv() => {
                writer.frame(FrameKind::Signal, &signal.to_le_bytes()).await
            }
            input = inputs.recv(), if room => match input {
                Some(ExecInput::Signal(signal)) => {
                    writer.frame(FrameKind::Signal, &signal.to_le_bytes()).await
                }
                Some(ExecInput::Stdin(bytes)) if !ended => {
                    pending.extend(bytes);
                    Ok(())
                }
                Some(ExecInput::Stdin(_)) => Ok(()),
                Some(ExecInput::StdinEnd) => {
                    ended = true;
                    end_if_sent(&mut writer, &pending).await
                }
                None => {
                    open = false;
                    let first = !std::mem::replace(&mut ended, true);
                    if first { end_if_sent(&mut writer, &pending).await } else { Ok(()) }
                }
            },
            piece = next_piece(&mut pending, credit) => {
                let sent = writer.frame(FrameKind::Data, &piece).await;
                if sent.is_ok() && ended { end_if_sent(&mut writer, &pending).await } else { sent }
            }
        };
        if sent.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn end_if_sent(writer: &mut LinkWriter, pending: &VecDeque<u8>) -> Result<(), SandboxError> {
    if pending.is_empty() {
        writer.frame(FrameKind::End, b"").await
    } else {
        Ok(())
    }
}

/// Waits for bytes with credit; takes nothing when dropped while waiting.
async fn next_piece(pending: &mut VecDeque<u8>, credit: &Credit) -> Vec<u8> {
    if pending.is_empty() {
        return std::future::pending().await;
    }
    loop {
        let left = credit.left.load(Ordering::Relaxed);
        let length = pending.len().min(left).min(PIECE);
        if length > 0 {
            credit.left.fetch_sub(length, Ordering::Relaxed);
            return pending.drain(..length).collect();
        }
        credit.returned.notified().await;
    }
}
