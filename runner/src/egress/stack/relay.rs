//! Copies between a flow of the guest and a socket of the host, with each end's end passed on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::sockopt::{set_socket_keepalive, set_socket_linger, set_tcp_nodelay};
use rustix::net::{Shutdown, shutdown};
use tokio::net::{TcpStream, UdpSocket};

use super::datagrams::GuestDatagrams;
use super::incoming::{Incoming, Pending, Refusal};
use super::stream::GuestStream;
use crate::egress::intercept::leak::Scanner;

/// How long a host may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(20);

/// Bytes that went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    /// From the guest.
    pub sent: u64,
    /// To the guest.
    pub received: u64,
}

/// Bytes that went through so far; may be read while it goes on.
#[derive(Debug, Default)]
pub struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counts {
    /// Adds bytes from the guest.
    pub fn add_sent(&self, count: usize) {
        self.sent.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Adds bytes to the guest.
    pub fn add_received(&self, count: usize) {
        self.received.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// What went through so far.
    #[must_use]
    pub fn relayed(&self) -> Relayed {
        Relayed {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

/// Copies both ways until both directions are over. An end of one direction is passed on alone; a
/// connection that breaks at one end is reset at the other.
///
/// # Errors
/// The end that broke; both are closed then.
pub async fn relay(guest: GuestStream, host: TcpStream, counts: &Counts) -> io::Result<()> {
    relay_searched(guest, host, counts, None).await
}

/// The same, and what goes to the host is searched for secrets before it leaves.
///
/// # Errors
/// Also the [`Leak`](crate::egress::intercept::leak::Leak) that was found, as the error's inner one.
pub async fn relay_searched(
    guest: GuestStream,
    host: TcpStream,
    counts: &Counts,
    scanner: Option<Scanner>,
) -> io::Result<()> {
    // Without these it still works.
    let _ = set_socket_keepalive(&host, true);
    let _ = set_tcp_nodelay(&host, true);
    let result = tokio::try_join!(
        to_host(&guest, &host, counts, scanner),
        to_guest(&guest, &host, counts),
    );
    if result.is_err() {
        guest.reset();
        reset(&host);
    }
    result.map(|_| ())
}

/// Has the host's peer see a reset when the socket is closed: zero seconds of lingering.
fn reset(host: &TcpStream) {
    let _ = set_socket_linger(host, Some(Duration::ZERO));
}

async fn to_host(
    guest: &GuestStream,
    host: &TcpStream,
    counts: &Counts,
    mut scanner: Option<Scanner>,
) -> io::Result<()> {
    // Bytes at the beginning of what is still to be sent that were searched already.
    let mut searched = 0;
    loop {
        let send = |bytes: &mut [u8]| {
            if let Some(scanner) = &mut scanner
                && let Some(fresh) = bytes.get(searched..)
            {
                scanner.scan(fresh).map_err(io::Error::other)?;
                searched = bytes.len();
            }
            host.try_write(bytes)
        };
        match guest.take_with(send).await {
            Ok(0) => return Ok(shutdown(host, Shutdown::Write)?),
            Ok(sent) => {
                counts.add_sent(sent);
                searched = searched.saturating_sub(sent);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => host.writable().await?,
            Err(error) => return Err(error),
        }
    }
}

async fn to_guest(guest: &GuestStream, host: &TcpStream, counts: &Counts) -> io::Result<()> {
    loop {
        match guest.fill_with(|room| host.try_read(room)).await {
            Ok(0) => {
                guest.finish();
                return Ok(());
            }
            Ok(received) => counts.add_received(received),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => host.readable().await?,
            Err(error) => return Err(error),
        }
    }
}

/// Gives the guest what it asks for, without any policy: connects to `to`, or where the flow says.
///
/// # Errors
/// The host that cannot be reached (the guest was refused), or what ended the flow.
pub async fn forward(incoming: Incoming, to: Option<SocketAddr>) -> io::Result<Relayed> {
    let Incoming { flow, pending } = incoming;
    let to = to.unwrap_or(SocketAddr::new(flow.address, flow.port));
    match pending {
        Pending::Stream(pending) => {
            let connected = tokio::time::timeout(CONNECT, TcpStream::connect(to)).await;
            let host = match connected.unwrap_or_else(|late| Err(late.into())) {
                Ok(host) => host,
                Err(error) => {
                    pending.refuse(refusal(&error));
                    return Err(error);
                }
            };
            let guest = match pending.accept().await {
                Ok(guest) => guest,
                Err(error) => {
                    reset(&host);
                    return Err(error.into());
                }
            };
            let counts = Counts::default();
            relay(guest, host, &counts).await?;
            Ok(counts.relayed())
        }
        Pending::Datagrams(pending) => {
            let host = datagram_socket(to).await?;
            let mut guest = pending.accept()?;
            let counts = Counts::default();
            relay_datagrams(&mut guest, &host, &counts).await;
            Ok(counts.relayed())
        }
    }
}

/// How the guest is told that a host cannot be reached.
#[must_use]
pub fn refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Refusal::Reset,
        _ => Refusal::Unreachable,
    }
}

async fn datagram_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Copies datagrams both ways until the guest's flow is over.
pub async fn relay_datagrams(guest: &mut GuestDatagrams, host: &UdpSocket, counts: &Counts) {
    let mut buffer = vec![0; 65_535];
    loop {
        tokio::select! {
            content = guest.recv() => {
                let Some(content) = content else {
                    return;
                };
                counts.add_sent(content.len());
                // A host that answers "port unreachable" to one may take the next.
                let _ = host.send(&content).await;
            }
            received = host.recv(&mut buffer) => if let Ok(length) = received {
                counts.add_received(length);
                // One that is too large for the link is lost.
                let _ = guest.send(&buffer[..length]);
            }
        }
    }
}
