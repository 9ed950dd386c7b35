//! Why a machine ended: the reason, its exit code, and the signal that carries it between threads.

use std::{os::fd::AsRawFd, process::ExitCode, sync::OnceLock};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The guest powered itself off (ACPI S5).
    GuestShutDown,
    /// The guest reset itself. Kernels run with `panic=-1`, so a reset is a panic.
    GuestPanicked {
        /// Which way the reset took.
        how: String,
    },
    /// The parent asked for it, or went away.
    Killed,
    /// The configuration cannot be used; nothing ran.
    BadConfiguration {
        /// What is wrong with it.
        message: String,
    },
    /// KVM or the VMM itself failed.
    InternalError {
        /// What failed.
        message: String,
    },
}

impl ExitReason {
    /// Exit code of the process.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::GuestShutDown => 0,
            Self::BadConfiguration { .. } => 2,
            Self::GuestPanicked { .. } => 10,
            Self::Killed => 11,
            Self::InternalError { .. } => 12,
        }
    }

    /// An internal error with the text of `cause`.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self::InternalError {
            message: cause.to_string(),
        }
    }
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::GuestShutDown => f.write_str("the guest shut down"),
            Self::GuestPanicked { how } => write!(f, "the guest panicked ({how})"),
            Self::Killed => f.write_str("the machine was killed by request"),
            Self::BadConfiguration { message } => write!(f, "bad configuration: {message}"),
            Self::InternalError { message } => write!(f, "internal error: {message}"),
        }
    }
}

impl From<&ExitReason> for ExitCode {
    fn from(reason: &ExitReason) -> Self {
        Self::from(reason.code())
    }
}

/// The first reason to end that any thread found; wakes the main thread.
#[derive(Debug)]
pub struct ExitSignal {
    reason: OnceLock<ExitReason>,
    event: EventFd,
}

impl ExitSignal {
    /// An unraised signal.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            reason: OnceLock::new(),
            event: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Ends the machine for `reason`, unless it already ends for another.
    pub fn raise(&self, reason: ExitReason) {
        if self.reason.set(reason).is_ok() {
            // The counter cannot overflow: this line runs once.
            let _ = self.event.write(1);
        }
    }

    /// The reason, once there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&ExitReason> {
        self.reason.get()
    }
}

impl AsRawFd for ExitSignal {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_exit_code() {
        let reasons = [
            ExitReason::GuestShutDown,
            ExitReason::BadConfiguration {
                message: String::new(),
            },
            ExitReason::GuestPanicked { how: String::new() },
            ExitReason::Killed,
            ExitReason::internal("x"),
        ];
        assert_eq!(reasons.map(|reason| reason.code()), [0, 2, 10, 11, 12]);
    }

    #[test]
    fn the_first_reason_stands() {
        let signal = ExitSignal::new().unwrap();
        signal.raise(ExitReason::Killed);
        signal.raise(ExitReason::GuestShutDown);
        assert_eq!(signal.reason(), Some(&ExitReason::Killed));
    }
}
