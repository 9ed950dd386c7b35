//! From a stream of the guest to a socket of the host, by what the stream says of itself.

use std::{io, net::SocketAddr, sync::atomic::Ordering};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::egress::{
    policy::{Decision, Needs, Verdict},
    record::Answer,
    sniff::{Beginning, sniff},
};

use super::{Egress, ask::Asked, dial};

/// TLS's "access denied", fatal.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// What became of a stream.
pub(super) enum Opened {
    /// The host's side, which has the stream's first bytes already.
    Host(TcpStream, Decision),
    /// TLS that the worker is to end: the host's side, which has nothing yet, and the hello.
    Tls(TcpStream, Vec<u8>, Decision),
    /// Requests without TLS, each to be judged: the host's side, which has nothing yet, and the first.
    Requests(TcpStream, Vec<u8>, Decision),
    /// It does not pass; the guest was told.
    Denied(Decision),
    /// It passes, but there is nobody.
    Unreachable(io::Error, Decision),
}

impl Egress {
    /// Hears what a stream says, judges it, and connects.
    ///
    /// # Errors
    /// The stream's own.
    pub(super) async fn open<G>(&self, asked: &mut Asked<'_>, guest: &mut G) -> io::Result<Opened>
    where
        G: AsyncRead + AsyncWrite + Unpin,
    {
        let bounds = &self.inner.bounds;
        let patience = if asked.passes_anyhow() {
            bounds.patience
        } else {
            bounds.hello
        };
        let sniffed = sniff(guest, patience).await?;
        let mut decision = asked.hear(&sniffed.beginning);
        if decision.verdict.passes() && decision.needs == Needs::Requests && !self.looks_within() {
            decision.verdict = Verdict::Deny;
            decision.why = "a rule looks into its TLS, which this sandbox cannot".into();
        }
        if !decision.verdict.passes() {
            farewell(guest, &sniffed.beginning, &decision.why).await;
            return Ok(Opened::Denied(decision));
        }
        let mut host = match self.dial(asked).await {
            Ok(host) => host,
            Err(error) => return Ok(Opened::Unreachable(error, decision)),
        };
        if decision.needs == Needs::Requests {
            return Ok(Opened::Tls(host, sniffed.bytes, decision));
        }
        if matches!(sniffed.beginning, Beginning::Http(_)) && self.looks_within() {
            return Ok(Opened::Requests(host, sniffed.bytes, decision));
        }
        host.write_all(&sniffed.bytes).await?;
        let count = sniffed.bytes.len() as u64;
        asked.counts.sent.fetch_add(count, Ordering::Relaxed);
        Ok(Opened::Host(host, decision))
    }

    /// Connects to where the flow goes, and nowhere else.
    pub(super) async fn dial(&self, asked: &Asked<'_>) -> io::Result<TcpStream> {
        let to = SocketAddr::new(asked.flow.address, asked.flow.port);
        dial::connect(to, self.inner.bounds.connect).await
    }

    /// Whether requests can be judged one by one.
    fn looks_within(&self) -> bool {
        false
    }
}

/// What the record says of a socket that could not be had.
pub(super) fn unreachable(error: &io::Error) -> Answer {
    Answer::Unreachable(dial::words(error))
}

/// Tells the guest in its own protocol, as far as there are words for it. It may be gone already.
async fn farewell(guest: &mut (impl AsyncWrite + Unpin), beginning: &Beginning, why: &str) {
    let words = match beginning {
        Beginning::Tls(_) => ALERT.to_vec(),
        Beginning::Http(_) => {
            let body = format!("Mayfly's egress policy: {why}\n");
            let length = body.len();
            format!(
                "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
            .into_bytes()
        }
        Beginning::Other | Beginning::Silent => return,
    };
    let _ = guest.write_all(&words).await;
    let _ = guest.shutdown().await;
}
