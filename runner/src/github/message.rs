//! The messages of the broker.

use std::time::Duration;

use serde_json::Value as Json;
use url::Url;

use super::jit::{base, web};
use crate::tolerant::{FieldError, Fields};

/// A grace that no service gives; one that is longer is cut to it.
const LONGEST_GRACE: Duration = Duration::from_secs(24 * 3600);

/// What the broker tells a runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A job waits at the run service.
    Job(JobOffer),
    /// A whole job message, from an old service.
    WholeJob(String),
    /// A job is to end.
    Cancel {
        /// The job (a GUID).
        job_id: String,
        /// How long its steps may take to end by themselves.
        grace: Duration,
    },
    /// The broker is elsewhere from now on.
    Migrate(Url),
    /// The runner's token is to be fetched anew.
    RefreshToken,
    /// The runner's configuration has changed at the service.
    RefreshConfig,
    /// There is a newer official runner.
    Update {
        /// Its version.
        version: String,
    },
    /// The runner is to end.
    Shutdown {
        /// Why.
        reason: String,
    },
    /// Something that is not known here; its type.
    Other(String),
}

/// A job that may be acquired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOffer {
    /// What to acquire.
    pub request_id: String,
    /// Base of the run service that holds it.
    pub run_service: Url,
    /// Passed back with the acquisition.
    pub billing_owner_id: Option<String>,
    /// Whether the broker wants to know that the offer arrived.
    pub acknowledge: bool,
}

/// A message in its envelope.
pub(super) struct Envelope {
    /// Its type.
    kind: String,
    /// Its body; encrypted where `iv` is there.
    pub(super) body: String,
    /// Initialisation vector of an encrypted body, in Base64.
    pub(super) iv: Option<String>,
}

impl Envelope {
    /// Reads the broker's answer.
    pub(super) fn read(json: Json) -> Result<Self, FieldError> {
        let mut fields = Fields::new(json, String::new())?;
        Ok(Self {
            kind: fields.required("messageType")?,
            body: fields.text("body")?.unwrap_or_default(),
            iv: fields.text("iv")?.filter(|iv| !iv.is_empty()),
        })
    }

    /// What is in it.
    pub(super) fn open(self) -> Result<Message, FieldError> {
        let Self { kind, body, .. } = self;
        let body = body.strip_prefix('\u{feff}').unwrap_or(&body);
        let fields = || {
            let json: Json = serde_json::from_str(body).map_err(|_| FieldError {
                path: format!("body of {kind}"),
                problem: "is not JSON".to_owned(),
            })?;
            Fields::new(json, "body".to_owned())
        };
        Ok(match kind.to_ascii_lowercase().as_str() {
            "runnerjobrequest" => Message::Job(offer(fields()?)?),
            "pipelineagentjobrequest" => Message::WholeJob(body.to_owned()),
            "jobcancellation" => cancellation(fields()?)?,
            "brokermigration" => {
                let mut fields = fields()?;
                let url = base(&fields.required("brokerBaseUrl")?);
                Message::Migrate(url.map_err(|why| fields.wrong("brokerBaseUrl", why))?)
            }
            "forcetokenrefresh" => Message::RefreshToken,
            "runnerrefreshconfig" => Message::RefreshConfig,
            "runnerrefresh" => Message::Update {
                version: fields()?.text("target_version")?.unwrap_or_default(),
            },
            "agentrefresh" => Message::Update {
                version: fields()?.text("targetVersion")?.unwrap_or_default(),
            },
            "runnershutdown" => Message::Shutdown {
                reason: fields()?.text("reason")?.unwrap_or_default(),
            },
            _ => Message::Other(kind),
        })
    }
}

fn offer(mut fields: Fields) -> Result<JobOffer, FieldError> {
    let run_service = fields.required("run_service_url")?;
    Ok(JobOffer {
        request_id: fields.required("runner_request_id")?,
        run_service: web(&run_service)
            .and_then(|_| base(&run_service))
            .map_err(|why| fields.wrong("run_service_url", why))?,
        billing_owner_id: fields.text("billing_owner_id")?,
        acknowledge: fields.boolean("should_acknowledge")?.unwrap_or_default(),
    })
}

fn cancellation(mut fields: Fields) -> Result<Message, FieldError> {
    let grace = fields.text("timeout")?;
    let grace = grace.as_deref().map_or(Some(Duration::ZERO), time_span);
    Ok(Message::Cancel {
        job_id: fields.required("jobId")?,
        grace: grace.ok_or_else(|| fields.wrong("timeout", "is not of the form hh:mm:ss"))?,
    })
}

/// A .NET `TimeSpan` in its constant form: `[d.]hh:mm:ss[.fffffff]`, not negative.
fn time_span(text: &str) -> Option<Duration> {
    let mut parts = text.split(':').rev();
    let seconds: f64 = parts.next()?.parse().ok()?;
    let minutes: u64 = parts.next()?.parse().ok()?;
    let hours = parts.next()?;
    let (days, hours) = hours.split_once('.').unwrap_or(("0", hours));
    let (days, hours): (u64, u64) = (days.parse().ok()?, hours.parse().ok()?);
    let good = parts.next().is_none()
        && (0.0..60.0).contains(&seconds)
        && minutes < 60
        && hours < 24
        && days < 365;
    let whole = good.then(|| Duration::from_secs((days * 24 + hours) * 3600 + minutes * 60))?;
    Some((whole + Duration::from_secs_f64(seconds)).min(LONGEST_GRACE))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(kind: &str, body: &Json) -> Result<Message, FieldError> {
        let body = format!("\u{feff}{body}");
        let envelope = json!({"MessageId": 1, "messageType": kind, "body": body});
        Envelope::read(envelope)?.open()
    }

    #[test]
    fn an_offer_is_read_and_its_service_gets_a_slash() {
        let body = json!({
            "runner_request_id": "r-1", "billing_owner_id": null, "should_acknowledge": "True",
            "run_service_url": "https://run.example/38",
        });
        let offer = JobOffer {
            request_id: "r-1".into(),
            run_service: "https://run.example/38/".parse().unwrap(),
            billing_owner_id: None,
            acknowledge: true,
        };
        assert_eq!(read("runnerJobRequest", &body), Ok(Message::Job(offer)));
    }

    #[test]
    fn a_token_is_never_sent_over_plain_http_to_another_machine() {
        for url in ["http://run.example/", "ftp://run.example/", "run.example"] {
            let body = json!({"runner_request_id": "r", "run_service_url": url});
            let error = read("RunnerJobRequest", &body).unwrap_err().to_string();
            assert!(
                error.starts_with("body.run_service_url is not a"),
                "{error}"
            );
        }
        let body = json!({"brokerBaseUrl": "http://127.0.0.1:80/x"});
        assert!(matches!(
            read("BrokerMigration", &body),
            Ok(Message::Migrate(_))
        ));
    }

    #[test]
    fn the_grace_of_a_cancellation_is_a_time_span() {
        for (text, seconds) in [
            ("00:05:00", 300.0),
            ("1.01:00:01.5", 86_400.0),
            ("00:00:01.5", 1.5),
        ] {
            let body = json!({"jobId": "j", "timeout": text});
            let grace = Duration::from_secs_f64(seconds);
            let job_id = "j".to_owned();
            assert_eq!(
                read("JobCancellation", &body),
                Ok(Message::Cancel { job_id, grace })
            );
        }
        for text in [
            "",
            "5",
            "00:61:00",
            "-00:00:01",
            "00:00:NaN",
            "1:2:3:4",
            "9999999999.00:00:00",
        ] {
            let body = json!({"jobId": "j", "timeout": text});
            let error = read("JobCancellation", &body).unwrap_err();
            assert_eq!(
                error.to_string(),
                "body.timeout is not of the form hh:mm:ss",
                "{text}"
            );
        }
    }

    #[test]
    fn a_type_that_is_not_known_is_no_error() {
        let other = read("SomethingNew", &json!([1]));
        assert_eq!(other, Ok(Message::Other("SomethingNew".into())));
        assert!(read("RunnerJobRequest", &json!([1])).is_err());
    }
}
