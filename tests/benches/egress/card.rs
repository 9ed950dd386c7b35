//! The guest's network card and TCP: frames over a Unix socket, as a VMM would send them.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

/// Largest IP packet.
pub const MTU: usize = 65_520;
/// The guest's Ethernet address.
pub const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// Router; slirp4netns and passt take connections to it for ones to the host's loopback.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const LARGEST_FRAME: usize = 65_536 + 14;

/// How frames lie in the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Each message is one.
    Messages,
    /// Each is led by its length in four bytes.
    Lengths,
}

/// The card.
#[derive(Debug)]
pub struct Card {
    socket: OwnedFd,
    framing: Framing,
    /// Bytes that were received and are no whole frame, for [`Framing::Lengths`].
    received: VecDeque<u8>,
    frame: Vec<u8>,
    /// What the socket did not take.
    kept: Vec<u8>,
}

impl Card {
    fn new(socket: OwnedFd, framing: Framing) -> Self {
        Self {
            socket,
            framing,
            received: VecDeque::new(),
            frame: vec![0; LARGEST_FRAME],
            kept: Vec::new(),
        }
    }

    /// Sends what is kept; whether there is nothing left.
    fn flush(&mut self) -> bool {
        while !self.kept.is_empty() {
            match send(
                &self.socket,
                &self.kept,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => drop(self.kept.drain(..sent)),
                Err(_) => return false,
            }
        }
        true
    }

    fn take(&mut self) -> Option<usize> {
        match self.framing {
            Framing::Messages => {
                let received = recv(&self.socket, &mut self.frame[..], RecvFlags::DONTWAIT);
                received
                    .ok()
                    .map(|(length, _)| length)
                    .filter(|length| *length > 0)
            }
            Framing::Lengths => loop {
                if let Some(length) = self.whole() {
                    return Some(length);
                }
                let mut piece = [0; 1 << 17];
                match recv(&self.socket, &mut piece[..], RecvFlags::DONTWAIT) {
                    Ok((length @ 1.., _)) => self.received.extend(&piece[..length]),
                    _ => return None,
                }
            },
        }
    }

    fn whole(&mut self) -> Option<usize> {
        let length: Vec<u8> = self.received.iter().take(4).copied().collect();
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        if self.received.len() < 4 + length {
            return None;
        }
        self.received.drain(..4);
        for (to, from) in self.frame.iter_mut().zip(self.received.drain(..length)) {
            *to = from;
        }
        Some(length)
    }

    /// Waits until there is something to do, at most for `limit`.
    fn wait(&self, limit: Duration) -> io::Result<()> {
        let mut flags = PollFlags::IN;
        if !self.kept.is_empty() {
            flags |= PollFlags::OUT;
        }
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.socket, flags)], Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Device for Card {
    type RxToken<'a> = In<'a>;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(In<'_>, Out<'_>)> {
        if !self.flush() {
            return None;
        }
        let length = self.take()?;
        let Self {
            socket,
            framing,
            frame,
            kept,
            ..
        } = self;
        let out = Out {
            socket,
            framing: *framing,
            kept,
        };
        Some((In(&frame[..length]), out))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Out<'_>> {
        self.flush().then_some(Out {
            socket: &self.socket,
            framing: self.framing,
            kept: &mut self.kept,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + 14;
        // The generator is not what is measured: it does not check what it gets.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// A frame that came.
#[derive(Debug)]
pub struct In<'a>(&'a [u8]);

impl RxToken for In<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a frame.
#[derive(Debug)]
pub struct Out<'a> {
    socket: &'a OwnedFd,
    framing: Framing,
    kept: &'a mut Vec<u8>,
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let lead = match self.framing {
            Framing::Messages => 0,
            Framing::Lengths => 4,
        };
        let mut frame = vec![0; lead + length];
        let result = f(&mut frame[lead..]);
        if lead > 0 {
            frame[..lead].copy_from_slice(&(length as u32).to_be_bytes());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(self.socket, &frame, flags) {
            Ok(sent) => self.kept.extend(&frame[sent..]),
            Err(_) => self.kept.extend(&frame),
        }
        result
    }
}

/// A guest with TCP.
pub struct Guest {
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    begun: Instant,
    port: u16,
}

impl Guest {
    /// A guest behind a card.
    ///
    /// # Errors
    /// The addresses do not fit.
    pub fn new(socket: OwnedFd, framing: Framing) -> Result<Self> {
        let mut card = Card::new(socket, framing);
        let config = Config::new(EthernetAddress(MAC).into());
        let now = smoltcp::time::Instant::ZERO;
        let mut interface = Interface::new(config, &mut card, now);
        let mut room = true;
        interface.update_ip_addrs(|list| {
            let address = IpCidr::new(IpAddress::Ipv4(ADDRESS), 24);
            room = list.push(address).is_ok();
        });
        ensure!(room, "no room for an address");
        interface.routes_mut().add_default_ipv4_route(GATEWAY)?;
        Ok(Self {
            card,
            interface,
            sockets: SocketSet::new(Vec::new()),
            begun: Instant::now(),
            port: 20_000,
        })
    }

    /// Begins a connection, with buffers of a size.
    ///
    /// # Errors
    /// No port.
    pub fn connect(&mut self, to: SocketAddr, buffer: usize) -> Result<SocketHandle> {
        let buffers = [(); 2].map(|()| SocketBuffer::new(vec![0; buffer]));
        let [incoming, outgoing] = buffers;
        let mut socket = Socket::new(incoming, outgoing);
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        self.port = if self.port >= 60_000 {
            20_000
        } else {
            self.port + 1
        };
        socket.connect(self.interface.context(), (to.ip(), to.port()), self.port)?;
        Ok(self.sockets.add(socket))
    }

    /// A socket.
    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Forgets a socket.
    pub fn remove(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
    }

    /// Runs until `done`.
    ///
    /// # Errors
    /// It takes longer than a minute.
    pub fn until(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let micros = i64::try_from(self.begun.elapsed().as_micros())?;
            let now = smoltcp::time::Instant::from_micros(micros);
            let changed = self.interface.poll(now, &mut self.card, &mut self.sockets);
            if done(self)? {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{what}: nothing after a minute");
            if changed == smoltcp::iface::PollResult::None {
                let delay = self.interface.poll_delay(now, &self.sockets);
                let delay = delay.map_or(Duration::from_millis(50), Duration::from);
                let delay = delay.min(Duration::from_millis(50));
                self.card.wait(delay).context("waiting for frames")?;
            }
        }
    }
}
