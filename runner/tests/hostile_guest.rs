//! A guest that answers anything at all: the client must come back with a result or an error, soon,
//! within its limits, and never panic.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::Duration,
};

use mayfly::sandbox::{
    ExecEvent, ExecRequest, Sandbox, SandboxError, agent::AgentClient, identity::Uniqueness,
};
use mayfly_guest::wire::{
    AgentState, Answer, ExitStatus, FrameKind, IdentityProof, MAX_PAYLOAD, encode, encode_answer,
    hello,
};
use proptest::prelude::*;

/// Serves one connection with `answer`, whatever is asked, and closes it.
fn guest(answer: Vec<u8>) -> (tempfile::TempDir, AgentClient) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let socket: PathBuf = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("listens");
    std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else {
            return;
        };
        let mut preface = [0; 13];
        if stream.read_exact(&mut preface).is_ok() {
            // The client may have had enough at any time.
            let _ = stream.write_all(&answer);
            finish(stream);
        }
    });
    (folder, AgentClient::new(&socket))
}

/// Closes so that the client reads all of the answer first.
fn finish(mut stream: UnixStream) {
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

fn in_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = runtime
        .expect("runtime")
        .block_on(async { tokio::time::timeout(Duration::from_secs(120), work).await });
    result.expect("the client hangs")
}

/// Asks everything once; each of `answer` goes to a guest of its own.
fn ask_everything(answer: &[u8]) {
    const LIMIT: u64 = 1000;
    let own = Uniqueness::draw().expect("random");
    in_time(async {
        let (_folder, client) = guest(answer.to_vec());
        let _ = client.ping().await;
        let (_folder, client) = guest(answer.to_vec());
        client
            .identify(&own, "name", None)
            .await
            .expect_err("no guest can guess the nonce");
        let (_folder, client) = guest(answer.to_vec());
        if let Ok(Some(content)) = client.read_file("/f", LIMIT).await {
            assert!(content.len() as u64 <= LIMIT);
        }
        let (_folder, client) = guest(answer.to_vec());
        let _ = client.write_file("/f", 0o644, &[1; 100_000]).await;
        let (_folder, client) = guest(answer.to_vec());
        let _ = client.copy_out("/d", tokio::io::sink()).await;
        let (_folder, client) = guest(answer.to_vec());
        if let Ok(mut stream) = client.accept(()).await {
            // It is carried until it ends or breaks, both of which end the stream.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
        let (_folder, client) = guest(answer.to_vec());
        let request = ExecRequest {
            argv: vec!["x".into()],
            cwd: "/".into(),
            ..ExecRequest::default()
        };
        if let Ok(mut exec) = client.exec(request).await {
            let mut ended = false;
            while let Some(event) = exec.events.recv().await {
                assert!(!ended, "nothing comes after the end");
                ended = matches!(event, ExecEvent::Exited(_));
            }
        }
    });
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let answer = prop_oneof![
        Just(Answer::Pong {
            state: AgentState::Ready
        }),
        Just(Answer::Started { pid: 1 }),
        (-5..300_i32).prop_map(|code| Answer::Exited(ExitStatus::Code(code))),
        (-5..300_i32).prop_map(|signal| Answer::Exited(ExitStatus::Signal(signal))),
        Just(Answer::Content),
        Just(Answer::Accepted),
        Just(Answer::Missing),
        Just(Answer::TooLarge),
        Just(Answer::Done),
        ".{0,30}".prop_map(|why| Answer::Refused { why }),
        Just(Answer::Identified(IdentityProof {
            nonce: "00".into(),
            clock_ns: u64::MAX,
            hostname: "name".into(),
            machine_id: String::new(),
            boot_id: String::new(),
            mac: None,
            reseeded: true,
        })),
    ];
    let kind = prop::sample::select(vec![
        FrameKind::Data,
        FrameKind::End,
        FrameKind::Stdout,
        FrameKind::Stderr,
        FrameKind::Credit,
        FrameKind::Answer,
        FrameKind::Request,
        FrameKind::Signal,
    ]);
    let raw = (kind, prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(kind, payload)| encode(kind, &payload));
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![5 => answer.prop_map(|answer| encode_answer(&answer)), 3 => raw, 1 => bytes]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_frames_in_any_order_come_to_an_end(
        frames in prop::collection::vec(frames(), 0..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut answer = b"OK 1\n".to_vec();
        answer.extend(hello());
        answer.extend(frames.concat());
        if let Some(cut) = cut {
            answer.truncate(cut.index(answer.len()));
        }
        ask_everything(&answer);
    }

    #[test]
    fn arbitrary_bytes_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        ask_everything(&bytes);
    }
}

#[test]
fn a_file_that_does_not_end_at_its_limit_is_too_large() {
    let mut answer = b"OK 1\n".to_vec();
    answer.extend(hello());
    answer.extend(encode_answer(&Answer::Content));
    for _ in 0..40 {
        answer.extend(encode(FrameKind::Data, &[0; MAX_PAYLOAD]));
    }
    let (_folder, client) = guest(answer);
    let error = in_time(client.read_file("/f", 1 << 20)).expect_err("too large");
    assert!(
        matches!(
            error,
            SandboxError::TooLarge {
                limit: 1_048_576,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_refusal_cannot_paint_the_terminal() {
    let mut answer = b"OK 1\n".to_vec();
    answer.extend(hello());
    let why = format!("\u{1b}[2J\u{9b}31m{}", "x".repeat(100_000));
    answer.extend(encode_answer(&Answer::Refused { why }));
    let (_folder, client) = guest(answer);
    let error = in_time(client.remove("/f"))
        .expect_err("refused")
        .to_string();
    assert!(
        error.len() < 3000 && !error.contains(char::is_control),
        "{}",
        error.len()
    );
}

#[test]
fn an_agent_of_another_version_is_named_as_such() {
    let mut answer = b"OK 1\n".to_vec();
    answer.extend(b"MYFL\x07\0\0\0");
    let (_folder, client) = guest(answer);
    let error = in_time(client.ping()).expect_err("version 7").to_string();
    assert!(
        error.contains("version 7")
            && error.contains(&format!("version {}", mayfly_guest::wire::PROTOCOL_VERSION)),
        "{error}"
    );
}

#[test]
fn credit_that_was_never_taken_is_a_breach() {
    let mut answer = b"OK 1\n".to_vec();
    answer.extend(hello());
    answer.extend(encode_answer(&Answer::Started { pid: 2 }));
    answer.extend(encode(FrameKind::Credit, &u32::MAX.to_le_bytes()));
    answer.extend(encode_answer(&Answer::Exited(ExitStatus::Code(0))));
    let (_folder, client) = guest(answer);
    let request = ExecRequest {
        argv: vec!["x".into()],
        cwd: "/".into(),
        ..ExecRequest::default()
    };
    let event = in_time(async {
        client
            .exec(request)
            .await
            .expect("starts")
            .events
            .recv()
            .await
    });
    assert_eq!(event, None, "the process counts as lost");
}
