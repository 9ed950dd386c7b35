//! COM1: a 16550 whose output goes to a bounded log; it has no input.

mod log;

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_superio::{
    Serial, SerialState, Trigger,
    serial::{Error, NoEvents},
};
use vmm_sys_util::eventfd::EventFd;

pub use log::BoundedLog;

/// Raises the serial port's interrupt line.
#[derive(Debug)]
struct SerialInterrupt(EventFd);

impl Trigger for SerialInterrupt {
    type E = std::io::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.write(1)
    }
}

/// The serial port, shared by all vCPU threads.
#[derive(Debug)]
pub struct SerialConsole {
    port: Mutex<Serial<SerialInterrupt, NoEvents, BoundedLog>>,
}

/// Registers of the serial port in a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialConsoleState {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
}

impl SerialConsole {
    /// A port after reset.
    #[must_use]
    pub fn new(interrupt: EventFd, log: BoundedLog) -> Self {
        Self {
            port: Mutex::new(Serial::new(SerialInterrupt(interrupt), log)),
        }
    }

    /// A port as it was saved.
    ///
    /// # Errors
    /// When its interrupt cannot be raised.
    pub fn restore(
        interrupt: EventFd,
        log: BoundedLog,
        state: &SerialConsoleState,
    ) -> Result<Self, Error<std::io::Error>> {
        let state = SerialState {
            baud_divisor_low: state.divisor[0],
            baud_divisor_high: state.divisor[1],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: Vec::new(),
        };
        let port = Serial::from_state(&state, SerialInterrupt(interrupt), NoEvents, log)?;
        Ok(Self {
            port: Mutex::new(port),
        })
    }

    /// Registers for a snapshot.
    #[must_use]
    pub fn save(&self) -> SerialConsoleState {
        let state = self.lock().state();
        SerialConsoleState {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
        }
    }

    /// Reads register `offset`.
    #[must_use]
    pub fn read(&self, offset: u8) -> u8 {
        self.lock().read(offset)
    }

    /// Writes register `offset`. A log that cannot be written does not stop the guest.
    pub fn write(&self, offset: u8, value: u8) {
        let _ = self.lock().write(offset, value);
    }

    /// Writes what is buffered to the log.
    pub fn flush(&self) {
        self.lock().writer_mut().write_out();
    }

    fn lock(&self) -> MutexGuard<'_, Serial<SerialInterrupt, NoEvents, BoundedLog>> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn console(limit: u64) -> (SerialConsole, std::fs::File) {
        let file = tempfile::tempfile().unwrap();
        let log = BoundedLog::new(Some(file.try_clone().unwrap()), limit);
        (SerialConsole::new(EventFd::new(0).unwrap(), log), file)
    }

    fn content(mut file: std::fs::File) -> String {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn what_the_guest_writes_is_logged() {
        let (console, file) = console(100);
        "hello\nno newline"
            .bytes()
            .for_each(|byte| console.write(0, byte));
        console.flush();
        assert_eq!(content(file), "hello\nno newline");
    }

    #[test]
    fn the_log_ends_at_its_limit_with_one_note() {
        let (console, file) = console(10);
        for _ in 0..100 {
            "0123456\n".bytes().for_each(|byte| console.write(0, byte));
        }
        console.flush();
        let text = content(file);
        assert!(text.starts_with("0123456\n01\n"), "{text}");
        assert_eq!(text.matches("dropped").count(), 1);
        assert!(text.len() < 100);
    }

    #[test]
    fn registers_survive_a_snapshot() {
        let (console, _) = console(10);
        console.write(7, 0x5a);
        console.write(1, 0x03);
        let state = console.save();
        let log = BoundedLog::new(None, 0);
        let restored = SerialConsole::restore(EventFd::new(0).unwrap(), log, &state).unwrap();
        assert_eq!(restored.read(7), 0x5a);
        assert_eq!(restored.save(), state);
    }
}
