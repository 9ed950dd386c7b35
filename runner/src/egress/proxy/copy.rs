//! Copies between a stream of the guest and a socket of the host, counting as it goes.

use std::{io, sync::atomic::AtomicU64, sync::atomic::Ordering};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::TcpStream,
};

use super::ask::Counts;

/// Bytes that are on their way in one direction.
const BUFFER: usize = 64 << 10;

/// Copies both ways until both ends ended; an end of one direction is passed on alone.
///
/// # Errors
/// The first end that broke. The other must then be told by a reset.
pub(super) async fn both<G>(guest: &mut G, host: &mut TcpStream, counts: &Counts) -> io::Result<()>
where
    G: AsyncRead + AsyncWrite + Unpin,
{
    let (from_guest, to_guest) = split(guest);
    let (from_host, to_host) = host.split();
    tokio::try_join!(
        one(from_guest, to_host, &counts.sent),
        one(from_host, to_guest, &counts.received),
    )?;
    Ok(())
}

async fn one(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
}
