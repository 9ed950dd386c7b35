//! What is logged about a job, at the most talkative level: its ids, and none of its secrets.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use mayfly::{
    cli::logs::{LogFormat, layer},
    github::{
        broker::Identity,
        jit::JitConfig,
        report::GitHubReporter,
        worker::{Times, Worker},
    },
    job::{Cancellation, cancellation, outcome::JobOutcome, request::JobRequest},
};
use mayfly_tests::github::{FakeGitHub, FakeJob, Fault};
use serde_json::Value as Json;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt};

const SECRET: &str = "correct-horse-battery-staple";

pub fn trials() -> Vec<Trial> {
    vec![Trial::test(
        "the_log_of_a_job_has_its_ids_and_no_secret",
        job,
    )]
}

/// The log, in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.0.lock().map_err(|_| io::ErrorKind::Other)?;
        lines.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A job that never gets a sandbox: it is reported whole, with a log of its own.
async fn run(request: &JobRequest, reporter: &GitHubReporter, _: Cancellation) -> JobOutcome {
    mayfly::job::never_begun(request, reporter, "no sandbox in this test").await
}

fn job() -> Result<(), Failed> {
    let lines = Lines::default();
    let into = lines.clone();
    let layer = layer(LogFormat::Json, EnvFilter::new("trace"), false, move || {
        into.clone()
    });
    // For the threads of the runtime too. No other test of this program logs.
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (config, id) = runtime.block_on(async {
        let github = FakeGitHub::start().await?;
        let id = github.queue(&FakeJob {
            name: "build".into(),
            scripts: vec![("greet".into(), format!("echo {SECRET}"))],
            secrets: vec![("TOKEN".into(), SECRET.into())],
        });
        // Errors are logged; theirs are the words that would quote a request.
        github.fault(Fault::status("acquirejob", 1, 500));
        github.fault(Fault::status("completejob", 1, 500));
        let config = github.register("runner");
        let identity = Identity {
            version: "2.336.0".into(),
            owner: "host".into(),
            os_description: "Linux".into(),
        };
        let jit = JitConfig::decode(&config)?;
        let worker = Worker::new(jit, identity, "mayfly-test", Times::default())?;
        let (_stop, stopped) = cancellation();
        let life = worker.live(run, stopped);
        tokio::time::timeout(Duration::from_secs(90), life).await??;
        let job = github.job(&id);
        assert!(job.completed.is_some());
        Ok::<_, Failed>((config, (id, job.message.to_string(), github.secrets())))
    })?;
    let (id, message, secrets) = id;
    let log = String::from_utf8(lines.0.lock().map_err(|_| "poisoned")?.clone())?;
    let of_job = log.lines().filter(|line| {
        let line: Json = serde_json::from_str(line).unwrap_or_default();
        line["spans"].as_array().is_some_and(|spans| {
            spans
                .iter()
                .any(|span| span["job_id"] == id.as_str() && !span["request_id"].is_null())
        })
    });
    assert!(of_job.count() > 0, "no line names the job:\n{log}");
    assert!(message.contains(SECRET), "the job has it");
    assert!(!log.contains(SECRET), "{log}");
    assert!(
        !log.contains(&config[..60]),
        "the just-in-time configuration in\n{log}"
    );
    for secret in secrets {
        assert!(!log.contains(&secret), "{secret} in\n{log}");
    }
    Ok(())
}
