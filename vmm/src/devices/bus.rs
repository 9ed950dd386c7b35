//! What stands behind I/O ports and device memory: decodes an access of a vCPU to a device.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    event_loop::DeviceEvents, power, serial::SerialConsole, virtio::transport::MmioTransport,
};
use crate::{arch::layout, exit::ExitReason};

const SERIAL: Range<u16> = layout::SERIAL_PORT..layout::SERIAL_PORT + layout::SERIAL_PORTS;
/// Offset of the status register of virtio-mmio; its bit 2 is `DRIVER_OK`.
const VIRTIO_STATUS: u64 = 0x70;
const DRIVER_OK: u8 = 4;

/// All devices of a machine that the guest reaches by ports and memory.
#[derive(Debug)]
pub struct Devices {
    serial: SerialConsole,
    virtio: Vec<Mutex<MmioTransport>>,
    events: Arc<DeviceEvents>,
}

impl Devices {
    /// Devices of a machine; the virtio devices in the order of their slots.
    ///
    /// # Errors
    /// When the event loop cannot watch one of their descriptors.
    pub fn new(serial: SerialConsole, virtio: Vec<MmioTransport>) -> std::io::Result<Self> {
        let events = Arc::new(DeviceEvents::new()?);
        for (slot, transport) in virtio.iter().enumerate() {
            events.watch_queues(slot, transport.queue_events())?;
        }
        let devices = Self {
            serial,
            virtio: virtio.into_iter().map(Mutex::new).collect(),
            events,
        };
        (0..devices.virtio.len()).for_each(|slot| devices.watch_device(slot));
        Ok(devices)
    }

    /// The serial console.
    #[must_use]
    pub fn serial(&self) -> &SerialConsole {
        &self.serial
    }

    /// What the event loop waits for.
    #[must_use]
    pub fn events(&self) -> &Arc<DeviceEvents> {
        &self.events
    }

    /// Number of virtio devices.
    #[must_use]
    pub fn virtio_count(&self) -> usize {
        self.virtio.len()
    }

    /// The virtio device in `slot`, locked.
    #[must_use]
    pub fn virtio(&self, slot: usize) -> Option<MutexGuard<'_, MmioTransport>> {
        let transport = self.virtio.get(slot)?;
        Some(transport.lock().unwrap_or_else(PoisonError::into_inner))
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
    pub fn read_memory(&self, address: u64, data: &mut [u8]) {
        let transport =
            decode(address).and_then(|(slot, offset)| Some((self.virtio(slot)?, offset)));
        match transport {
            Some((transport, offset)) => transport.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes device memory.
    pub fn write_memory(&self, address: u64, data: &[u8]) {
        let Some((slot, offset)) = decode(address) else {
            return;
        };
        if let Some(mut transport) = self.virtio(slot) {
            transport.write(offset, data);
        }
        if offset == VIRTIO_STATUS {
            self.watch_device(slot);
        }
    }

    /// Has the event loop watch a device's own descriptors exactly while its driver runs: what
    /// nobody consumes would keep the loop busy.
    fn watch_device(&self, slot: usize) {
        let Some(transport) = self.virtio(slot) else {
            return;
        };
        let mut status = [0; 4];
        transport.read(VIRTIO_STATUS, &mut status);
        let running = status[0] & DRIVER_OK != 0;
        self.events
            .watch_device(slot, &transport.event_fds(), running);
    }
}

/// Slot and register offset of an address in device memory.
fn decode(address: u64) -> Option<(usize, u64)> {
    let offset = address.checked_sub(layout::VIRTIO_MMIO_BASE)?;
    let slot = usize::try_from(offset / layout::VIRTIO_MMIO_SIZE).ok()?;
    Some((slot, offset % layout::VIRTIO_MMIO_SIZE))
}

#[cfg(test)]
mod tests {
    use vm_memory::{GuestAddress, GuestMemoryMmap};
    use vmm_sys_util::eventfd::EventFd;

    use super::{
        super::{serial::BoundedLog, virtio::rng::Rng},
        *,
    };

    fn devices() -> Devices {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let irq = EventFd::new(0).unwrap();
        let rng = MmioTransport::new(memory, Box::new(Rng::new()), irq).unwrap();
        let serial = SerialConsole::new(EventFd::new(0).unwrap(), BoundedLog::new(None, 0));
        Devices::new(serial, vec![rng]).unwrap()
    }

    #[test]
    fn the_first_slot_answers_with_the_virtio_magic_and_the_next_with_nothing() {
        let devices = devices();
        let mut value = [0; 4];
        devices.read_memory(layout::VIRTIO_MMIO_BASE, &mut value);
        assert_eq!(&value, b"virt");
        devices.read_memory(layout::VIRTIO_MMIO_BASE + 0x1000, &mut value);
        assert_eq!(value, [0xff; 4]);
        devices.read_memory(0xfff0_0000, &mut value);
        assert_eq!(value, [0xff; 4]);
    }

    #[test]
    fn ports_without_a_device_read_as_ones_and_take_writes() {
        let devices = devices();
        let mut value = [0];
        devices.read_port(0x80, &mut value);
        assert_eq!(value, [0xff]);
        assert_eq!(devices.write_port(0x80, &[1]), None);
    }

    #[test]
    fn an_idle_keyboard_controller_and_transmitter_do_not_hold_the_guest_up() {
        let devices = devices();
        let mut value = [0xff];
        devices.read_port(layout::I8042_COMMAND_PORT, &mut value);
        assert_eq!(value, [0]);
        devices.read_port(layout::SERIAL_PORT + 5, &mut value);
        assert_eq!(value[0] & 0x60, 0x60);
    }

    #[test]
    fn soft_off_ends_the_machine() {
        let value = [layout::SLEEP_TYPE_S5 << 2 | 1 << 5];
        let reason = devices().write_port(layout::SLEEP_CONTROL_PORT, &value);
        assert_eq!(reason, Some(ExitReason::GuestShutDown));
    }
}
