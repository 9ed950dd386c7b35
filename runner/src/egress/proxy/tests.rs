//! Streams against hosts on loopback.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpListener,
};

use crate::egress::{
    Flow, Transport,
    policy::{Document, JobPlace, Verdict},
    record::{Line, Record, RecordFile, read},
};

mod within;

use super::{Bounds, Egress, ask::Asked, open::Opened};

/// A network that takes loopback for the outside, and its record.
struct Lab {
    egress: Egress,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = RecordFile::create(folder.path(), "job").unwrap();
        let policy = Document::parse(policy, "policy.toml")
            .unwrap()
            .policy(&JobPlace::default());
        let bounds = Bounds {
            hello: Duration::from_millis(300),
            patience: Duration::from_millis(100),
            ..Bounds::default()
        };
        let outside = Arc::new(|_| false);
        let egress = Egress::new(policy, Record::new(Some(file), None), outside, bounds);
        Self { egress, folder }
    }

    fn lines(&self) -> Vec<Line> {
        self.egress.record().finish().unwrap();
        let mut files = std::fs::read_dir(self.folder.path()).unwrap();
        read(&files.next().unwrap().unwrap().path()).unwrap()
    }

    fn asked(&self, to: SocketAddr, names: &[&str]) -> Asked<'_> {
        self.egress.ask(Flow {
            id: 1,
            transport: Transport::Tcp,
            source: ([10, 0, 2, 15], 40000).into(),
            address: to.ip(),
            port: to.port(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        })
    }
}

/// A server that answers each connection with what it got until its end, and `!`.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                let _ = stream.read_to_end(&mut got).await;
                got.push(b'!');
                let _ = stream.write_all(&got).await;
            });
        }
    });
    address
}

/// The guest sends `bytes`, ends, and reads to the end, while the worker opens and copies.
async fn through(lab: &Lab, mut asked: Asked<'_>, bytes: &[u8]) -> (Vec<u8>, Verdict) {
    let (mut guest, mut worker): (DuplexStream, _) = tokio::io::duplex(64 << 10);
    guest.write_all(bytes).await.unwrap();
    guest.shutdown().await.unwrap();
    match lab.egress.open(&mut asked, &mut worker).await.unwrap() {
        Opened::Host { mut host, .. } => {
            let copied = tokio::io::copy_bidirectional(&mut worker, &mut host)
                .await
                .unwrap();
            asked.counts.add_sent(usize::try_from(copied.0).unwrap());
            asked
                .counts
                .add_received(usize::try_from(copied.1).unwrap());
        }
        Opened::Denied { .. } => {}
        Opened::Within { .. } => panic!("nothing asks for it"),
        Opened::Unreachable(error) => panic!("{error}"),
    }
    let verdict = asked.decision.verdict;
    asked.end(None);
    drop(worker);
    let mut got = Vec::new();
    guest.read_to_end(&mut got).await.unwrap();
    (got, verdict)
}

const REQUEST: &[u8] = b"GET /x?token=1 HTTP/1.1\r\nHost: a.example.com\r\n\r\n";

fn policy(port: u16, more: &str) -> String {
    format!("mode = \"enforce\"\n[[allow]]\nhost = \"a.example.com\"\nport = {port}\n{more}")
}

#[tokio::test]
async fn what_passes_is_copied_whole_and_written_down() {
    let to = server().await;
    let lab = Lab::new(&policy(to.port(), ""));
    let (got, verdict) = through(&lab, lab.asked(to, &["a.example.com"]), REQUEST).await;
    assert_eq!(verdict, Verdict::Allow);
    assert_eq!(got, [REQUEST, b"!"].concat());
    let lines = lab.lines();
    let line = &lines[0];
    assert_eq!(
        (line.sent, line.received),
        (REQUEST.len() as u64, got.len() as u64)
    );
    assert_eq!(line.name.as_deref(), Some("a.example.com"));
    assert_eq!(
        (line.method.as_deref(), line.path.as_deref()),
        (Some("GET"), Some("/x"))
    );
    assert_eq!(line.protocol, "http");
    assert!(
        line.rule
            .as_deref()
            .is_some_and(|rule| rule.starts_with("policy.toml:2"))
    );
}

#[tokio::test]
async fn what_does_not_pass_is_told_so_and_nothing_of_it_goes_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let lab = Lab::new(&policy(to.port(), "protocol = \"http\""));
    let other = b"GET / HTTP/1.1\r\nHost: b.example.com\r\n\r\n";
    let (got, verdict) = through(&lab, lab.asked(to, &["a.example.com"]), other).await;
    assert_eq!(verdict, Verdict::Deny);
    let said = String::from_utf8(got).unwrap();
    assert!(
        said.starts_with("HTTP/1.1 403") && said.contains("egress policy"),
        "{said}"
    );
    // TLS hears an alert, what says nothing hears nothing.
    let (got, verdict) = through(
        &lab,
        lab.asked(to, &["a.example.com"]),
        &[22, 3, 1, 0, 1, 9],
    )
    .await;
    assert_eq!((verdict, got[0]), (Verdict::Deny, 21));
    let (got, verdict) = through(&lab, lab.asked(to, &["a.example.com"]), b"").await;
    assert_eq!((verdict, got.len()), (Verdict::Deny, 0));
    let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(nobody.is_err(), "something was connected");
    let lines = lab.lines();
    assert_eq!(lines.len(), 3);
    assert!(
        lines
            .iter()
            .all(|line| line.verdict == Verdict::Deny && line.sent == 0)
    );
    assert!(
        lines[2].why.contains("did not say what it is"),
        "{}",
        lines[2].why
    );
}

#[tokio::test]
async fn connections_of_an_ended_step_are_closed_in_enforce_alone() {
    for (mode, closed) in [("enforce", true), ("audit", false), ("open", false)] {
        let lab = Lab::new(&format!("mode = \"{mode}\"\npreset = \"github\""));
        let egress = &lab.egress;
        let to = ([203, 0, 113, 1], 443).into();
        let before = lab.asked(to, &[]);
        let background = egress.step_begins(vec!["bg".into(), "Background".into()]);
        let step = egress.step_begins(vec!["scan".into(), "Scan it".into()]);
        let both = lab.asked(to, &[]);
        egress.step_ends(background);
        let one = lab.asked(to, &[]);
        assert_eq!(
            one.entered.words,
            [vec!["scan".to_owned(), "Scan it".into()]]
        );
        egress.step_ends(step);
        let is_closed = |asked: &Asked<'_>| asked.entered.closed.is_cancelled();
        assert_eq!(is_closed(&one), closed, "{mode}");
        assert_eq!(is_closed(&both), closed, "{mode}: both its steps ended");
        assert!(!is_closed(&before), "opened when no step ran");
    }
}

#[tokio::test]
async fn a_step_that_still_runs_keeps_its_connections() {
    let lab = Lab::new("mode = \"enforce\"");
    let background = lab.egress.step_begins(vec!["bg".into()]);
    let step = lab.egress.step_begins(vec!["scan".into()]);
    let asked = lab.asked(([203, 0, 113, 1], 443).into(), &[]);
    lab.egress.step_ends(step);
    assert!(!asked.entered.closed.is_cancelled());
    lab.egress.step_ends(background);
    assert!(asked.entered.closed.is_cancelled());
}

#[tokio::test]
async fn names_that_are_refused_are_written_down() {
    let lab = Lab::new("mode = \"enforce\"\n[[allow]]\nhost = \"a.example.com\"");
    assert_eq!(lab.egress.may_resolve("A.example.com."), Ok(()));
    assert!(lab.egress.may_resolve("c2VjcmV0.evil.example").is_err());
    assert!(lab.egress.may_resolve("not a name").is_err());
    let lines = lab.lines();
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (lines[0].protocol.as_str(), lines[0].verdict),
        ("dns", Verdict::Deny)
    );
}

#[tokio::test]
async fn a_host_that_is_not_there_is_told_apart_from_a_denial() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    drop(listener);
    let lab = Lab::new(&policy(to.port(), ""));
    let (mut guest, mut worker) = tokio::io::duplex(4096);
    guest.write_all(REQUEST).await.unwrap();
    let mut asked = lab.asked(to, &["a.example.com"]);
    let opened = lab.egress.open(&mut asked, &mut worker).await.unwrap();
    let Opened::Unreachable(error) = opened else {
        panic!("opened");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(asked.decision.verdict, Verdict::Allow);
}
