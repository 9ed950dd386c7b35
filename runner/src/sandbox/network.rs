//! The link of a sandbox's network card: one end goes to the VMM, the other stays with the worker.

use std::io;
use std::os::fd::OwnedFd;

use mayfly_guest::wire::NetworkRequest;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::egress::stack::Addresses;

/// The worker's end of the link. What the guest sends before a stack runs behind it waits in it.
#[derive(Debug)]
pub struct NetworkEnd {
    /// Each message is one Ethernet frame.
    pub socket: OwnedFd,
    /// Who is who on the link.
    pub addresses: Addresses,
}

impl NetworkEnd {
    /// A link: the card's end, and ours.
    pub(super) fn pair(guest_mac: [u8; 6]) -> io::Result<(OwnedFd, Self)> {
        let kind = SocketType::SEQPACKET;
        let (card, socket) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        // Room for frames both ways; the system's bound holds, and less is only slower.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&card, 4 << 20);
        let addresses = Addresses::of(guest_mac);
        Ok((card, Self { socket, addresses }))
    }
}

/// What the guest is told of it.
pub(super) fn request(addresses: &Addresses) -> NetworkRequest {
    NetworkRequest {
        address_v4: addresses.guest_v4,
        prefix_v4: addresses.prefix_v4,
        gateway_v4: addresses.gateway_v4,
        address_v6: addresses.guest_v6,
        prefix_v6: addresses.prefix_v6,
        gateway_v6: addresses.gateway_v6,
        // Never more than IP can count.
        mtu: addresses.mtu as u32,
    }
}
