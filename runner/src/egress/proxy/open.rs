//! From a stream of the guest to a socket of the host, by what the stream says of itself.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::egress::{
    intercept::leak::Scanner,
    policy::{Needs, Verdict},
    record::Answer,
    sniff::{Beginning, sniff},
};

use super::{Egress, ask::Asked, dial};

/// TLS's "access denied", fatal.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// What became of a stream.
pub(super) enum Opened {
    /// The host's side, which has the stream's first bytes already.
    Host {
        /// Its socket.
        host: TcpStream,
        /// The search in what goes there, for what is no TLS.
        scanner: Option<Scanner>,
    },
    /// The host's side, which has nothing yet: the worker ends the stream's TLS.
    Within {
        /// Its socket.
        host: TcpStream,
        /// The stream's first bytes.
        first: Vec<u8>,
    },
    /// It does not pass; the guest was told, if there are words for it.
    Denied {
        /// Whether it was.
        told: bool,
    },
    /// It passes, but there is nobody.
    Unreachable(io::Error),
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
        asked.hear(&sniffed.beginning);
        let decision = &mut asked.decision;
        let looks_into = decision.needs == Needs::Requests;
        let can = matches!(sniffed.beginning, Beginning::Tls(_)) && self.interceptor().is_some();
        if decision.verdict.passes() && looks_into && !can {
            decision.verdict = Verdict::Deny;
            decision.why = "a rule looks into its TLS, which this sandbox cannot".into();
        }
        if !decision.verdict.passes() {
            let told = farewell(guest, &sniffed.beginning, &decision.why).await;
            return Ok(Opened::Denied { told });
        }
        let mut host = match self.dial(asked).await {
            Ok(host) => host,
            Err(error) => return Ok(Opened::Unreachable(error)),
        };
        if looks_into {
            let first = sniffed.bytes;
            return Ok(Opened::Within { host, first });
        }
        let mut scanner = match sniffed.beginning {
            Beginning::Tls(_) => None,
            _ => self.scanner(asked),
        };
        if let Some(scanner) = &mut scanner {
            scanner.scan(&sniffed.bytes).map_err(io::Error::other)?;
        }
        host.write_all(&sniffed.bytes).await?;
        asked.counts.add_sent(sniffed.bytes.len());
        Ok(Opened::Host { host, scanner })
    }

    /// Connects to where the flow goes, and nowhere else.
    pub(super) async fn dial(&self, asked: &Asked<'_>) -> io::Result<TcpStream> {
        let to = SocketAddr::new(asked.flow.address, asked.flow.port);
        dial::connect(to, self.inner.bounds.connect).await
    }
}

/// What the record says of a socket that could not be had.
pub(super) fn unreachable(error: &io::Error) -> Answer {
    Answer::Unreachable(dial::words(error))
}

/// Tells the guest in its own protocol, as far as there are words for it. It may be gone already.
async fn farewell(guest: &mut (impl AsyncWrite + Unpin), beginning: &Beginning, why: &str) -> bool {
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
        Beginning::Other | Beginning::Silent => return false,
    };
    let _ = guest.write_all(&words).await;
    let _ = guest.shutdown().await;
    true
}
