//! The sandbox's flows, one task each, from the question to the last byte.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::egress::{
    dns::Gateway,
    policy::Verdict,
    record::Answer,
    stack::{
        Addresses, Incoming, IncomingReceiver, Pending, PendingDatagrams, PendingStream, Refusal,
        refusal, relay_datagrams, relay_searched,
    },
};

use super::{
    Egress,
    ask::Asked,
    dial,
    open::{Opened, unreachable},
    within::broken,
};

/// The port of the gateway's name server.
const DNS: u16 = 53;
/// How long connections may take to end after their machine is gone.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Egress {
    /// Takes flows until the machine is gone. Those to the gateway's name server go to `gateway`; nothing
    /// else is at its address.
    pub async fn serve(
        self,
        mut incoming: IncomingReceiver,
        addresses: Addresses,
        gateway: Arc<Gateway>,
    ) {
        let mut flows = JoinSet::new();
        loop {
            tokio::select! {
                next = incoming.recv() => match next {
                    Some(next) if addresses.is_gateway(next.flow.address) && next.flow.port == DNS => {
                        let gateway = Arc::clone(&gateway);
                        // How it ended, the guest knows.
                        flows.spawn(async move { drop(gateway.serve(next).await) });
                    }
                    Some(next) => {
                        let egress = self.clone();
                        let on_link = addresses.is_on_link(next.flow.address);
                        flows.spawn(async move { egress.one(next, on_link).await });
                    }
                    None => break,
                },
                // One that panicked ends alone.
                Some(_) = flows.join_next(), if !flows.is_empty() => {}
            }
        }
        let rest = async { while flows.join_next().await.is_some() {} };
        // What is over time is dropped with the set.
        let _ = tokio::time::timeout(LAST_WORDS, rest).await;
    }

    async fn one(&self, incoming: Incoming, on_link: bool) {
        let Incoming { flow, pending } = incoming;
        let mut asked = self.ask(flow);
        if on_link {
            asked.decision.verdict = Verdict::Deny;
            asked.decision.rule = None;
            asked.decision.why =
                "nothing but the gateway's DNS is on the sandbox's own link".into();
        }
        if !asked.decision.verdict.passes() {
            pending.refuse(Refusal::Unreachable);
            return asked.end(None);
        }
        let Ok(_socket) = self.inner.sockets.try_acquire() else {
            pending.refuse(Refusal::Unreachable);
            let bound = self.inner.bounds.sockets;
            let words = format!("the sandbox has {bound} connections already");
            return asked.end(Some(Answer::Unreachable(words)));
        };
        let closed = asked.entered.closed.clone();
        let answer = tokio::select! {
            biased;
            // The streams are dropped with the other branch, which resets them.
            () = closed.cancelled() => Some(Answer::StepEnded),
            answer = self.carry(&mut asked, pending) => answer,
        };
        asked.end(answer);
    }

    async fn carry(&self, asked: &mut Asked<'_>, pending: Pending) -> Option<Answer> {
        let to = SocketAddr::new(asked.flow.address, asked.flow.port);
        if let Err(error) = dial::has_route(to).await {
            pending.refuse(Refusal::Unreachable);
            return Some(unreachable(&error));
        }
        match pending {
            Pending::Stream(pending) if asked.wants_beginning() => self.heard(asked, pending).await,
            Pending::Stream(pending) => self.unheard(asked, pending).await,
            Pending::Datagrams(pending) => datagrams(asked, to, pending).await,
        }
    }

    /// A stream that says first what it is.
    async fn heard(&self, asked: &mut Asked<'_>, pending: PendingStream) -> Option<Answer> {
        let mut guest = match pending.accept().await {
            Ok(guest) => guest,
            Err(error) => return Some(Answer::Broken(error.to_string())),
        };
        match self.open(asked, &mut guest).await {
            Ok(Opened::Host { host, scanner }) => {
                let counts = Arc::clone(&asked.counts);
                let relayed = relay_searched(guest, host, &counts, scanner).await;
                broken(self, asked, relayed)
            }
            Ok(Opened::Within { host, first }) => self.within(asked, guest, host, first).await,
            Ok(Opened::Denied { told }) => {
                if !told {
                    guest.reset();
                }
                None
            }
            Ok(Opened::Unreachable(error)) => {
                guest.reset();
                Some(unreachable(&error))
            }
            Err(error) => {
                guest.reset();
                broken(self, asked, Err(error))
            }
        }
    }

    /// A stream of which nothing need be known: the guest hears what the host says to its first segment.
    async fn unheard(&self, asked: &mut Asked<'_>, pending: PendingStream) -> Option<Answer> {
        let host = match self.dial(asked).await {
            Ok(host) => host,
            Err(error) => {
                pending.refuse(refusal(&error));
                return Some(unreachable(&error));
            }
        };
        match pending.accept().await {
            Ok(guest) => {
                let scanner = self.scanner(asked);
                let counts = Arc::clone(&asked.counts);
                let relayed = relay_searched(guest, host, &counts, scanner).await;
                broken(self, asked, relayed)
            }
            Err(error) => Some(Answer::Broken(error.to_string())),
        }
    }
}

async fn datagrams(asked: &Asked<'_>, to: SocketAddr, pending: PendingDatagrams) -> Option<Answer> {
    let host = match dial::datagrams(to).await {
        Ok(host) => host,
        Err(error) => {
            pending.refuse(refusal(&error));
            return Some(unreachable(&error));
        }
    };
    match pending.accept() {
        Ok(mut guest) => {
            relay_datagrams(&mut guest, &host, &asked.counts).await;
            None
        }
        Err(error) => Some(Answer::Broken(error.to_string())),
    }
}
