//! The record of a job for which there is no sandbox.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::{
    commands::{Annotation, Level},
    masking::Masker,
    outcome::{AnnotationCounts, Conclusion, JobOutcome, StepRecord},
    reporter::{Event, EventKind, Origin, Reporter},
    request::{JobRequest, Variable},
};

/// Reports a job that failed before its first step, and why.
pub async fn never_begun<R: Reporter>(request: &JobRequest, reporter: &R, why: &str) -> JobOutcome {
    let masker = Masker::new();
    for (_, variable) in request.variables.iter() {
        if let Variable::Secret(secret) = variable {
            // A secret that cannot be hidden is one that cannot be in these few words either.
            let _ = masker.add(secret.expose_secret());
        }
    }
    let name = masker.mask(&request.job_display_name).into_owned();
    let record = StepRecord {
        number: 1,
        name: "Set up job".to_owned(),
        outcome: Conclusion::Failure,
        conclusion: Conclusion::Failure,
        duration: Duration::ZERO,
        annotations: AnnotationCounts {
            error: 1,
            ..AnnotationCounts::default()
        },
    };
    let step = record.number;
    reporter
        .report(&event(request, EventKind::JobStarted { name: &name }))
        .await;
    let started = EventKind::StepStarted {
        step,
        name: &record.name,
        origin: Origin::default(),
    };
    reporter.report(&event(request, started)).await;
    let why = masker.mask(why);
    for line in why.lines() {
        let line = format!("##[error]{line}");
        reporter
            .report(&event(request, EventKind::Log { step, line: &line }))
            .await;
    }
    let mut annotation = Annotation::new(Level::Error, &why);
    annotation.cut();
    let annotation = &annotation;
    reporter
        .report(&event(request, EventKind::Annotation { step, annotation }))
        .await;
    reporter
        .report(&event(request, EventKind::StepFinished { record: &record }))
        .await;
    let finished = EventKind::JobFinished {
        name: &name,
        result: Conclusion::Failure,
        outputs: &[],
        duration: Duration::ZERO,
    };
    reporter.report(&event(request, finished)).await;
    JobOutcome {
        result: Conclusion::Failure,
        outputs: Vec::new(),
        environment_url: None,
        steps: vec![record],
        duration: Duration::ZERO,
    }
}

fn event<'a>(request: &'a JobRequest, kind: EventKind<'a>) -> Event<'a> {
    Event {
        time: Timestamp::now(),
        job: &request.job_id,
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{reporter::recording::Recording, request};

    #[tokio::test]
    async fn the_reason_is_in_the_log_and_secrets_are_not() {
        let request = request::decode(include_bytes!("request/fixture.json")).unwrap();
        let recording = Recording::default();
        let why = "no room\nfor s3cr3t-token";
        let outcome = never_begun(&request, &recording, why).await;
        assert_eq!(outcome.result, Conclusion::Failure);
        assert_eq!(recording.lines(1), ["##[error]no room", "##[error]for ***"]);
        assert_eq!(recording.events("job_finished")[0]["result"], "failure");
        let annotation = &recording.events("annotation")[0];
        assert_eq!(annotation["message"], "no room\nfor ***");
    }
}
