//! One job: a sandbox restored for it, the checkout copied in, its steps executed, the sandbox
//! destroyed.

use std::{io, sync::Arc, time::Duration};

use tokio_util::io::SyncIoBridge;

use super::output::Output;
use crate::{
    action::{bytes::ActionSource, image_archives::ImageArchives, own::WithCheckout},
    attestation::{self, KeyError, Pins, SANDBOX_FILE, SANDBOX_VARIABLE, Witness},
    checkout::{Checkout, CheckoutError},
    cli::{
        machine::Launcher,
        network::{self, NetworkError, Networks},
    },
    expression::value::Object,
    job::{
        self, Cancellation, Options, Services,
        layout::{Layout, WORK},
        outcome::{Conclusion, JobOutcome},
        request::JobRequest,
    },
    results::{
        http::{self, Server},
        service::{JobService, RunServices},
    },
    sandbox::{SandboxError, microvm::MicroVm},
    workflow::plan::{self, JobResult, JobRun},
};

/// Bytes that may wait between packing and unpacking of the checkout.
const PIPE_BYTES: usize = 256 * 1024;

/// What the command line gives to all jobs.
pub struct Given {
    /// Variables.
    pub env: Vec<(String, String)>,
    /// Where actions by reference are found.
    pub actions: Arc<dyn ActionSource>,
    /// Archives that stand for container images.
    pub images: ImageArchives,
    /// What was found of the workflow's references.
    pub pins: Pins,
}

/// Runs jobs, each in a sandbox of its own.
pub struct JobRunner {
    launcher: Launcher,
    networks: Networks,
    checkout: Arc<Checkout>,
    given: Given,
    services: Arc<RunServices>,
    /// Where events go.
    pub output: Arc<Output>,
}

impl std::fmt::Debug for JobRunner {
    /// Leaves out the environment: its values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobRunner")
            .field("launcher", &self.launcher)
            .field("checkout", &self.checkout)
            .finish_non_exhaustive()
    }
}

/// Why the machine could not run a job.
#[derive(Debug, thiserror::Error)]
pub enum RunJobError {
    /// No sandbox.
    #[error(transparent)]
    Restore(#[from] NetworkError),
    /// No key to prove by what the sandbox is.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The sandbox could not be told what it is.
    #[error("telling the sandbox what it is: {0}")]
    Introduce(#[source] SandboxError),
    /// The checkout could not be packed.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// The checkout could not be copied in.
    #[error("copying the checkout: {0}")]
    Copy(#[source] SandboxError),
    /// The machine ended under the job.
    #[error("the sandbox of this job was lost: {0}")]
    Lost(String),
}

impl JobRunner {
    /// A runner of jobs from one template and one checkout.
    pub fn new(
        (launcher, networks): (Launcher, Networks),
        checkout: Arc<Checkout>,
        mut given: Given,
        services: Arc<RunServices>,
        output: Arc<Output>,
    ) -> Self {
        given.actions = Arc::new(WithCheckout::new(Arc::clone(&checkout), given.actions));
        Self {
            launcher,
            networks,
            checkout,
            given,
            services,
            output,
        }
    }

    /// Runs one job to its end. The outcome of a job whose sandbox was lost is in its log already;
    /// the error says how the machine ended.
    pub async fn run(
        &self,
        run: &JobRun,
        cancellation: Cancellation,
    ) -> (plan::JobOutcome, Option<RunJobError>) {
        if cancellation.is_requested() {
            self.output
                .not_started(&run.request.job_display_name, Conclusion::Cancelled)
                .await;
            return (outcome(Conclusion::Cancelled), None);
        }
        let sandbox = tokio::select! {
            biased;
            () = cancellation.requested() => {
                self.output.not_started(&run.request.job_display_name, Conclusion::Cancelled).await;
                return (outcome(Conclusion::Cancelled), None);
            }
            prepared = self.prepare(run) => prepared,
        };
        let (sandbox, witness) = match sandbox {
            Ok(prepared) => prepared,
            Err(error) => {
                self.output
                    .not_started(&run.request.job_display_name, Conclusion::Failure)
                    .await;
                return (outcome(Conclusion::Failure), Some(error));
            }
        };
        let mut options = self.options(run);
        let server = match self.serve(run, &sandbox, witness) {
            Ok((services, server)) => {
                options.services = Some(services);
                Some(server)
            }
            Err(error) => {
                options.without_services = Some(error.to_string());
                None
            }
        };
        let done = job::execute(
            &run.request,
            &options,
            &sandbox,
            &*self.output,
            cancellation,
        )
        .await;
        drop(server);
        let lost = end(&sandbox, done.result).await;
        (needs_outcome(run, done), lost)
    }

    async fn prepare(&self, run: &JobRun) -> Result<(MicroVm, Witness), RunJobError> {
        let witness = Witness::new(self.launcher.host_key()?, self.identity(run));
        let place = network::place(&run.request);
        let restored = self
            .networks
            .restore(&self.launcher, &place, Some(&run.request));
        let sandbox = restored.await?;
        witness
            .introduce(&sandbox)
            .await
            .map_err(RunJobError::Introduce)?;
        let repository = github(run, "repository");
        self.copy_checkout(&sandbox, &Layout::new(WORK, repository).workspace)
            .await?;
        Ok((sandbox, witness))
    }

    /// What a job's sandbox is.
    fn identity(&self, run: &JobRun) -> attestation::Sandbox {
        attestation::Sandbox {
            sandbox: uuid::Uuid::new_v4().to_string(),
            run: github(run, "run_id").to_owned(),
            job: run.request.job_display_name.clone(),
            repository: github(run, "repository").to_owned(),
            image: self.launcher.image(),
            pins: self.given.pins.clone(),
            mayfly: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Answers what actions of this job ask for, until the server is dropped.
    fn serve(
        &self,
        run: &JobRun,
        sandbox: &MicroVm,
        witness: Witness,
    ) -> io::Result<(Services, Server)> {
        let service = JobService::new(Arc::clone(&self.services), cache_scopes(&run.request))?;
        let service = service.with_witness(witness);
        let services = Services {
            address: JobService::address(),
            token: service.token(),
        };
        let serving = http::serve(sandbox.agent().clone(), Arc::new(service));
        Ok((services, Server::start(serving)))
    }

    async fn copy_checkout(&self, sandbox: &MicroVm, workspace: &str) -> Result<(), RunJobError> {
        let (writer, reader) = tokio::io::duplex(PIPE_BYTES);
        let writer = SyncIoBridge::new(writer);
        let checkout = Arc::clone(&self.checkout);
        let packer = tokio::task::spawn_blocking(move || checkout.write_tar(writer));
        let user = self.user();
        let copied = sandbox
            .agent()
            .copy_in_as(workspace, user.as_deref(), reader)
            .await;
        match packer.await {
            // The sandbox hung up first: its words are the cause.
            Ok(Err(_)) if copied.is_err() => copied.map_err(RunJobError::Copy),
            Ok(packed) => {
                packed?;
                copied.map_err(RunJobError::Copy)
            }
            Err(panicked) => Err(RunJobError::Lost(panicked.to_string())),
        }
    }

    fn user(&self) -> Option<String> {
        self.launcher.template().image.manifest.config.user.clone()
    }

    fn options(&self, run: &JobRun) -> Options {
        let mut options = self.launcher.job_options();
        options
            .environment
            .push((SANDBOX_VARIABLE.to_owned(), SANDBOX_FILE.to_owned()));
        options.environment.extend(self.given.env.iter().cloned());
        options.actions = Arc::clone(&self.given.actions);
        options.container_images = self.given.images.entries();
        options.timeout = Duration::try_from_secs_f64(run.timeout_minutes * 60.0).ok();
        options
    }
}

/// A value of a job's `github` context.
fn github<'a>(run: &'a JobRun, key: &str) -> &'a str {
    let context = run.request.context_data.get("github");
    let value = context.and_then(|context| context.as_object()?.get(key)?.as_str());
    value.unwrap_or_default()
}

/// References whose caches a job may read, its own first: as at GitHub also those of the branch that
/// a pull request goes to, and of the default branch.
fn cache_scopes(request: &JobRequest) -> Vec<String> {
    let github = request.context_data.get("github");
    let github = github.and_then(|github| github.as_object());
    let text = |object: Option<&Object>, key: &str| {
        let value = object.and_then(|object| object.get(key)?.as_str());
        value.unwrap_or_default().to_owned()
    };
    let event = github.and_then(|github| github.get("event")?.as_object());
    let repository = event.and_then(|event| event.get("repository")?.as_object());
    let mut scopes = vec![text(github, "ref")];
    for branch in [text(github, "base_ref"), text(repository, "default_branch")] {
        let scope = format!("refs/heads/{branch}");
        if !branch.is_empty() && !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    scopes
}

/// Destroys the sandbox of a job; tells how the machine ended if it ended under the job.
async fn end(sandbox: &MicroVm, result: Conclusion) -> Option<RunJobError> {
    let (ended, console) = sandbox.finish(result == Conclusion::Failure).await?;
    tracing::info!("the end of the console:\n{console}");
    Some(RunJobError::Lost(ended.to_string()))
}

/// A job's outcome as the jobs that need it see it.
fn needs_outcome(run: &JobRun, done: JobOutcome) -> plan::JobOutcome {
    let mut seen = outcome(done.result);
    if run.continue_on_error && seen.result == JobResult::Failure {
        seen.result = JobResult::Success;
    }
    for (name, value) in done.outputs {
        seen.outputs.insert(&name, value);
    }
    seen
}

fn outcome(conclusion: Conclusion) -> plan::JobOutcome {
    let result = match conclusion {
        Conclusion::Success => JobResult::Success,
        Conclusion::Failure => JobResult::Failure,
        Conclusion::Cancelled => JobResult::Cancelled,
        Conclusion::Skipped => JobResult::Skipped,
    };
    plan::JobOutcome {
        result,
        outputs: Object::new(),
    }
}
