//! Metrics as a scrape shows them, and the listener under good and bad clients.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Listener, MOST_ERRORS, MOST_JOBS, Metrics, observer::PIN_KINDS};
use crate::{
    config::{Mode, Pool},
    github::rest::{RateLimit, Scope},
    notice::{JobNames, Notice, Phase},
    supervisor::state::{Happening, State, WorkerState, WorkerView},
};

/// A state and the metrics that watch it.
struct Watched {
    metrics: Arc<Metrics>,
    state: Arc<State>,
}

fn pool(name: &str, image: &str, capacity: u32) -> Pool {
    Pool {
        name: name.into(),
        mode: Mode::Jit,
        labels: vec![name.into()],
        image: image.into(),
        cpus: 1,
        memory_mib: 512,
        capacity,
        min_idle: 1,
        runner_group: "Default".into(),
        pins: None,
    }
}

fn watched() -> Watched {
    let metrics = Metrics::new(&Scope::Organization("acme".into()));
    let observers = vec![metrics.observer()];
    let pools = [pool("sandbox", "standard", 4)];
    let state = State::new("https://github.com/acme".into(), &pools, observers);
    let state = Arc::new(state);
    Watched { metrics, state }
}

impl Watched {
    fn start(&self, runner: &str) {
        self.state.started(WorkerView {
            pool: "sandbox".into(),
            runner_name: runner.into(),
            runner_id: 7,
            pid: 42,
            state: WorkerState::Starting,
            started: Timestamp::now(),
            since: Timestamp::now(),
            adopted: false,
            vmm: None,
            job: None,
            phases: Vec::new(),
            result: None,
        });
    }

    fn told(&self, notice: &Notice) {
        self.state.told("r", notice).unwrap();
    }

    fn text(&self) -> String {
        self.metrics.text(&self.state.view()).unwrap()
    }

    /// The value of the one series that has all of `parts`.
    #[track_caller]
    fn series(&self, parts: &[&str]) -> f64 {
        let text = self.text();
        value_of(&text, parts).unwrap_or_else(|| panic!("no series with {parts:?} in\n{text}"))
    }
}

/// The value of the one series in a scrape's text whose line has all of `parts`.
fn value_of(text: &str, parts: &[&str]) -> Option<f64> {
    let fits = |line: &&str| !line.starts_with('#') && parts.iter().all(|part| line.contains(part));
    let mut lines = text.lines().filter(fits);
    let found = lines.next()?;
    assert_eq!(lines.next(), None, "more than one series has {parts:?}");
    found.rsplit_once(' ')?.1.parse().ok()
}

fn job(name: &str) -> Notice {
    Notice::Job(JobNames {
        request_id: 1,
        repository: "acme/shop".into(),
        job_name: name.into(),
        event_name: "push".into(),
        job_workflow_ref: "acme/shop/.github/workflows/ci.yml@refs/heads/main".into(),
        ..JobNames::default()
    })
}

#[test]
fn a_worker_is_counted_from_its_start_to_its_end() {
    let watched = watched();
    let workers = |state: &str| watched.series(&["mayfly_workers{", &format!("\"{state}\"")]);
    watched.start("r");
    assert_eq!(workers("starting"), 1.0);
    watched.told(&Notice::Listening);
    assert_eq!(workers("idle"), 1.0);
    watched.told(&job("test"));
    watched.told(&Notice::Sandbox { vmm: 7 });
    assert_eq!(workers("busy"), 1.0);
    assert_eq!(watched.series(&["mayfly_sandboxes{"]), 1.0);
    for seconds in [0.004, f64::NAN, -1.0] {
        let phase = Phase::FirstStep;
        watched.told(&Notice::Phase { phase, seconds });
    }
    let result = "failed".into();
    watched.told(&Notice::Ended { result });
    watched.state.gone("r", Some("exit code 0")).unwrap();

    for state in ["starting", "idle", "busy", "stopping"] {
        assert_eq!(workers(state), 0.0, "{state}");
    }
    assert_eq!(watched.series(&["mayfly_sandboxes{"]), 0.0);
    assert_eq!(watched.series(&["mayfly_sandboxes_restored_total{"]), 1.0);
    assert_eq!(
        watched.series(&["mayfly_worker_exits_total{", "clean"]),
        1.0
    );
    let labels = [
        "mayfly_completed_jobs_total{",
        r#"name="sandbox""#,
        r#"repository="shop""#,
        r#"organization="acme""#,
        r#"job_name="test""#,
        r#"event_name="push""#,
        r#"job_result="failed""#,
    ];
    assert_eq!(watched.series(&labels), 1.0);
    let count = ["execution_duration_seconds_count{", "failed"];
    assert_eq!(watched.series(&count), 1.0);
    let phase = |what: &str, le: &str| {
        let name = format!("phase_duration_seconds_{what}{{");
        watched.series(&[&name, "first_step", le])
    };
    assert_eq!(phase("count", ""), 1.0);
    assert_eq!(phase("bucket", "le=\"0.005\""), 1.0);
    assert_eq!(phase("bucket", "le=\"0.0025\""), 0.0);
}

#[test]
fn a_job_whose_worker_is_lost_is_lost() {
    let watched = watched();
    watched.start("r");
    watched.told(&job("test"));
    watched.state.gone("r", Some("signal 9")).unwrap();
    let lost = ["mayfly_completed_jobs_total{", "\"lost\""];
    assert_eq!(watched.series(&lost), 1.0);
    let killed = ["mayfly_worker_exits_total{", "killed"];
    assert_eq!(watched.series(&killed), 1.0);
}

#[test]
fn hostile_names_make_neither_lines_nor_series_without_end() {
    let watched = watched();
    for number in 0..3 * MOST_JOBS {
        watched.start("r");
        let long = "x".repeat(9999);
        watched.told(&job(&format!("j{number}\"}} 1\nmayfly_ready 1\n{long}")));
        let result = format!("r{number}");
        watched.told(&Notice::Ended { result });
        let (endpoint, kind) = (format!("e{number}"), "server".into());
        watched.told(&Notice::ProtocolError { endpoint, kind });
        let kind = format!("k{number}");
        watched.told(&Notice::PinViolation { kind });
        watched.state.gone("r", None).unwrap();
    }
    let text = watched.text();
    let lines = |start: &str| text.lines().filter(|l| l.starts_with(start)).count();
    assert_eq!(lines("mayfly_ready"), 1);
    assert!(text.lines().all(|line| line.len() < 1500));
    assert_eq!(lines("mayfly_started_jobs_total{"), MOST_JOBS + 1);
    assert_eq!(lines("mayfly_completed_jobs_total{"), MOST_JOBS + 1);
    let rest = ["mayfly_started_jobs_total{", r#"job_name="other""#];
    assert_eq!(value_of(&text, &rest), Some(2.0 * MOST_JOBS as f64));
    assert_eq!(lines("mayfly_protocol_errors_total{"), MOST_ERRORS + 1);
    assert_eq!(lines("mayfly_pin_violations_total{"), PIN_KINDS.len() + 1);
}

#[test]
fn a_pool_that_changes_or_goes_leaves_no_old_settings() {
    let watched = watched();
    watched.state.pool("sandbox", |pool| {
        pool.assigned = Some(3);
        pool.snapshot_created = Timestamp::from_second(99).ok();
    });
    let created = ["mayfly_snapshot_created_timestamp_seconds{", "sandbox"];
    assert_eq!(watched.series(&created), 99.0);
    let info = ["mayfly_pool_info{", "standard", "acme"];
    assert_eq!(watched.series(&info), 1.0);
    assert_eq!(watched.series(&["mayfly_assigned_jobs{"]), 3.0);
    watched.state.configure(&[pool("sandbox", "minimal", 9)]);
    assert_eq!(watched.series(&["mayfly_pool_capacity{"]), 9.0);
    assert_eq!(watched.series(&["mayfly_pool_info{"]), 1.0);
    watched.state.configure(&[]);
    let text = watched.text();
    for gone in ["mayfly_pool_", "mayfly_assigned_jobs{", "mayfly_workers{"] {
        let there = text.lines().any(|line| line.starts_with(gone));
        assert!(!there, "{gone}");
    }
    assert!(text.contains("mayfly_worker_starts_total{name=\"sandbox\"} 0"));
}

#[test]
fn what_github_and_sandboxes_do_is_counted() {
    let watched = watched();
    watched.start("r");
    for verdict in ["allow", "allow", "deny"] {
        watched.told(&Notice::Egress {
            verdict: verdict.into(),
            connections: 2,
            sent: 10,
            received: 20,
        });
    }
    watched.told(&Notice::Renewal { ok: true });
    watched.state.limited(RateLimit {
        limit: 5000,
        remaining: 4999,
        reset: Timestamp::UNIX_EPOCH,
    });
    let failure = ("server", "HTTP 502".to_owned());
    watched.state.called("sessions", Some(failure));
    watched.state.called("sessions", None);
    watched.metrics.reloaded(false);
    let (pool, seconds) = ("sandbox", 7.0);
    watched.state.tell(&Happening::Queued { pool, seconds });
    for (parts, expected) in [
        (["mayfly_egress_bytes_total{", "allow", "received"], 40.0),
        (["mayfly_egress_connections_total{", "deny", ""], 2.0),
        (["mayfly_job_renewals_total{", "\"ok\"", ""], 1.0),
        (["mayfly_protocol_errors_total{", "sessions", "server"], 1.0),
        (["mayfly_github_rate_limit_remaining ", "", ""], 4999.0),
        (["mayfly_config_reloads_total{", "failed", ""], 1.0),
        (["phase_duration_seconds_sum{", "sandbox", "\"queue\""], 7.0),
    ] {
        assert_eq!(watched.series(&parts), expected, "{parts:?}");
    }
    assert!(watched.series(&["mayfly_github_contact_timestamp_seconds "]) > 1.7e9);
    assert!(watched.series(&["process_resident_memory_bytes "]) > 1e6);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let start = watched.series(&["process_start_time_seconds "]);
    assert!((now.unwrap().as_secs_f64() - start).abs() < 3600.0);
}

/// Sends `request` and reads until the other side closes.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

async fn listening(watched: &Watched) -> SocketAddr {
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(any).await.unwrap();
    let address = listener.address();
    let (metrics, state) = (Arc::clone(&watched.metrics), Arc::clone(&watched.state));
    tokio::spawn(listener.serve(metrics, state));
    address
}

#[tokio::test]
async fn it_is_ready_when_nothing_lacks_and_not_while_it_drains() {
    let watched = watched();
    let address = listening(&watched).await;
    let ready = async || get(address, "/readyz").await;
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    let said = ready().await;
    assert!(said.starts_with("HTTP/1.1 503"), "{said}");
    assert!(said.contains("github: no answer yet"), "{said}");
    assert!(said.contains("pool sandbox:"), "{said}");
    assert_eq!(watched.series(&["mayfly_ready "]), 0.0);
    watched.state.called("releases", None);
    watched.state.pool("sandbox", |pool| pool.ready = true);
    assert!(ready().await.starts_with("HTTP/1.1 200"));
    assert_eq!(watched.series(&["mayfly_ready "]), 1.0);
    let error = |error: Option<&str>| {
        let error = error.map(str::to_owned);
        watched.state.pool("sandbox", |pool| pool.error = error);
    };
    error(Some("no image\r\nstandard"));
    assert!(ready().await.contains("pool sandbox: no image  standard\n"));
    error(None);
    watched.state.drain();
    assert!(ready().await.contains("told to end"));
    let scraped = get(address, "/metrics").await;
    assert!(scraped.contains("text/plain; version=0.0.4"));
    assert!(scraped.contains("mayfly_draining 1"));
}

#[tokio::test]
async fn other_paths_and_methods_and_large_requests_are_refused() {
    let address = listening(&watched()).await;
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
    let post = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    assert!(ask(address, post).await.starts_with("HTTP/1.1 405"));
    let huge = format!("/{}", "x".repeat(64 << 10));
    assert!(!get(address, &huge).await.starts_with("HTTP/1.1 2"));
}

#[tokio::test]
async fn clients_that_say_nothing_are_cut_off_and_do_not_keep_others_out_for_long() {
    let address = listening(&watched()).await;
    let mut silent = Vec::new();
    for _ in 0..2 * super::listener::CONNECTIONS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nX:")
            .await
            .unwrap();
        silent.push(stream);
    }
    let begun = Instant::now();
    assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < Duration::from_secs(20));
    let mut rest = Vec::new();
    silent[0].read_to_end(&mut rest).await.unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 2"));
}

/// Written anew by `MAYFLY_WRITE_DOCS=1 cargo test -p mayfly --lib the_reference`.
#[test]
fn the_reference_is_what_is_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let table = Metrics::new(&Scope::Organization("acme".into())).reference();
    let text = page.split("| metric |").next().unwrap();
    let new = format!("{text}{table}");
    if std::env::var_os("MAYFLY_WRITE_DOCS").is_some() {
        std::fs::write(path, &new).unwrap();
    }
    assert_eq!(page, new, "docs/metrics.md is not up to date");
}
