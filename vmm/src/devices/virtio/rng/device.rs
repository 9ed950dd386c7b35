//! The device: one queue of buffers to be filled.

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use super::super::COMMON_FEATURES;
use super::super::chain::{self, Chain, Served};
use super::super::device::{Raise, VirtioDevice};
use super::super::persist::VirtioDeviceState;
use super::persist::RngState;

const QUEUE_SIZES: [u16; 1] = [64];
/// Most bytes given per request; a driver that wants more asks again.
const MAX_REQUEST: u64 = 4096;

/// A virtio-rng device.
#[derive(Debug, Default)]
pub struct Rng {
    active: Option<Active>,
}

#[derive(Debug)]
struct Active {
    memory: GuestMemoryMmap,
    queues: Vec<Queue>,
    chain: Chain,
}

impl Rng {
    /// A source that asks the host's kernel for every byte.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// Fills the start of the chain; returns how many bytes it wrote, 0 if the host has none to give.
fn fill(memory: &GuestMemoryMmap, chain: &Chain) -> u32 {
    let mut bytes = [0; MAX_REQUEST as usize];
    let wanted = chain.writable.len().min(MAX_REQUEST) as usize;
    let given = match getrandom(&mut bytes[..wanted], GetRandomFlags::NONBLOCK) {
        Ok(n) => chain.writable.write(memory, 0, &bytes[..n]),
        Err(_) => 0,
    };
    // At most MAX_REQUEST.
    given as u32
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn offered_features(&self) -> u64 {
        COMMON_FEATURES
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, _features: u64, memory: GuestMemoryMmap, queues: Vec<Queue>) {
        self.active = Some(Active {
            memory,
            queues,
            chain: Chain::default(),
        });
    }

    fn queues(&self) -> Option<&[Queue]> {
        self.active.as_ref().map(|active| active.queues.as_slice())
    }

    fn reset(&mut self) {
        self.active = None;
    }

    fn queue_notified(&mut self, index: usize) -> Raise {
        let Some(Active {
            memory,
            queues,
            chain,
        }) = &mut self.active
        else {
            return Raise::default();
        };
        let Some(queue) = queues.get_mut(index) else {
            return Raise::default();
        };
        chain::serve(queue, memory, chain, |chain| {
            Served::Used(fill(memory, chain))
        })
    }

    fn save(&self) -> VirtioDeviceState {
        VirtioDeviceState::Rng(RngState {})
    }
}
