//! JavaScript actions of the workspace: their manifest, inputs and process.

use indexmap::IndexMap;

use crate::{
    action::manifest::{Manifest, Runs},
    job::{
        environment::process_environment,
        files::bounded,
        outcome::Conclusion,
        process::{Stop, supervise},
        reporter::Reporter,
    },
    sandbox::{ExecRequest, Sandbox},
};

use super::{ActionEnd, StepError, StepRun};

/// Largest manifest, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;

/// Runs the action in the folder `path` of the workspace.
pub(super) async fn local<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    path: &str,
) -> Result<ActionEnd, StepError> {
    let inside = path.trim_start_matches("./").trim_end_matches('/');
    let directory = format!("{}/{inside}", run.context.layout.workspace);
    let manifest = load(run, directory.trim_end_matches('/')).await?;
    let (major, main) = runnable(&manifest, path)?;
    let inputs = inputs(run, &manifest).await?;
    print_header(run, path, &inputs).await;
    if major < 20 {
        let message = format!(
            "The following actions uses Node.js version which is deprecated and will be forced to \
             run on node20: {path}."
        );
        run.output.log.warning(&message).await;
    }
    let mut env = run.env.clone();
    env.extend(inputs.into_iter().map(|(name, value)| {
        let name = name.replace(' ', "_").to_uppercase();
        (format!("INPUT_{name}"), value)
    }));
    run.files.write(run.sandbox, None).await?;
    let request = ExecRequest {
        argv: vec![
            format!("/opt/node/{}/bin/node", major.max(20)),
            format!("{}/{main}", directory.trim_end_matches('/')),
        ],
        env: process_environment(run.context, run.options, &env)
            .into_iter()
            .collect(),
        cwd: run.context.layout.workspace.clone(),
        user: run.options.user.clone(),
        stdin: false,
    };
    let exec = bounded("starting the action's process", run.sandbox.exec(request)).await?;
    let stop = run.stop;
    let ending = supervise(exec, run.output, stop.wait(), stop.grace_over()).await?;
    let conclusion = match (ending.stop, ending.status.map(|status| status.code())) {
        (Some(Stop::Cancelled | Stop::GraceOver), _) => Conclusion::Cancelled,
        (None, Some(0)) => Conclusion::Success,
        _ => Conclusion::Failure,
    };
    Ok(ActionEnd {
        conclusion,
        stop: ending.stop,
    })
}

/// Version of Node.js and script of an action, if this version of Mayfly can run it.
fn runnable<'a>(manifest: &'a Manifest, path: &str) -> Result<(u32, &'a str), StepError> {
    let what = match &manifest.runs {
        Runs::Node {
            major,
            main,
            stages: false,
        } => return Ok((*major, main)),
        Runs::Node { .. } => "which has `pre` or `post`",
        Runs::Composite => "which is a composite action",
        Runs::Docker => "which is a Docker action",
    };
    Err(StepError::Unsupported(format!(
        "This version of Mayfly cannot run the action {path}, {what}."
    )))
}

async fn load<S: Sandbox, R: Reporter>(
    run: &StepRun<'_, '_, S, R>,
    directory: &str,
) -> Result<Manifest, StepError> {
    for name in ["action.yml", "action.yaml"] {
        let file = format!("{directory}/{name}");
        let read = run.sandbox.read_file(&file, MAX_MANIFEST);
        if let Some(content) = bounded("reading an action's manifest", read).await? {
            return Ok(Manifest::parse(&file, &String::from_utf8_lossy(&content))?);
        }
    }
    Err(StepError::NoAction(directory.to_owned()))
}

/// What the step gives, then the defaults of what it does not; names without regard to case.
async fn inputs<S, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    manifest: &Manifest,
) -> Result<IndexMap<String, String>, StepError> {
    let evaluator = run.context.evaluator(run.env);
    let given = run.step.inputs.as_ref();
    let given = given.map(|token| evaluator.strings(token)).transpose()?;
    let mut inputs = given.unwrap_or_default();
    let mut warnings = Vec::new();
    let known = |name: &str| {
        let mut known = manifest.inputs.iter();
        known.find(|input| input.name.eq_ignore_ascii_case(name))
    };
    let names = || manifest.inputs.iter().map(|input| input.name.as_str());
    let unexpected: Vec<_> = inputs.keys().filter(|name| known(name).is_none()).collect();
    for name in inputs.keys() {
        if let Some(message) = known(name).and_then(|input| input.deprecation.as_deref()) {
            warnings.push(format!(
                "Input '{name}' has been deprecated with message: {message}"
            ));
        }
    }
    if !unexpected.is_empty() {
        warnings.push(format!(
            "Unexpected input(s) '{}', valid inputs are ['{}']",
            unexpected
                .iter()
                .map(|name| name.as_str())
                .collect::<Vec<_>>()
                .join("', '"),
            names().collect::<Vec<_>>().join("', '")
        ));
    }
    for input in &manifest.inputs {
        if !inputs
            .keys()
            .any(|name| name.eq_ignore_ascii_case(&input.name))
        {
            let value = input.default.as_ref().map(|token| evaluator.string(token));
            inputs.insert(input.name.clone(), value.transpose()?.unwrap_or_default());
        }
    }
    drop(evaluator);
    for warning in warnings {
        run.output.log.warning(&warning).await;
    }
    Ok(inputs)
}

/// The group at the beginning of the log, as GitHub writes it.
async fn print_header<S, R: Reporter>(
    run: &StepRun<'_, '_, S, R>,
    path: &str,
    inputs: &IndexMap<String, String>,
) {
    let log = &run.output.log;
    log.line(&format!("##[group]Run {path}")).await;
    for (title, entries) in [("with:", inputs), ("env:", run.env)] {
        let shown = |(_, value): &(&String, &String)| title == "env:" || !value.is_empty();
        let mut entries = entries.iter().filter(shown).peekable();
        if entries.peek().is_some() {
            log.line(title).await;
        }
        for (name, value) in entries {
            log.line(&format!("  {name}: {value}")).await;
        }
    }
    log.line("##[endgroup]").await;
}
