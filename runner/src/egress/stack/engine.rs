//! Takes the guest's frames in and sorts them: to connections, to questions for new ones, or to the
//! gateway's own answers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::address::Addresses;
use super::connection::Connection;
use super::datagrams::Feed;
use super::fragments::Fragments;
use super::incoming::{
    Incoming, IncomingReceiver, Pending, PendingDatagrams, PendingStream, Refusal,
};
use super::limits::{Counters, Limits, Statistics};
use super::link::{Link, Received};
use super::packet::{self, ACK, Frame, ICMP, ICMP_V6, Packet, RST, SYN, TCP, UDP};
use super::shared::Shared;
use super::table::{Entry, Full, Key};
use super::{craft, neighbours};
use crate::egress::dns::Names;
use crate::egress::{Flow, Transport};

/// Frames that are taken in before connections answer.
const BATCH: usize = 64;
/// Questions that wait for who accepts them; the guest asks again for more.
const QUESTIONS: usize = 1024;
/// The first packet of a connection is kept until the verdict, so it must be small: it has no data.
const LARGEST_QUESTION: usize = 256;
/// How often flows are looked through for those that carry nothing any more.
const SWEEP: Duration = Duration::from_secs(5);
/// Largest frame: a packet as large as can be, its header, and a byte that tells a larger one.
const LARGEST_FRAME: usize = 65_535 + packet::ETHERNET + 1;

/// What a stack is made of.
#[derive(Debug)]
pub struct StackConfig {
    /// Who is who on the link.
    pub addresses: Addresses,
    /// What the sandbox may have.
    pub limits: Limits,
    /// Names that the gateway answered with, for [`Flow::names`].
    pub names: Arc<Names>,
}

/// A running stack. Dropped, it ends all connections and hangs up.
#[derive(Debug)]
pub struct Stack {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Stack {
    /// Starts a stack behind the message socket whose other end is the network card's, as a task of the
    /// current runtime. The flows end when the card is gone.
    ///
    /// # Errors
    /// The socket cannot be watched, or the kernel gives no random bytes.
    pub fn start(socket: OwnedFd, config: StackConfig) -> io::Result<(Self, IncomingReceiver)> {
        let mut seed = [0; 8];
        getrandom(&mut seed, GetRandomFlags::empty())?;
        let shared = Arc::new(Shared::new(
            Link::new(socket)?,
            config.addresses,
            config.limits,
            u64::from_ne_bytes(seed),
        ));
        let (questions, receiver) = mpsc::channel(QUESTIONS);
        let engine = Engine {
            shared: Arc::clone(&shared),
            names: config.names,
            questions,
            fragments: Fragments::default(),
            touched: Vec::new(),
            next_id: 0,
            budget: Budget::new(config.limits.new_flows_per_second),
        };
        let task = tokio::spawn(engine.run()).abort_handle();
        Ok((Self { shared, task }, receiver))
    }

    /// What was counted so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.end();
    }
}

/// Ends what hangs on a stack also when its task is dropped with its runtime.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The task.
struct Engine {
    shared: Arc<Shared>,
    names: Arc<Names>,
    questions: mpsc::Sender<Incoming>,
    fragments: Fragments,
    /// Connections that took packets and did not answer yet.
    touched: Vec<Arc<Connection>>,
    next_id: u64,
    budget: Budget,
}

impl Engine {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _ending = Ending(Arc::clone(&shared));
        let mut buffer = vec![0; LARGEST_FRAME];
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let first = shared.timers.first();
            let timer = async {
                match first {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let alive = tokio::select! {
                last = shared.link.readable(|| self.take(&mut buffer)) => {
                    !matches!(last, Ok(Received::Gone) | Err(_))
                }
                waiting = shared.link.has_room() => match waiting {
                    Ok(waiting) => {
                        for connection in waiting.iter().filter_map(std::sync::Weak::upgrade) {
                            connection.service();
                        }
                        true
                    }
                    Err(_) => false,
                },
                () = timer => {
                    self.fire();
                    true
                }
                () = shared.timers.earlier.notified() => true,
                _ = sweep.tick() => {
                    self.sweep();
                    true
                }
            };
            if !alive {
                return;
            }
        }
    }

    fn fire(&self) {
        let now = Instant::now();
        while let Some(connection) = self.shared.timers.due(now) {
            if let Some(connection) = connection.upgrade() {
                connection.timer();
            }
        }
    }

    fn sweep(&self) {
        let now = Instant::now();
        let idle = self.shared.limits.datagram_idle;
        let stale = |feed: &Feed| now.duration_since(feed.active()) > idle;
        self.shared.table.sweep(stale);
    }

    /// Takes frames in, as many as there are or as one turn allows.
    fn take(&mut self, buffer: &mut [u8]) -> Received {
        let mut last = Received::Nothing;
        for _ in 0..BATCH {
            last = self.shared.link.receive(buffer);
            let Received::Frame(length) = last else {
                break;
            };
            let counters = &self.shared.counters;
            Counters::one(&counters.frames_in);
            let bytes = &counters.bytes_in;
            bytes.fetch_add(length as u64, std::sync::atomic::Ordering::Relaxed);
            let whole = buffer
                .get(..length)
                .filter(|_| length < LARGEST_FRAME)
                .and_then(packet::frame);
            match whole {
                Some(frame) => self.frame(frame),
                None => Counters::one(&counters.malformed),
            }
        }
        for connection in self.touched.drain(..) {
            connection.service();
        }
        last
    }

    fn frame(&mut self, frame: Frame<'_>) {
        match frame {
            Frame::Arp(message) => {
                if let Some(answer) = neighbours::arp(&self.shared.addresses, message) {
                    self.shared.send_or_lose(&answer);
                }
            }
            Frame::Ip(packet) => match packet.piece {
                None => self.packet(&packet),
                Some(piece) => {
                    let whole = self.fragments.add(&packet, piece, Instant::now());
                    if let Some(packet) = whole.as_deref().and_then(packet::ip) {
                        self.packet(&packet);
                    }
                }
            },
            Frame::Other => {}
        }
    }

    fn packet(&mut self, packet: &Packet<'_>) {
        let addresses = &self.shared.addresses;
        if packet.protocol == ICMP_V6
            && packet.source.is_ipv6()
            && let Some(answer) = neighbours::solicitation(addresses, packet)
        {
            self.shared.send_or_lose(&answer);
            return;
        }
        if !addresses.is_guest(packet.source) {
            // An address of the link itself is no forgery: multicast routers are looked for from it.
            if !is_link_local(packet.source) {
                Counters::one(&self.shared.counters.spoofed);
            }
            return;
        }
        if !is_unicast(packet.destination) || addresses.is_guest(packet.destination) {
            return;
        }
        match packet.protocol {
            TCP => self.segment(packet),
            UDP => self.datagram(packet),
            ICMP | ICMP_V6 => self.icmp(packet),
            _ => {
                Counters::one(&self.shared.counters.other_protocols);
                craft::refuse(&self.shared, packet.bytes, Refusal::Unreachable);
            }
        }
    }

    /// Echo requests are the gateway's to answer; what they would tell of other hosts is not asked for.
    fn icmp(&self, packet: &Packet<'_>) {
        let asks = matches!(
            (packet.protocol, packet.payload.first()),
            (ICMP, Some(8)) | (ICMP_V6, Some(128))
        );
        if !asks {
            return;
        }
        if !self.shared.addresses.is_gateway(packet.destination) {
            craft::refuse(&self.shared, packet.bytes, Refusal::Unreachable);
        } else if let Some(answer) = craft::echo(&self.shared.addresses, packet) {
            self.shared.send_or_lose(&answer);
        }
    }

    fn segment(&mut self, packet: &Packet<'_>) {
        let Some((from, to, flags)) = packet::tcp(packet.payload) else {
            Counters::one(&self.shared.counters.malformed);
            return;
        };
        let key = key(Transport::Tcp, packet, from, to);
        match self.shared.table.find(&key) {
            Some(Entry::Open(connection)) => {
                if connection.input(packet.bytes) {
                    self.touched.push(connection);
                }
            }
            Some(_) if flags & RST != 0 => self.shared.table.forget(key),
            // The guest asks again while the verdict is awaited.
            Some(_) => {}
            None if flags & (SYN | ACK | RST) == SYN => self.ask_stream(key, packet),
            None => self.reset(packet),
        }
    }

    fn reset(&self, packet: &Packet<'_>) {
        if let Some(answer) = craft::reset(&self.shared.addresses, packet) {
            self.shared.send_or_lose(&answer);
        }
    }

    fn ask_stream(&mut self, key: Key, packet: &Packet<'_>) {
        match self.admit(&key) {
            Ok(()) if packet.bytes.len() <= LARGEST_QUESTION => {}
            Ok(()) | Err(Some(Full::Flows)) => return self.reset(packet),
            Err(_) => return,
        }
        let Ok(permit) = self.questions.clone().try_reserve_owned() else {
            return;
        };
        let flow = self.flow(key);
        let (shared, id) = (Arc::clone(&self.shared), flow.id);
        self.shared.table.insert(key, id, Entry::Asked);
        let pending = PendingStream::new(shared, key, id, packet.bytes.to_vec());
        permit.send(Incoming {
            flow,
            pending: Pending::Stream(pending),
        });
    }

    fn datagram(&mut self, packet: &Packet<'_>) {
        let Some((from, to, content)) = packet::udp(packet.payload) else {
            Counters::one(&self.shared.counters.malformed);
            return;
        };
        let key = key(Transport::Udp, packet, from, to);
        if let Some(Entry::Datagrams(feed)) = self.shared.table.find(&key) {
            feed.push(content, &self.shared.counters);
            return;
        }
        if self.admit(&key).is_err() {
            return;
        }
        let Ok(permit) = self.questions.clone().try_reserve_owned() else {
            return;
        };
        let flow = self.flow(key);
        let (shared, id) = (Arc::clone(&self.shared), flow.id);
        let (feed, queue) = Feed::new();
        feed.push(content, &self.shared.counters);
        self.shared.table.insert(key, id, Entry::Datagrams(feed));
        let bytes = packet.bytes.to_vec();
        let pending = PendingDatagrams::new(shared, key, id, bytes, queue);
        permit.send(Incoming {
            flow,
            pending: Pending::Datagrams(pending),
        });
    }

    /// Whether one more flow may be.
    fn admit(&mut self, key: &Key) -> Result<(), Option<Full>> {
        let admitted = match self.shared.table.room(key, &self.shared.limits) {
            Ok(()) if self.budget.take(Instant::now()) => Ok(()),
            Ok(()) => Err(None),
            Err(full) => Err(Some(full)),
        };
        if admitted.is_err() {
            Counters::one(&self.shared.counters.over_limit);
        }
        admitted
    }

    fn flow(&mut self, key: Key) -> Flow {
        self.next_id += 1;
        Flow {
            id: self.next_id,
            transport: key.transport,
            source: key.guest,
            address: key.outside.ip(),
            port: key.outside.port(),
            names: self.names.of(key.outside.ip()),
        }
    }
}

fn key(transport: Transport, packet: &Packet<'_>, from: u16, to: u16) -> Key {
    Key {
        transport,
        guest: SocketAddr::new(packet.source, from),
        outside: SocketAddr::new(packet.destination, to),
    }
}

fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first != 0 && first < 224
        }
        IpAddr::V6(address) => !address.is_multicast() && !address.is_unspecified(),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_unspecified(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_unspecified(),
    }
}

/// New flows that may be taken now: a second's worth at most is saved up.
struct Budget {
    per_second: u32,
    left: f64,
    at: Instant,
}

impl Budget {
    fn new(per_second: u32) -> Self {
        Self {
            per_second,
            left: per_second.into(),
            at: Instant::now(),
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.at).as_secs_f64() * f64::from(self.per_second);
        self.at = now;
        self.left = (self.left + earned).min(self.per_second.into());
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}
