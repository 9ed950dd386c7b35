//! The sandbox's network, host to host, against slirp4netns and passt (Debian packages) in one run: a guest
//! that is no machine but a TCP stack of its own sends frames to each, and a server on loopback is where
//! they lead. Runs no guest of KVM.
//!
//! `cargo bench -p mayfly-tests --bench egress [-- --json] [-- --only NAME]`.

mod card;
mod networks;
mod servers;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mayfly_tests::{conditions::Host, measured};
use serde::Serialize;
use smoltcp::socket::tcp::State;

use card::Guest;
use networks::{Network, outside};
use servers::Servers;

/// How long bytes are carried, and how long connections are made.
const CARRYING: Duration = Duration::from_secs(3);
const CONNECTING: Duration = Duration::from_secs(3);
/// Connections under way at once while they are made.
const AT_ONCE: usize = 32;
/// Requests whose median is told.
const REQUESTS: usize = 2000;
/// Connections that are open at once for the figure of memory.
const OPEN: usize = 500;
/// Buffers of a connection that carries much, and of one that does not.
const LARGE: usize = 1 << 20;
const SMALL: usize = 4096;

/// Figures of one network.
#[derive(Debug, Serialize)]
struct Figures {
    network: &'static str,
    /// Guest to host, in Mbit/s.
    upload_mbit: f64,
    /// Host to guest.
    download_mbit: f64,
    /// Connections opened, used for one byte each way, and closed.
    connections_per_second: f64,
    /// One byte there and back on an open connection, in microseconds.
    round_trip_us: f64,
    /// Private memory without a connection, in KiB.
    idle_kib: u64,
    /// And with 500 that carried a byte each way.
    open_kib: u64,
    /// Processor time of the whole measurement, in seconds.
    processor_s: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    figures: Vec<Figures>,
}

fn main() -> ExitCode {
    match networks::become_stack() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => measured::tell(async { measure_all() }, show),
        Err(error) => {
            eprintln!("egress: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all() -> Result<Report> {
    let only = std::env::args()
        .skip_while(|argument| argument != "--only")
        .nth(1);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let servers = Servers::start()?;
    let mut figures = Vec::new();
    for (name, start) in [
        ("mayfly", None),
        (
            "slirp4netns",
            Some(networks::slirp4netns as fn() -> Result<Network>),
        ),
        ("passt", Some(networks::passt)),
    ] {
        if wanted(name) {
            let figure = measure(&servers, &|port| match start {
                Some(start) => start(),
                None => networks::mayfly(([127, 0, 0, 1], port).into()),
            });
            figures.push(figure.context(name)?);
        }
    }
    Ok(Report {
        host: Host::here(),
        figures,
    })
}

/// Each figure is of a fresh process, so that none has what another left.
fn measure(servers: &Servers, start: &dyn Fn(u16) -> Result<Network>) -> Result<Figures> {
    let mut processor = 0.0;
    let mut with = |port: u16, act: &dyn Fn(&mut Guest, &Network) -> Result<f64>| {
        let mut network = start(port)?;
        let socket = network.socket.take().context("its socket")?;
        let mut guest = Guest::new(socket, network.framing)?;
        let figure = act(&mut guest, &network)?;
        processor += network.processor()?;
        Ok::<_, anyhow::Error>((figure, network.name))
    };
    let (upload_mbit, network) = with(servers.sink, &|guest, _| upload(guest, servers))?;
    let (download_mbit, _) = with(servers.source, &|guest, _| download(guest, servers))?;
    let (connections_per_second, _) = with(servers.once, &|guest, _| connections(guest, servers))?;
    let (round_trip_us, _) = with(servers.echo, &|guest, _| round_trip(guest, servers))?;
    let idle = std::cell::Cell::new(0);
    let (open_kib, _) = with(servers.echo, &|guest, network| {
        memory(guest, servers, network, &idle)
    })?;
    Ok(Figures {
        network,
        upload_mbit,
        download_mbit,
        connections_per_second,
        round_trip_us,
        idle_kib: idle.get(),
        open_kib: open_kib as u64,
        processor_s: processor,
    })
}

fn mbit(bytes: usize, begun: Instant) -> f64 {
    bytes as f64 * 8.0 / 1e6 / begun.elapsed().as_secs_f64()
}

fn established(
    guest: &mut Guest,
    port: u16,
    buffer: usize,
) -> Result<smoltcp::iface::SocketHandle> {
    let handle = guest.connect(outside(port), buffer)?;
    guest.until("a connection", |guest| Ok(guest.socket(handle).may_send()))?;
    Ok(handle)
}

fn upload(guest: &mut Guest, servers: &Servers) -> Result<f64> {
    let handle = established(guest, servers.sink, LARGE)?;
    let begun = Instant::now();
    let mut sent = 0;
    guest.until("an upload", |guest| {
        let socket = guest.socket(handle);
        while socket.can_send() {
            sent += socket.send(|room| (room.len(), room.len()))?;
        }
        Ok(begun.elapsed() > CARRYING)
    })?;
    let acknowledged = sent - guest.socket(handle).send_queue();
    Ok(mbit(acknowledged, begun))
}

fn download(guest: &mut Guest, servers: &Servers) -> Result<f64> {
    let handle = established(guest, servers.source, LARGE)?;
    let begun = Instant::now();
    let mut received = 0;
    guest.until("a download", |guest| {
        let socket = guest.socket(handle);
        while socket.can_recv() {
            received += socket.recv(|bytes| (bytes.len(), bytes.len()))?;
        }
        ensure!(socket.may_recv(), "it ended after {received} bytes");
        Ok(begun.elapsed() > CARRYING)
    })?;
    Ok(mbit(received, begun))
}

fn connections(guest: &mut Guest, servers: &Servers) -> Result<f64> {
    let begun = Instant::now();
    let mut open = Vec::new();
    let mut done = 0;
    guest.until("connections", |guest| {
        let late = begun.elapsed() > CONNECTING;
        while open.len() < AT_ONCE && !late {
            open.push((guest.connect(outside(servers.once), SMALL)?, false));
        }
        let mut rest = Vec::new();
        for (handle, sent) in open.drain(..) {
            let socket = guest.socket(handle);
            let mut sent = sent;
            if !sent && socket.can_send() {
                socket.send_slice(b"x")?;
                sent = true;
            }
            if sent
                && socket
                    .recv_slice(&mut [0; 8])
                    .is_ok_and(|length| length > 0)
            {
                done += 1;
            }
            // The server ends first.
            if socket.state() == State::CloseWait {
                socket.close();
            }
            if socket.state() == State::Closed {
                guest.remove(handle);
            } else {
                rest.push((handle, sent));
            }
        }
        open = rest;
        Ok(late && open.is_empty())
    })?;
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

fn round_trip(guest: &mut Guest, servers: &Servers) -> Result<f64> {
    let handle = established(guest, servers.echo, SMALL)?;
    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        guest.socket(handle).send_slice(b"x")?;
        guest.until("an answer", |guest| {
            Ok(guest
                .socket(handle)
                .recv_slice(&mut [0; 8])
                .is_ok_and(|length| length > 0))
        })?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[REQUESTS / 2].as_secs_f64() * 1e6)
}

fn memory(
    guest: &mut Guest,
    servers: &Servers,
    network: &Network,
    idle: &std::cell::Cell<u64>,
) -> Result<f64> {
    std::thread::sleep(Duration::from_millis(200));
    idle.set(network.private_kib()?);
    let mut handles = Vec::new();
    for _ in 0..OPEN / 50 {
        let some: Vec<_> = (0..50)
            .map(|_| guest.connect(outside(servers.echo), SMALL))
            .collect::<Result<_>>()?;
        guest.until("50 connections", |guest| {
            Ok(some.iter().all(|handle| guest.socket(*handle).may_send()))
        })?;
        for handle in &some {
            guest.socket(*handle).send_slice(b"x")?;
        }
        guest.until("50 answers", |guest| {
            Ok(some.iter().all(|handle| guest.socket(*handle).can_recv()))
        })?;
        handles.extend(some);
    }
    Ok(network.private_kib()? as f64)
}

fn show(report: &Report) {
    println!(
        "network       upload   download  connections  round trip   idle   500 open  processor"
    );
    println!(
        "              Mbit/s     Mbit/s     a second          us    KiB        KiB          s"
    );
    for it in &report.figures {
        println!(
            "{:<12}{:>8.0}{:>11.0}{:>13.0}{:>12.0}{:>7}{:>11}{:>11.1}",
            it.network,
            it.upload_mbit,
            it.download_mbit,
            it.connections_per_second,
            it.round_trip_us,
            it.idle_kib,
            it.open_kib,
            it.processor_s,
        );
    }
}
