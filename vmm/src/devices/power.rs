//! Power: ACPI sleep and reset registers and the reset line of the keyboard controller.

use crate::{arch::layout, exit::ExitReason};

/// `SLP_EN` in the sleep control register.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
/// Keyboard controller command that pulses the reset line.
const I8042_RESET: u8 = 0xfe;

/// Whether `port` belongs to this device.
#[must_use]
pub fn owns(port: u16) -> bool {
    matches!(
        port,
        layout::I8042_COMMAND_PORT
            | layout::SLEEP_CONTROL_PORT
            | layout::SLEEP_STATUS_PORT
            | layout::RESET_PORT
    )
}

/// Reads a register. All are zero: the sleep status register knows no wake-up, and an idle
/// keyboard controller lets `reboot=k` go on at once.
#[must_use]
pub fn read(_port: u16) -> u8 {
    0
}

/// Writes a register; some end the machine.
#[must_use]
pub fn write(port: u16, value: u8) -> Option<ExitReason> {
    let reset = |how: &str| {
        Some(ExitReason::GuestPanicked {
            how: how.to_owned(),
        })
    };
    match (port, value) {
        (layout::SLEEP_CONTROL_PORT, value) => {
            let kind = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
            let off = value & SLEEP_ENABLE != 0 && kind == layout::SLEEP_TYPE_S5;
            off.then_some(ExitReason::GuestShutDown)
        }
        (layout::RESET_PORT, layout::RESET_VALUE) => reset("ACPI reset"),
        (layout::I8042_COMMAND_PORT, I8042_RESET) => reset("keyboard controller reset"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_off_is_a_shutdown_and_other_sleep_types_are_nothing() {
        let off = layout::SLEEP_TYPE_S5 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE;
        let port = layout::SLEEP_CONTROL_PORT;
        assert_eq!(write(port, off), Some(ExitReason::GuestShutDown));
        assert_eq!(write(port, off & !SLEEP_ENABLE), None);
        assert_eq!(write(port, 3 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE), None);
    }

    #[test]
    fn both_reset_lines_are_a_panic() {
        for (port, value) in [(layout::RESET_PORT, 1), (layout::I8042_COMMAND_PORT, 0xfe)] {
            let reason = write(port, value);
            assert!(matches!(reason, Some(ExitReason::GuestPanicked { .. })));
        }
        assert_eq!(write(layout::I8042_COMMAND_PORT, 0xd1), None);
    }
}
