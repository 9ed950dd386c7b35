//! Answers the guest's questions over UDP and TCP.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::bounds::Bounds;
use super::names::Names;
use super::question::{Question, Unanswered};
use super::reply::{self, OTHER, PROHIBITED, UNREACHABLE};
use super::upstream::{Said, Upstream};
use crate::egress::guard;
use crate::egress::stack::{GuestDatagrams, GuestStream, Incoming, Pending};

/// Questions that are answered at once; more wait.
const AT_ONCE: usize = 64;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// Whether a name, in lower case and without its last dot, may be asked for; if not, why.
pub type MayResolve = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The name server of one sandbox.
pub struct Gateway {
    upstream: Upstream,
    names: Arc<Names>,
    may: MayResolve,
    bounds: Bounds,
    at_once: Semaphore,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

impl Gateway {
    /// A server that asks `upstream` for what it may, and remembers the answers in `names`.
    #[must_use]
    pub fn new(upstream: Upstream, names: Arc<Names>, may: MayResolve) -> Self {
        Self {
            upstream,
            names,
            may,
            bounds: Bounds::default(),
            at_once: Semaphore::new(AT_ONCE),
        }
    }

    /// Answers a flow to the gateway's port 53 until it ends.
    ///
    /// # Errors
    /// The flow broke.
    pub async fn serve(self: Arc<Self>, incoming: Incoming) -> io::Result<()> {
        match incoming.pending {
            Pending::Stream(pending) => {
                let stream = pending.accept().await?;
                self.serve_stream(stream).await
            }
            Pending::Datagrams(pending) => {
                let guest = pending.accept()?;
                self.serve_datagrams(guest).await;
                Ok(())
            }
        }
    }

    async fn serve_datagrams(self: Arc<Self>, mut guest: GuestDatagrams) {
        let answers = guest.sender();
        let mut tasks = tokio::task::JoinSet::new();
        while let Some(bytes) = guest.recv().await {
            while tasks.try_join_next().is_some() {}
            if tasks.len() >= AT_ONCE {
                tasks.join_next().await;
            }
            let (this, answers) = (Arc::clone(&self), answers.clone());
            tasks.spawn(async move {
                if let Some((question, answer)) = this.answer(&bytes).await
                    && let Some(bytes) = reply::datagram(&question, &answer)
                {
                    // One that is too large for the link is lost; there is none.
                    let _ = answers.send(&bytes);
                }
            });
        }
    }

    async fn serve_stream(&self, mut stream: GuestStream) -> io::Result<()> {
        loop {
            let read = async {
                let mut length = [0; 2];
                stream.read_exact(&mut length).await?;
                let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut bytes).await?;
                Ok::<_, io::Error>(bytes)
            };
            let bytes = match timeout(SILENCE, read).await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                    return Err(error);
                }
                Ok(Err(_)) | Err(_) => return stream.shutdown().await,
            };
            let answer = self.answer(&bytes).await;
            let answer = answer.and_then(|(_, reply)| reply.to_vec().ok());
            let Some(answer) = answer else {
                return stream.shutdown().await;
            };
            let Ok(length) = u16::try_from(answer.len()) else {
                return stream.shutdown().await;
            };
            stream.write_all(&length.to_be_bytes()).await?;
            stream.write_all(&answer).await?;
        }
    }

    /// The question of a message and its answer; `None` when it is not to be answered.
    pub(super) async fn answer(&self, bytes: &[u8]) -> Option<(Message, Message)> {
        let question = match Question::read(bytes) {
            Ok(question) => question,
            Err(Unanswered::Silence) => return None,
            Err(Unanswered::Code(message, code, why)) => {
                let reply = reply::refusal(&message, code, OTHER, why);
                return Some((*message, reply));
            }
        };
        let reply = self.resolve(&question).await;
        Some((question.message, reply))
    }

    async fn resolve(&self, question: &Question) -> Message {
        let refuse = |why: &str| {
            let code = ResponseCode::Refused;
            reply::refusal(&question.message, code, PROHIBITED, why)
        };
        if let Some(reply) = own(question) {
            return reply;
        }
        let allowed = (self.may)(&question.text);
        if let Err(why) = allowed.and_then(|()| self.bounds.admit(&question.text)) {
            return refuse(&why);
        }
        let Ok(_turn) = self.at_once.acquire().await else {
            return refuse("the network is ending");
        };
        match self.upstream.ask(&question.name, question.kind).await {
            Said::Records(answers) => {
                for record in &answers {
                    let ttl = Duration::from_secs(record.ttl.into());
                    if let Some(address) = address(&record.data) {
                        self.names.remember(address, &question.text, ttl);
                    }
                }
                let code = ResponseCode::NoError;
                reply::records(&question.message, code, &answers, None)
            }
            Said::None(code, soa) => {
                reply::records(&question.message, code, [], soa.map(|soa| *soa))
            }
            Said::Failed(why) => {
                let code = ResponseCode::ServFail;
                reply::refusal(&question.message, code, UNREACHABLE, &why)
            }
        }
    }
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

/// Names of which no other server is asked: a host without a domain is one of the host's own network,
/// and so are hosts of private addresses.
fn own(question: &Question) -> Option<Message> {
    let message = &question.message;
    let none = || reply::records(message, ResponseCode::NXDomain, [], None);
    let host_side =
        reverse(question).is_some_and(|address| address.is_none_or(guard::is_host_side));
    let local = ["localhost", "local"].iter().any(|top| {
        let rest = question.text.strip_suffix(top);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    (!question.text.contains('.') || local || host_side).then(none)
}

/// For a question whose address something is: that address, if the question is whole.
fn reverse(question: &Question) -> Option<Option<IpAddr>> {
    let arpa = [".in-addr.arpa", ".ip6.arpa"]
        .iter()
        .any(|end| question.text.ends_with(end));
    (arpa && question.kind == RecordType::PTR).then(|| {
        let name: &Name = &question.name;
        let network = name.parse_arpa_name().ok()?;
        (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
    })
}
