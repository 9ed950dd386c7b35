//! What stands behind I/O ports and device memory: decodes an access of a vCPU to a device.

use std::ops::Range;

use super::{power, serial::SerialConsole};
use crate::{arch::layout, exit::ExitReason};

const SERIAL: Range<u16> = layout::SERIAL_PORT..layout::SERIAL_PORT + layout::SERIAL_PORTS;

/// All devices of a machine that the guest reaches by ports and memory.
#[derive(Debug)]
pub struct Devices {
    serial: SerialConsole,
}

impl Devices {
    /// Devices of a machine.
    #[must_use]
    pub fn new(serial: SerialConsole) -> Self {
        Self { serial }
    }

    /// The serial console.
    #[must_use]
    pub fn serial(&self) -> &SerialConsole {
        &self.serial
    }

    /// The guest reads a port; one without a device reads as ones.
    pub fn read_port(&self, port: u16, data: &mut [u8]) {
        if SERIAL.contains(&port) {
            let offset = (port - SERIAL.start) as u8;
            data.fill_with(|| self.serial.read(offset));
        } else if power::owns(port) {
            data.fill(power::read(port));
        } else {
            data.fill(0xff);
        }
    }

    /// The guest writes a port; `Some` when that ends the machine.
    pub fn write_port(&self, port: u16, data: &[u8]) -> Option<ExitReason> {
        if SERIAL.contains(&port) {
            let offset = (port - SERIAL.start) as u8;
            data.iter()
                .for_each(|byte| self.serial.write(offset, *byte));
            return None;
        }
        data.first().and_then(|value| power::write(port, *value))
    }

    /// The guest reads device memory; where there is no device it reads ones.
    pub fn read_memory(&self, _address: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    /// The guest writes device memory.
    pub fn write_memory(&self, _address: u64, _data: &[u8]) {}
}
