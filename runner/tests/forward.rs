//! Connections of steps, carried by the agent to the worker: both directions, their ends, and what
//! either side may do to the other.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use mayfly::{
    action::policy::PinPolicy,
    attestation::{self, HostKey, ImageName, Pins, Witness},
    results::{
        cache::{CacheLimits, RepositoryCache},
        http,
        service::{JobService, RunServices},
    },
    sandbox::agent::AgentClient,
};
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

/// The whole way of a question: the program in the sandbox, its socket, the agent, the worker, and back.
#[tokio::test]
async fn a_step_gets_an_answer_of_the_worker_about_its_sandbox() {
    let (folder, client, _) = agent().await;
    let keys = folder.path().join("keys");
    let key = HostKey::in_folder(&keys).expect("makes a key");
    let sandbox = attestation::Sandbox {
        sandbox: "uuid".to_owned(),
        run: "1".to_owned(),
        job: "build".to_owned(),
        repository: "octo/hello".to_owned(),
        image: ImageName {
            name: "minimal".to_owned(),
            digest: "sha256:aa".to_owned(),
        },
        pins: Pins {
            policy: PinPolicy::Require,
            ok: true,
            violations: BTreeMap::new(),
        },
        mayfly: "0".to_owned(),
    };
    let witness = Witness::new(key, sandbox);
    let mut file = witness.file();
    file.socket = folder
        .path()
        .join("mayfly/sandbox.sock")
        .display()
        .to_string();
    let told = folder.path().join("sandbox.json");
    std::fs::write(&told, serde_json::to_vec(&file).expect("is JSON")).expect("writes");
    let caches = RepositoryCache::new(folder.path(), "octo/hello", CacheLimits::default());
    let run = Arc::new(RunServices::new(caches, folder.path()));
    let service = JobService::new(run, Vec::new()).expect("has a key");
    let service = Arc::new(service.with_witness(witness));
    let serving = tokio::spawn(http::serve(client, service));

    let mayfly = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mayfly"));
        command.args(arguments).env("MAYFLY_SANDBOX", &told);
        command
    };
    let nonce = "0123456789abcdef";
    let asked = mayfly(&["sandbox", "ask", "--nonce", nonce]).output();
    let asked = timeout(LIMIT, asked).await.expect("in time").expect("runs");
    assert!(
        asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    let answer = folder.path().join("answer.json");
    std::fs::write(&answer, &asked.stdout).expect("writes");
    let public = keys.join("sandbox.pub").display().to_string();
    let answer = answer.display().to_string();
    for (nonce, job, code) in [
        (nonce, "build", 0),
        (nonce, "deploy", 1),
        ("fedcba9876543210", "build", 1),
    ] {
        let arguments = [
            "sandbox", "verify", &answer, "--key", &public, "--nonce", nonce,
        ];
        let checked = mayfly(&arguments).args(["--job", job, "--pins"]).output();
        let checked = timeout(LIMIT, checked)
            .await
            .expect("in time")
            .expect("runs");
        assert_eq!(checked.status.code(), Some(code), "{checked:?}");
    }
    let short = mayfly(&["sandbox", "ask", "--nonce", "x"]).output();
    let short = timeout(LIMIT, short).await.expect("in time").expect("runs");
    assert_eq!(short.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&short.stderr).contains("16 to 128 letters"));
    serving.abort();
}
