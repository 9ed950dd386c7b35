//! The environment of a step's process: `env`, then what the runner says and no step can change.

use indexmap::IndexMap;

use crate::expression::{coerce::to_text, value::Value};

use super::{Options, contexts::JobContext, service_environment::identity};

/// Keys of the `github` context that become `GITHUB_*` variables.
const GITHUB: [&str; 37] = [
    "action",
    "action_path",
    "action_ref",
    "action_repository",
    "actor",
    "actor_id",
    "api_url",
    "base_ref",
    "env",
    "event_name",
    "event_path",
    "graphql_url",
    "head_ref",
    "job",
    "output",
    "path",
    "ref",
    "ref_name",
    "ref_protected",
    "ref_type",
    "repository",
    "repository_id",
    "repository_owner",
    "repository_owner_id",
    "retention_days",
    "run_attempt",
    "run_id",
    "run_number",
    "server_url",
    "sha",
    "state",
    "step_summary",
    "triggering_actor",
    "workflow",
    "workflow_ref",
    "workflow_sha",
    "workspace",
];

/// The whole environment of a process of a step whose `env` context is `env`.
#[must_use]
pub fn process_environment(
    context: &JobContext<'_>,
    options: &Options,
    env: &IndexMap<String, String>,
) -> IndexMap<String, String> {
    let mut all: IndexMap<String, String> = options.environment.iter().cloned().collect();
    all.extend(step_environment(context, env));
    all.insert("GITHUB_ACTIONS".to_owned(), "true".to_owned());
    all.entry("RUNNER_TRACKING_ID".to_owned())
        .or_insert_with(|| context.tracking_id());
    all.entry("CI".to_owned())
        .or_insert_with(|| "true".to_owned());
    prepend_path(&mut all, &context.path);
    all
}

/// What of it is the step's and the runner's, and nothing of the machine: the environment of a
/// process in a container beside that of the container itself.
pub(super) fn step_environment(
    context: &JobContext<'_>,
    env: &IndexMap<String, String>,
) -> IndexMap<String, String> {
    let mut all = env.clone();
    for key in GITHUB {
        if let Some(value) = context.github_object().get(key).filter(|v| is_scalar(v)) {
            all.insert(
                format!("GITHUB_{}", key.to_ascii_uppercase()),
                to_text(value),
            );
        }
    }
    let runner = context
        .runner_object()
        .into_iter()
        .flat_map(|runner| runner.iter());
    for (key, value) in runner {
        all.insert(
            format!("RUNNER_{}", key.to_ascii_uppercase()),
            to_text(value),
        );
    }
    all.extend(identity(context.request()));
    all
}

/// Puts the directories of `GITHUB_PATH` before `PATH`.
fn prepend_path(all: &mut IndexMap<String, String>, directories: &[String]) {
    if directories.is_empty() {
        return;
    }
    let mut path = directories.join(":");
    if let Some(old) = all.get("PATH").filter(|old| !old.is_empty()) {
        path = format!("{path}:{old}");
    }
    all.insert("PATH".to_owned(), path);
}

fn is_scalar(value: &Value) -> bool {
    matches!(value, Value::Bool(_) | Value::Number(_) | Value::String(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{expression::value::Object, job::request::JobRequest};

    #[test]
    fn the_runners_variables_win_over_env_and_ci_may_be_changed() {
        let mut request = JobRequest {
            job_id: "7f".to_owned(),
            ..JobRequest::default()
        };
        let mut github = Object::from_iter([("repository", "octo/hello"), ("sha", "abc")]);
        github.insert("ref_protected", false);
        github.insert("event", Object::new());
        github.insert("secret_thing", "x");
        request.context_data.insert("github", github);
        let options = Options::default();
        let mut context = JobContext::new(&request, &options);
        context.prepend_path("/b".to_owned());
        context.prepend_path("/a".to_owned());
        context.prepend_path("/b".to_owned());
        let own = |(k, v): (&str, &str)| (k.to_owned(), v.to_owned());
        let env = [
            ("GITHUB_SHA", "forged"),
            ("CI", "no"),
            ("MINE", "1"),
            ("PATH", "/p"),
        ];
        let all = process_environment(&context, &options, &env.map(own).into());
        for (name, value) in [
            ("GITHUB_SHA", "abc"),
            ("GITHUB_REF_PROTECTED", "false"),
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_WORKSPACE", "/home/runner/work/hello/hello"),
            ("RUNNER_OS", "Linux"),
            ("RUNNER_TRACKING_ID", "github_7f"),
            ("RUNNER_TEMP", "/home/runner/work/_temp"),
            ("CI", "no"),
            ("MINE", "1"),
            ("PATH", "/b:/a:/p"),
            ("HOME", "/root"),
        ] {
            assert_eq!(all.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!all.contains_key("GITHUB_EVENT") && !all.contains_key("GITHUB_SECRET_THING"));
        assert!(!all.contains_key("GITHUB_TOKEN"));
    }
}
