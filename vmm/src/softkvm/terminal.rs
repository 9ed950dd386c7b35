//! The terminal of the caller while a command on the emulated machine uses it.

use std::os::fd::BorrowedFd;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};

use super::wire::STREAMS;

/// Which standard streams are terminals.
pub(super) fn terminals() -> [bool; STREAMS] {
    streams().map(isatty)
}

/// Rows and columns of the first standard stream that is a terminal; zeros without one.
pub(super) fn window() -> (u16, u16) {
    let size = streams()
        .into_iter()
        .find_map(|stream| rustix::termios::tcgetwinsize(stream).ok());
    size.map_or((0, 0), |size| (size.ws_row, size.ws_col))
}

/// The three standard streams.
pub(super) fn streams() -> [BorrowedFd<'static>; STREAMS] {
    [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ]
}

/// Raw mode on stdin until dropped: the terminal inside the machine does the editing and turns
/// Ctrl-C into a signal.
pub(super) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Sets raw mode if stdin is a terminal of which this process is in the foreground.
    pub(super) fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok()?;
        // In the background the change would stop this process.
        if tcgetpgrp(stdin).ok()? != rustix::process::getpgrp() {
            return None;
        }
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}
