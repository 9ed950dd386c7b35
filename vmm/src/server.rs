//! Serves the control socket of a running machine until it ends.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    control::{Command, ControlError, ControlSocket, Message, Outcome, Request},
    exit::ExitReason,
    machine::Machine,
};

/// Answers requests until the machine ends; returns why it did.
pub fn serve(machine: &mut Machine, control: &ControlSocket) -> ExitReason {
    let exit = std::sync::Arc::clone(machine.exit());
    loop {
        if let Some(reason) = exit.reason() {
            return reason.clone();
        }
        // SAFETY: `exit` owns the descriptor and outlives this borrow.
        let exit_fd = unsafe { BorrowedFd::borrow_raw(exit.as_raw_fd()) };
        let control_fd = control.as_fd();
        let mut fds = [
            PollFd::new(&exit_fd, PollFlags::IN),
            PollFd::new(&control_fd, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return ExitReason::internal(format!("poll: {error}")),
        }
        if fds[1].revents().is_empty() || exit.reason().is_some() {
            continue;
        }
        match control.receive() {
            Ok((request, descriptors)) => {
                if let Some(reason) = answer(machine, control, request, descriptors) {
                    return reason;
                }
            }
            // A parent that went away wants no machine any more.
            Err(ControlError::Closed) => return ExitReason::Killed,
            Err(error) => return ExitReason::internal(error),
        }
    }
}

/// Does what is asked; `Some` when that ends the machine.
fn answer(
    machine: &mut Machine,
    control: &ControlSocket,
    request: Request,
    descriptors: Vec<OwnedFd>,
) -> Option<ExitReason> {
    let outcome = match request.command {
        Command::Pause => done(machine.pause()),
        Command::Resume => {
            machine.resume();
            Outcome::Done
        }
        Command::Snapshot => machine
            .save(descriptors)
            .map_or_else(failed, Outcome::Snapshot),
        Command::Shutdown => Outcome::Done,
        Command::Statistics => Outcome::Statistics(machine.statistics()),
    };
    let reply = Message::Reply {
        id: request.id,
        outcome,
    };
    let sent = control.send(&reply, &[]);
    match (request.command, sent) {
        (Command::Shutdown, _) | (_, Err(ControlError::Closed)) => Some(ExitReason::Killed),
        (_, Err(error)) => Some(ExitReason::internal(error)),
        (_, Ok(())) => None,
    }
}

fn done<E: std::fmt::Display>(result: Result<(), E>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => failed(error),
    }
}

fn failed(error: impl std::fmt::Display) -> Outcome {
    Outcome::Failed {
        message: error.to_string(),
    }
}
