//! JavaScript actions: the version of Node.js, and the process of each stage.

use crate::{
    action::manifest::NodeRuns,
    job::{
        Options, actions::Action, outcome::Conclusion, process::Stop, reporter::Reporter,
        service_environment::for_actions, task::Stage,
    },
    sandbox::Sandbox,
};

use super::{
    ActionEnd, StepError, StepRun, inputs,
    process::{self, Process},
};

/// The oldest version that runs actions; older ones are run on it.
const OLDEST: u32 = 20;

/// What Docker's client ends with when the program of a process is not found in the container.
const NOT_STARTED: i32 = 127;

/// Set to `true`, runs actions for older versions on version 24.
const FORCE_24: &str = "FORCE_JAVASCRIPT_ACTIONS_TO_NODE24";

/// Runs the script of the task's stage.
pub(super) async fn run<S: Sandbox, R: Reporter>(
    run: &mut StepRun<'_, '_, S, R>,
    action: &Action,
    node: &NodeRuns,
) -> Result<ActionEnd, StepError> {
    let script = match run.task.stage {
        Stage::Pre => node.pre.as_ref(),
        Stage::Main => Some(&node.main),
        Stage::Post => node.post.as_ref(),
    };
    let Some(script) = script else {
        return Ok(ActionEnd::success());
    };
    let values = inputs::inputs(run, action).await?;
    inputs::print_header(run, action, &values).await;
    if node.major < OLDEST && run.task.stage == Stage::Main {
        let message = format!(
            "The following actions uses Node.js version which is deprecated and will be forced to \
             run on node20: {}.",
            action.name
        );
        run.output.log.warning(&message).await;
    }
    let forced = run.env.get(FORCE_24).is_some_and(|value| value == "true");
    let program = program(run.shared.options, node.major, forced, &action.name)?;
    let mut env = inputs::environment(run, values);
    env.extend(for_actions(run.shared.request, run.shared.options));
    run.files.write(run.shared.sandbox, None).await?;
    let process = Process {
        argv: vec![program, format!("{}/{script}", action.directory)],
        env: &env,
        cwd: run.context.layout.workspace.clone(),
        services: run.shared.options.services.as_ref(),
    };
    let ending = process::run(run, process).await?;
    let code = ending.status.map(|status| status.code());
    if code == Some(NOT_STARTED) && run.shared.containers.job()?.is_some() {
        let message = "The runner's Node.js needs the GNU C library in the job's container: images \
                       without it (Alpine and others that use musl) run no JavaScript actions.";
        run.output.log.error(message).await;
    }
    let conclusion = match (ending.stop, code) {
        (Some(Stop::Cancelled | Stop::GraceOver), _) => Conclusion::Cancelled,
        (None, Some(0)) => Conclusion::Success,
        _ => Conclusion::Failure,
    };
    Ok(ActionEnd {
        conclusion,
        stop: ending.stop,
    })
}

/// Node.js of the version that an action names. What the image has decides: version 20 and what is
/// older run on 20, or on 24 where there is no 20; 24 runs on 24 only.
fn program(options: &Options, major: u32, forced: bool, name: &str) -> Result<String, StepError> {
    let wanted: &[u32] = match (major, forced) {
        (24.., _) => &[24],
        (_, true) => &[24, 20],
        (_, false) => &[20, 24],
    };
    let has = |major: &u32| options.node.iter().find(|node| node.major == *major);
    match wanted.iter().find_map(has) {
        Some(node) => Ok(format!("{}/bin/node", node.path)),
        None => {
            let majors: Vec<_> = options.node.iter().map(|n| n.major.to_string()).collect();
            Err(StepError::NoNode {
                name: name.to_owned(),
                major: major.max(OLDEST),
                has: if majors.is_empty() {
                    "none".to_owned()
                } else {
                    majors.join(", ")
                },
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::NodeVersion;

    #[test]
    fn what_the_image_has_decides_which_node_runs() {
        let options = |majors: &[u32]| Options {
            node: majors
                .iter()
                .map(|&major| NodeVersion {
                    major,
                    path: format!("/n/{major}"),
                })
                .collect(),
            ..Options::default()
        };
        for (majors, major, forced, expected) in [
            (&[20, 24][..], 12, false, Some("/n/20/bin/node")),
            (&[20, 24], 20, false, Some("/n/20/bin/node")),
            (&[20, 24], 20, true, Some("/n/24/bin/node")),
            (&[20, 24], 24, false, Some("/n/24/bin/node")),
            (&[24], 16, false, Some("/n/24/bin/node")),
            (&[20], 24, false, None),
            (&[], 20, false, None),
        ] {
            let found = program(&options(majors), major, forced, "./x");
            assert_eq!(found.ok().as_deref(), expected, "{majors:?} {major}");
        }
        let error = program(&options(&[20]), 24, false, "./x").unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("Node.js 24") && error.contains("has 20"),
            "{error}"
        );
    }
}
