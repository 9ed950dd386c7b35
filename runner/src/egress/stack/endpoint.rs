//! TCP of one connection: a smoltcp interface that knows one address and one socket.

use std::net::{IpAddr, SocketAddr};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use super::shared::Shared;
use super::wire::{Kept, Wire};

/// Silence after which the guest is asked whether the connection still is.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Silence after a question or data after which it is not. A guest that is being saved is silent, too.
const SILENCE: Duration = Duration::from_secs(300);

/// TCP of one connection.
pub(super) struct Endpoint {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    pub(super) kept: Kept,
    /// Bytes of each of its two buffers.
    pub(super) buffer: usize,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("state", &self.socket_ref().state())
            .field("buffer", &self.buffer)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    pub(super) fn new(shared: &Shared, buffer: usize) -> Self {
        let mut kept = Kept::default();
        let mut wire = Wire {
            shared,
            packet: None,
            kept: &mut kept,
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = shared.draw();
        let interface = Interface::new(config, &mut wire, Instant::ZERO);
        // Fresh pages, which nobody has touched, cost nothing until data come.
        let [incoming, outgoing] = [(); 2].map(|()| SocketBuffer::new(vec![0; buffer]));
        let mut socket = Socket::new(incoming, outgoing);
        socket.set_nagle_enabled(false);
        // The engine takes many frames and then has each connection answer once.
        socket.set_ack_delay(None);
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_timeout(Some(SILENCE));
        let mut sockets = SocketSet::new(vec![SocketStorage::EMPTY]);
        let handle = sockets.add(socket);
        Self {
            interface,
            sockets,
            handle,
            kept,
            buffer,
        }
    }

    /// Becomes the outside end of a new connection.
    pub(super) fn listen(&mut self, outside: SocketAddr) -> bool {
        let address = IpAddress::from(outside.ip());
        let prefix = match outside.ip() {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // The list was just emptied.
            let _ = addresses.push(IpCidr::new(address, prefix));
        });
        self.kept = Kept::default();
        let endpoint = IpListenEndpoint {
            addr: Some(address),
            port: outside.port(),
        };
        let socket = self.socket();
        socket.abort();
        socket.listen(endpoint).is_ok()
    }

    pub(super) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn socket_ref(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub(super) fn state(&self) -> State {
        self.socket_ref().state()
    }

    /// Takes a packet from the guest.
    pub(super) fn input(&mut self, shared: &Shared, now: Instant, packet: &[u8]) {
        let mut wire = Wire {
            shared,
            packet: Some(packet),
            kept: &mut self.kept,
        };
        self.interface
            .poll_ingress_single(now, &mut wire, &mut self.sockets);
    }

    /// Sends what there is to send; `false` when the link is full.
    pub(super) fn output(&mut self, shared: &Shared, now: Instant) -> bool {
        if !self.kept.flush(shared) {
            return false;
        }
        let mut wire = Wire {
            shared,
            packet: None,
            kept: &mut self.kept,
        };
        while self
            .interface
            .poll_egress(now, &mut wire, &mut self.sockets)
            == PollResult::SocketStateChanged
        {
            if wire.kept.frame.is_some() {
                return false;
            }
        }
        true
    }

    /// When to call [`Self::output`] again, if nothing else happens.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    /// Nothing will come of it any more, and nothing is still to be sent. A connection that ended is
    /// not remembered for a while as on a real network: nothing of it can come later.
    pub(super) fn is_over(&self) -> bool {
        let socket = self.socket_ref();
        match socket.state() {
            State::TimeWait | State::Listen => true,
            State::Closed => socket.remote_endpoint().is_none(),
            _ => false,
        }
    }
}
