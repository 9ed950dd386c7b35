//! What the service manager is told: `sd_notify(3)`, over the socket that it names.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// The variable with the socket's name.
const SOCKET: &str = "NOTIFY_SOCKET";

/// It serves. Until then systemd says "activating".
pub fn ready() {
    tell("READY=1\nSTATUS=serving");
}

/// It was told to end, and waits for what runs.
pub fn stopping(workers: usize) {
    tell(&format!(
        "STOPPING=1\nSTATUS=no new jobs, {workers} workers end"
    ));
}

/// Without a service manager nobody is told; one that does not listen is no reason to stop serving.
fn tell(words: &str) {
    let told = address().and_then(|address| match address {
        Some(address) => UnixDatagram::unbound()?
            .send_to_addr(words.as_bytes(), &address)
            .map(drop),
        None => Ok(()),
    });
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager cannot be told how it stands; is NotifyAccess set in the unit?");
    }
}

fn address() -> io::Result<Option<SocketAddr>> {
    let Some(name) = env::var_os(SOCKET).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).map(Some),
        _ => SocketAddr::from_pathname(&name).map(Some),
    }
}
