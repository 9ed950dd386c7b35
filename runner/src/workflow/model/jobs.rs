//! Jobs: their ids, and what the shape of a job cannot say.

use super::super::source::Place;
use super::super::token::{TemplateToken, TokenKind};
use super::{Builder, Call, Job, condition, place_of, value};
use crate::expression::is_name;

fn call(job: &TemplateToken) -> Option<Call> {
    Some(Call {
        uses: value(job, "uses")?,
        with: value(job, "with"),
        secrets: value(job, "secrets"),
        workflow: None,
    })
}

impl Builder<'_> {
    pub(super) fn jobs(&mut self, root: &TemplateToken) -> Vec<Job> {
        let Some(jobs) = root.get("jobs") else {
            return Vec::new();
        };
        let entries = jobs.as_mapping().unwrap_or_default();
        if entries.is_empty() && matches!(jobs.kind, TokenKind::Mapping(_)) {
            self.error(
                place_of(jobs),
                "a workflow needs at least one job",
                "add one under `jobs:`",
            );
        }
        entries
            .iter()
            .filter_map(|(key, job)| self.job(key, job))
            .collect()
    }

    fn job(&mut self, key: &TemplateToken, job: &TemplateToken) -> Option<Job> {
        let id = key.as_str()?.to_owned();
        let place = place_of(key);
        self.check_id(&id, place, "job");
        let fields = job.as_mapping()?;
        let has = |key: &str| fields.iter().any(|(name, _)| name.as_str() == Some(key));
        if !has("steps") && !has("uses") {
            self.no_steps(place);
        }
        self.check_timeout(job);
        self.check_images(job);
        self.check_group(job);
        Some(Job {
            needs: self.needs(job),
            steps: self.steps(job, place),
            id,
            place,
            name: value(job, "name"),
            condition: condition(job),
            strategy: value(job, "strategy"),
            timeout_minutes: value(job, "timeout-minutes"),
            continue_on_error: value(job, "continue-on-error"),
            env: value(job, "env"),
            outputs: value(job, "outputs"),
            defaults: value(job, "defaults"),
            container: value(job, "container"),
            services: value(job, "services"),
            concurrency: value(job, "concurrency"),
            permissions: value(job, "permissions"),
            environment: value(job, "environment"),
            call: call(job),
        })
    }

    pub(super) fn check_id(&mut self, id: &str, place: Place, of: &str) {
        if !is_name(id) || id.len() >= 100 {
            self.error(
                place,
                format!("`{id}` cannot be the id of a {of}"),
                "an id begins with a letter or `_`, has letters, digits, `-` and `_`, and fewer than \
                 100 characters",
            );
        } else if id.starts_with("__") {
            self.error(
                place,
                format!("the id `{id}` is reserved"),
                "begin it with another sign than `__`",
            );
        }
    }

    /// Containers have an image, unless expressions make them.
    fn check_images(&mut self, job: &TemplateToken) {
        let services = job.get("services").and_then(TemplateToken::as_mapping);
        let services = services
            .unwrap_or_default()
            .iter()
            .map(|(_, service)| service);
        for container in job.get("container").into_iter().chain(services) {
            let is_mapping = container.as_mapping().is_some();
            if is_mapping && container.get("image").is_none() && !container.has_expression() {
                let help = "add `image:`";
                self.error(
                    place_of(container),
                    "a container needs the key `image`",
                    help,
                );
            }
        }
    }

    /// The group of `runs-on` may name the organization or the enterprise that it belongs to.
    fn check_group(&mut self, job: &TemplateToken) {
        let group = job.get("runs-on").and_then(|runs_on| runs_on.get("group"));
        let Some(token) = group else { return };
        let Some((owner, name)) = token.as_str().and_then(|group| group.split_once('/')) else {
            return;
        };
        let known = ["org", "organization", "ent", "enterprise"].contains(&owner);
        if !known || name.is_empty() || name.contains('/') {
            let message = format!("`{owner}/{name}` is no group of runners");
            let help = "write its name alone, or after `organization/` or `enterprise/`";
            self.error(place_of(token), message, help);
        }
    }

    fn check_timeout(&mut self, of: &TemplateToken) {
        let Some(timeout) = of.get("timeout-minutes") else {
            return;
        };
        if let TokenKind::Number(minutes) = timeout.kind
            && !(minutes > 0.0 && minutes.is_finite())
        {
            let place = place_of(timeout);
            self.error(
                place,
                "a timeout must be more than 0 minutes",
                "write a positive number",
            );
        }
    }
}
