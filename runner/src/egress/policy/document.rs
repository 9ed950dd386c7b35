//! The file of a policy: its keys, and how they become sections.

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::{
    error::PolicyError,
    level::{Level, Mode},
    place,
    preset::Preset,
    rule::{Effect, WrittenRule},
    secret::SecretBinding,
    section::Section,
};

/// Largest policy file.
const LARGEST: u64 = 1 << 20;

/// A policy as its file says it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The file, for people.
    pub origin: String,
    /// What holds for all jobs.
    pub pool: Section,
    /// Levels that may let pass what a wider one only does not name.
    pub may_widen: Vec<Level>,
    /// Secrets that the guest does not get.
    pub secrets: BTreeMap<String, SecretBinding>,
    /// What holds for workflows, by file name or path.
    pub(super) workflows: BTreeMap<String, Narrower>,
    /// What holds for jobs and steps of any workflow.
    pub(super) jobs: BTreeMap<String, Narrower>,
    pub(super) steps: BTreeMap<String, Section>,
}

/// A section with those within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Narrower {
    pub(super) section: Section,
    pub(super) jobs: BTreeMap<String, Self>,
    pub(super) steps: BTreeMap<String, Section>,
}

/// Reads one value or a list, with the error of the value itself.
pub(super) fn several<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let values = match toml::Value::deserialize(deserializer)? {
        toml::Value::Array(values) => values,
        value => vec![value],
    };
    let read = |value: toml::Value| T::deserialize(value).map_err(serde::de::Error::custom);
    values.into_iter().map(read).collect()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenDocument {
    mode: Option<Mode>,
    #[serde(deserialize_with = "several")]
    preset: Vec<Preset>,
    allow: Option<Vec<Spanned<WrittenRule>>>,
    deny: Vec<Spanned<WrittenRule>>,
    #[serde(deserialize_with = "several")]
    may_widen: Vec<Level>,
    secrets: BTreeMap<String, SecretBinding>,
    workflows: BTreeMap<String, WrittenWorkflow>,
    jobs: BTreeMap<String, WrittenJob>,
    steps: BTreeMap<String, WrittenStep>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenWorkflow {
    mode: Option<Mode>,
    #[serde(deserialize_with = "several")]
    preset: Vec<Preset>,
    allow: Option<Vec<Spanned<WrittenRule>>>,
    deny: Vec<Spanned<WrittenRule>>,
    jobs: BTreeMap<String, WrittenJob>,
    steps: BTreeMap<String, WrittenStep>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenJob {
    mode: Option<Mode>,
    #[serde(deserialize_with = "several")]
    preset: Vec<Preset>,
    allow: Option<Vec<Spanned<WrittenRule>>>,
    deny: Vec<Spanned<WrittenRule>>,
    steps: BTreeMap<String, WrittenStep>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenStep {
    mode: Option<Mode>,
    #[serde(deserialize_with = "several")]
    preset: Vec<Preset>,
    allow: Option<Vec<Spanned<WrittenRule>>>,
    deny: Vec<Spanned<WrittenRule>>,
}

/// What sections of all levels have.
struct Common {
    mode: Option<Mode>,
    preset: Vec<Preset>,
    allow: Option<Vec<Spanned<WrittenRule>>>,
    deny: Vec<Spanned<WrittenRule>>,
}

macro_rules! common {
    ($written:expr) => {
        Common {
            mode: $written.mode,
            preset: $written.preset,
            allow: $written.allow,
            deny: $written.deny,
        }
    };
}

impl Document {
    /// A policy of a mode and presets only, with nothing more to say.
    #[must_use]
    pub fn of(mode: Mode, presets: &[Preset]) -> Self {
        let common = Common {
            mode: Some(mode),
            preset: presets.to_vec(),
            allow: None,
            deny: Vec::new(),
        };
        let origin = Origin {
            file: format!("mode {mode}"),
            text: "",
        };
        Self {
            pool: origin.without_rules(common),
            origin: origin.file,
            may_widen: Vec::new(),
            secrets: BTreeMap::new(),
            workflows: BTreeMap::new(),
            jobs: BTreeMap::new(),
            steps: BTreeMap::new(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`PolicyError`] if it cannot be read or is wrong.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let failed = |cause| PolicyError::Read {
            path: path.to_owned(),
            cause,
        };
        let file = fs::File::open(path).map_err(failed)?;
        let mut text = String::new();
        let read = file.take(LARGEST + 1).read_to_string(&mut text);
        if read.map_err(failed)? as u64 > LARGEST {
            return Err(PolicyError::TooLarge {
                path: path.to_owned(),
                limit: LARGEST,
            });
        }
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads a text; `origin` names it in errors and records.
    ///
    /// # Errors
    /// [`PolicyError`] if it is wrong.
    pub fn parse(text: &str, origin: &str) -> Result<Self, PolicyError> {
        let written: WrittenDocument =
            toml::from_str(text).map_err(|cause| PolicyError::Wrong {
                origin: origin.to_owned(),
                cause: Box::new(cause),
            })?;
        let origin = Origin {
            file: origin.to_owned(),
            text,
        };
        let workflow = |name: &str, written: WrittenWorkflow| {
            let label = format!("workflow {name}");
            Ok(Narrower {
                section: origin.section(Level::Workflow, &label, common!(written))?,
                jobs: origin.jobs(written.jobs)?,
                steps: origin.steps(written.steps)?,
            })
        };
        let workflows = written.workflows.into_iter().map(|(name, written)| {
            let read: Result<Narrower, PolicyError> = workflow(&name, written);
            Ok((name, read?))
        });
        Ok(Self {
            workflows: workflows.collect::<Result<_, PolicyError>>()?,
            jobs: origin.jobs(written.jobs)?,
            steps: origin.steps(written.steps)?,
            pool: origin.section(Level::Pool, "pool", common!(written))?,
            may_widen: written.may_widen,
            secrets: written.secrets,
            origin: origin.file,
        })
    }
}

/// Where a text comes from.
struct Origin<'a> {
    file: String,
    text: &'a str,
}

impl Origin<'_> {
    fn without_rules(&self, common: Common) -> Section {
        Section {
            level: Level::Pool,
            name: "pool".into(),
            mode: common.mode,
            says_what_passes: !common.preset.is_empty(),
            allow: common
                .preset
                .iter()
                .flat_map(|preset| preset.rules())
                .collect(),
            presets: common.preset,
            deny: Vec::new(),
        }
    }

    fn section(&self, level: Level, name: &str, common: Common) -> Result<Section, PolicyError> {
        let says_what_passes = common.allow.is_some() || !common.preset.is_empty();
        let mut allow = self.rules(Effect::Allow, common.allow.unwrap_or_default())?;
        allow.extend(common.preset.iter().flat_map(|preset| preset.rules()));
        Ok(Section {
            level,
            name: name.to_owned(),
            mode: common.mode,
            says_what_passes,
            presets: common.preset,
            allow,
            deny: self.rules(Effect::Deny, common.deny)?,
        })
    }

    fn rules(
        &self,
        effect: Effect,
        written: Vec<Spanned<WrittenRule>>,
    ) -> Result<Vec<super::rule::Rule>, PolicyError> {
        let rule = |written: Spanned<WrittenRule>| {
            let line = place::line(self.text, written.span().start);
            let origin = format!("{}:{line}", self.file);
            let wrong = |what| PolicyError::Rule {
                origin: self.file.clone(),
                line,
                what,
            };
            written.into_inner().rule(effect, origin).map_err(wrong)
        };
        written.into_iter().map(rule).collect()
    }

    fn jobs(
        &self,
        written: BTreeMap<String, WrittenJob>,
    ) -> Result<BTreeMap<String, Narrower>, PolicyError> {
        let job = |(name, written): (String, WrittenJob)| {
            let section = self.section(Level::Job, &format!("job {name}"), common!(written))?;
            let narrower = Narrower {
                section,
                jobs: BTreeMap::new(),
                steps: self.steps(written.steps)?,
            };
            Ok((name, narrower))
        };
        written.into_iter().map(job).collect()
    }

    fn steps(
        &self,
        written: BTreeMap<String, WrittenStep>,
    ) -> Result<BTreeMap<String, Section>, PolicyError> {
        let step = |(name, written): (String, WrittenStep)| {
            let section = self.section(Level::Step, &format!("step {name}"), common!(written))?;
            Ok((name, section))
        };
        written.into_iter().map(step).collect()
    }
}
