//! The real Prometheus: scrapes a running `mayfly serve`, answers queries about it, evaluates the alert rules.

use std::{
    fs::{self, File},
    io::Write,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value as Json;

use crate::{
    dashboard, needs, rules,
    served::{Served, free_address, get},
};

pub fn trials() -> Vec<Trial> {
    vec![
        needs(
            "promtool",
            "prometheus",
            "promtool_finds_nothing_in_what_is_served",
            lint,
        ),
        needs(
            "prometheus",
            "prometheus",
            "a_real_prometheus_scrapes_and_answers",
            scraped,
        ),
    ]
}

/// How long Prometheus may take until it has a sample.
const LIMIT: Duration = Duration::from_secs(60);

fn lint() -> Result<(), Failed> {
    let mut served = Served::start(|_, _| {})?;
    let (status, text) = served.get("/metrics")?;
    assert_eq!(status, 200);
    assert_eq!(served.get("/healthz")?.0, 200);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = promtool.stdin.take().ok_or("no standard input")?;
    stdin.write_all(text.as_bytes())?;
    drop(stdin);
    let output = promtool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}");
    served.end()?;
    Ok(())
}

/// A Prometheus of our own, which ends with this.
struct Prometheus {
    address: SocketAddr,
    folder: tempfile::TempDir,
    child: Child,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let config = folder.path().join("prometheus.yml");
        let rules = rules::file();
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
                 scrape_configs:\n- job_name: mayfly\n  static_configs: [{{targets: ['{target}']}}]\n",
                rules.display()
            ),
        )?;
        let log = File::create(folder.path().join("log"))?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stderr(log)
            .spawn()?;
        Ok(Self {
            address,
            folder,
            child,
        })
    }

    /// The result of a query, as soon as there is one.
    fn query(&self, query: &str) -> Result<Json, Failed> {
        let end = Instant::now() + LIMIT;
        loop {
            match self.api(&format!("query?query={}", escaped(query))) {
                Ok(data) if data["result"].as_array().is_some_and(|r| !r.is_empty()) => {
                    return Ok(data["result"].clone());
                }
                said if Instant::now() > end => {
                    let log = fs::read_to_string(self.folder.path().join("log"))?;
                    return Err(format!("{query}: {said:?}\n{log}").into());
                }
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// What a path of the API answers.
    fn api(&self, path: &str) -> Result<Json, Failed> {
        let (status, body) = get(self.address, &format!("/api/v1/{path}"))?;
        let mut answer: Json = serde_json::from_str(&body)?;
        if status == 200 && answer["status"] == "success" {
            return Ok(answer["data"].take());
        }
        Err(format!("{path}: HTTP {status}: {body}").into())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A query as part of a URL.
fn escaped(query: &str) -> String {
    form_urlencoded::byte_serialize(query.as_bytes()).collect()
}

fn scraped() -> Result<(), Failed> {
    let mut served = Served::start(|_, _| {})?;
    let prometheus = Prometheus::start(served.metrics)?;
    for (query, expected) in [
        ("up{job=\"mayfly\"}", "1"),
        ("mayfly_pool_capacity{name=\"sandbox\"}", "3"),
        ("mayfly_pool_idle_wanted", "1"),
        ("mayfly_draining", "0"),
        ("mayfly_github_rate_limit", "5000"),
        (
            "count(mayfly_pool_info{repository=\"hello\",organization=\"octo\"})",
            "1",
        ),
        (
            "time() - mayfly_github_contact_timestamp_seconds < bool 60",
            "1",
        ),
        ("process_resident_memory_bytes < bool 100e6", "1"),
    ] {
        let result = prometheus.query(query)?;
        assert_eq!(result[0]["value"][1], expected, "{query}: {result}");
    }
    // Every query of the dashboard is answered, if only with nothing.
    for (title, query) in dashboard::queries()? {
        let answer = prometheus.api(&format!("query?query={}", escaped(&query)));
        answer.map_err(|error| format!("{title}: {error:?}"))?;
    }
    let groups = prometheus.api("rules")?;
    let rules = groups["groups"][0]["rules"].as_array().ok_or("no rules")?;
    assert!(rules.len() > 10, "{groups}");
    let end = Instant::now() + LIMIT;
    loop {
        let groups = prometheus.api("rules")?;
        let rules = groups["groups"][0]["rules"].as_array().ok_or("no rules")?;
        if rules.iter().all(|rule| rule["health"] == "ok") {
            break;
        }
        assert!(Instant::now() < end, "{groups}");
        thread::sleep(Duration::from_millis(200));
    }
    // And it sees when there is nothing to scrape any more.
    served.end()?;
    prometheus.query("up{job=\"mayfly\"} == 0")?;
    Ok(())
}
