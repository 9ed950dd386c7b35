//! The agent's requests on a host's Unix socket: exec and copy without a machine, for tests and for
//! trying out the protocol.

use std::{
    convert::Infallible,
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use thiserror::Error;

use super::{Context, FileError, Forward, Root, serve_connection};
use crate::AGENT_PORT;

/// Why the service ended.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The socket cannot be listened on.
    #[error("listening on {0}: {1}")]
    Listen(PathBuf, io::Error),
    /// The root cannot be opened.
    #[error(transparent)]
    Root(#[from] FileError),
}

/// Serves connections at the Unix socket `path` for ever, one thread each. They begin as a VMM's
/// vsock socket does: `CONNECT <port>\n` is answered with `OK <port>\n`. Connections to `forward`
/// are carried to who asks for them.
///
/// # Errors
/// The socket or the root cannot be opened, or accepting fails.
pub fn serve_unix(
    path: &Path,
    root: &Path,
    forward: Option<Forward>,
) -> Result<Infallible, ServiceError> {
    let context = Context {
        root: Root::open(root)?,
        steps: None,
        forward,
    };
    let context = Arc::new(context);
    let failed = |error| ServiceError::Listen(path.to_owned(), error);
    let listener = UnixListener::bind(path).map_err(failed)?;
    loop {
        let (stream, _) = listener.accept().map_err(failed)?;
        let context = Arc::clone(&context);
        thread::spawn(move || {
            if let Err(error) = preface(&stream) {
                eprintln!("mayfly-guest: {error}");
            } else if let Err(error) = serve_connection(stream.into(), &context) {
                eprintln!("mayfly-guest: {error}");
            }
        });
    }
}

fn preface(mut stream: &UnixStream) -> io::Result<()> {
    let expected = format!("CONNECT {AGENT_PORT}\n");
    let mut line = vec![0; expected.len()];
    stream.read_exact(&mut line)?;
    if line != expected.as_bytes() {
        return Err(io::Error::other(
            "the peer did not ask for the agent's port",
        ));
    }
    stream.write_all(format!("OK {AGENT_PORT}\n").as_bytes())
}
