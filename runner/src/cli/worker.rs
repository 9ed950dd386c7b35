//! `mayfly worker`: one just-in-time runner, for one job.

use std::{
    io::{self, IsTerminal, Read},
    path::PathBuf,
    process,
    sync::Arc,
    time::Instant,
};

use clap::Args;
use zeroize::Zeroizing;

use super::{
    CommandResult, Exit, Failure,
    egress::EgressArgs,
    interrupt::{Interrupts, interrupted},
    kvm,
    machine::{Launcher, MachineArgs},
    network::{self, Networks},
};
use crate::{
    action::{
        bytes::{ActionSource, NoActions, NoSource},
        policy::PinPolicy,
    },
    config::{Installation, Settings},
    egress::record::Tell,
    github::{
        broker::{Identity, PollError, SessionError},
        http::Http,
        jit::{JitConfig, MAX_JIT_CONFIG},
        launch::{self, ActionPolicy, LaunchTimes},
        report::GitHubReporter,
        worker::{Ended, Times, Worker, WorkerError},
    },
    job::{
        self, Cancellation, cancellation,
        layout::Layout,
        outcome::{Conclusion, JobOutcome},
        request::JobRequest,
    },
    notice::{Notice, Notices, Phase},
    sandbox::microvm::MicroVm,
};

/// The protocol level that is reported where nothing else is said: a version of actions/runner.
const RUNNER_VERSION: &str = "2.336.0";

/// Exit code when another process has this runner's session, as the official runner has it.
const CONFLICT: u8 = 5;
/// Exit code when GitHub gives the reported version no job, as the official runner has it.
const VERSION_TOO_OLD: u8 = 7;

/// Takes one job from GitHub and runs it in a fresh sandbox. The just-in-time configuration
/// (`encoded_jit_config`) comes on standard input, never on the command line.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  gh api -X POST repos/OWNER/REPO/actions/runners/generate-jitconfig -f name=sandbox-1 \\\n\
                  \x20   -F runner_group_id=1 -f 'labels[]=sandbox' --jq .encoded_jit_config | mayfly worker --image standard\n\n\
                  Exit codes: 0 a job ran and GitHub knows its result (whatever it was), or none came before the\n\
                  worker was told to stop, 2 wrong command line or configuration, 3 GitHub or the machine\n\
                  did not let it, 5 another process has this runner's session, 7 GitHub gives the reported\n\
                  version no job."
)]
pub struct WorkerArgs {
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    egress: EgressArgs,
    /// Version of actions/runner whose protocol level is reported. GitHub gives no job to one that is
    /// older than about a month.
    #[arg(long, value_name = "VERSION", default_value = RUNNER_VERSION, env = "MAYFLY_RUNNER_VERSION")]
    runner_version: String,
    /// What must be known of actions and images before a job begins [default: require, or what the
    /// configuration says]
    #[arg(long, value_enum, value_name = "POLICY", env = "MAYFLY_PINS")]
    pins: Option<PinPolicy>,
    /// Folder or URL below which git repositories of actions lie as `owner/repo`: they come from there
    /// instead of from GitHub's archives [default: what the configuration says]
    #[arg(long, value_name = "DIR|URL", env = "MAYFLY_MIRROR")]
    mirror: Option<String>,
    /// Named pipe on which a supervisor is told what happens.
    #[arg(long, value_name = "PIPE", hide = true)]
    notices: Option<PathBuf>,
    /// Only makes the snapshot that sandboxes are restored from, where it is not there yet.
    #[arg(long, hide = true)]
    prepare: bool,
}

pub fn worker(args: &WorkerArgs, mode: kvm::KvmMode) -> CommandResult {
    if args.prepare {
        return prepare(args, mode);
    }
    if io::stdin().is_terminal() {
        let cause = "give `encoded_jit_config` on standard input, by a pipe";
        return Err(Failure::usage(anyhow::anyhow!(cause)));
    }
    kvm::ensure(mode)?;
    let config = read_config()?;
    let notices = notices(args)?;
    let installation = Installation::locate()?;
    let policy = policy(args, &installation)?;
    let told = notices.clone();
    let tell: Tell = Arc::new(move |notice| told.tell(&notice));
    let networks = Networks::new(&args.egress, &installation, Some(tell))?;
    let name = config.runner.agent_name.clone();
    let agent = format!("mayfly/{}", env!("CARGO_PKG_VERSION"));
    super::runtime()?.block_on(async {
        let mut interrupts = Interrupts::take()?;
        // The template first: a job that is taken has a machine.
        let launcher = interrupts
            .guard(args.machine.launcher(installation))
            .await?;
        eprintln!("{}", networks.line());
        let machine = Machine {
            launcher,
            networks,
            notices: notices.clone(),
            policy,
            http: Http::new(&agent).map_err(WorkerError::Setup)?,
            name,
        };
        let worker =
            Worker::new(config, identity(args), &agent, Times::default())?.telling(notices.clone());
        let (canceller, stop) = cancellation();
        let run = async |request: &JobRequest, reporter: &GitHubReporter, cancelled| {
            machine.run(request, reporter, cancelled).await
        };
        let life = worker.live(run, stop);
        tokio::pin!(life);
        let mut signal = None;
        let ended = loop {
            tokio::select! {
                ended = &mut life => break ended,
                number = interrupts.next() => {
                    // The first lets the job end as a cancelled one; the second is meant.
                    if signal.replace(number).is_some() {
                        return Err(interrupted(number));
                    }
                    canceller.cancel();
                }
            }
        };
        match ended.map_err(failure)? {
            Ended::Job(outcome) => println!("job ended: {}", outcome.result.as_str()),
            Ended::Stopped => println!("stopped before a job came"),
            Ended::Shutdown(reason) => println!("shut down by GitHub before a job came: {reason}"),
            Ended::NoJob(why) => println!("the job was gone before it was taken: {why}"),
        }
        Ok(Exit::Success)
    })
}

/// Exit codes of the official runner, where it has its own: for scripts that look at them.
fn failure(error: WorkerError) -> Failure {
    let exit = match &error {
        WorkerError::Session(SessionError::Conflict(_)) => Exit::Command(CONFLICT),
        WorkerError::Session(SessionError::VersionTooOld { .. })
        | WorkerError::Poll(PollError::VersionTooOld { .. }) => Exit::Command(VERSION_TOO_OLD),
        _ => Exit::Machine,
    };
    let cause = error.into();
    Failure { exit, cause }
}

/// Makes the snapshot, so that no worker waits for it.
fn prepare(args: &WorkerArgs, mode: kvm::KvmMode) -> CommandResult {
    kvm::ensure(mode)?;
    let installation = Installation::locate()?;
    super::runtime()?.block_on(async {
        let mut interrupts = Interrupts::take()?;
        let launcher = interrupts
            .guard(args.machine.launcher(installation))
            .await?;
        // The supervisor reads when it was made, in seconds since 1970.
        println!("{}", launcher.template().snapshot.manifest.created);
        Ok(Exit::Success)
    })
}

/// What this machine says of actions: flags, then the configuration.
fn policy(args: &WorkerArgs, installation: &Installation) -> Result<ActionPolicy, Failure> {
    let settings = Settings::load().map_err(Failure::usage)?.actions;
    let pins = args.pins.or(settings.pins).unwrap_or_default();
    let mirror = args.mirror.clone().or(settings.mirror);
    Ok(ActionPolicy::new(installation, pins, mirror))
}

/// The supervisor's pipe, if there is a supervisor.
fn notices(args: &WorkerArgs) -> Result<Notices, Failure> {
    let Some(pipe) = &args.notices else {
        return Ok(Notices::default());
    };
    Notices::open(pipe).map_err(|cause| {
        let shown = pipe.display();
        Failure::usage(anyhow::anyhow!("cannot use the pipe {shown}: {cause}"))
    })
}

/// Reads the configuration, and nothing beyond its bound.
fn read_config() -> Result<JitConfig, Failure> {
    let mut encoded = Zeroizing::new(String::new());
    let limit = u64::try_from(MAX_JIT_CONFIG + 1).unwrap_or(u64::MAX);
    io::stdin()
        .lock()
        .take(limit)
        .read_to_string(&mut encoded)?;
    JitConfig::decode(encoded.trim()).map_err(Failure::usage)
}

fn identity(args: &WorkerArgs) -> Identity {
    let system = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    Identity {
        version: args.runner_version.clone(),
        owner: format!("{} (PID: {})", text(system.nodename()), process::id()),
        os_description: format!("{} {}", text(system.sysname()), text(system.release())),
    }
}

/// What jobs run on, and with.
struct Machine {
    launcher: Launcher,
    networks: Networks,
    notices: Notices,
    policy: ActionPolicy,
    http: Http,
    /// The runner's name.
    name: String,
}

impl Machine {
    /// Restores a sandbox for the job, runs it there, and destroys the sandbox.
    async fn run(
        &self,
        request: &JobRequest,
        reporter: &GitHubReporter,
        cancelled: Cancellation,
    ) -> JobOutcome {
        let mut options = job::Options {
            runner_name: self.name.clone(),
            ..self.launcher.job_options()
        };
        let user = options.user.clone();
        let sandbox = prepared(self, request, user.as_deref());
        let (sandbox, actions) = tokio::join!(sandbox, self.actions(request));
        let sandbox = match sandbox {
            Ok(sandbox) => sandbox,
            Err(why) => {
                tracing::error!("no sandbox for the job: {why:#}");
                reporter.blames_machine(&format!("no sandbox for the job: {why:#}"));
                return job::never_begun(request, reporter, &format!("{why:#}")).await;
            }
        };
        options.actions = actions;
        execute(request, &options, sandbox, reporter, cancelled).await
    }

    /// Where the actions of a job come from. What keeps them from coming is told where one is used.
    async fn actions(&self, request: &JobRequest) -> Arc<dyn ActionSource> {
        if !launch::is_needed(request) {
            return Arc::new(NoActions);
        }
        let (notices, times) = (self.notices.clone(), LaunchTimes::default());
        let actions = launch::actions(&self.http, request, &self.policy, notices, times);
        match actions.await {
            Ok(actions) => Arc::new(actions),
            Err(why) => Arc::new(NoSource(why.to_string())),
        }
    }
}

async fn execute(
    request: &JobRequest,
    options: &job::Options,
    sandbox: MicroVm,
    reporter: &GitHubReporter,
    cancelled: Cancellation,
) -> JobOutcome {
    let outcome = job::execute(request, options, &sandbox, reporter, cancelled).await;
    let suspect = outcome.result == Conclusion::Failure;
    if let Some((ended, console)) = sandbox.finish(suspect).await {
        reporter.blames_machine(&format!("the sandbox of the job was lost: {ended}"));
        tracing::error!(
            "the sandbox of the job was lost: {ended}; the end of its console:\n{console}"
        );
    }
    outcome
}

/// A sandbox with an empty workspace.
async fn prepared(
    machine: &Machine,
    request: &JobRequest,
    user: Option<&str>,
) -> anyhow::Result<MicroVm> {
    let begun = Instant::now();
    let place = network::place(request);
    let restored = machine
        .networks
        .restore(&machine.launcher, &place, Some(request));
    let sandbox = restored.await?;
    let vmm = sandbox.vmm_process();
    machine.notices.tell(&Notice::Sandbox { vmm });
    let whole = begun.elapsed();
    let identity = sandbox.identity_took;
    for (phase, took) in [
        (Phase::Restore, whole.saturating_sub(identity)),
        (Phase::Identity, identity),
    ] {
        let seconds = took.as_secs_f64();
        machine.notices.tell(&Notice::Phase { phase, seconds });
    }
    let github = request
        .context_data
        .get("github")
        .and_then(|github| github.as_object());
    let repository = github.and_then(|github| github.get("repository")?.as_str());
    let layout = Layout::new(job::layout::WORK, repository.unwrap_or_default());
    let empty = tar::Builder::new(Vec::new()).into_inner()?;
    sandbox
        .agent()
        .copy_in_as(&layout.workspace, user, empty.as_slice())
        .await?;
    Ok(sandbox)
}
