//! Serves one request on one connection. See the crate's documentation for the protocol.

mod cgroup;
mod connection;
mod exec;
mod files;
mod forward;
#[cfg(test)]
mod fuzz;
mod pump;
mod service;
mod tree;
mod users;

use std::os::fd::OwnedFd;

pub use cgroup::Cgroup;
pub use connection::{Connection, ConnectionError};
pub use exec::{ExecError, run_once, start_service};
pub use files::{FileError, Root};
pub use forward::Forward;
pub use service::{ServiceError, serve_unix};
pub use tree::{TreeError, pack, unpack};
pub(crate) use users::group_id;

use crate::wire::{AgentState, Answer, Request};

/// What requests act on.
#[derive(Debug)]
pub struct Context {
    /// The file system that file requests see.
    pub root: Root,
    /// Where processes are put; `None` only outside a sandbox.
    pub steps: Option<Cgroup>,
    /// Whose connections are carried to the worker; `None` carries none.
    pub forward: Option<Forward>,
}

/// Answers one request of a sandbox that has its identity.
///
/// # Errors
/// The connection failed; what the request itself failed at went to the worker.
pub fn serve(
    connection: &mut Connection,
    request: Request,
    context: &Context,
) -> Result<(), ConnectionError> {
    let answer = match request {
        Request::Ping => Ok(Answer::Pong {
            state: AgentState::Ready,
        }),
        Request::Identity(_) => Err("taking an identity: this sandbox has one already".to_owned()),
        Request::Shutdown => Err("shutting down: there is no machine to shut down".to_owned()),
        Request::Exec(spec) => return exec::serve(connection, &spec, context),
        Request::WriteFile { path, mode, owner } => {
            let mut content = connection.data();
            let result = context
                .root
                .write(&path, mode, owner.as_deref(), &mut content);
            content.finish(result.map_err(|error| error.to_string()))
        }
        Request::ReadFile { path, limit } => return read(connection, &path, limit, context),
        Request::CopyIn { directory, owner } => {
            let mut tar = connection.data();
            let result = unpack(&context.root, &directory, owner.as_deref(), &mut tar);
            tar.finish(result.map_err(|error| error.to_string()))
        }
        Request::CopyOut { path } => return copy_out(connection, &path, context),
        Request::Remove { path } => {
            let result = context.root.remove(&path);
            result.map(|()| Answer::Done).map_err(|e| e.to_string())
        }
        Request::Accept => match &context.forward {
            Some(forward) => return forward::serve(connection, forward),
            None => Err("waiting for a connection: nothing listens here".to_owned()),
        },
    };
    connection.answer(&answer.unwrap_or_else(|why| Answer::Refused { why }))
}

fn read(
    connection: &mut Connection,
    path: &str,
    limit: u64,
    context: &Context,
) -> Result<(), ConnectionError> {
    let file = match context.root.open_to_read(path, limit) {
        Ok(Some(file)) => file,
        Ok(None) => return connection.answer(&Answer::Missing),
        Err(FileError::TooLarge { .. }) => return connection.answer(&Answer::TooLarge),
        Err(error) => return connection.refuse(&error),
    };
    connection.answer(&Answer::Content)?;
    let mut sink = connection.sink();
    match files::copy_limited(&file, &mut sink, path, limit) {
        Ok(()) => sink.end(),
        Err(FileError::TooLarge { .. }) => connection.answer(&Answer::TooLarge),
        Err(error) => connection.refuse(&error),
    }
}

fn copy_out(
    connection: &mut Connection,
    path: &str,
    context: &Context,
) -> Result<(), ConnectionError> {
    let source = match tree::Source::open(&context.root, path) {
        Ok(source) => source,
        Err(error) => return connection.refuse(&error),
    };
    connection.answer(&Answer::Content)?;
    let mut sink = connection.sink();
    match pack(source, &mut sink) {
        Ok(()) => sink.end(),
        Err(error) => connection.refuse(&error),
    }
}

/// Serves one connection without a machine around it, from hello to close.
///
/// # Errors
/// The connection failed.
fn serve_connection(stream: OwnedFd, context: &Context) -> Result<(), ConnectionError> {
    let mut connection = Connection::open(stream)?;
    let request = connection.request_or_refuse()?;
    serve(&mut connection, request, context)?;
    connection.close();
    Ok(())
}
