//! A guest for tests: a TCP/IP stack of its own behind the other end of the link.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{EthernetAddress, IpCidr};

use crate::egress::dns::Names;
use crate::egress::stack::{Addresses, IncomingReceiver, Limits, Stack, StackConfig};

pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The guest's end of a link.
pub(super) struct Wire {
    pub(super) socket: OwnedFd,
}

impl Wire {
    pub(super) fn put(&self, frame: &[u8]) {
        send(&self.socket, frame, SendFlags::NOSIGNAL).unwrap();
    }

    /// The next frame that is there now.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT).ok()?;
        buffer.truncate(length);
        (length > 0).then_some(buffer)
    }

    /// The next frame, waited for.
    pub(super) async fn next(&self) -> Vec<u8> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(frame) = self.take() {
                return frame;
            }
            assert!(Instant::now() < until, "no frame came");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Device for Wire {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(In, Out<'_>)> {
        let frame = self.take()?;
        Some((In(frame), Out(self)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Out<'_>> {
        Some(Out(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = Addresses::of(MAC).mtu + 14;
        // The guest checks what the stack writes.
        capabilities.checksum.tcp = Checksum::Both;
        capabilities
    }
}

pub(super) struct In(Vec<u8>);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(super) struct Out<'a>(&'a Wire);

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        // A full link loses frames, as a real one.
        let _ = send(
            &self.0.socket,
            &frame,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        );
        result
    }
}

/// A guest with its TCP sockets.
pub(super) struct Guest {
    pub(super) wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    begun: Instant,
    port: u16,
}

/// A stack with the given bounds, and the guest's end of its link.
pub(super) fn stack(limits: Limits) -> (Stack, IncomingReceiver, Wire, Arc<Names>) {
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    let names = Arc::new(Names::default());
    let config = StackConfig {
        addresses: Addresses::of(MAC),
        limits,
        names: Arc::clone(&names),
    };
    let (stack, incoming) = Stack::start(ours, config).unwrap();
    (stack, incoming, Wire { socket: theirs }, names)
}

impl Guest {
    pub(super) fn new(mut wire: Wire) -> Self {
        let addresses = Addresses::of(MAC);
        let config = Config::new(EthernetAddress(MAC).into());
        let mut interface =
            Interface::new(config, &mut wire, smoltcp::time::Instant::from_micros(0));
        interface.update_ip_addrs(|list| {
            list.push(IpCidr::new(IpAddr::from(addresses.guest_v4).into(), 24))
                .unwrap();
            list.push(IpCidr::new(IpAddr::from(addresses.guest_v6).into(), 64))
                .unwrap();
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(addresses.gateway_v4).unwrap();
        routes.add_default_ipv6_route(addresses.gateway_v6).unwrap();
        Self {
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            begun: Instant::now(),
            port: 40_000,
        }
    }

    pub(super) fn connect(&mut self, to: &str) -> SocketHandle {
        let to: SocketAddr = to.parse().unwrap();
        let buffer = || SocketBuffer::new(vec![0; 128 << 10]);
        let mut socket = Socket::new(buffer(), buffer());
        self.port += 1;
        socket
            .connect(self.interface.context(), (to.ip(), to.port()), self.port)
            .unwrap();
        self.sockets.add(socket)
    }

    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(super) fn state(&mut self, handle: SocketHandle) -> State {
        self.socket(handle).state()
    }

    /// Runs until `done`, which looks at the guest's sockets.
    pub(super) async fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let now = smoltcp::time::Instant::from_micros(self.begun.elapsed().as_micros() as i64);
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            if done(self) {
                return;
            }
            assert!(Instant::now() < until, "the guest waits for too long");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
}
