//! `mayfly run`: the jobs of a workflow file, each in a sandbox of its own.

mod artifacts;
mod choose;
mod event;
mod filters;
mod groups;
mod job;
mod output;
mod pins;
mod schedule;
mod show;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use secrecy::SecretString;

use super::{
    CommandResult, Exit, Failure, egress::EgressArgs, interrupt::Interrupts, kvm,
    machine::MachineArgs, network::Networks, pairs,
};
use crate::{
    action::{
        bytes::ActionSource,
        folders::{FolderArgument, Folders},
        image_archives::{ImageArchives, ImageArgument},
    },
    checkout::Checkout,
    config::Installation,
    expression::value::Object,
    results::{
        cache::{CacheLimits, RepositoryCache},
        files,
        service::RunServices,
    },
    workflow::{
        self, Loaded,
        plan::{Plan, RunInputs},
    },
};
use job::{Given, JobRunner};
use output::Output;
use schedule::Schedule;

/// Runs the jobs of a workflow file, each in a fresh sandbox.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mayfly run .github/workflows/ci.yml\n  mayfly run ci.yml --job test --secret TOKEN\n  \
                        mayfly run ci.yml --container-image alpine:3=alpine.tar\n  \
                        mayfly run --json | jq -r 'select(.event == \"job_finished\") | [.name, .result] | @tsv'\n\n\
                        The checkout at hand (tracked files, and untracked ones that no ignore rule names) is copied\n\
                        into GITHUB_WORKSPACE of each sandbox; nothing on this machine changes.\n\
                        Summaries of steps are shown when all jobs have ended.\n\n\
                        Exit codes: 0 all jobs succeeded, 1 a job failed, 2 the workflow or the command line is wrong,\n\
                        3 the machine cannot do it, 128 + N ended by signal N."
)]
pub struct RunArgs {
    /// The workflow file; without one, the only file in .github/workflows.
    workflow: Option<PathBuf>,
    /// Run only this job and the jobs that it needs.
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// The event that the run stands for; its filters of branches, paths and types are honoured.
    /// Without it the run is one of `push`, or of the event that the workflow has.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// The payload of the event, as JSON. Filters of paths look at the commits that it names
    /// (`before` and `after`, or those of the pull request); without them at the last commit.
    #[arg(long, value_name = "FILE")]
    event_file: Option<PathBuf>,
    /// An input of `workflow_dispatch`, or of `workflow_call`; checked against what the workflow
    /// declares.
    #[arg(long, value_name = "K=V")]
    input: Vec<pairs::Argument>,
    /// A variable of the `vars` context; without `=V` its value here is taken over.
    #[arg(long, value_name = "K[=V]")]
    var: Vec<pairs::Argument>,
    /// Run only the combinations of matrices that have this value; several of one name are
    /// alternatives.
    #[arg(long, value_name = "K:V", value_parser = matrix_value)]
    matrix: Vec<(String, String)>,
    /// Print the jobs and run nothing.
    #[arg(long, group = "plan")]
    list: bool,
    /// Print the jobs in the order of their needs and run nothing.
    #[arg(long, group = "plan")]
    graph: bool,
    /// Print jobs and steps that would run, conditions evaluated where they can be, and run nothing.
    #[arg(long, group = "plan")]
    dry_run: bool,
    /// Let a folder stand for an action: every `uses:` of this repository and ref takes its bytes
    /// from there.
    #[arg(long, value_name = "OWNER/REPO@REF=FOLDER")]
    action: Vec<FolderArgument>,
    /// Let an archive (`docker save`) stand for a container image: it is loaded into the sandbox's
    /// Docker engine where a job, a step or an action would pull the image.
    #[arg(long, value_name = "REF=ARCHIVE")]
    container_image: Vec<ImageArgument>,
    #[command(flatten)]
    pins: pins::PinArgs,
    /// Set an environment variable for every step; without `=V` its value here is taken over.
    #[arg(long, short, value_name = "K[=V]")]
    env: Vec<pairs::Argument>,
    /// Set a secret; without `=V` its value is taken from the environment here, which keeps it
    /// out of the process list.
    #[arg(long, short, value_name = "K[=V]")]
    secret: Vec<pairs::Argument>,
    /// Read secrets from a file of NAME=VALUE lines.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Write the run's artifacts into this folder when it ends, each as NAME.zip; the folder is new
    /// or empty.
    #[arg(long, value_name = "DIR")]
    artifacts: Option<PathBuf>,
    /// How many jobs may run at the same time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Print events as JSON, one object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    egress: EgressArgs,
}

/// Makes the text of a plan's selected jobs, as JSON or for a person.
type Show = fn(&Plan, &[String], bool) -> String;

impl RunArgs {
    /// What to print instead of running, if that was asked for.
    fn shown(&self) -> Option<Show> {
        match (self.list, self.graph, self.dry_run) {
            (true, _, _) => Some(show::list),
            (_, true, _) => Some(show::graph),
            (_, _, true) => Some(show::dry_run),
            _ => None,
        }
    }
}

/// `K:V` of `--matrix`.
fn matrix_value(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME:VALUE".to_owned()),
    }
}

pub fn run(args: &RunArgs, mode: kvm::KvmMode) -> CommandResult {
    let path = match &args.workflow {
        Some(path) => path.clone(),
        None => choose::only_workflow(Path::new(".github/workflows")).map_err(Failure::usage)?,
    };
    let folders =
        Folders::new(&args.action).map_err(|why| Failure::usage(anyhow::anyhow!("{why}")))?;
    let folders = Arc::new(folders);
    let images = ImageArchives::new(&args.container_image)
        .map_err(|why| Failure::usage(anyhow::anyhow!("{why}")))?;
    let checkout = Checkout::containing(Path::new(".")).map(Arc::new);
    let loaded = workflow::load(&path).map_err(Failure::usage)?;
    let (actions, images, pins, refused): (Arc<dyn ActionSource>, _, _, _) = match &checkout {
        Ok(checkout) => {
            let source = &loaded.findings.source;
            let judged = args.pins.enforce(source, checkout, &folders, &images)?;
            let images = images.without(&judged.refused_images);
            let pins = Some(judged.pins);
            (Arc::new(judged.actions), images, pins, judged.refused)
        }
        Err(_) => (folders, images, None, None),
    };
    let sources = workflow::Sources {
        actions: &*actions,
        checkout: checkout.as_ref().ok().map(|checkout| checkout.root()),
        images: &images,
    };
    let Loaded {
        workflow: file,
        findings,
    } = loaded
        .runnable_with(&sources)
        .map_err(|error| pins::with_refusal(error, refused.as_ref()))?;
    refused.map_or(Ok(()), Err)?;
    let checkout = checkout.map_err(Failure::usage)?;
    let secrets = secrets(args)?;
    let env = pairs::parse_all(&args.env).map_err(Failure::usage)?;
    let vars: Object = pairs::parse_all(&args.var)
        .map_err(Failure::usage)?
        .into_iter()
        .collect();
    let asked = event::Asked {
        name: args.event.as_deref(),
        file: args.event_file.as_deref(),
        inputs: &args.input,
        vars: &vars,
    };
    let started = event::start(&file, checkout.root(), &asked)?;
    if let Some(why) = started.refused {
        eprintln!("mayfly: nothing was run: {}: {why}", file.path);
        return Ok(Exit::Success);
    }
    let plan = Plan::new(
        file,
        RunInputs {
            github: started.github,
            inputs: started.inputs,
            vars,
            secrets,
            masked: Vec::new(),
            matrix: args.matrix.clone(),
        },
    );
    let selected = choose::selected(&plan, args.job.as_deref()).map_err(Failure::usage)?;
    if let Some(show) = args.shown() {
        print!("{}", show(&plan, &selected, args.json));
        return Ok(Exit::Success);
    }

    let folder = args.artifacts.as_slice();
    for folder in folder {
        files::prepare(folder).map_err(Failure::usage)?;
    }
    // From here on a machine is needed; a wrong workflow was told before one was asked for.
    kvm::ensure_writing(mode, folder)?;
    if !findings.is_empty() {
        eprint!("{findings}");
    }
    for submodule in checkout.submodules() {
        eprintln!("mayfly: not copied: {} (a submodule)", submodule.display());
    }
    // Without a checkout nothing came this far.
    let pins = pins.ok_or_else(|| anyhow::anyhow!("nothing is known of the workflow's pins"))?;
    let given = Given {
        env,
        actions,
        images,
        pins,
    };
    super::runtime()?.block_on(jobs(args, Arc::new(plan), selected, checkout, given))
}

async fn jobs(
    args: &RunArgs,
    plan: Arc<Plan>,
    selected: Vec<String>,
    checkout: Arc<Checkout>,
    given: Given,
) -> CommandResult {
    let mut interrupts = Interrupts::take()?;
    let installation = Installation::locate()?;
    let networks = Networks::new(&args.egress, &installation, None)?;
    eprintln!("{}", networks.line());
    let services = Arc::new(services(&installation, &plan));
    let launcher = interrupts
        .guard(args.machine.launcher(installation))
        .await?;
    let several = selected.len() > 1 || plan.jobs().any(|job| job.call.is_some());
    let output = Arc::new(Output::new(args.json, several));
    let runner = Arc::new(JobRunner::new(
        (launcher, networks),
        checkout,
        given,
        Arc::clone(&services),
        Arc::clone(&output),
    ));
    let schedule = Schedule::new(plan, selected, runner, usize::from(args.jobs));
    let exit = schedule.run(&mut interrupts).await;
    output.finish()?;
    // Also those of a run that failed or was cancelled: its reports are the ones to read.
    let kept = artifacts::hand_out(services, args.artifacts.clone(), &mut interrupts).await;
    exit.and_then(|exit| kept.map(|()| exit))
}

/// Caches of the repository, which outlive the run, and artifacts, which do not.
fn services(installation: &Installation, plan: &Plan) -> RunServices {
    let repository = plan.inputs().github.get("repository");
    let repository = repository
        .and_then(|name| name.as_str())
        .unwrap_or_default();
    let limits = CacheLimits::default();
    let caches = RepositoryCache::new(&installation.caches(), repository, limits);
    RunServices::new(caches, &installation.run_folder())
}

/// Secrets of the file, then those of the command line, which win.
fn secrets(args: &RunArgs) -> Result<Vec<(String, SecretString)>, Failure> {
    let mut secrets: Vec<(String, SecretString)> = Vec::new();
    let mut add = |name: String, value: String| {
        secrets.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        secrets.push((name, value.into()));
    };
    if let Some(path) = &args.secret_file {
        let text = fs::read_to_string(path).map_err(|error| {
            Failure::usage(anyhow::anyhow!("cannot read {}: {error}", path.display()))
        })?;
        for (number, line) in text.lines().enumerate() {
            let (name, value) = secret_line(line).map_err(|why| {
                Failure::usage(anyhow::anyhow!("{}:{}: {why}", path.display(), number + 1))
            })?;
            if let Some(name) = name {
                add(name, value);
            }
        }
    }
    for (name, value) in pairs::parse_all(&args.secret).map_err(Failure::usage)? {
        add(name, value);
    }
    Ok(secrets)
}

/// One line of a secret file; nothing for a blank line or a comment. No message repeats a value.
fn secret_line(line: &str) -> Result<(Option<String>, String), &'static str> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Ok((None, String::new()));
    }
    match line.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((Some(name.trim().to_owned()), value.to_owned()))
        }
        _ => Err("not NAME=VALUE"),
    }
}

/// The exit code of a run in which these things happened.
fn exit_of(failed: bool, machine: bool) -> Exit {
    match (machine, failed) {
        (true, _) => Exit::Machine,
        (false, true) => Exit::Failed,
        (false, false) => Exit::Success,
    }
}

#[cfg(test)]
mod tests {
    use super::{exit_of, secret_line};
    use crate::cli::Exit;

    #[test]
    fn a_secret_file_has_names_values_comments_and_blank_lines() {
        assert_eq!(secret_line("A=b=c "), Ok((Some("A".into()), "b=c ".into())));
        assert_eq!(secret_line("# A=b"), Ok((None, String::new())));
        assert_eq!(secret_line("   "), Ok((None, String::new())));
        assert!(secret_line("hunter2").is_err());
        assert!(secret_line("=hunter2").is_err());
    }

    #[test]
    fn a_machine_that_failed_is_not_told_as_a_job_that_failed() {
        assert_eq!(exit_of(true, true), Exit::Machine);
        assert_eq!(exit_of(true, false), Exit::Failed);
        assert_eq!(exit_of(false, false), Exit::Success);
    }
}
