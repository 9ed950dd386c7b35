//! The process of a step: in the sandbox itself, or in the job's container.

use indexmap::IndexMap;
use tokio::sync::mpsc;

use crate::{
    job::{
        Services,
        containers::JobContainer,
        environment::{process_environment, step_environment},
        files::bounded,
        process::{Ending, supervise},
        reporter::Reporter,
    },
    sandbox::{Exec, ExecInput, ExecRequest, Sandbox, SandboxError},
};

use super::{StepError, StepRun};

/// What a step wants to run.
pub(super) struct Process<'a> {
    pub(super) argv: Vec<String>,
    /// The step's `env`, and what its kind adds.
    pub(super) env: &'a IndexMap<String, String>,
    pub(super) cwd: String,
    /// Services that the process may use.
    pub(super) services: Option<&'a Services>,
}

/// Signals that wait for their delivery into a container; there are three at most.
const SIGNALS: usize = 4;

const SIGKILL: i32 = 9;

/// Runs a process until it ends, or is stopped.
pub(super) async fn run<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    process: Process<'_>,
) -> Result<Ending, StepError> {
    let shared = run.shared;
    let stop = run.stop;
    if let Some(container) = shared.containers.job()? {
        return inside(run, process, container).await;
    }
    let mut env = process_environment(run.context, shared.options, process.env);
    env.extend(process.services.into_iter().flat_map(Services::environment));
    let exec = shared.sandbox.exec(ExecRequest {
        argv: process.argv,
        env: env.into_iter().collect(),
        cwd: process.cwd,
        user: shared.options.user.clone(),
        stdin: false,
    });
    let exec = bounded("starting the step's process", exec).await?;
    Ok(supervise(exec, run.output, stop.wait(), stop.grace_over()).await?)
}

async fn inside<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    process: Process<'_>,
    container: &JobContainer,
) -> Result<Ending, StepError> {
    let sandbox = run.shared.sandbox;
    let stop = run.stop;
    let mut env = step_environment(run.context, process.env);
    let services = process.services.into_iter();
    env.extend(services.flat_map(Services::container_environment));
    let request = ExecRequest {
        argv: process.argv,
        env: env.into_iter().collect(),
        cwd: process.cwd,
        user: None,
        stdin: false,
    };
    let (added, folder) = (&run.context.path, run.files.directory());
    let request = run
        .shared
        .container_process(container, request, added, &folder);
    let exec = sandbox.exec(request.await?);
    let exec = bounded("starting the step's process", exec).await?;
    let client = exec.input.clone();
    let (input, signals) = mpsc::channel(SIGNALS);
    let exec = Exec { input, ..exec };
    let mark = run.files.mark();
    tokio::select! {
        ending = supervise(exec, run.output, stop.wait(), stop.grace_over()) => Ok(ending?),
        lost = deliver(sandbox, container, &mark, signals, client) => Err(lost.into()),
    }
}

/// Delivers signals to the processes in the container, the last one to Docker's client as well.
/// Returns when the sandbox is lost.
async fn deliver<S: Sandbox>(
    sandbox: &S,
    container: &JobContainer,
    mark: &str,
    mut signals: mpsc::Receiver<ExecInput>,
    client: mpsc::Sender<ExecInput>,
) -> SandboxError {
    while let Some(item) = signals.recv().await {
        let ExecInput::Signal(signal) = item else {
            continue;
        };
        let sent = container.signal(sandbox, signal, mark).await;
        // Otherwise what it is for goes with the container in the end.
        if let Err(error @ SandboxError::Lost(_)) = sent {
            return error;
        }
        if signal == SIGKILL {
            let _ = client.try_send(ExecInput::Signal(signal));
        }
    }
    std::future::pending().await
}
