//! The virtio side: receive, transmit and event queue around the multiplexer.

use std::io;
use std::num::Wrapping;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;

use thiserror::Error;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::super::chain::{self, Chain, QueueFault, Served};
use super::super::device::{Raise, VirtioDevice};
use super::super::persist::VirtioDeviceState;
use super::super::{COMMON_FEATURES, adopt, read_config_bytes};
use super::mux::Mux;
use super::packet::EVENT_TRANSPORT_RESET;
use super::persist::VsockState;
use crate::config::VsockConfig;

/// virtio device type (virtio 1.2, section 5.10).
const VIRTIO_ID_VSOCK: u32 = 19;
const QUEUE_SIZES: [u16; 3] = [256, 256, 64];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENT: usize = 2;
/// Smallest context identifier that is not reserved.
const FIRST_GUEST_CID: u64 = 3;

/// Why the vsock device cannot be made.
#[derive(Debug, Error)]
pub enum OpenVsockError {
    /// The context identifier is reserved or too large.
    #[error("vsock: context identifier {cid} is not between 3 and 4294967294; choose another")]
    Cid {
        /// Identifier in the configuration.
        cid: u64,
    },
    /// The listening socket cannot be used.
    #[error("vsock: cannot use the listening socket (descriptor {fd}): {source}")]
    Listener {
        /// Number in the configuration.
        fd: RawFd,
        /// Cause.
        source: io::Error,
    },
}

/// A virtio-vsock device.
#[derive(Debug)]
pub struct Vsock {
    mux: Mux,
    reset: TransportReset,
    active: Option<Active>,
}

/// Where the announcement is that all connections of before a restore are gone.
///
/// A connection made before the guest handled it would be dropped by the guest with the old ones,
/// so none is taken until then. The guest handles the event before it makes the event's buffer
/// available again, so a moved available index tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TransportReset {
    Done,
    Due,
    /// Sent when the available index was this.
    Sent(Wrapping<u16>),
}

#[derive(Debug)]
struct Active {
    memory: GuestMemoryMmap,
    queues: Vec<Queue>,
    chain: Chain,
}

impl Vsock {
    /// A device with the guest's context identifier and the listening socket of `config`, of which
    /// it becomes the owner.
    ///
    /// # Errors
    /// The identifier is reserved, or the descriptor is not usable.
    pub fn new(config: &VsockConfig) -> Result<Self, OpenVsockError> {
        let (cid, fd) = (config.cid, config.listener_fd);
        if !(FIRST_GUEST_CID..u64::from(u32::MAX)).contains(&cid) {
            return Err(OpenVsockError::Cid { cid });
        }
        let mux = adopt(fd)
            .and_then(|listener| Mux::new(cid, UnixListener::from(listener)))
            .map_err(|source| OpenVsockError::Listener { fd, source })?;
        Ok(Self {
            mux,
            reset: TransportReset::Done,
            active: None,
        })
    }

    /// Before anything else the guest will be told that its connections are gone.
    pub(super) fn announce_reset(&mut self) {
        self.reset = TransportReset::Due;
    }

    /// Moves what can be moved between guest and peers, bounded by the rings.
    fn pump(&mut self) -> Raise {
        let Some(Active {
            memory,
            queues,
            chain,
        }) = &mut self.active
        else {
            return Raise::default();
        };
        let [receive, transmit, event] = queues.as_mut_slice() else {
            return Raise::default();
        };
        let mux = &mut self.mux;
        let mut raise = match advance_reset(&mut self.reset, event, memory, chain) {
            Ok(raise) => raise,
            Err(_) => {
                return Raise {
                    broken: true,
                    ..Raise::default()
                };
            }
        };
        raise |= chain::serve(transmit, memory, chain, |chain| {
            mux.take_packet(memory, chain)
        });
        let choked = mux.is_choked();
        if mux.has_output() {
            raise |= chain::serve(receive, memory, chain, |chain| {
                mux.give_packet(memory, chain)
            });
        }
        if self.reset == TransportReset::Done {
            mux.accept();
        }
        // The transmit queue was left with packets in it, and no notification will come for them.
        raise.again |= choked && !mux.is_choked();
        raise
    }
}

fn advance_reset(
    reset: &mut TransportReset,
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    chain: &mut Chain,
) -> Result<Raise, QueueFault> {
    let mut raise = Raise::default();
    if !queue.ready() {
        return Ok(raise);
    }
    if *reset == TransportReset::Due {
        let mut sent = false;
        raise = chain::serve(queue, memory, chain, |chain| {
            if sent {
                return Served::Later;
            }
            sent = true;
            let written = chain
                .writable
                .write(memory, 0, &EVENT_TRANSPORT_RESET.to_le_bytes());
            Served::Used(written as u32)
        });
        if sent {
            *reset = TransportReset::Sent(queue.avail_idx(memory, Ordering::Acquire)?);
        }
    }
    if let TransportReset::Sent(available) = *reset {
        chain::notify_on_next(queue, memory)?;
        if queue.avail_idx(memory, Ordering::Acquire)? != available {
            *reset = TransportReset::Done;
        }
    }
    Ok(raise)
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn offered_features(&self) -> u64 {
        COMMON_FEATURES
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.mux.cid().to_le_bytes(), offset, data);
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
        self.reset = TransportReset::Done;
        self.mux.clear();
    }

    fn queue_notified(&mut self, index: usize) -> Raise {
        match index {
            RECEIVE | TRANSMIT | EVENT => self.pump(),
            _ => Raise::default(),
        }
    }

    fn event_fds(&self) -> Vec<RawFd> {
        vec![self.mux.epoll_fd()]
    }

    fn event_ready(&mut self, _fd: RawFd) -> Raise {
        self.mux.take_events();
        self.pump()
    }

    fn save(&self) -> VirtioDeviceState {
        VirtioDeviceState::Vsock(VsockState {
            cid: self.mux.cid(),
        })
    }
}
