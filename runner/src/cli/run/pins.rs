//! The pins of a run: all that its workflow refers to is resolved and judged before anything else.

use std::{collections::BTreeSet, sync::Arc};

use clap::Args;

use super::super::{
    Exit, Failure,
    pin::{registries, token},
    runtime,
};
use crate::{
    action::{
        enforce::{Enforced, Enforcer, Pinned},
        find,
        folders::Folders,
        history::History,
        image_archives::ImageArchives,
        policy::PinPolicy,
        resolve::{Locks, Offender, Root, Wrong},
        source::{GITHUB_API, GitHub, GitMirror, Upstream},
        store::ActionStore,
    },
    attestation::Pins,
    checkout::Checkout,
    config::{Installation, Settings},
    printable,
    workflow::{LoadError, source::Source},
};

/// Where actions come from, and which may run.
#[derive(Debug, Default, Args)]
pub struct PinArgs {
    /// Folder or URL below which repositories lie as `owner/repo`, with or without `.git`: actions that
    /// are not stored yet come from there, and tags are looked up there; without it on GitHub, with the
    /// token in GITHUB_TOKEN if there is one.
    #[arg(long, value_name = "DIR|URL", env = "MAYFLY_MIRROR")]
    mirror: Option<String>,
    /// Without a mirror: GitHub's API, github.com's or that of an Enterprise Server.
    #[arg(long, value_name = "URL", env = "GITHUB_API_URL", default_value = GITHUB_API)]
    api_url: String,
    /// What must be known of actions, workflows and images before a job begins [default: require, or
    /// what the configuration says]
    #[arg(long, value_enum, value_name = "POLICY", env = "MAYFLY_PINS")]
    pins: Option<PinPolicy>,
}

impl PinArgs {
    /// Resolves all that a workflow refers to, and tells what of it may not run.
    pub fn enforce(
        &self,
        workflow: &Source,
        checkout: &Arc<Checkout>,
        folders: &Arc<Folders>,
        images: &ImageArchives,
    ) -> Result<Judged, Failure> {
        let settings = Settings::load().map_err(Failure::usage)?;
        let policy = self.pins.or(settings.actions.pins).unwrap_or_default();
        let found = find::in_workflow(workflow).map_err(Failure::usage)?;
        let path = workflow.path();
        let inside = path.canonicalize().ok();
        let inside = inside
            .as_ref()
            .and_then(|path| path.strip_prefix(checkout.root()).ok());
        let file = inside.unwrap_or(path).display().to_string();
        let installation = Installation::locate()?;
        let mirror = self.mirror.as_ref().or(settings.actions.mirror.as_ref());
        let enforcer = Enforcer {
            policy,
            upstream: Some(self.upstream(mirror)?),
            registries: Some(registries()?),
            store: ActionStore::at(installation.actions()),
            history: History::at(installation.pins()),
            locks: Locks::read(checkout.root()).map_err(Failure::usage)?,
            checkout: Some(Arc::clone(checkout)),
            given: Arc::clone(folders) as _,
            given_images: images.clone(),
        };
        let enforced = runtime()?.block_on(enforcer.enforce(vec![Root { file, found }]))?;
        Ok(judge(policy, enforced))
    }

    /// The mirror, else GitHub: asked only for what the workflow refers to.
    fn upstream(&self, mirror: Option<&String>) -> Result<Arc<dyn Upstream>, Failure> {
        if let Some(base) = mirror {
            return Ok(Arc::new(GitMirror::open(base).map_err(Failure::usage)?));
        }
        let github = GitHub::open(&self.api_url, token(None)?).map_err(Failure::usage)?;
        Ok(Arc::new(github))
    }
}

/// What a run may use.
#[derive(Debug)]
pub struct Judged {
    /// Actions, workflows and images.
    pub actions: Pinned,
    /// Images whose given archives are something else, by their keys.
    pub refused_images: BTreeSet<String>,
    /// The verdict as sandboxes tell it.
    pub pins: Pins,
    /// The one message about all that may not run, where the policy goes by it.
    pub refused: Option<Failure>,
}

/// Says what there is to say, and judges by the policy.
fn judge(policy: PinPolicy, enforced: Enforced) -> Judged {
    for note in &enforced.notes {
        eprintln!("mayfly: {}", printable::line(note));
    }
    let offenders = &enforced.offenders;
    let refused = (policy.fails() && !offenders.is_empty()).then(|| refusal(policy, offenders));
    if refused.is_none() {
        for offender in offenders {
            eprintln!("mayfly: pins = {policy}: {offender}");
        }
    }
    let violations = enforced.violations().into_iter();
    let pins = Pins {
        policy,
        ok: offenders.is_empty(),
        violations: violations
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect(),
    };
    Judged {
        pins,
        actions: enforced.actions,
        refused_images: enforced.refused_images,
        refused,
    }
}

/// One message with all that may not run.
fn refusal(policy: PinPolicy, offenders: &[Offender]) -> Failure {
    let out_of_reach = |offender: &Offender| offender.wrong == Wrong::Unreachable;
    let exit = match offenders.iter().all(out_of_reach) {
        true => Exit::Machine,
        false => Exit::Failed,
    };
    let (count, lines) = (offenders.len(), offenders.iter().map(ToString::to_string));
    let noun = if count == 1 {
        "reference"
    } else {
        "references"
    };
    let lines = lines.collect::<Vec<_>>().join("\n  ");
    let cause = anyhow::anyhow!(
        "nothing was run: {count} {noun} may not run under the policy pins = {policy}\n  {lines}"
    );
    Failure { exit, cause }
}

/// What is wrong with a workflow, and below it what of it may not run.
pub fn with_refusal(error: LoadError, refusal: Option<&Failure>) -> Failure {
    match refusal {
        None => Failure::usage(error),
        Some(refusal) => Failure::usage(anyhow::anyhow!("{error}\nmayfly: {}", refusal.cause)),
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;
    use crate::action::resolve::Mention;

    fn offender(wrong: Wrong, line: u32) -> Offender {
        Offender {
            wrong,
            mention: Mention {
                file: "ci.yml".to_owned(),
                line,
                column: 9,
                text: "o/r@v1".to_owned(),
            },
            message: "why; mend".to_owned(),
        }
    }

    #[test]
    fn actions_come_from_the_mirror_that_is_named_else_from_github() {
        let from = |arguments: &[&str], mirror: Option<&str>| {
            let all = ["run"].iter().chain(arguments);
            let args = PinArgs::augment_args(clap::Command::new("run"));
            let args = PinArgs::from_arg_matches(&args.get_matches_from(all)).unwrap();
            let mirror = mirror.map(str::to_owned);
            args.upstream(mirror.as_ref())
                .map(|source| source.name().to_owned())
        };
        assert_eq!(from(&[], None).unwrap(), GITHUB_API);
        let enterprise = ["--api-url", "https://ghe.example/api/v3"];
        assert_eq!(from(&enterprise, None).unwrap(), enterprise[1]);
        let mirror = Some("https://git.example/mirror");
        assert_eq!(
            from(&enterprise, mirror).unwrap(),
            "https://git.example/mirror"
        );
        let plain = from(&["--api-url", "http://ghe.example"], None).unwrap_err();
        assert_eq!(plain.exit, Exit::Usage);
    }

    #[test]
    fn all_that_may_not_run_is_told_in_one_message_and_by_the_exit_code() {
        let both = [offender(Wrong::Moved, 3), offender(Wrong::Unreachable, 4)];
        let failure = refusal(PinPolicy::Require, &both);
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(
            failure.cause.to_string(),
            "nothing was run: 2 references may not run under the policy pins = require\n  \
             ci.yml:3:9: moved: why; mend\n  ci.yml:4:9: unreachable: why; mend"
        );
        assert_eq!(refusal(PinPolicy::Require, &both[1..]).exit, Exit::Machine);
    }
}
