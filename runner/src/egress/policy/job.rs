//! What of a policy concerns one job.

use std::collections::BTreeMap;

use super::{
    document::{Document, Narrower},
    level::{Level, Mode},
    rule::Rule,
    secret::SecretBinding,
    section::Section,
};

/// The place of a job, by which sections are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobPlace {
    /// The workflow file: `ci.yml` or `.github/workflows/ci.yml`.
    pub workflow: String,
    /// The job's key in it.
    pub job: String,
    /// The repository as `owner/name`, if there is one.
    pub repository: Option<String>,
}

/// Whose TLS the worker ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookedInto {
    /// Nobody's.
    Nothing,
    /// That of these domains, and of what is below them.
    Domains(Vec<String>),
    /// It may be anybody's.
    Everything,
}

/// The policy for one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Sections that hold all the time, the widest first.
    pub(super) sections: Vec<Section>,
    /// Sections that hold during a step, by its id or name.
    pub(super) steps: Vec<(String, Section)>,
    pub(super) may_widen: Vec<Level>,
    /// The job's own repository.
    pub(super) repository: Option<String>,
    /// Secrets that the guest does not get.
    pub secrets: BTreeMap<String, SecretBinding>,
}

impl Document {
    /// The policy for a job.
    #[must_use]
    pub fn policy(&self, place: &JobPlace) -> Policy {
        let mut sections = vec![self.pool.clone()];
        let mut jobs = vec![&self.jobs];
        let mut steps = vec![&self.steps];
        for workflow in self
            .workflows
            .iter()
            .filter(|(name, _)| is(name, &place.workflow))
        {
            sections.push(workflow.1.section.clone());
            jobs.push(&workflow.1.jobs);
            steps.push(&workflow.1.steps);
        }
        let jobs: Vec<&Narrower> = jobs
            .iter()
            .filter_map(|jobs| jobs.get(&place.job))
            .collect();
        sections.extend(jobs.iter().map(|job| job.section.clone()));
        steps.extend(jobs.iter().map(|job| &job.steps));
        let steps = steps.into_iter().flatten();
        Policy {
            sections,
            steps: steps
                .map(|(name, section)| (name.clone(), section.clone()))
                .collect(),
            may_widen: self.may_widen.clone(),
            repository: place.repository.clone(),
            secrets: self.secrets.clone(),
        }
    }
}

/// Whether a section's name means the workflow: its path, or its file's name.
fn is(name: &str, workflow: &str) -> bool {
    let file = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    name == workflow || !name.contains('/') && name == file(workflow)
}

impl Policy {
    /// The sections that hold while `steps` run, the widest first, each with its mode.
    pub(super) fn holding<'a>(&'a self, steps: &[Vec<String>]) -> Vec<(&'a Section, Mode)> {
        let during = |(name, _): &&(String, Section)| steps.iter().any(|step| step.contains(name));
        let steps = self.steps.iter().filter(during).map(|(_, section)| section);
        let mut inherited = None;
        let mut holding = Vec::new();
        for section in self.sections.iter().chain(steps) {
            let mode = section.mode(inherited);
            // Steps that run at the same time do not inherit from each other.
            if section.level != Level::Step {
                inherited = Some(mode);
            }
            holding.push((section, mode));
        }
        holding
    }

    /// The strictest mode while `steps` run.
    #[must_use]
    pub fn mode(&self, steps: &[Vec<String>]) -> Mode {
        let modes = self.holding(steps).into_iter().map(|(_, mode)| mode);
        modes.max().unwrap_or(Mode::Audit)
    }

    /// Whose TLS the worker may have to end, at any time of the job.
    #[must_use]
    pub fn looked_into(&self) -> LookedInto {
        let sections = self
            .sections
            .iter()
            .chain(self.steps.iter().map(|(_, section)| section));
        let rules = sections.flat_map(|section| section.allow.iter().chain(&section.deny));
        let mut domains: Vec<String> = Vec::new();
        let looks = |rule: &&Rule| {
            rule.intercept == Some(true) || rule.intercept.is_none() && rule.asks_of_requests()
        };
        let rules: Vec<_> = rules.filter(looks).collect();
        if rules.iter().any(|rule| rule.hosts.is_empty()) {
            return LookedInto::Everything;
        }
        let secrets = self.secrets.values().flat_map(|binding| &binding.hosts);
        for host in rules.iter().flat_map(|rule| &rule.hosts).chain(secrets) {
            match host.domain() {
                None => return LookedInto::Everything,
                Some(domain) if domains.iter().any(|known| known == domain) => {}
                Some(domain) => domains.push(domain.to_owned()),
            }
        }
        if domains.is_empty() {
            LookedInto::Nothing
        } else {
            LookedInto::Domains(domains)
        }
    }

    /// The secret bindings that mean `host`.
    #[must_use]
    pub fn binds_a_secret_to(&self, host: &str) -> bool {
        self.secrets
            .values()
            .any(|binding| binding.is_bound_to(host))
    }
}
