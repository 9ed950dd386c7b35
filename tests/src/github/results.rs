//! The results service: steps, and logs and summaries in blobs as Azure keeps them.

use serde_json::{Value as Json, json};

use super::{Asked, FakeGitHub, Said, State};

/// A document that was uploaded.
#[derive(Debug, Clone, Default)]
pub struct Blob {
    /// What is in it; nothing where blobs are only counted.
    pub bytes: Vec<u8>,
    /// Its length.
    pub length: usize,
    /// Whether it is whole.
    pub sealed: bool,
    /// Whether it is made to be appended to.
    append: bool,
}

impl FakeGitHub {
    /// Keeps only the lengths of what is appended from now on, for floods.
    pub fn count_blobs(&self) {
        self.shared.lock().count_blobs = true;
    }
}

impl State {
    pub(super) fn results(&mut self, service: &str, call: &str, asked: &Asked) -> Said {
        let body: Json = serde_json::from_slice(&asked.body).unwrap_or_default();
        let (plan, job) = ("workflow_run_backend_id", "workflow_job_run_backend_id");
        let id = match self.job_of(asked, &body[plan], &body[job]) {
            Ok(id) => id,
            Err(said) => return said,
        };
        let receiver = "results.services.receiver.Receiver";
        let step = "step_backend_id";
        let fields: &[&str] = match (service, call) {
            (_, "GetJobLogsSignedBlobURL") => &[plan, job],
            (_, "GetStepLogsSignedBlobURL" | "GetStepSummarySignedBlobURL") => &[plan, job, step],
            (_, "CreateJobLogsMetadata") => &[plan, job, "uploaded_at", "line_count"],
            (_, "CreateStepLogsMetadata") => &[plan, job, step, "uploaded_at", "line_count"],
            (_, "CreateStepSummaryMetadata") => &[plan, job, step, "uploaded_at", "size"],
            (_, "WorkflowStepsUpdate") => &[plan, job, "steps", "change_order"],
            _ => return self.violation(404, format!("{service}/{call}: no such call")),
        };
        let expected = if call == "WorkflowStepsUpdate" {
            "github.actions.results.api.v1.WorkflowStepUpdateService"
        } else {
            receiver
        };
        if service != expected {
            return self.violation(404, format!("{service} has no {call}"));
        }
        if let Err(said) = self.object(asked, fields, &[]) {
            return said;
        }
        if call == "WorkflowStepsUpdate" {
            return self.update_steps(&id, &body);
        }
        let of = body[step].as_str().unwrap_or("job");
        let kind = if call.contains("Summary") {
            "summary"
        } else {
            "log"
        };
        let name = format!("{kind}-{of}");
        if call.starts_with("Get") {
            let field = if kind == "summary" {
                "summary_url"
            } else {
                "logs_url"
            };
            let signature = self.next();
            let url = format!("{}blob/{id}/{name}?sig={signature}", self.base);
            return (
                200,
                json!({field: url, "blob_storage_type": "BLOB_STORAGE_TYPE_AZURE", "soft_size_limit": "1048576"}),
            );
        }
        self.whole(&id, name, body)
    }

    fn whole(&mut self, id: &str, name: String, body: Json) -> Said {
        let job = self.jobs.get_mut(id);
        let job = job.expect("job_of found it");
        match job.blobs.get(&name) {
            Some(blob) if blob.sealed => {
                job.metadata.insert(name, body);
                (200, json!({"ok": true}))
            }
            _ => self.violation(400, format!("{name} is called whole and is not sealed")),
        }
    }

    fn update_steps(&mut self, id: &str, body: &Json) -> Said {
        let order = body["change_order"].as_u64().unwrap_or_default();
        let job = self.jobs.get_mut(id).expect("job_of found it");
        if order <= job.change_order {
            return self.violation(400, format!("change_order {order} is not above the last"));
        }
        job.change_order = order;
        for step in body["steps"].as_array().into_iter().flatten() {
            let number = step["number"].as_u64().unwrap_or_default();
            let known = [3, 5, 6].map(Json::from).contains(&step["status"])
                && [0, 2, 3, 4, 7]
                    .map(Json::from)
                    .contains(&step["conclusion"]);
            let moved = job
                .steps
                .get(&number)
                .is_some_and(|before| before["external_id"] != step["external_id"]);
            if number == 0 || !known || !step["external_id"].is_string() || moved {
                return self.violation(400, format!("a step that cannot be: {step}"));
            }
            job.steps.insert(number, step.clone());
        }
        (200, json!({"ok": true}))
    }

    pub(super) fn blob(&mut self, job: &str, name: &str, asked: &Asked) -> Said {
        if asked.bearer.is_some() {
            return self.violation(400, format!("{name}: a token was sent to a blob"));
        }
        let header = |name: &str| {
            asked
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let counted = self.count_blobs;
        let Some(job) = self.jobs.get_mut(job) else {
            return (404, json!({}));
        };
        let blob = job.blobs.entry(name.to_owned()).or_default();
        let whole = header("x-ms-blob-type") == Some("BlockBlob");
        if whole && blob.sealed && !blob.append && blob.bytes == asked.body {
            // The same once more: the answer to the first time was lost.
            return (201, json!(null));
        }
        let at = header("x-ms-blob-condition-appendpos").and_then(|at| at.parse().ok());
        let is_there = |at: usize| blob.bytes.get(at..) == Some(&asked.body[..]);
        if blob.sealed && blob.append && at.is_some_and(is_there) {
            return (409, json!({"errorMessage": "BlobIsSealed"}));
        }
        if blob.sealed {
            return self.violation(409, format!("{name}: written to after it was sealed"));
        }
        if asked
            .query
            .get("comp")
            .is_some_and(|comp| comp == "appendblock")
        {
            if !blob.append {
                return self.violation(409, format!("{name}: appended to before it was made"));
            }
            if at.is_some_and(|at: usize| at != blob.length) {
                return (412, json!({}));
            }
            blob.length += asked.body.len();
            if !counted {
                blob.bytes.extend_from_slice(&asked.body);
            }
            blob.sealed = asked.query.contains_key("seal");
            return (201, json!(null));
        }
        match header("x-ms-blob-type") {
            Some("AppendBlob") if asked.body.is_empty() => blob.append = true,
            Some("BlockBlob") => {
                blob.length = asked.body.len();
                blob.bytes = asked.body.to_vec();
                blob.sealed = true;
            }
            other => {
                let what = format!("{name}: made as {other:?}");
                return self.violation(400, what);
            }
        }
        (201, json!(null))
    }
}
