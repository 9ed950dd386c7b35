//! What follows a change of protocol: bytes both ways, searched on their way out and cleaned on their
//! way in.

use std::sync::Arc;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::{
    super::leak::Scanner,
    Session, Task,
    inflate::InflateError,
    websocket::{Frames, StreamError},
};

/// Bytes that are carried at once.
const PIECE: usize = 16 << 10;

type Reading = ReadHalf<TokioIo<Upgraded>>;
type Writing = WriteHalf<TokioIo<Upgraded>>;

/// How bytes to the server are searched.
enum Search {
    Raw(Scanner),
    Frames(Box<Frames>),
}

impl Search {
    fn push(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        match self {
            Self::Raw(scanner) => Ok(scanner.scan(bytes).map_err(InflateError::Leak)?),
            Self::Frames(frames) => frames.push(bytes),
        }
    }
}

/// Carries bytes when both sides have changed.
pub(super) fn start(
    session: Arc<Session>,
    guest: OnUpgrade,
    server: OnUpgrade,
    is_websocket: bool,
) -> Task {
    Task(tokio::spawn(async move {
        let stopped = session.stopped.clone();
        let work = async {
            let (guest, server) = tokio::try_join!(guest, server).ok()?;
            carry(&session, guest, server, is_websocket).await;
            Some(())
        };
        tokio::select! {
            _ = work => {}
            () = stopped.cancelled() => {}
        }
    }))
}

async fn carry(session: &Session, guest: Upgraded, server: Upgraded, is_websocket: bool) {
    let (from_guest, to_guest) = split(TokioIo::new(guest));
    let (from_server, to_server) = split(TokioIo::new(server));
    let search = if is_websocket && !session.bindings.watch().is_empty() {
        Search::Frames(Box::new(Frames::new(session.scanner(), session.scanner())))
    } else {
        Search::Raw(session.scanner())
    };
    // Each direction ends for itself; one that fails takes the other with it.
    let _ = tokio::try_join!(
        out(session, from_guest, to_server, search),
        back(session, from_server, to_guest)
    );
}

async fn out(
    session: &Session,
    mut from: Reading,
    mut to: Writing,
    mut search: Search,
) -> std::io::Result<()> {
    let mut bytes = vec![0; PIECE];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        if let Err(why) = search.push(&bytes[..count]) {
            match why {
                StreamError::Found(InflateError::Leak(leak)) => session.leaks(leak),
                other => session.stops(other.to_string()),
            }
            return Err(std::io::Error::other("stopped"));
        }
        to.write_all(&bytes[..count]).await?;
        to.flush().await?;
    }
}

async fn back(session: &Session, mut from: Reading, mut to: Writing) -> std::io::Result<()> {
    let mut guard = session.values.guard();
    let mut bytes = vec![0; PIECE];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            to.write_all(&guard.finish()).await?;
            return to.shutdown().await;
        }
        let shown = guard.push(&bytes[..count]);
        let shown = shown.map_err(|error| session.cut(&InflateError::Echo(error)));
        let shown = shown.map_err(std::io::Error::other)?;
        session.replaced(guard.take_replaced());
        to.write_all(&shown).await?;
        to.flush().await?;
    }
}
