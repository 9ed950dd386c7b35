//! The client against the agent itself, on a Unix socket instead of in a machine: exec and files
//! from both sides of the wire.

use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    time::{Duration, Instant},
};

use mayfly::sandbox::{
    Exec, ExecEvent, ExecInput, ExecRequest, ExecStatus, Sandbox, SandboxError, agent::AgentClient,
};
use tempfile::TempDir;

/// An agent that serves the whole host, and a folder for the test's files.
struct Agent {
    client: AgentClient,
    folder: TempDir,
}

impl Agent {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let socket = folder.path().join("socket");
        let served = socket.clone();
        std::thread::spawn(move || {
            mayfly_guest::agent::serve_unix(&served, Path::new("/"), None).expect("serves");
        });
        let client = AgentClient::new(&socket);
        client
            .wait_ready(Duration::from_secs(60))
            .await
            .expect("ready");
        Self { client, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder
            .path()
            .join(name)
            .to_str()
            .expect("text")
            .to_owned()
    }

    async fn sh(&self, script: &str) -> Exec {
        self.client.exec(sh(script)).await.expect("starts")
    }
}

fn sh(script: &str) -> ExecRequest {
    ExecRequest {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/tmp".into(),
        ..ExecRequest::default()
    }
}

/// Standard output, standard error and how it ended.
async fn finish(mut exec: Exec) -> (Vec<u8>, Vec<u8>, Option<ExecStatus>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(event) = exec.events.recv().await {
        match event {
            ExecEvent::Stdout(bytes) => out.extend(bytes),
            ExecEvent::Stderr(bytes) => err.extend(bytes),
            ExecEvent::Exited(status) => return (out, err, Some(status)),
        }
    }
    (out, err, None)
}

async fn first_line(exec: &mut Exec) -> String {
    match exec.events.recv().await {
        Some(ExecEvent::Stdout(bytes)) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        other => panic!("expected a line, got {other:?}"),
    }
}

fn alive(pid: &str) -> bool {
    // A zombie, which nobody may have reaped yet, is not alive.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn dies(pid: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while alive(pid) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    !alive(pid)
}

#[tokio::test]
async fn a_process_has_exactly_its_environment_directory_and_streams() {
    let agent = Agent::start().await;
    let mut request = sh("pwd; env | sort; printf 'e\\377' >&2; exit 7");
    request.env.push(("A".into(), "ä = 1\n2".into()));
    let (out, err, status) = finish(agent.client.exec(request).await.expect("starts")).await;
    let out = String::from_utf8(out).expect("text");
    // PWD and the like are the shell's own.
    let env: Vec<&str> = out.lines().filter(|l| !l.starts_with("PWD=")).collect();
    let env: Vec<&str> = env
        .into_iter()
        .filter(|l| !l.starts_with(['_', 'S', 'O']))
        .collect();
    assert_eq!(env, ["/tmp", "2", "A=ä = 1", "PATH=/usr/bin:/bin"]);
    assert_eq!(err, b"e\xff");
    assert_eq!(status, Some(ExecStatus::Code(7)));
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_with_the_reason() {
    let agent = Agent::start().await;
    let cases = [
        (
            vec!["no-such-program"],
            "/",
            None,
            "command not found in PATH",
        ),
        (vec!["/no/such"], "/", None, "No such file"),
        (vec!["/etc/passwd"], "/", None, "Permission denied"),
        (vec!["true"], "/no/such", None, "working directory /no/such"),
        (
            vec!["true"],
            "/",
            Some("no-such-user"),
            "no user \"no-such-user\"",
        ),
        (vec![], "/", None, "command line is empty"),
    ];
    for (argv, cwd, user, reason) in cases {
        let request = ExecRequest {
            argv: argv.into_iter().map(str::to_owned).collect(),
            cwd: cwd.into(),
            user: user.map(str::to_owned),
            ..ExecRequest::default()
        };
        let error = agent.client.exec(request).await.expect_err("refused");
        assert!(matches!(error, SandboxError::Refused { .. }), "{error}");
        assert!(
            error.to_string().contains(reason),
            "{error} does not say {reason}"
        );
    }
}

#[tokio::test]
async fn standard_input_of_any_size_passes_through_and_ends() {
    let agent = Agent::start().await;
    let mut request = sh("cat");
    request.stdin = true;
    let exec = agent.client.exec(request).await.expect("starts");
    let input = exec.input.clone();
    let sending = tokio::spawn(async move {
        for number in 0..64_u8 {
            input
                .send(ExecInput::Stdin(vec![number; 50_000]))
                .await
                .expect("runs");
        }
        input.send(ExecInput::StdinEnd).await.expect("runs");
    });
    let (out, _, status) = finish(exec).await;
    sending.await.expect("sends");
    let expected: Vec<u8> = (0..64_u8).flat_map(|number| vec![number; 50_000]).collect();
    assert!(out == expected, "{} bytes came back", out.len());
    assert_eq!(status, Some(ExecStatus::Code(0)));
}

#[tokio::test]
async fn a_signal_overtakes_standard_input_that_is_not_read() {
    let agent = Agent::start().await;
    let mut request = sh("trap 'echo caught; exit 3' INT; echo up; while :; do sleep 0.05; done");
    request.stdin = true;
    let mut exec = agent.client.exec(request).await.expect("starts");
    assert_eq!(first_line(&mut exec).await, "up");
    exec.input
        .send(ExecInput::Stdin(vec![0; 500_000]))
        .await
        .expect("runs");
    exec.input.send(ExecInput::Signal(2)).await.expect("runs");
    let (out, _, status) = finish(exec).await;
    assert_eq!(
        (&*out, status),
        (&b"caught\n"[..], Some(ExecStatus::Code(3)))
    );
}

#[tokio::test]
async fn a_signal_overtakes_standard_input_without_end_that_is_not_read() {
    let agent = Agent::start().await;
    let mut request = sh("trap 'exit 3' INT; echo up; while :; do sleep 0.05; done");
    request.stdin = true;
    let mut exec = agent.client.exec(request).await.expect("starts");
    assert_eq!(first_line(&mut exec).await, "up");
    let (input, signals) = (exec.input.clone(), exec.signals.clone());
    let endless = tokio::spawn(async move {
        while input
            .send(ExecInput::Stdin(vec![0; 64 << 10]))
            .await
            .is_ok()
        {}
    });
    // Until nothing more fits anywhere.
    tokio::time::sleep(Duration::from_millis(500)).await;
    signals.send(2).await.expect("runs");
    let ended = tokio::time::timeout(Duration::from_secs(20), finish(exec)).await;
    assert_eq!(ended.expect("the signal came").2, Some(ExecStatus::Code(3)));
    endless.abort();
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group_and_is_the_status() {
    let agent = Agent::start().await;
    let mut exec = agent.sh("sleep 300 & echo $!; wait").await;
    let child = first_line(&mut exec).await;
    exec.input.send(ExecInput::Signal(15)).await.expect("runs");
    let (_, _, status) = finish(exec).await;
    assert_eq!(status, Some(ExecStatus::Signal(15)));
    assert!(dies(&child).await);
}

#[tokio::test]
async fn dropping_a_process_kills_its_group() {
    let agent = Agent::start().await;
    let mut exec = agent
        .sh("trap '' TERM HUP; sleep 300 & echo $!; wait")
        .await;
    let child = first_line(&mut exec).await;
    assert!(alive(&child));
    drop(exec);
    assert!(dies(&child).await);
}

#[tokio::test]
async fn a_process_that_closed_its_streams_is_followed_to_its_end() {
    let agent = Agent::start().await;
    let started = Instant::now();
    let exec = agent.sh("echo a; exec >&- 2>&-; sleep 1; exit 5").await;
    let (out, _, status) = finish(exec).await;
    assert_eq!((&*out, status), (&b"a\n"[..], Some(ExecStatus::Code(5))));
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_daemon_that_holds_the_streams_outlives_the_process_and_does_not_delay_it() {
    let agent = Agent::start().await;
    let started = Instant::now();
    let mut exec = agent.sh("sleep 300 & echo $!").await;
    let daemon = first_line(&mut exec).await;
    let (_, _, status) = finish(exec).await;
    assert_eq!(status, Some(ExecStatus::Code(0)));
    assert!(started.elapsed() < Duration::from_secs(120));
    assert!(alive(&daemon));
    finish(agent.sh(&format!("kill -9 {daemon}")).await).await;
    assert!(dies(&daemon).await);
}

#[tokio::test]
async fn a_descendant_that_never_is_silent_does_not_hold_up_the_end() {
    let agent = Agent::start().await;
    let mut exec = agent
        .sh("(while echo x; do sleep 0.05; done) 2>/dev/null & echo $!")
        .await;
    let mut seen = 0;
    let status = loop {
        match exec.events.recv().await {
            Some(ExecEvent::Exited(status)) => break status,
            Some(_) => seen += 1,
            None => panic!("lost"),
        }
    };
    assert_eq!(status, ExecStatus::Code(0));
    assert!(seen > 10);
}

#[tokio::test]
async fn the_last_output_arrives_whole_also_at_a_slow_reader() {
    let agent = Agent::start().await;
    let mut exec = agent.sh("head -c 3000000 /dev/zero; echo end").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut length = 0;
    while let Some(event) = exec.events.recv().await {
        match event {
            ExecEvent::Stdout(bytes) => length += bytes.len(),
            ExecEvent::Exited(status) => assert_eq!(status, ExecStatus::Code(0)),
            ExecEvent::Stderr(_) => panic!("no errors"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(length, 3_000_004);
}

#[tokio::test]
async fn a_gigabyte_of_output_passes_in_bounded_memory() {
    const LENGTH: usize = 1 << 30;
    let agent = Agent::start().await;
    let before = peak_memory();
    let mut exec = agent.sh(&format!("head -c {LENGTH} /dev/zero")).await;
    // First nobody reads: nothing may pile up on either side.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut length = 0;
    let mut status = None;
    while let Some(event) = exec.events.recv().await {
        match event {
            ExecEvent::Stdout(bytes) => length += bytes.len(),
            ExecEvent::Stderr(bytes) => panic!("{}", String::from_utf8_lossy(&bytes)),
            ExecEvent::Exited(with) => status = Some(with),
        }
    }
    assert_eq!((length, status), (LENGTH, Some(ExecStatus::Code(0))));
    // Other tests of this process run beside; the stream itself would be 1024 MiB.
    let grown = peak_memory() - before;
    assert!(grown < 128 << 20, "{grown} bytes");
}

/// The most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("VmHWM");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("number");
    kib << 10
}

#[tokio::test]
async fn a_process_runs_as_the_user_it_was_asked_for() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: changing the user needs root");
        return;
    }
    let agent = Agent::start().await;
    let mut request = sh("id -u; id -g; id -G");
    request.user = Some("daemon".into());
    let (out, err, _) = finish(agent.client.exec(request).await.expect("starts")).await;
    assert_eq!(String::from_utf8_lossy(&err), "");
    assert_eq!(String::from_utf8_lossy(&out), "1\n1\n1\n");
}

#[tokio::test]
async fn files_are_written_read_limited_and_removed() {
    let agent = Agent::start().await;
    let path = agent.path("a/b");
    let content: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(
        agent.client.read_file(&path, 10).await.expect("reads"),
        None
    );
    agent
        .client
        .write_file(&path, 0o755, &content)
        .await
        .expect("writes");
    assert_eq!(
        Path::new(&path).metadata().expect("there").mode() & 0o7777,
        0o755
    );
    let limit = content.len() as u64;
    let read = agent.client.read_file(&path, limit).await.expect("reads");
    assert!(read.as_ref() == Some(&content));
    let error = agent
        .client
        .read_file(&path, limit - 1)
        .await
        .expect_err("too large");
    assert!(matches!(error, SandboxError::TooLarge { .. }), "{error}");
    agent
        .client
        .remove(&agent.path("a"))
        .await
        .expect("removes");
    agent
        .client
        .remove(&agent.path("a"))
        .await
        .expect("is gone already");
    assert!(!Path::new(&path).exists());
}

#[tokio::test]
async fn a_write_into_a_full_disk_is_refused_with_the_reason() {
    let agent = Agent::start().await;
    // The agent stops reading at once; the client, half-way through, still learns why.
    let content = vec![0; 20 << 20];
    let error = agent
        .client
        .write_file("/dev/full/x", 0o644, &content)
        .await
        .expect_err("refused");
    assert!(matches!(&error, SandboxError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("/dev/full"), "{error}");
}

#[tokio::test]
async fn a_tree_copied_out_and_in_is_the_same_tree() {
    let agent = Agent::start().await;
    let source = agent.folder.path().join("source");
    std::fs::create_dir_all(source.join("d/empty")).expect("folders");
    std::fs::write(source.join("d/file"), vec![7; 300_000]).expect("file");
    std::fs::set_permissions(source.join("d/file"), PermissionsExt::from_mode(0o4751)).expect("ok");
    std::fs::hard_link(source.join("d/file"), source.join("hard")).expect("hard link");
    symlink("../outside", source.join("soft")).expect("symbolic link");
    let long = "long-name/".repeat(30);
    std::fs::create_dir_all(source.join(&long)).expect("long folders");
    std::fs::write(source.join(&long).join("ü"), "x").expect("file");
    std::fs::set_permissions(source.join("d"), PermissionsExt::from_mode(0o2550)).expect("mode");

    let mut archive = Vec::new();
    agent
        .client
        .copy_out(&agent.path("source"), &mut archive)
        .await
        .expect("packs");
    agent
        .client
        .copy_in(&agent.path("target"), &archive[..])
        .await
        .expect("unpacks");
    let target = agent.folder.path().join("target");
    assert_eq!(listing(&source), listing(&target));
    let (file, hard) = (target.join("d/file"), target.join("hard"));
    assert_eq!(
        file.metadata().expect("file").ino(),
        hard.metadata().expect("hard").ino()
    );
    // Again, over what is there.
    agent
        .client
        .copy_in(&agent.path("target"), &archive[..])
        .await
        .expect("unpacks again");
    assert_eq!(listing(&source), listing(&target));
}

/// Every path with its kind, mode, time, and content or target.
fn listing(root: &Path) -> BTreeMap<String, (u32, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("lists") {
            let path = entry.expect("entry").path();
            let meta = path.symlink_metadata().expect("meta");
            let content = if meta.is_symlink() {
                let target = path.read_link().expect("link");
                target.to_str().expect("text").as_bytes().to_vec()
            } else if meta.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else {
                std::fs::read(&path).expect("file")
            };
            let name = path
                .strip_prefix(root)
                .expect("below")
                .to_string_lossy()
                .into_owned();
            found.insert(name, (meta.mode(), meta.mtime(), content));
        }
    }
    found
}

#[tokio::test]
async fn a_file_is_copied_out_under_its_own_name() {
    let agent = Agent::start().await;
    std::fs::write(agent.path("one"), "1").expect("file");
    let mut archive = Vec::new();
    agent
        .client
        .copy_out(&agent.path("one"), &mut archive)
        .await
        .expect("packs");
    agent
        .client
        .copy_in(&agent.path("target"), &archive[..])
        .await
        .expect("unpacks");
    assert_eq!(
        std::fs::read(agent.path("target/one")).expect("there"),
        b"1"
    );
    let error = agent
        .client
        .copy_out("/no/such", &mut archive)
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("/no/such"), "{error}");
}

/// An archive of one entry whose name is not checked by the library that writes it.
fn entry(kind: tar::EntryType, name: &str, link: &str) -> Vec<u8> {
    let mut header = tar::Header::new_old();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(if kind.is_file() { 4 } else { 0 });
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    if kind.is_file() {
        bytes.extend(b"evil");
        bytes.resize(1024, 0);
    }
    bytes
}

#[tokio::test]
async fn no_archive_leads_out_of_its_directory() {
    use tar::EntryType::{Char, Link, Regular, Symlink};
    let agent = Agent::start().await;
    let outside = agent.path("outside");
    std::fs::create_dir(&outside).expect("folder");
    std::fs::write(agent.path("outside/victim"), "good").expect("file");
    let cases: [(&str, Vec<Vec<u8>>); 8] = [
        ("parent", vec![entry(Regular, "../outside/victim", "")]),
        (
            "inner parent",
            vec![entry(Regular, "a/../../outside/victim", "")],
        ),
        (
            "absolute",
            vec![entry(Regular, &agent.path("outside/victim"), "")],
        ),
        (
            "through an absolute link",
            vec![
                entry(Symlink, "l", &outside),
                entry(Regular, "l/victim", ""),
            ],
        ),
        (
            "through a relative link",
            vec![
                entry(Symlink, "l", "../outside"),
                entry(Regular, "l/victim", ""),
            ],
        ),
        (
            "hard link to outside",
            vec![entry(Link, "h", "../outside/victim")],
        ),
        (
            "hard link through a link",
            vec![entry(Symlink, "l", &outside), entry(Link, "h", "l/victim")],
        ),
        ("device", vec![entry(Char, "null", "")]),
    ];
    for (name, entries) in cases {
        let target = agent.path(name);
        let archive = entries.concat();
        let error = agent
            .client
            .copy_in(&target, &archive[..])
            .await
            .expect_err(name);
        assert!(
            matches!(&error, SandboxError::Refused { .. }),
            "{name}: {error}"
        );
        let victim = std::fs::read(agent.path("outside/victim")).expect("still there");
        assert_eq!(victim, b"good", "{name}");
        assert_eq!(
            std::fs::read_dir(&outside).expect("lists").count(),
            1,
            "{name}"
        );
    }
    // What replaces a link replaces the link itself.
    let archive = [
        entry(Symlink, "f", "../outside/victim"),
        entry(Regular, "f", ""),
    ]
    .concat();
    agent
        .client
        .copy_in(&agent.path("link"), &archive[..])
        .await
        .expect("unpacks");
    assert_eq!(std::fs::read(agent.path("link/f")).expect("there"), b"evil");
    assert_eq!(
        std::fs::read(agent.path("outside/victim")).expect("there"),
        b"good"
    );
}

#[tokio::test]
async fn an_archive_that_breaks_off_is_an_error() {
    let agent = Agent::start().await;
    let whole = entry(tar::EntryType::Regular, "f", "");
    let error = agent
        .client
        .copy_in(&agent.path("t"), &whole[..515])
        .await
        .expect_err("broken");
    assert!(matches!(error, SandboxError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn a_sandbox_that_is_not_there_is_lost() {
    let client = AgentClient::new(Path::new("/no/such/socket"));
    let error = client
        .wait_ready(Duration::from_millis(50))
        .await
        .expect_err("nobody");
    assert!(matches!(error, SandboxError::Lost(_)), "{error}");
}
