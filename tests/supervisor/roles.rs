//! What this program is where it is started again: the supervisor under test, or a worker without sandboxes.
//!
//! The supervisor is the product's own, with shorter waits. The worker is the product's own client with a
//! stand-in for the job.

use std::{
    env,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use mayfly::{
    config::ServeConfig,
    github::{
        broker::Identity,
        jit::JitConfig,
        report::GitHubReporter,
        worker::{Times as WorkerTimes, Worker},
    },
    job::{
        Cancellation, cancellation,
        outcome::{Conclusion, JobOutcome},
        request::JobRequest,
    },
    notice::{Notice, Notices},
    supervisor::{Order, Program, Setup, Supervisor, Times, status::StatusSocket},
};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

/// Says which one it is.
pub const ROLE: &str = "MAYFLY_TEST_ROLE";
/// By how much the supervisor's waits are divided.
pub const FASTER: &str = "MAYFLY_TEST_FASTER";
/// What the worker does instead of asking for a session.
pub const MANNER: &str = "MAYFLY_TEST_MANNER";

/// Runs the role that the environment names, if it names one.
pub fn role() -> Option<ExitCode> {
    match env::var(ROLE).ok()?.as_str() {
        "supervisor" => Some(supervisor()),
        "worker" => Some(worker()),
        other => panic!("no such role: {other}"),
    }
}

fn supervisor() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::new("warn,mayfly=info");
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let arguments: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [config, folder] = arguments.as_slice() else {
        panic!("supervisor CONFIG FOLDER");
    };
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(serve(config, folder))
}

async fn serve(config: &Path, folder: &Path) -> ExitCode {
    let faster = env::var(FASTER)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(20);
    let read = || ServeConfig::read(config);
    let setup = Setup {
        config: read().expect("a right configuration"),
        folder: folder.to_owned(),
        program: Program {
            path: env::current_exe().expect("/proc"),
            arguments: Vec::new(),
            variables: vec![(ROLE.into(), "worker".into())],
        },
        times: Times::default().faster(faster),
        observers: Vec::new(),
    };
    let supervisor = match Supervisor::new(setup) {
        Ok(supervisor) => supervisor,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(3);
        }
    };
    let socket = StatusSocket::bind(folder).expect("a socket");
    let status = tokio::spawn(socket.serve(supervisor.state()));
    let (sender, orders) = mpsc::channel(8);
    let signals = [
        (SignalKind::hangup(), Order::Reload),
        (SignalKind::terminate(), Order::End),
    ];
    for (kind, order) in signals {
        let (mut signal, sender) = (signal(kind).expect("signals"), sender.clone());
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                let _ = sender.send(order).await;
            }
        });
    }
    supervisor.run(orders, read).await.expect("it starts");
    status.abort();
    ExitCode::SUCCESS
}

fn worker() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let after = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    if arguments.iter().any(|argument| argument == "--prepare") {
        return ExitCode::SUCCESS;
    }
    assert!(
        after("--image").is_some() && after("--memory").is_some(),
        "{arguments:?}"
    );
    let mut config = String::new();
    std::io::stdin()
        .read_to_string(&mut config)
        .expect("a configuration");
    let config = JitConfig::decode(&config).expect("the fake's own");
    if env::var(MANNER).is_ok_and(|manner| manner == "ends-badly") {
        return ExitCode::from(3);
    }
    let notices = Notices::open(Path::new(&after("--notices").expect("a pipe"))).expect("a pipe");
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime: Runtime = runtime.expect("a runtime");
    let version = after("--runner-version").unwrap_or_else(|| "0.0.0".to_owned());
    runtime.block_on(live(config, notices, version))
}

async fn live(config: JitConfig, notices: Notices, version: String) -> ExitCode {
    let identity = Identity {
        version,
        owner: format!("host (PID: {})", std::process::id()),
        os_description: "Linux".into(),
    };
    let worker = Worker::new(config, identity, "mayfly-test", times()).expect("TLS");
    let worker = worker.telling(notices.clone());
    let (canceller, stop) = cancellation();
    let mut terminate = signal(SignalKind::terminate()).expect("signals");
    tokio::spawn(async move {
        terminate.recv().await;
        canceller.cancel();
    });
    let run = async |request: &JobRequest, _: &GitHubReporter, cancelled| {
        run(request, &notices, cancelled).await
    };
    match worker.live(run, stop).await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("worker: {error}");
            ExitCode::from(3)
        }
    }
}

/// A job does what its name says: `sleep MS`, or nothing.
async fn run(request: &JobRequest, notices: &Notices, cancelled: Cancellation) -> JobOutcome {
    let vmm = std::process::id();
    notices.tell(&Notice::Sandbox { vmm });
    let mut words = request.job_display_name.split(' ');
    let wait = match (words.next(), words.next()) {
        (Some("sleep"), Some(number)) => number.parse().unwrap_or_default(),
        _ => 0,
    };
    let result = tokio::select! {
        biased;
        () = cancelled.requested() => Conclusion::Cancelled,
        () = sleep(Duration::from_millis(wait)) => Conclusion::Success,
    };
    JobOutcome {
        result,
        outputs: Vec::new(),
        steps: Vec::new(),
        duration: Duration::ZERO,
        environment_url: None,
    }
}

/// The official runner's waits, a hundred times shorter.
fn times() -> WorkerTimes {
    let ms = Duration::from_millis;
    WorkerTimes {
        session: ms(300),
        conflicts: 8,
        poll: ms(50)..=ms(100),
        later_poll: ms(100)..=ms(200),
        polls: 100,
        call: ms(10)..=ms(100),
        calls: 5,
        lost: (ms(10), ms(600)),
        renew: ms(600),
        past_lock: ms(3000),
        report: Duration::from_secs(5),
    }
}
