//! The virtio side: address and link state in the configuration space, two queues of frames.

use std::io;
use std::os::fd::RawFd;

use thiserror::Error;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use super::super::chain::{self, Chain, Served};
use super::super::device::{Raise, VirtioDevice};
use super::super::guest_io::IoVectors;
use super::super::persist::VirtioDeviceState;
use super::super::{COMMON_FEATURES, adopt, read_config_bytes};
use super::link::{Link, Moved};
use super::persist::NetState;
use crate::config::NetConfig;

/// Linux keeps a buffer of [`MTU`] in each place of the first: 4 MiB of the guest in all.
const QUEUE_SIZES: [u16; 2] = [64, 256];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// `struct virtio_net_hdr_v1` ahead of every frame; without offloads only its last field is set.
const HEADER: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const HEADER_LEN: u64 = HEADER.len() as u64;
/// Two addresses and a type.
const MIN_FRAME: u64 = 14;
/// What the guest is told to take for its largest IP packet: large ones cost as much as small ones.
const MTU: u16 = 65_520;
/// The largest IP packet with its Ethernet header.
const MAX_FRAME: u64 = 65_550;
/// Unusable frames that are dropped for one guest buffer before others get their turn.
const MAX_DROPS: usize = 64;

/// Why the network device cannot be made.
#[derive(Debug, Error)]
pub enum OpenNetError {
    /// The address is malformed, a group's, or zero.
    #[error("net: `{mac}` is not a unicast MAC address as 02:00:00:00:00:01")]
    Mac {
        /// Address in the configuration.
        mac: String,
    },
    /// The socket cannot be used.
    #[error("net: cannot use the frame socket (descriptor {fd}): {source}")]
    Socket {
        /// Number in the configuration.
        fd: RawFd,
        /// Cause.
        source: io::Error,
    },
}

/// A virtio-net device.
#[derive(Debug)]
pub struct Net {
    mac: [u8; 6],
    link: Option<Link>,
    /// The guest is to read the configuration space again.
    change_due: bool,
    active: Option<Active>,
}

#[derive(Debug)]
struct Active {
    memory: GuestMemoryMmap,
    queues: Vec<Queue>,
    chain: Chain,
}

impl Net {
    /// A device with the address and the socket of `config`, of which it becomes the owner.
    ///
    /// # Errors
    /// The address or the descriptor is wrong.
    pub fn new(config: &NetConfig) -> Result<Self, OpenNetError> {
        let mac = parse_mac(&config.mac).ok_or_else(|| OpenNetError::Mac {
            mac: config.mac.clone(),
        })?;
        let link = config
            .socket_fd
            .map(|fd| {
                adopt(fd)
                    .and_then(Link::new)
                    .map_err(|source| OpenNetError::Socket { fd, source })
            })
            .transpose()?;
        Ok(Self {
            mac,
            link,
            change_due: false,
            active: None,
        })
    }

    /// The guest will be told that the configuration space changed.
    pub(super) fn announce_change(&mut self) {
        self.change_due = true;
    }

    fn link_is_up(&self) -> bool {
        self.link.as_ref().is_some_and(Link::is_up)
    }

    /// Moves frames both ways, at most one ring full each.
    fn pump(&mut self) -> Raise {
        let was_up = self.link_is_up();
        let Some(Active {
            memory,
            queues,
            chain,
        }) = &mut self.active
        else {
            return Raise::default();
        };
        let [receive, transmit] = queues.as_mut_slice() else {
            return Raise::default();
        };
        let link = &mut self.link;
        let mut raise = chain::serve(transmit, memory, chain, |chain| {
            send(link.as_mut(), memory, chain)
        });
        if let Some(link) = link {
            let mut busy = false;
            if link.is_readable() {
                raise |= chain::serve(receive, memory, chain, |chain| {
                    receive_into(link, memory, chain, &mut busy)
                });
            }
            raise.again |= busy;
        }
        raise.config |= self.change_due || was_up != self.link_is_up();
        self.change_due = false;
        raise
    }
}

/// Sends the frame of a chain; without a link it is lost.
fn send(link: Option<&mut Link>, memory: &GuestMemoryMmap, chain: &Chain) -> Served {
    let frame = chain.readable.len().saturating_sub(HEADER_LEN);
    if let Some(link) = link
        && (MIN_FRAME..=MAX_FRAME).contains(&frame)
    {
        let vectors = IoVectors::new(memory, &chain.readable, HEADER_LEN, frame);
        // In more pieces than a message can have, it is lost, too.
        if vectors.len() == frame && link.send(&vectors) == Moved::Later {
            return Served::Later;
        }
    }
    Served::Used(0)
}

/// Receives a frame into a chain. `busy` is set when there may be more, but others must have a turn.
fn receive_into(
    link: &mut Link,
    memory: &GuestMemoryMmap,
    chain: &Chain,
    busy: &mut bool,
) -> Served {
    let room = chain
        .writable
        .len()
        .saturating_sub(HEADER_LEN)
        .min(MAX_FRAME);
    if room < MIN_FRAME {
        return Served::Used(0);
    }
    for _ in 0..MAX_DROPS {
        let mut vectors = IoVectors::new(memory, &chain.writable, HEADER_LEN, room);
        match link.receive(&mut vectors) {
            Moved::Frame(len) if (MIN_FRAME..=vectors.len()).contains(&len) => {
                chain.writable.write(memory, 0, &HEADER);
                // At most MAX_FRAME and the header.
                return Served::Used((HEADER_LEN + len) as u32);
            }
            // Too short to be a frame, or too long for the guest's buffer.
            Moved::Frame(_) | Moved::Dropped => {}
            Moved::Later => return Served::Later,
        }
    }
    *busy = true;
    Served::Later
}

/// A unicast address that is not zero.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn offered_features(&self) -> u64 {
        COMMON_FEATURES | 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS | 1 << VIRTIO_NET_F_MTU
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // Between link and MTU is the number of queue pairs, which is for a feature not offered.
        let mut space = [0; 12];
        space[..6].copy_from_slice(&self.mac);
        if self.link_is_up() {
            space[6] = VIRTIO_NET_S_LINK_UP as u8;
        }
        space[10..].copy_from_slice(&MTU.to_le_bytes());
        read_config_bytes(&space, offset, data);
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
        match index {
            RECEIVE | TRANSMIT => self.pump(),
            _ => Raise::default(),
        }
    }

    fn event_fds(&self) -> Vec<RawFd> {
        self.link.iter().map(Link::epoll_fd).collect()
    }

    fn event_ready(&mut self, _fd: RawFd) -> Raise {
        let was_up = self.link_is_up();
        if let Some(link) = &mut self.link {
            link.take_events();
        }
        self.change_due |= was_up != self.link_is_up();
        self.pump()
    }

    fn save(&self) -> VirtioDeviceState {
        VirtioDeviceState::Net(NetState { mac: self.mac })
    }
}
