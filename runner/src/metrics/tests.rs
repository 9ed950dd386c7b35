//! Metrics as a scrape shows them, and the listener under good and bad clients.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Assigned, Listener, Metrics, PoolFacts, RateLimit, Scope, WorkerExit};
use crate::notice::{JobNames, Notice, Phase};

fn metrics() -> Arc<Metrics> {
    let metrics = Metrics::new(Scope {
        organization: "acme".into(),
        ..Scope::default()
    });
    metrics.pool(&PoolFacts {
        name: "sandbox".into(),
        image: "standard".into(),
        capacity: 4,
        idle_wanted: 1,
    });
    metrics
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

/// The value of the one series in a scrape's text whose line has all of `parts`.
fn value_of(text: &str, parts: &[&str]) -> Option<f64> {
    let fits = |line: &&str| !line.starts_with('#') && parts.iter().all(|part| line.contains(part));
    let mut lines = text.lines().filter(fits);
    let found = lines.next()?;
    assert_eq!(lines.next(), None, "more than one series has {parts:?}");
    found.rsplit_once(' ')?.1.parse().ok()
}

/// The value of the one series of `metrics` that has all of `parts`.
#[track_caller]
fn series(metrics: &Metrics, parts: &[&str]) -> f64 {
    let text = metrics.text().unwrap();
    value_of(&text, parts).unwrap_or_else(|| panic!("no series with {parts:?} in\n{text}"))
}

#[test]
fn a_worker_is_counted_from_its_start_to_its_end() {
    let metrics = metrics();
    let mut worker = metrics.worker("sandbox");
    assert_eq!(series(&metrics, &["mayfly_workers{", "\"starting\""]), 1.0);
    worker.on_notice(&Notice::Listening);
    assert_eq!(series(&metrics, &["mayfly_workers{", "\"idle\""]), 1.0);
    worker.on_notice(&job("test"));
    worker.on_notice(&Notice::Sandbox { vmm: 7 });
    assert_eq!(series(&metrics, &["mayfly_workers{", "\"busy\""]), 1.0);
    assert_eq!(series(&metrics, &["mayfly_sandboxes{"]), 1.0);
    let seconds = 0.004;
    worker.on_notice(&Notice::Phase {
        phase: Phase::FirstStep,
        seconds,
    });
    worker.on_notice(&Notice::Phase {
        phase: Phase::FirstStep,
        seconds: f64::NAN,
    });
    worker.on_notice(&Notice::Ended {
        result: "failed".into(),
    });
    assert_eq!(series(&metrics, &["mayfly_workers{", "\"ending\""]), 1.0);
    worker.exited(WorkerExit::Clean);
    drop(worker);

    for state in ["starting", "idle", "busy", "ending"] {
        let parts = ["mayfly_workers{", &format!("\"{state}\"")];
        assert_eq!(series(&metrics, &parts), 0.0, "{state}");
    }
    assert_eq!(series(&metrics, &["mayfly_sandboxes{"]), 0.0);
    let labels = [
        "mayfly_completed_jobs_total{",
        r#"name="sandbox""#,
        r#"repository="shop""#,
        r#"organization="acme""#,
        r#"job_name="test""#,
        r#"event_name="push""#,
        r#"job_result="failed""#,
    ];
    assert_eq!(series(&metrics, &labels), 1.0);
    let count = ["phase_duration_seconds_count{", "first_step"];
    assert_eq!(series(&metrics, &count), 1.0);
    let within = [
        "phase_duration_seconds_bucket{",
        "first_step",
        "le=\"0.005\"",
    ];
    assert_eq!(series(&metrics, &within), 1.0);
    let below = [
        "phase_duration_seconds_bucket{",
        "first_step",
        "le=\"0.0025\"",
    ];
    assert_eq!(series(&metrics, &below), 0.0);
}

#[test]
fn a_job_whose_worker_is_lost_is_abandoned() {
    let metrics = metrics();
    let mut worker = metrics.worker("sandbox");
    worker.on_notice(&job("test"));
    worker.exited(WorkerExit::Killed);
    drop(worker);
    let parts = ["mayfly_completed_jobs_total{", "abandoned"];
    assert_eq!(series(&metrics, &parts), 1.0);
    let parts = ["mayfly_worker_exits_total{", "killed"];
    assert_eq!(series(&metrics, &parts), 1.0);
}

#[test]
fn hostile_names_make_neither_lines_nor_series_without_end() {
    let metrics = metrics();
    for number in 0..3 * super::MOST_JOBS {
        let mut worker = metrics.worker("sandbox");
        worker.on_notice(&job(&format!(
            "j{number}\"}} 1\nmayfly_ready 1\n{}",
            "x".repeat(9999)
        )));
        worker.on_notice(&Notice::Ended {
            result: format!("r{number}"),
        });
        worker.on_notice(&Notice::ProtocolError {
            endpoint: format!("e{number}"),
            kind: "server".into(),
        });
        worker.on_notice(&Notice::PinViolation {
            kind: format!("k{number}"),
        });
    }
    let text = metrics.text().unwrap();
    assert_eq!(
        text.lines()
            .filter(|l| l.starts_with("mayfly_ready"))
            .count(),
        1
    );
    assert!(text.lines().all(|line| line.len() < 1500));
    let started = text
        .lines()
        .filter(|l| l.starts_with("mayfly_started_jobs_total{"));
    assert_eq!(started.count(), super::MOST_JOBS + 1);
    let rest = ["mayfly_started_jobs_total{", r#"job_name="other""#];
    assert_eq!(value_of(&text, &rest), Some(2.0 * super::MOST_JOBS as f64));
    let errors = text
        .lines()
        .filter(|l| l.starts_with("mayfly_protocol_errors_total{"));
    assert_eq!(errors.count(), super::MOST_ERRORS + 1);
    let pins = text
        .lines()
        .filter(|l| l.starts_with("mayfly_pin_violations_total{"));
    assert_eq!(pins.count(), super::PIN_KINDS.len() + 1);
}

#[test]
fn a_pool_that_changes_or_goes_leaves_no_old_settings() {
    let metrics = metrics();
    metrics.snapshot("sandbox", SystemTime::UNIX_EPOCH + Duration::from_secs(99));
    metrics.assigned(
        "sandbox",
        Assigned {
            jobs: 3,
            registered: 2,
        },
    );
    assert_eq!(
        series(&metrics, &["mayfly_pool_info{", "standard", "acme"]),
        1.0
    );
    assert_eq!(
        series(&metrics, &["mayfly_snapshot_created", "sandbox"]),
        99.0
    );
    metrics.pool(&PoolFacts {
        name: "sandbox".into(),
        image: "minimal".into(),
        capacity: 9,
        idle_wanted: 0,
    });
    assert_eq!(series(&metrics, &["mayfly_pool_capacity{"]), 9.0);
    assert_eq!(series(&metrics, &["mayfly_pool_info{"]), 1.0);
    metrics.pool_gone("sandbox");
    let text = metrics.text().unwrap();
    for gone in [
        "mayfly_pool_",
        "mayfly_snapshot_created",
        "mayfly_assigned_jobs{",
    ] {
        assert!(!text.lines().any(|line| line.starts_with(gone)), "{gone}");
    }
    assert!(text.contains("mayfly_worker_starts_total{name=\"sandbox\"} 0"));
}

#[test]
fn what_github_says_is_shown() {
    let metrics = metrics();
    let egress = |verdict: &str| Notice::Egress {
        verdict: verdict.into(),
        connections: 2,
        sent: 10,
        received: 20,
    };
    let mut worker = metrics.worker("sandbox");
    worker.on_notice(&egress("allow"));
    worker.on_notice(&egress("allow"));
    worker.on_notice(&Notice::Renewal { ok: true });
    assert_eq!(
        series(&metrics, &["mayfly_egress_bytes_total{", "received"]),
        40.0
    );
    assert_eq!(
        series(&metrics, &["mayfly_job_renewals_total{", "\"ok\""]),
        1.0
    );
    metrics.rate_limit(RateLimit {
        limit: 5000,
        remaining: 4999,
        reset: 7,
    });
    metrics.github_answered();
    metrics.reloaded(false);
    assert_eq!(
        series(&metrics, &["mayfly_github_rate_limit_remaining "]),
        4999.0
    );
    assert!(series(&metrics, &["mayfly_github_contact_timestamp_seconds "]) > 1.7e9);
    assert_eq!(
        series(&metrics, &["mayfly_config_reloads_total{", "failed"]),
        1.0
    );
    assert!(series(&metrics, &["process_resident_memory_bytes "]) > 1e6);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let start = series(&metrics, &["process_start_time_seconds "]);
    assert!((now.as_secs_f64() - start).abs() < 3600.0);
}

/// Sends `request` and reads until the other side closes.
async fn ask(listener: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(listener).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn listening(metrics: &Arc<Metrics>) -> std::net::SocketAddr {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = listener.address();
    tokio::spawn(listener.serve(Arc::clone(metrics)));
    address
}

#[tokio::test]
async fn it_is_ready_when_nothing_lacks_and_not_while_it_drains() {
    let metrics = metrics();
    let address = listening(&metrics).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        ask(address, &get("/healthz"))
            .await
            .starts_with("HTTP/1.1 200")
    );
    let said = ask(address, &get("/readyz")).await;
    assert!(
        said.starts_with("HTTP/1.1 503") && said.contains("github: no answer yet"),
        "{said}"
    );
    assert_eq!(series(&metrics, &["mayfly_ready "]), 0.0);
    metrics.github_answered();
    assert!(
        ask(address, &get("/readyz"))
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert_eq!(series(&metrics, &["mayfly_ready "]), 1.0);
    metrics.readiness().lacks(
        "image standard",
        "not built: run `mayfly image build standard`",
    );
    assert!(
        ask(address, &get("/readyz"))
            .await
            .contains("image standard: not built")
    );
    metrics.readiness().has("image standard");
    metrics.draining(true);
    assert!(
        ask(address, &get("/readyz"))
            .await
            .starts_with("HTTP/1.1 503")
    );
    let scraped = ask(address, &get("/metrics")).await;
    assert!(scraped.contains("text/plain; version=0.0.4") && scraped.contains("mayfly_draining 1"));
    assert!(ask(address, &get("/")).await.starts_with("HTTP/1.1 404"));
    let post = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    assert!(ask(address, post).await.starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn clients_that_say_nothing_are_cut_off_and_do_not_keep_others_out_for_long() {
    let metrics = metrics();
    let address = listening(&metrics).await;
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
    let said = ask(address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let mut rest = Vec::new();
    silent[0].read_to_end(&mut rest).await.unwrap();
    let huge = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(64 << 10));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(huge.as_bytes()).await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    assert!(!answer.starts_with(b"HTTP/1.1 2"));
}
