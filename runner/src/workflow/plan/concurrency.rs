//! `concurrency` of a workflow or a job, evaluated.

use super::super::evaluate::{EvaluateError, evaluate};
use super::super::token::TemplateToken;
use super::{Plan, PrepareError};
use crate::expression::coerce::{to_text, truthy};
use crate::expression::value::{Object, Value};
use crate::expression::{Names, Scope};

/// The group of a job or of a workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// Its name.
    pub group: String,
    /// Whether what runs in the group is cancelled for it.
    pub cancel_in_progress: bool,
    /// Whether all that wait keep waiting (`queue: max`); otherwise one waits, the last that came.
    pub queue: bool,
}

/// The group that `concurrency` asks for; none for one without a name.
pub(super) fn read(
    token: &TemplateToken,
    contexts: &Object,
) -> Result<Option<Concurrency>, EvaluateError> {
    let value = evaluate(token, &Names::everything(), &Scope::new(contexts))?;
    let settings = value.as_object();
    let setting = |key: &str| settings.and_then(|settings| settings.get(key));
    let group = match settings {
        Some(_) => setting("group").map(to_text).unwrap_or_default(),
        None => to_text(&value),
    };
    let queue = setting("queue").and_then(Value::as_str);
    Ok((!group.is_empty()).then(|| Concurrency {
        group,
        cancel_in_progress: setting("cancel-in-progress").is_some_and(truthy),
        queue: queue == Some("max"),
    }))
}

impl Plan {
    /// The group of the whole workflow.
    ///
    /// # Errors
    /// [`PrepareError::Group`] for an expression that fails.
    pub fn concurrency(&self) -> Result<Option<Concurrency>, PrepareError> {
        let Some(token) = &self.workflow.concurrency else {
            return Ok(None);
        };
        let contexts = Object::from_iter([
            ("github", self.inputs.github.clone()),
            ("inputs", self.inputs.inputs.clone()),
            ("vars", self.inputs.vars.clone()),
        ]);
        read(token, &contexts).map_err(|source| PrepareError::Group {
            path: self.workflow.path.clone(),
            source: Box::new(source),
        })
    }
}
