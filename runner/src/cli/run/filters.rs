//! The filters of an event: whether its activity, its branch or tag and its files let a workflow run.

use std::{path::Path, process::Command};

use crate::{
    expression::{coerce::to_text, value::Object},
    workflow::{
        model::Workflow,
        triggers::{Trigger, passes},
    },
};

/// Why the filters of an event keep a workflow from running.
pub fn refusal(workflow: &Workflow, github: &Object, folder: &Path) -> Option<String> {
    let text = |key: &str| github.get(key).map(to_text).unwrap_or_default();
    let event = text("event_name");
    let trigger = workflow
        .triggers
        .iter()
        .find(|trigger| trigger.event == event)?;
    let name = match event.as_str() {
        "pull_request" | "pull_request_target" => text("base_ref"),
        _ => text("ref_name"),
    };
    let action = github
        .get("event")
        .and_then(|event| event.get("action"))
        .map(to_text);
    let tag = text("ref_type") == "tag";
    types(trigger, action.as_deref())
        .or_else(|| refs(trigger, tag, &name))
        // GitHub does not look at the files of a tag that is pushed.
        .or_else(|| (!tag).then(|| paths(trigger, github, folder))?)
}

fn types(trigger: &Trigger, action: Option<&str>) -> Option<String> {
    let defaults = ["opened", "synchronize", "reopened"].map(str::to_owned);
    let pull = matches!(
        trigger.event.as_str(),
        "pull_request" | "pull_request_target"
    );
    let wanted = trigger.filter("types").or(pull.then_some(&defaults[..]))?;
    let action = action?;
    let other = !wanted.iter().any(|wanted| wanted == action);
    other.then(|| {
        format!(
            "the activity `{action}` is none of its `types`: {}",
            wanted.join(", ")
        )
    })
}

fn refs(trigger: &Trigger, tag: bool, name: &str) -> Option<String> {
    let (own, other) = if tag {
        ("tags", "branches")
    } else {
        ("branches", "tags")
    };
    let given = |key: &str| {
        trigger.filter(key).is_some() || trigger.filter(&format!("{key}-ignore")).is_some()
    };
    if !given(own) {
        let only = given(other) && trigger.event == "push";
        return only.then(|| format!("`{name}` is none of its {other}, and it names only those"));
    }
    if trigger
        .filter(own)
        .is_some_and(|patterns| !passes(patterns, name))
    {
        return Some(format!("`{name}` matches none of its `{own}`"));
    }
    let ignore = format!("{own}-ignore");
    let ignored = trigger
        .filter(&ignore)
        .is_some_and(|patterns| passes(patterns, name));
    ignored.then(|| format!("`{name}` matches its `{ignore}`"))
}

fn paths(trigger: &Trigger, github: &Object, folder: &Path) -> Option<String> {
    let (wanted, ignored) = (trigger.filter("paths"), trigger.filter("paths-ignore"));
    if wanted.is_none() && ignored.is_none() {
        return None;
    }
    let Some((changed, of)) = changed_files(github, folder) else {
        // Where GitHub cannot tell what changed, the workflow runs.
        eprintln!(
            "mayfly: filters of paths are not looked at: the checkout does not have the commits of \
             the event"
        );
        return None;
    };
    if wanted.is_some_and(|wanted| !changed.iter().any(|file| passes(wanted, file))) {
        return Some(format!("no file of {of} matches its `paths`"));
    }
    let all_ignored =
        ignored.is_some_and(|ignored| changed.iter().all(|file| passes(ignored, file)));
    all_ignored.then(|| format!("all files of {of} match its `paths-ignore`"))
}

/// The files that an event is about, and what to call it.
///
/// As GitHub does it: a push is compared from `before` to `after`, a pull request from where its
/// branch left the base. A push without `before` (a new branch, or no event file) is that of its
/// last commit; GitHub would take all that it brings, which a checkout cannot know.
fn changed_files(github: &Object, folder: &Path) -> Option<(Vec<String>, &'static str)> {
    let event = github.get("event")?;
    let commit = |keys: &[&str]| {
        let mut value = event;
        for key in keys {
            value = value.get(key)?;
        }
        Some(to_text(value)).filter(|text| is_commit(text))
    };
    let pull = ["pull_request", "pull_request_target"];
    if pull.contains(&to_text(github.get("event_name")?).as_str()) {
        let base = commit(&["pull_request", "base", "sha"]);
        let head = commit(&["pull_request", "head", "sha"]);
        if let (Some(base), Some(head)) = (base, head) {
            let fork = git(folder, &["merge-base", &base, &head])?;
            let files = diff(folder, &[fork.trim(), &head])?;
            return Some((files, "the pull request"));
        }
    }
    let after = commit(&["after"]).unwrap_or_else(|| "HEAD".to_owned());
    match commit(&["before"]) {
        Some(before) => Some((diff(folder, &[&before, &after])?, "the push")),
        None => Some((
            diff(
                folder,
                &["--root", "--no-commit-id", "-m", "--first-parent", &after],
            )?,
            "the last commit",
        )),
    }
}

/// Whether a text is the id of a commit; forty zeros stand for none.
fn is_commit(text: &str) -> bool {
    text.len() == 40
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && text.bytes().any(|byte| byte != b'0')
}

/// Names of the files in which commits differ.
fn diff(folder: &Path, commits: &[&str]) -> Option<Vec<String>> {
    let mut arguments = vec!["diff-tree", "-r", "--name-only", "--no-renames", "-z"];
    arguments.extend(commits);
    let text = git(folder, &arguments)?;
    let files = text.split('\0').filter(|file| !file.is_empty());
    Some(files.map(str::to_owned).collect())
}

/// What a plumbing command says; none runs a program that the checkout's configuration names.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(["-c", "core.fsmonitor=false", "-C"])
        .arg(folder)
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        expression::{json::from_json, value::Value},
        workflow::{parse, source::Source},
    };

    fn run(folder: &Path, arguments: &[&str]) -> String {
        let own = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"];
        let output = Command::new("git")
            .arg("-C")
            .arg(folder)
            .args(own)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Commits a new file; its id.
    fn commit(folder: &Path, file: &str) -> String {
        fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
        fs::write(folder.join(file), "x").unwrap();
        run(folder, &["add", "-A"]);
        run(folder, &["commit", "-q", "-m", file]);
        run(folder, &["rev-parse", "HEAD"])
    }

    /// Why a workflow with these events does not run on a branch.
    fn refused(on: &str, name: &str, branch: &str, event: &str, folder: &Path) -> Option<String> {
        refused_on(on, name, (branch, "branch"), event, folder)
    }

    fn refused_on(
        on: &str,
        name: &str,
        (reference, kind): (&str, &str),
        event: &str,
        folder: &Path,
    ) -> Option<String> {
        let text = format!("on: {on}\njobs: {{a: {{runs-on: x, steps: [{{run: a}}]}}}}\n");
        let workflow = parse(Source::new("ci.yml", text)).unwrap().workflow;
        let mut github = Object::from_iter([
            ("event_name", name),
            ("ref_name", reference),
            ("base_ref", reference),
            ("ref_type", kind),
        ]);
        github.insert("event", from_json(event).unwrap_or(Value::Null));
        refusal(&workflow, &github, folder)
    }

    #[test]
    fn files_of_a_push_are_those_from_before_to_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        run(path, &["init", "-q", "-b", "main"]);
        let first = commit(path, "readme");
        let docs = "{push: {paths: ['docs/**']}}";
        let push = |before: &str, after: &str| {
            let event = format!(r#"{{"before": "{before}", "after": "{after}"}}"#);
            refused(docs, "push", "main", &event, path)
        };
        let none = "0".repeat(40);
        // The first commit of all has its files, too.
        let last = Some("no file of the last commit matches its `paths`".to_owned());
        assert_eq!(push(&none, &first), last);
        let second = commit(path, "docs/a");
        let third = commit(path, "src/b");
        assert_eq!(push(&none, &third), last);
        assert_eq!(push(&none, &second), None);
        assert_eq!(push(&first, &third), None);
        assert_eq!(
            push(&second, &third).as_deref(),
            Some("no file of the push matches its `paths`")
        );
        // Commits that the checkout does not have, and texts that are none.
        assert_eq!(push(&"a".repeat(40), &third), None);
        assert_eq!(push("--output=x", &third), last);
        let ignoring = "{push: {paths-ignore: ['src/**']}}";
        let event = format!(r#"{{"before": "{second}", "after": "{third}"}}"#);
        assert_eq!(
            refused(ignoring, "push", "main", &event, path).as_deref(),
            Some("all files of the push match its `paths-ignore`")
        );
    }

    #[test]
    fn files_of_a_pull_request_are_those_since_it_left_the_base() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        run(path, &["init", "-q", "-b", "main"]);
        commit(path, "readme");
        run(path, &["checkout", "-q", "-b", "topic"]);
        let head = commit(path, "src/a");
        run(path, &["checkout", "-q", "main"]);
        let base = commit(path, "docs/b");
        let event = format!(
            r#"{{"pull_request": {{"base": {{"sha": "{base}"}}, "head": {{"sha": "{head}"}}}}}}"#
        );
        let pull = |filter: &str| {
            let on = format!("{{pull_request: {{paths: ['{filter}']}}}}");
            refused(&on, "pull_request", "main", &event, path)
        };
        assert_eq!(pull("src/**"), None);
        assert_eq!(
            pull("docs/**").as_deref(),
            Some("no file of the pull request matches its `paths`")
        );
    }

    #[test]
    fn files_of_a_pushed_tag_are_not_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        run(path, &["init", "-q", "-b", "main"]);
        commit(path, "readme");
        let on = "{push: {branches: [main], tags: ['v*'], paths: ['docs/**']}}";
        let push = |reference, kind| refused_on(on, "push", (reference, kind), "{}", path);
        assert_eq!(push("v1", "tag"), None);
        assert_eq!(
            push("x1", "tag").as_deref(),
            Some("`x1` matches none of its `tags`")
        );
        assert!(push("main", "branch").is_some());
    }

    #[test]
    fn branches_and_activities_are_told_when_they_keep_a_workflow_from_running() {
        let none = Path::new("/");
        let push = |on: &str, branch: &str| refused(on, "push", branch, "{}", none);
        assert_eq!(push("{push: {branches: ['v*']}}", "v1"), None);
        assert_eq!(
            push("{push: {branches: ['v*']}}", "main").as_deref(),
            Some("`main` matches none of its `branches`")
        );
        assert_eq!(
            push("{push: {branches-ignore: [main]}}", "main").as_deref(),
            Some("`main` matches its `branches-ignore`")
        );
        assert_eq!(
            push("{push: {tags: [v1]}}", "main").as_deref(),
            Some("`main` is none of its tags, and it names only those")
        );
        let closed = r#"{"action": "closed"}"#;
        assert_eq!(
            refused("pull_request", "pull_request", "main", closed, none).as_deref(),
            Some("the activity `closed` is none of its `types`: opened, synchronize, reopened")
        );
    }
}
