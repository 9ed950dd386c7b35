//! `permissions` of called workflows: they may ask for less than their caller has, never for more.
//!
//! What a workflow has that says nothing is a setting of its repository, which is not known here:
//! nothing is refused then.

use super::super::diagnostic::Diagnostic;
use super::super::model::{Job, Workflow, place_of};
use super::super::token::TemplateToken;

/// The scopes, in the order in which messages name them.
const SCOPES: [&str; 17] = [
    "actions",
    "artifact-metadata",
    "attestations",
    "checks",
    "contents",
    "deployments",
    "discussions",
    "issues",
    "packages",
    "pages",
    "pull-requests",
    "repository-projects",
    "statuses",
    "security-events",
    "id-token",
    "models",
    "workflows",
];

/// What a token may do in one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    None,
    Read,
    Write,
}

/// Levels in the order of [`SCOPES`].
type Permissions = [Level; SCOPES.len()];

/// All calls in `workflow` and in what it calls that ask for more than their caller has; told at the
/// job of this very file.
pub(super) fn check(workflow: &Workflow) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for job in &workflow.jobs {
        let Some(call) = &job.call else { continue };
        let place = place_of(&call.uses);
        let mut wrong = Vec::new();
        of_call(job, allowed(workflow, job, None), &mut wrong);
        let help = "give the calling job more under `permissions:`, or let the called workflow ask for less";
        found.extend(
            wrong
                .into_iter()
                .map(|message| Diagnostic::error(place, message, help)),
        );
    }
    found
}

/// What a job has: what it says, else what its workflow says, else what the caller has.
fn allowed(workflow: &Workflow, job: &Job, around: Option<Permissions>) -> Option<Permissions> {
    let said = job.permissions.as_ref().or(workflow.permissions.as_ref());
    said.map(read).or(around)
}

fn of_call(job: &Job, max: Option<Permissions>, wrong: &mut Vec<String>) {
    let Some(call) = &job.call else { return };
    let (Some(called), Some(max)) = (&call.workflow, max) else {
        return;
    };
    let uses = call.uses.as_str().unwrap_or_default();
    let mut ask = |who: &str, asked: &TemplateToken| {
        if let Some((requested, allowed)) = beyond(&read(asked), &max) {
            wrong.push(format!(
                "Error calling workflow '{uses}'. {who} is requesting '{requested}', but is only \
                 allowed '{allowed}'."
            ));
        }
    };
    if let Some(asked) = &called.permissions {
        ask("The workflow", asked);
    }
    for nested in &called.jobs {
        if let Some(asked) = &nested.permissions {
            ask(&format!("The nested job '{}'", nested.id), asked);
        }
    }
    for nested in &called.jobs {
        of_call(nested, allowed(called, nested, Some(max)), wrong);
    }
}

/// What is asked for beyond the most that is allowed, and what is allowed there.
fn beyond(asked: &Permissions, max: &Permissions) -> Option<(String, String)> {
    let level = |level: Level| match level {
        Level::None => "none",
        Level::Read => "read",
        Level::Write => "write",
    };
    let (mut requested, mut allowed) = (Vec::new(), Vec::new());
    for (scope, (asked, max)) in SCOPES.iter().zip(asked.iter().zip(max)) {
        if asked > max {
            requested.push(format!("{scope}: {}", level(*asked)));
            allowed.push(format!("{scope}: {}", level(*max)));
        }
    }
    (!requested.is_empty()).then(|| (requested.join(", "), allowed.join(", ")))
}

/// Levels of a checked `permissions`; scopes that it does not name get none.
fn read(token: &TemplateToken) -> Permissions {
    let mut levels = Permissions::default();
    let all = match token.as_str() {
        Some("read-all") => Some(Level::Read),
        Some("write-all") => Some(Level::Write),
        _ => None,
    };
    for (scope, own) in SCOPES.iter().zip(&mut levels) {
        *own = match (all, *scope) {
            (Some(Level::Read), "id-token" | "workflows") => Level::None,
            (Some(_), "models") => Level::Read,
            (Some(all), _) => all,
            (None, scope) => match token.get(scope).and_then(TemplateToken::as_str) {
                Some("read") => Level::Read,
                Some("write") => Level::Write,
                _ => Level::None,
            },
        };
    }
    levels
}
