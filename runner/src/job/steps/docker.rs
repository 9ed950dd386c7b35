//! Docker actions and `uses: docker://…`: each stage is a container that runs to its end.

use indexmap::IndexMap;

use crate::{
    action::manifest::{DockerImage, DockerRuns, Manifest, Runs},
    expression::{
        coerce::to_text,
        value::{Object, Value},
    },
    job::{
        actions::Action,
        containers::{ActionStage, ContainerError, WantedImage},
        contexts::{ActionScope, JobContext},
        environment::step_environment,
        files::bounded,
        outcome::Conclusion,
        process::{Stop, supervise},
        reporter::Reporter,
        service_environment::for_actions,
        task::Stage,
        words::words,
    },
    sandbox::Sandbox,
};

use super::{ActionEnd, StepError, StepRun, inputs};

/// Runs an image as it is.
pub(super) async fn image<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    image: &str,
) -> Result<ActionEnd, StepError> {
    let name = format!("docker://{image}");
    let manifest = Manifest::container(&name);
    let action = Action {
        name,
        directory: String::new(),
        manifest,
        files: run.context.files.clone(),
        reference: None,
    };
    match &action.manifest.runs {
        Runs::Docker(docker) => self::run(run, &action, docker).await,
        _ => Ok(ActionEnd::success()),
    }
}

/// Runs the container of the task's stage.
pub(super) async fn run<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    action: &Action,
    docker: &DockerRuns,
) -> Result<ActionEnd, StepError> {
    let given = inputs::inputs(run, action).await?;
    let entrypoint = match run.task.stage {
        Stage::Main => {
            let own = docker.entrypoint.as_deref().filter(|own| !own.is_empty());
            own.or_else(|| find(&given, "entrypoint"))
        }
        Stage::Pre => docker.pre.as_deref(),
        Stage::Post => docker.post.as_deref(),
    };
    let entrypoint = entrypoint
        .filter(|text| !text.is_empty())
        .map(str::to_owned);
    inputs::print_header(run, action, &given).await;
    let arguments = arguments(run, action, docker, &given)?;
    let env = environment(run, action, docker, given)?;
    let image = match find_image(run, action, docker).await {
        Err(ContainerError::Stopped(stop)) => return Ok(stopped(stop)),
        image => image?,
    };
    run.files.write(run.shared.sandbox, None).await?;
    let stage = ActionStage {
        image: &image,
        entrypoint: entrypoint.as_deref(),
        arguments,
        env,
    };
    contained(run, stage).await
}

/// Starts the container and watches over it.
async fn contained<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    stage: ActionStage<'_>,
) -> Result<ActionEnd, StepError> {
    let (shared, layout) = (run.shared, &run.context.layout);
    let container = shared
        .action_container(stage, layout, &run.files.directory())
        .await?;
    run.output
        .log
        .line(&format!("##[command]{}", container.shown()))
        .await;
    let exec = shared.sandbox.exec(container.request());
    let exec = bounded("starting the action's container", exec).await?;
    let around = run.output.set_paths(container.paths.clone());
    let stop = run.stop;
    let ending = supervise(exec, run.output, stop.wait(), stop.grace_over()).await;
    run.output.set_paths(around);
    let ending = ending?;
    if ending.stop.is_some() || ending.status.is_none() {
        container.remove(shared.sandbox).await?;
    }
    if let Some(stop) = ending.stop {
        return Ok(stopped(stop));
    }
    let code = ending.status.map_or(-1, |status| status.code());
    let message = format!("Docker Action run completed with exit code {code}");
    run.output.log.debug(&message).await;
    Ok(ActionEnd {
        conclusion: match code {
            0 => Conclusion::Success,
            _ => Conclusion::Failure,
        },
        stop: None,
    })
}

fn stopped(stop: Stop) -> ActionEnd {
    let conclusion = match stop {
        Stop::TimedOut => Conclusion::Failure,
        Stop::Cancelled | Stop::GraceOver => Conclusion::Cancelled,
    };
    let stop = Some(stop);
    ActionEnd { conclusion, stop }
}

/// The image: prepared before the steps, or now for what only the running job knows.
async fn find_image<S: Sandbox, R: Reporter>(
    run: &StepRun<'_, '_, S, R>,
    action: &Action,
    docker: &DockerRuns,
) -> Result<String, ContainerError> {
    let wanted = WantedImage::of(action, docker, &run.task.id);
    if let Some(image) = run.shared.containers.prepared(&wanted) {
        return Ok(image);
    }
    let log = &run.output.log;
    let mut stop = run.stop.wait();
    if let DockerImage::Dockerfile(_) = docker.image() {
        log.line("##[group]Building docker image").await;
    }
    let image = run
        .shared
        .action_image(&wanted, &run.context.layout, log, &mut stop)
        .await;
    if let DockerImage::Dockerfile(_) = docker.image() {
        log.line("##[endgroup]").await;
    }
    image
}

/// What the manifest says, or what the step says in words.
fn arguments<S, R>(
    run: &StepRun<'_, '_, S, R>,
    action: &Action,
    docker: &DockerRuns,
    given: &IndexMap<String, String>,
) -> Result<Vec<String>, StepError> {
    let Some(token) = &docker.args else {
        return Ok(words(find(given, "args").unwrap_or_default()));
    };
    let context = scope(run, action, given);
    match context.evaluator(run.env).value(token)? {
        Value::Array(items) => Ok(items.iter().map(to_text).collect()),
        other => Ok(vec![to_text(&other)]),
    }
}

/// The process's environment, with the sandbox's paths: what the step says wins over what the
/// manifest says, and what the runner says over both.
fn environment<S, R>(
    run: &StepRun<'_, '_, S, R>,
    action: &Action,
    docker: &DockerRuns,
    given: IndexMap<String, String>,
) -> Result<IndexMap<String, String>, StepError> {
    let own = docker.env.as_ref().map(|token| {
        let context = scope(run, action, &given);
        context.evaluator(run.env).strings(token)
    });
    let own = own.transpose()?.unwrap_or_default();
    let mut env = inputs::environment(run, given);
    for (name, value) in own {
        env.entry(name).or_insert(value);
    }
    env.insert("HOME".to_owned(), run.context.layout.github_home());
    let mut env = step_environment(run.context, &env);
    if let Some(services) = &run.shared.options.services {
        env.extend(services.container_environment());
    }
    env.extend(for_actions(run.shared.request, run.shared.options));
    Ok(env)
}

/// The contexts for the manifest's own values: the inputs, and no secrets.
fn scope<'a, S, R>(
    run: &StepRun<'a, '_, S, R>,
    action: &Action,
    given: &IndexMap<String, String>,
) -> JobContext<'a> {
    run.context.inside(ActionScope {
        inputs: Object::from_iter(given.iter().map(|(name, value)| (name, value.as_str()))),
        steps: Object::new(),
        path: action.directory.clone(),
        env: IndexMap::new(),
        files: action.files.clone(),
        main: false,
    })
}

fn find<'a>(given: &'a IndexMap<String, String>, name: &str) -> Option<&'a str> {
    let mut given = given.iter();
    let found = given.find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}
