//! Sockets of the host.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// Whether the host has a way there at all. Nothing is sent: a guest whose host has no IPv6 shall hear so
/// at once and go on with IPv4.
pub(super) async fn has_route(to: SocketAddr) -> io::Result<()> {
    datagrams(to).await.map(|_| ())
}

/// A UDP socket that talks with `to` only.
pub(super) async fn datagrams(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Connects to `to`.
pub(super) async fn connect(to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    match timeout(limit, TcpStream::connect(to)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} seconds", limit.as_secs()),
        )),
    }
}

/// An error of a socket in words that say whose fault it is.
pub(super) fn words(error: &io::Error) -> String {
    match error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error)
    {
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
            "the worker has no file descriptor left; raise its limit (ulimit -n)".into()
        }
        _ => error.to_string(),
    }
}
