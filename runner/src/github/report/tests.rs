//! Reporting against a results service on loopback that checks what it gets.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;

use super::*;
use crate::job::{
    outcome::{AnnotationCounts, Conclusion, StepRecord},
    reporter::PlannedStep,
    request,
};

const MESSAGE: &str = include_str!("../../job/request/fixture.json");

#[derive(Debug, Default)]
struct Blob {
    bytes: Vec<u8>,
    append: bool,
    sealed: bool,
    requests: u32,
}

/// What the service holds, and how it misbehaves.
#[derive(Default)]
struct Held {
    base: String,
    blobs: HashMap<String, Blob>,
    metadata: Vec<(String, Json)>,
    updates: Vec<Json>,
    places: u32,
    /// Requests that are refused with this status before the service behaves.
    refuse: Vec<u16>,
    /// Appended blocks whose answer is lost.
    lose_answers: u32,
    /// All requests for a place are refused for good.
    deny_places: bool,
}

#[derive(Clone)]
struct Service(Arc<Mutex<Held>>);

impl Service {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let service = Self(Arc::new(Mutex::new(Held {
            base,
            ..Held::default()
        })));
        let kept = service.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    let service = service.clone();
                    async move {
                        let path = request.uri().to_string();
                        let headers = request.headers().clone();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let header = |name: &str| {
                            let value = headers.get(name);
                            value.map(|value| value.to_str().unwrap().to_owned())
                        };
                        let (status, json) = service.answer(&path, header, &body);
                        let response = Response::builder().status(status);
                        let body = Full::new(Bytes::from(json.to_string()));
                        Ok::<_, Infallible>(response.body(body).unwrap())
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        kept
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }

    fn answer(
        &self,
        path: &str,
        header: impl Fn(&str) -> Option<String>,
        body: &[u8],
    ) -> (u16, Json) {
        let mut held = self.held();
        if let Some(status) = held.refuse.pop() {
            return (status, json!({}));
        }
        if let Some(name) = path.strip_prefix("/blob/") {
            assert_eq!(
                header("authorization"),
                None,
                "a blob's address is its permission"
            );
            return (held.blob(name, header, body), json!({}));
        }
        assert_eq!(header("authorization").as_deref(), Some("Bearer job-t0ken"));
        let body: Json = serde_json::from_slice(body).unwrap();
        assert_eq!(
            body["workflow_run_backend_id"],
            json!("0b7eb6b1-ab3c-46bc-a6e9-21298ec14671")
        );
        let call = path.rsplit('/').next().unwrap();
        let step = body["step_backend_id"].as_str().unwrap_or("job").to_owned();
        match call {
            "GetStepLogsSignedBlobURL"
            | "GetJobLogsSignedBlobURL"
            | "GetStepSummarySignedBlobURL" => {
                if held.deny_places {
                    return (403, json!({"msg": "no"}));
                }
                held.places += 1;
                let field = if call.contains("Summary") {
                    "summary_url"
                } else {
                    "logs_url"
                };
                let kind = if call.contains("Summary") {
                    "summary"
                } else {
                    "log"
                };
                let url = format!("{}blob/{kind}-{step}?sig={}", held.base, held.places);
                (
                    200,
                    json!({field: url, "blob_storage_type": "BLOB_STORAGE_TYPE_AZURE", "soft_size_limit": "100"}),
                )
            }
            "WorkflowStepsUpdate" => {
                held.updates.push(body);
                (200, json!({"ok": true}))
            }
            _ => {
                held.metadata.push((format!("{call} {step}"), body));
                (200, json!({"ok": true}))
            }
        }
    }
}

impl Held {
    /// A blob as Azure keeps it.
    fn blob(&mut self, name: &str, header: impl Fn(&str) -> Option<String>, body: &[u8]) -> u16 {
        let (name, query) = name.split_once('?').unwrap();
        let blob = self.blobs.entry(name.to_owned()).or_default();
        blob.requests += 1;
        if query.contains("comp=appendblock") {
            assert!(blob.append, "appended before it was made");
            if blob.sealed {
                return 409;
            }
            if header("x-ms-blob-condition-appendpos") != Some(blob.bytes.len().to_string()) {
                return 412;
            }
            blob.bytes.extend_from_slice(body);
            blob.sealed = query.contains("seal=true");
            assert_eq!(
                header("x-ms-blob-sealed").as_deref() == Some("True"),
                blob.sealed
            );
            if self.lose_answers > 0 {
                self.lose_answers -= 1;
                return 500;
            }
            return 201;
        }
        match header("x-ms-blob-type").as_deref() {
            Some("AppendBlob") => blob.append = true,
            Some("BlockBlob") => {
                blob.bytes = body.to_vec();
                blob.sealed = true;
            }
            other => panic!("{other:?}"),
        }
        201
    }
}

async fn reporting(service: &Service) -> (GitHubReporter, Reporting) {
    let mut job = request::decode(MESSAGE.as_bytes()).unwrap();
    let base = service.held().base.clone();
    let connection = job
        .endpoints
        .iter_mut()
        .find(|e| e.name == "SystemVssConnection");
    for (name, value) in &mut connection.unwrap().data {
        if name.eq_ignore_ascii_case("ResultsServiceUrl") {
            value.clone_from(&base);
        }
    }
    job.variables.insert(
        "system.github.results_endpoint",
        request::Variable::Plain(base),
    );
    let backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(20));
    start_with(Http::new("mayfly-test").unwrap(), &job, &backoff).unwrap()
}

fn event(kind: EventKind<'_>) -> Event<'_> {
    Event {
        time: "2026-11-25T10:00:00.5Z".parse().unwrap(),
        job: "j",
        kind,
    }
}

fn record(number: u32, conclusion: Conclusion) -> StepRecord {
    StepRecord {
        number,
        name: format!("step {number}"),
        outcome: conclusion,
        conclusion,
        duration: Duration::ZERO,
        annotations: AnnotationCounts::default(),
    }
}

async fn step(reporter: &GitHubReporter, number: u32, lines: &[&str]) {
    let name = format!("step {number}");
    let started = EventKind::StepStarted {
        step: number,
        name: &name,
        origin: Origin::default(),
    };
    reporter.report(&event(started)).await;
    for line in lines {
        reporter
            .report(&event(EventKind::Log { step: number, line }))
            .await;
    }
    let record = record(number, Conclusion::Success);
    reporter
        .report(&event(EventKind::StepFinished { record: &record }))
        .await;
}

async fn job_ended(reporter: &GitHubReporter) {
    let finished = EventKind::JobFinished {
        name: "job",
        result: Conclusion::Success,
        outputs: &[],
        duration: Duration::ZERO,
    };
    reporter.report(&event(finished)).await;
}

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn logs_summary_and_steps_of_a_job_arrive() {
    let service = Service::new().await;
    let (reporter, reporting) = reporting(&service).await;
    step(&reporter, 1, &["one", "two"]).await;
    step(&reporter, 2, &[]).await;
    let markdown = "# done";
    let started = EventKind::StepStarted {
        step: 3,
        name: "three",
        origin: Origin::default(),
    };
    reporter.report(&event(started)).await;
    reporter
        .report(&event(EventKind::Summary { step: 3, markdown }))
        .await;
    let skipped = record(4, Conclusion::Skipped);
    reporter
        .report(&event(EventKind::StepFinished { record: &skipped }))
        .await;
    job_ended(&reporter).await;
    drop(reporter);
    let reported = reporting.finish(LIMIT).await;
    assert_eq!(reported.incomplete, 0);
    let ids: Vec<String> = reported
        .steps
        .iter()
        .map(|s| s.external_id.clone())
        .collect();
    let held = service.held();
    let log = "\u{feff}2026-11-25T10:00:00.5000000Z one\n2026-11-25T10:00:00.5000000Z two\n";
    for name in [format!("log-{}", ids[0]), "log-job".to_owned()] {
        assert_eq!(
            String::from_utf8_lossy(&held.blobs[&name].bytes),
            log,
            "{name}"
        );
    }
    assert_eq!(
        held.blobs[&format!("summary-{}", ids[2])].bytes,
        markdown.as_bytes()
    );
    assert_eq!(
        held.blobs.len(),
        3,
        "a step without lines has no log: {:?}",
        held.blobs.keys()
    );
    let of_log = held
        .metadata
        .iter()
        .find(|(call, _)| call == &format!("CreateStepLogsMetadata {}", ids[0]));
    assert_eq!(of_log.unwrap().1["line_count"], json!(2));
    let orders: Vec<u64> = held
        .updates
        .iter()
        .map(|u| u["change_order"].as_u64().unwrap())
        .collect();
    assert_eq!(orders, (1..=orders.len() as u64).collect::<Vec<_>>());
    let last = |number: u64| {
        let mut steps = held
            .updates
            .iter()
            .flat_map(|u| u["steps"].as_array().unwrap());
        steps
            .rfind(|s| s["number"] == json!(number))
            .unwrap()
            .clone()
    };
    assert_eq!(
        (&last(1)["status"], &last(1)["conclusion"]),
        (&json!(6), &json!(2))
    );
    assert_eq!(
        (&last(3)["status"], &last(3)["conclusion"]),
        (&json!(6), &json!(4)),
        "it never ended, and the job did"
    );
    assert_eq!(
        (&last(4)["status"], &last(4)["conclusion"]),
        (&json!(6), &json!(7))
    );
    assert_eq!(last(1)["started_at"], json!("2026-11-25T10:00:00.500Z"));
}

#[tokio::test]
async fn a_flooding_step_is_sent_in_blocks_and_no_line_is_lost_when_the_service_fails() {
    let service = Service::new().await;
    {
        let mut held = service.held();
        held.refuse = vec![503, 429, 500, 503, 502];
        held.lose_answers = 2;
    }
    let (reporter, reporting) = reporting(&service).await;
    let long = "x".repeat(100_000);
    let lines: Vec<&str> = (0..100).map(|_| long.as_str()).collect();
    step(&reporter, 1, &lines).await;
    job_ended(&reporter).await;
    drop(reporter);
    let reported = reporting.finish(Duration::from_secs(600)).await;
    assert_eq!(reported.incomplete, 0);
    assert_eq!(reported.steps[0].completed_log_lines, 100);
    let held = service.held();
    for (name, blob) in &held.blobs {
        assert!(blob.append && blob.sealed && blob.requests > 4, "{name}");
        assert_eq!(
            blob.bytes.iter().filter(|b| **b == b'\n').count(),
            100,
            "{name}"
        );
        assert_eq!(blob.bytes.len(), 3 + 100 * (100_000 + 30), "{name}");
    }
    assert_eq!(held.blobs.len(), 2);
}

#[tokio::test]
async fn a_service_that_refuses_for_good_costs_the_page_and_not_the_job() {
    let service = Service::new().await;
    service.held().deny_places = true;
    let (reporter, reporting) = reporting(&service).await;
    step(&reporter, 1, &["one"]).await;
    job_ended(&reporter).await;
    drop(reporter);
    assert_eq!(reporting.finish(LIMIT).await.incomplete, 2);
}

#[tokio::test]
async fn reporting_ends_at_its_limit_when_the_service_does_not_come_back() {
    let service = Service::new().await;
    service.held().refuse = vec![503; 1_000_000];
    let (reporter, reporting) = reporting(&service).await;
    step(&reporter, 1, &["one"]).await;
    job_ended(&reporter).await;
    drop(reporter);
    let reported = reporting.finish(Duration::from_millis(200)).await;
    assert_eq!(reported.incomplete, 2);
}

#[tokio::test]
async fn annotations_have_the_services_form_and_number() {
    let service = Service::new().await;
    let (reporter, reporting) = reporting(&service).await;
    let started = EventKind::StepStarted {
        step: 1,
        name: "one",
        origin: Origin::default(),
    };
    reporter.report(&event(started)).await;
    let said = Said {
        level: Level::Warning,
        message: "careful".into(),
        title: None,
        code: None,
        file: Some("src/a.rs".into()),
        line: Some(3),
        end_line: None,
        column: None,
        end_column: None,
    };
    for _ in 0..12 {
        let annotation = EventKind::Annotation {
            step: 1,
            annotation: &said,
        };
        reporter.report(&event(annotation)).await;
    }
    drop(reporter);
    let reported = reporting.finish(LIMIT).await;
    let annotations = &reported.steps[0].annotations;
    assert_eq!(annotations.len(), 10);
    let json = serde_json::to_value(&annotations[0]).unwrap();
    let wanted = json!({
        "level": "warning", "message": "careful", "path": "src/a.rs", "isInfrastructureIssue": false,
        "startLine": 3, "endLine": 3, "startColumn": 0, "endColumn": 0, "stepNumber": 1,
    });
    assert_eq!(json, wanted);
}

fn started(step: u32, id: Option<&'static str>, to_come: Option<u32>) -> EventKind<'static> {
    const CHECKOUT: &request::StepAction = &request::StepAction::Script;
    EventKind::StepStarted {
        step,
        name: "a step",
        origin: Origin {
            id,
            action: id.map(|_| CHECKOUT),
            to_come,
        },
    }
}

#[tokio::test]
async fn the_page_has_the_steps_of_the_message_by_their_ids_before_they_begin() {
    let service = Service::new().await;
    let (reporter, reporting) = reporting(&service).await;
    step(&reporter, 1, &[]).await;
    let planned = |step, id: &str| PlannedStep {
        step,
        id: Some(id.into()),
        name: format!("planned {id}"),
    };
    let steps = [planned(2, "id-2"), planned(3, "id-3")];
    let steps = steps.as_slice();
    reporter
        .report(&event(EventKind::StepsPlanned { steps }))
        .await;
    let seen = || {
        let updates = service.held().updates.clone();
        let mut steps = updates.iter().flat_map(|u| u["steps"].as_array().unwrap());
        steps.rfind(|step| step["number"] == json!(3)).cloned()
    };
    while seen().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pending = seen().unwrap();
    assert_eq!(pending["external_id"], json!("id-3"));
    assert_eq!(pending["name"], json!("planned id-3"));
    assert_eq!(
        (&pending["status"], &pending["started_at"]),
        (&json!(5), &json!(null))
    );

    reporter
        .report(&event(started(2, Some("id-2"), None)))
        .await;
    for (step, to_come) in [(4, Some(0)), (5, None)] {
        reporter.report(&event(started(step, None, to_come))).await;
    }
    for number in [2, 4, 5] {
        let record = record(number, Conclusion::Success);
        reporter
            .report(&event(EventKind::StepFinished { record: &record }))
            .await;
    }
    job_ended(&reporter).await;
    reporter.blames_machine("the machine is tired");
    drop(reporter);
    let reported = reporting.finish(LIMIT).await;
    let numbers: Vec<u64> = reported.steps.iter().map(|step| step.number).collect();
    assert_eq!(numbers, [1, 2, 3, 6, 7]);
    let second = serde_json::to_value(&reported.steps[1]).unwrap();
    assert_eq!(
        (&second["external_id"], &second["type"]),
        (&json!("id-2"), &json!("run"))
    );
    let third = serde_json::to_value(&reported.steps[2]).unwrap();
    assert_eq!(
        (&third["status"], &third["conclusion"]),
        (&json!("completed"), &json!("skipped"))
    );
    assert!(third.get("started_at").is_none());
    assert_eq!(reported.annotations[0].message, "the machine is tired");
    assert!(reported.annotations[0].is_infrastructure_issue);
}

#[tokio::test]
async fn an_annotation_without_a_place_is_where_the_log_has_it() {
    let service = Service::new().await;
    let (reporter, reporting) = reporting(&service).await;
    reporter
        .report(&event(started(1, Some("id-1"), None)))
        .await;
    for line in ["one", "##[error]two"] {
        reporter
            .report(&event(EventKind::Log { step: 1, line }))
            .await;
    }
    let said = Said::new(Level::Error, "two");
    let annotation = EventKind::Annotation {
        step: 1,
        annotation: &said,
    };
    reporter.report(&event(annotation)).await;
    drop(reporter);
    let reported = reporting.finish(LIMIT).await;
    let annotation = &reported.steps[0].annotations[0];
    assert_eq!((annotation.start_line, annotation.end_line), (2, 2));
    assert_eq!((annotation.start_column, annotation.step_number), (0, 1));
}
