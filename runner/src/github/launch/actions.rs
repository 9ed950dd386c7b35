//! The actions of one job: looked up when the job is about to use them, held against the pins, and given
//! from the store by their contents.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{ActionPolicy, locks::JobLocks, service::Launch, upstream::LaunchUpstream};
use crate::{
    action::{
        bytes::{ActionBytes, ActionSource, NoActions, Prepared, Preparing, SourceError, bundle},
        enforce::{Enforced, Enforcer, ImageRefused, Pinned},
        find::{Found, Target},
        image_archives::ImageArchives,
        policy::PinPolicy,
        reference::{ActionKey, Reference, RepositoryReference},
        resolve::Root,
    },
    job::request::JobRequest,
    notice::Notices,
    printable,
};

/// The actions of one job.
#[derive(Debug)]
pub struct JobActions {
    enforcer: Enforcer,
    launch: Launch,
    /// The workflow's file, for messages.
    file: String,
    /// Whether the message has entries of the workflow's lock file.
    locked: bool,
    notices: Notices,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What was judged, in the order of asking.
    judged: Vec<Arc<Pinned>>,
    keys: HashSet<ActionKey>,
    told_of_lock: bool,
}

impl JobActions {
    pub(super) fn new(
        job: &JobRequest,
        launch: Launch,
        upstream: LaunchUpstream,
        locks: JobLocks,
        policy: &ActionPolicy,
        notices: Notices,
    ) -> Self {
        let file = job.file_table.first().cloned();
        Self {
            enforcer: Enforcer {
                policy: policy.pins,
                upstream: Some(Arc::new(upstream)),
                registries: None,
                store: policy.store.clone(),
                history: policy.history.clone(),
                locks: locks.locks,
                checkout: None,
                given: Arc::new(NoActions),
                given_images: ImageArchives::default(),
            },
            launch,
            file: file.unwrap_or_else(|| "the workflow".to_owned()),
            locked: locks.in_message,
            notices,
            known: Mutex::default(),
        }
    }

    fn policy(&self) -> PinPolicy {
        self.enforcer.policy
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// References of which nothing was asked yet, each once.
    fn unknown(&self, references: &[RepositoryReference]) -> Vec<RepositoryReference> {
        let known = self.lock();
        let mut seen = HashSet::new();
        let is_new = |reference: &&RepositoryReference| {
            !known.keys.contains(&reference.key()) && seen.insert((*reference).clone())
        };
        references.iter().filter(is_new).cloned().collect()
    }

    async fn look_up(&self, references: Vec<RepositoryReference>) -> Result<Prepared, SourceError> {
        // One question for all of them; what is wrong with one is told where it is used.
        let asked = references.iter().map(|reference| async {
            let of = (&reference.repository, reference.reference.as_str());
            let _ = self.launch.info(of.0, of.1).await;
        });
        futures_util::future::join_all(asked).await;
        let found = references.iter().map(found).collect();
        let file = self.file.clone();
        let enforced = self.enforcer.enforce(vec![Root { file, found }]).await;
        let enforced = enforced.map_err(|error| SourceError::Policy(error.to_string()))?;
        for notice in enforced.notices() {
            self.notices.tell(&notice);
        }
        let prepared = self.judged(&enforced)?;
        let mut known = self.lock();
        let keys = references.iter().map(RepositoryReference::key);
        known
            .keys
            .extend(keys.chain(enforced.actions.keys().cloned()));
        known.judged.push(Arc::new(enforced.actions));
        Ok(prepared)
    }

    /// What the log says of what was found; or why nothing of it runs.
    fn judged(&self, enforced: &Enforced) -> Result<Prepared, SourceError> {
        let (policy, offenders) = (self.policy(), &enforced.offenders);
        if policy.fails() && !offenders.is_empty() {
            let lines: Vec<_> = offenders.iter().map(ToString::to_string).collect();
            return Err(SourceError::Policy(format!(
                "this job's actions may not run under the policy pins = {policy}:\n  {}",
                lines.join("\n  ")
            )));
        }
        let mut prepared = Prepared::default();
        if self.locked && !std::mem::replace(&mut self.lock().told_of_lock, true) {
            let line = "Using locked action versions from the workflow's lockfile";
            prepared.lines.push(line.to_owned());
        }
        for (name, commit) in enforced.actions.commits() {
            let line = format!("Download action repository '{name}' (SHA:{commit})");
            prepared.lines.push(line);
        }
        prepared
            .lines
            .extend(enforced.notes.iter().map(|note| printable::line(note)));
        let warning = |offender| format!("pins = {policy}: {offender}");
        prepared.warnings.extend(offenders.iter().map(warning));
        Ok(prepared)
    }
}

impl ActionSource for JobActions {
    fn find(&self, reference: &RepositoryReference) -> Result<Arc<dyn ActionBytes>, SourceError> {
        let judged = self.lock().judged.clone();
        let mut why = SourceError::Late(bundle(reference));
        for pinned in judged {
            match pinned.find(reference) {
                Err(SourceError::Late(_)) => {}
                Err(error) => why = error,
                found => return found,
            }
        }
        Err(why)
    }

    fn image(&self, image: &str) -> Result<String, ImageRefused> {
        let judged = self.lock().judged.last().cloned();
        match judged {
            Some(pinned) => pinned.image(image),
            None => self.enforcer.locked_images().name(image),
        }
    }

    fn refuses_unpinned(&self) -> bool {
        self.policy().fails()
    }

    fn prepare<'a>(&'a self, references: &'a [RepositoryReference]) -> Preparing<'a> {
        Box::pin(async move {
            let unknown = self.unknown(references);
            if unknown.is_empty() {
                return Ok(Prepared::default());
            }
            self.look_up(unknown).await
        })
    }
}

/// A reference of a message as one of a file. The message does not say where it stands there.
fn found(reference: &RepositoryReference) -> Found {
    Found {
        text: reference.to_string(),
        target: Ok(Target::Use(Reference::Repository(reference.clone()))),
        line: 0,
        column: 0,
        span: None,
    }
}
