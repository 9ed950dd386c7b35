//! `run:` steps: a script and the shell that runs it.

use zeroize::Zeroizing;

use crate::{
    job::{
        environment::process_environment,
        outcome::Conclusion,
        process::Stop,
        reporter::Reporter,
        request::StepRequest,
        template::{Evaluator, TemplateError},
    },
    sandbox::{ExecRequest, Sandbox},
};

use super::{
    ActionEnd, StepError, StepRun,
    process::{self, Process},
    shell::Shell,
};

/// What a `run:` step says, evaluated.
struct Script {
    text: Zeroizing<String>,
    shell: Shell,
    directory: String,
}

/// Runs a script.
pub(super) async fn script<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
) -> Result<ActionEnd, StepError> {
    let script = read(run)?;
    let names = &script.shell.programs;
    let found = match run.shared.containers.job()? {
        // Its own `PATH` decides, as at GitHub.
        Some(_) => names.first().cloned(),
        None => find(run, names).await?,
    };
    print_header(run, &script, found.as_deref()).await;
    let program = found.ok_or_else(|| StepError::NoProgram(names[0].clone()))?;
    let path = run.files.script_path(script.shell.extension);
    let mut argv = vec![program];
    argv.extend(script.shell.arguments_for(&path)?);
    let content = Zeroizing::new(script.shell.wrap(&script.text));
    run.files
        .write(run.shared.sandbox, Some((&path, content.as_bytes())))
        .await?;
    let process = Process {
        argv,
        env: run.env,
        cwd: script.directory,
        services: None,
    };
    let ending = process::run(run, process).await?;
    let code = ending.status.map(|status| status.code());
    Ok(ActionEnd {
        conclusion: conclude(run, ending.stop, code).await,
        stop: ending.stop,
    })
}

/// Where the first of these programs is in the sandbox.
async fn find<S: Sandbox, R: Reporter>(
    run: &StepRun<'_, '_, S, R>,
    names: &[String],
) -> Result<Option<String>, StepError> {
    let shared = run.shared;
    let env = process_environment(run.context, shared.options, run.env);
    let request = ExecRequest {
        argv: Vec::new(),
        env: env.into_iter().collect(),
        cwd: "/".to_owned(),
        user: shared.options.user.clone(),
        stdin: false,
    };
    Ok(shared.programs.find(shared.sandbox, names, request).await?)
}

async fn conclude<S, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    stop: Option<Stop>,
    code: Option<i32>,
) -> Conclusion {
    match (stop, code) {
        (Some(Stop::TimedOut), _) => Conclusion::Failure,
        (Some(Stop::Cancelled | Stop::GraceOver), _) => Conclusion::Cancelled,
        (None, Some(0)) => Conclusion::Success,
        (None, code) => {
            let code = code.unwrap_or(-1);
            let message = format!("Process completed with exit code {code}.");
            run.output.log.error(&message).await;
            Conclusion::Failure
        }
    }
}

/// "Run " and the first line of the script.
pub(super) fn default_name(step: &StepRequest, evaluator: &Evaluator<'_>) -> String {
    let token = step.inputs.as_ref().and_then(|inputs| inputs.get("script"));
    let script = token.and_then(|token| evaluator.string(token).ok());
    format!("Run {}", first_line(script.as_deref().unwrap_or_default()))
}

fn first_line(script: &str) -> &str {
    let script = script.trim_start_matches([' ', '\t', '\r', '\n']);
    script.split(['\r', '\n']).next().unwrap_or_default()
}

fn read<S, R: Reporter>(run: &StepRun<'_, '_, S, R>) -> Result<Script, StepError> {
    let evaluator = run.context.evaluator(run.env);
    let defaults = &run.context.defaults;
    let shell = match input(&run.task.step, &evaluator, "shell")? {
        Some(shell) if !shell.is_empty() => shell,
        _ => defaults.get("shell").cloned().unwrap_or_default(),
    };
    let directory = match input(&run.task.step, &evaluator, "workingDirectory")? {
        Some(directory) => directory,
        // Defaults are those of the job's own steps.
        None if run.task.depth > 0 => String::new(),
        None => defaults
            .get("working-directory")
            .cloned()
            .unwrap_or_default(),
    };
    let text = input(&run.task.step, &evaluator, "script")?.unwrap_or_default();
    let shell = match run.shared.containers.job()? {
        Some(_) => Shell::in_container(&shell)?,
        None => Shell::new(&shell)?,
    };
    Ok(Script {
        text: Zeroizing::new(text),
        shell,
        directory: join(&run.context.layout.workspace, &directory),
    })
}

fn input(
    step: &StepRequest,
    evaluator: &Evaluator<'_>,
    name: &str,
) -> Result<Option<String>, TemplateError> {
    let token = step.inputs.as_ref().and_then(|inputs| inputs.get(name));
    token.map(|token| evaluator.string(token)).transpose()
}

/// `directory` below the workspace, or as it is if it is absolute.
fn join(workspace: &str, directory: &str) -> String {
    match directory {
        "" => workspace.to_owned(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => format!("{workspace}/{relative}"),
    }
}

/// The group at the beginning of a step's log, as GitHub writes it.
async fn print_header<S, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    script: &Script,
    program: Option<&str>,
) {
    let log = &run.output.log;
    log.line(&format!("##[group]Run {}", first_line(&script.text)))
        .await;
    let text = script.text.replace("\r\n", "\n");
    for line in text.trim_end_matches('\n').split('\n') {
        // Bright cyan, as at GitHub.
        log.line(&format!("\x1b[36;1m{line}\x1b[0m")).await;
    }
    let program = program.unwrap_or(&script.shell.programs[0]);
    log.line(&format!("shell: {program} {}", script.shell.arguments))
        .await;
    if !run.env.is_empty() {
        log.line("env:").await;
        for (name, value) in run.env {
            log.line(&format!("  {name}: {value}")).await;
        }
    }
    log.line("##[endgroup]").await;
}
