//! Composite actions: their steps in a scope of their own.

use std::sync::Arc;

use crate::{
    expression::value::Object,
    job::{
        actions::{Action, ActionError, MAX_DEPTH},
        commands::Effect,
        contexts::{ActionScope, JobContext},
        outcome::Conclusion,
        reporter::Reporter,
        step::{Begun, Ended, worst},
        task::{Stage, Task},
    },
    sandbox::Sandbox,
};

use super::{ActionEnd, StepError, StepRun, inputs};

/// Runs the steps of the task's stage.
pub(super) async fn run<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    action: &Arc<Action>,
) -> Result<ActionEnd, StepError> {
    if run.task.depth >= MAX_DEPTH {
        return Err(ActionError::Depth.into());
    }
    let main = run.task.stage == Stage::Main;
    let tasks = match run.task.stage {
        Stage::Main => main_tasks(run, action).await?,
        Stage::Pre | Stage::Post => run.task.inner.clone(),
    };
    let values = inputs::inputs(run, action).await?;
    inputs::print_header(run, action, &values).await;
    let mut scope = run.context.inside(ActionScope {
        inputs: Object::from_iter(values.iter().map(|(name, value)| (name, value.as_str()))),
        steps: run.task.steps.clone(),
        path: action.directory.clone(),
        env: run.own_env.clone(),
        files: action.files.clone(),
        main,
    });
    let mut posts = Vec::new();
    let ended = steps(run, &mut scope, &tasks, &mut posts).await;
    if !posts.is_empty() && run.task.stage != Stage::Post {
        let mut post = run.post("always()", action);
        posts.sort_by_key(|task: &Task| std::cmp::Reverse(task.index));
        post.inner = posts;
        post.steps = scope.steps_object().clone();
        run.output.changes.posts.push(post);
    }
    let ended = ended?;
    if main {
        outputs(run, &scope, action).await?;
    }
    Ok(ended)
}

/// The action's steps, once all that they use by reference is in the sandbox.
async fn main_tasks<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    action: &Arc<Action>,
) -> Result<Vec<Task>, StepError> {
    let manifest = action.manifest.steps();
    let inner = manifest.iter().map(|step| step.request.action.clone());
    let shared = run.shared;
    let said = shared
        .actions
        .load_all(
            shared.sandbox,
            shared.options,
            run.context,
            inner.collect(),
            run.task.depth + 1,
        )
        .await?;
    for line in &said.lines {
        run.output.log.line(line).await;
    }
    for warning in &said.warnings {
        run.output.log.warning(warning).await;
    }
    let tasks = manifest.iter().enumerate();
    let tasks = tasks.map(|(index, step)| run.task.inside(&step.request, index));
    Ok(tasks.collect())
}

/// Runs the steps one after the other; what one changes, the next one sees.
async fn steps<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    scope: &mut JobContext<'_>,
    tasks: &[Task],
    posts: &mut Vec<Task>,
) -> Result<ActionEnd, StepError> {
    let mut result = Conclusion::Success;
    for task in tasks {
        if let Some(stop) = run.stop.is_stopped().await {
            let conclusion = match stop {
                crate::job::process::Stop::TimedOut => Conclusion::Failure,
                _ => Conclusion::Cancelled,
            };
            let stop = Some(stop);
            return Ok(ActionEnd { conclusion, stop });
        }
        if run.shared.clock.is_cancelled() {
            scope.status = Conclusion::Cancelled;
        }
        if task.stage == Stage::Main {
            scope.set_action_status(result);
        }
        let ended = step(run, scope, task, posts).await?;
        result = worst(result, ended.conclusion);
    }
    let stop = match result {
        Conclusion::Success => None,
        _ => run.stop.is_stopped().await,
    };
    Ok(ActionEnd {
        conclusion: result,
        stop,
    })
}

async fn step<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    scope: &mut JobContext<'_>,
    task: &Task,
    posts: &mut Vec<Task>,
) -> Result<Ended, StepError> {
    let outer = std::mem::take(&mut run.output.changes);
    let begun = Begun::new(run.shared.sandbox, scope, Arc::new(task.clone())).await;
    run.output.next_step(begun.policy(), run.shared.debug);
    let attempt = run
        .shared
        .attempt(&begun, run.name, Some(run.stop), run.output);
    // In a box: an action may use an action that uses an action.
    let (ended, lost) = Box::pin(attempt).await;
    drop(begun);
    let mut changes = std::mem::replace(&mut run.output.changes, outer);
    posts.append(&mut changes.posts);
    scope.enter(task, &changes, ended);
    run.output.changes.absorb(&task.id, changes);
    lost?;
    Ok(ended)
}

/// The outputs that the action maps.
async fn outputs<S, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    scope: &JobContext<'_>,
    action: &Action,
) -> Result<(), StepError> {
    let mut found = Vec::new();
    let evaluator = scope.evaluator(run.env);
    for (name, token) in &action.manifest.outputs {
        found.push((name.clone(), evaluator.string(token)?));
    }
    drop(evaluator);
    for (name, value) in found {
        run.output.apply(Effect::Output(name, value)).await;
    }
    Ok(())
}
