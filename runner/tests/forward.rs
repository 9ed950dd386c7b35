//! Connections of steps, carried by the agent to the worker: both directions, their ends, and what
//! either side may do to the other.

use std::{net::SocketAddr, path::Path, time::Duration};

use mayfly::sandbox::agent::AgentClient;
use mayfly_guest::agent::Forward;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::oneshot,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(60);

/// An agent that carries connections to the address given with it.
async fn agent() -> (tempfile::TempDir, AgentClient, SocketAddr) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let socket = folder.path().join("socket");
    let served = socket.clone();
    let mut listener = Forward::listen(([127, 0, 0, 1], 0).into()).expect("listens");
    let address = listener.address().expect("has an address");
    let at = folder.path().join("mayfly/sandbox.sock");
    listener.add_socket(&at).expect("listens at a socket");
    std::thread::spawn(move || {
        mayfly_guest::agent::serve_unix(&served, Path::new("/"), Some(listener)).expect("serves");
    });
    let client = AgentClient::new(&socket);
    client.wait_ready(LIMIT).await.expect("ready");
    (folder, client, address)
}

#[tokio::test]
async fn megabytes_go_both_ways_and_each_direction_ends_by_itself() {
    let (_folder, client, address) = agent().await;
    let (held, released) = oneshot::channel::<()>();
    let echo = tokio::spawn(async move {
        let mut stream = client.accept(held).await.expect("accepts");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.expect("reads");
        stream.write_all(&received).await.expect("writes");
        received.len()
    });
    let sent: Vec<u8> = (0..5_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    let mut step = TcpStream::connect(address).await.expect("connects");
    step.write_all(&sent).await.expect("writes");
    step.shutdown().await.expect("ends its direction");
    let mut answered = Vec::new();
    let read = timeout(LIMIT, step.read_to_end(&mut answered)).await;
    read.expect("in time").expect("reads");
    assert!(answered == sent, "{} bytes came back", answered.len());
    assert_eq!(echo.await.expect("no panic"), sent.len());
    // The sender is dropped, never used, when nothing is left in the guest.
    let released = timeout(LIMIT, released).await.expect("in time");
    assert!(released.is_err());
}

/// Both ways of a step lead to the same worker, whichever is used first.
#[tokio::test]
async fn a_unix_socket_is_carried_as_tcp_is() {
    let (folder, client, address) = agent().await;
    let socket = folder.path().join("mayfly/sandbox.sock");
    let server = tokio::spawn(async move {
        for _ in 0..4 {
            let mut stream = client.accept(()).await.expect("accepts");
            tokio::spawn(async move {
                let byte = stream.read_u8().await.expect("reads");
                stream.write_u8(byte + 1).await.expect("writes");
            });
        }
    });
    for number in [1, 3] {
        let mut unix = UnixStream::connect(&socket).await.expect("connects");
        let mut tcp = TcpStream::connect(address).await.expect("connects");
        unix.write_u8(number).await.expect("writes");
        tcp.write_u8(number + 100).await.expect("writes");
        let answers = async { (unix.read_u8().await, tcp.read_u8().await) };
        let (unix, tcp) = timeout(LIMIT, answers).await.expect("in time");
        assert_eq!(
            (unix.expect("reads"), tcp.expect("reads")),
            (number + 1, number + 101)
        );
    }
    server.await.expect("no panic");
}

#[tokio::test]
async fn several_connections_are_carried_at_once_each_to_its_own_peer() {
    let (_folder, client, address) = agent().await;
    let server = tokio::spawn(async move {
        for _ in 0..5 {
            let mut stream = client.accept(()).await.expect("accepts");
            tokio::spawn(async move {
                let byte = stream.read_u8().await.expect("reads");
                stream.write_u8(byte + 100).await.expect("writes");
            });
        }
    });
    let mut steps = Vec::new();
    for number in 0..5_u8 {
        steps.push((number, TcpStream::connect(address).await.expect("connects")));
    }
    // The last one speaks first: none waits for another.
    for (number, step) in steps.iter_mut().rev() {
        step.write_u8(*number).await.expect("writes");
        let answer = timeout(LIMIT, step.read_u8()).await.expect("in time");
        assert_eq!(answer.expect("reads"), *number + 100);
    }
    server.await.expect("no panic");
}

#[tokio::test]
async fn a_step_that_resets_its_connection_is_seen_as_its_end_by_the_worker() {
    let (_folder, client, address) = agent().await;
    let (held, released) = oneshot::channel::<()>();
    let step = TcpStream::connect(address).await.expect("connects");
    let mut stream = client.accept(held).await.expect("accepts");
    step.set_zero_linger().expect("sets an option");
    drop(step);
    let mut left = Vec::new();
    let ended = timeout(LIMIT, stream.read_to_end(&mut left)).await;
    assert_eq!(ended.expect("in time").unwrap_or(0), 0);
    drop(stream);
    let _ = timeout(LIMIT, released).await.expect("nothing is held");
}

#[tokio::test]
async fn a_connection_that_the_worker_drops_ends_for_the_step_and_the_next_one_is_served() {
    let (_folder, client, address) = agent().await;
    for _ in 0..3 {
        let mut step = TcpStream::connect(address).await.expect("connects");
        drop(client.accept(()).await.expect("accepts"));
        let mut left = Vec::new();
        let ended = timeout(LIMIT, step.read_to_end(&mut left)).await;
        assert_eq!(ended.expect("in time").unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn an_agent_that_listens_nowhere_refuses() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let socket = folder.path().join("socket");
    let served = socket.clone();
    std::thread::spawn(move || {
        mayfly_guest::agent::serve_unix(&served, Path::new("/"), None).expect("serves");
    });
    let client = AgentClient::new(&socket);
    client.wait_ready(LIMIT).await.expect("ready");
    let error = client.accept(()).await.expect_err("refused");
    assert!(error.to_string().contains("nothing listens"), "{error}");
}
