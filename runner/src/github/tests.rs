//! The clients against a scripted service on loopback.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaKeyPair,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, body::Bytes, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;

use super::{
    broker::{Broker, Identity, PollError, SessionError, Status},
    http::Http,
    jit::JitConfig,
    message::Message,
    run_service::{self, AcquireError, Completion, Conclusion, JobCallError, JobService},
    token::{TokenError, TokenSource},
};

/// A key made for these tests alone; see `key.json` for how.
const KEY: &str = include_str!("key.json");
const MESSAGE: &str = include_str!("../job/request/fixture.json");

/// What a client asked: method and path with query, authorization, body.
#[derive(Debug, Clone)]
struct Asked {
    line: String,
    authorization: String,
    body: String,
}

impl Asked {
    fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A service that gives prepared answers in order and remembers what it was asked.
struct Script {
    base: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Script {
    async fn new(answers: impl IntoIterator<Item = (u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let answers = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answers, asked) = (Arc::clone(&answers), Arc::clone(&kept));
                let answer = service_fn(move |request: Request<Incoming>| {
                    let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
                    async move { Ok::<_, Infallible>(answer(request, &answers, &asked).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { base, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: &Mutex<VecDeque<(u16, String)>>,
    asked: &Mutex<Vec<Asked>>,
) -> Response<Full<Bytes>> {
    let header = |name: &str| {
        let value = request.headers().get(name);
        value.map_or("", |value| value.to_str().unwrap()).to_owned()
    };
    let line = format!("{} {}", request.method(), request.uri());
    let authorization = header("authorization");
    assert_eq!(header("user-agent"), "mayfly-test");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    asked.lock().unwrap().push(Asked {
        line,
        authorization,
        body: String::from_utf8(body.to_vec()).unwrap(),
    });
    let next = answers.lock().unwrap().pop_front();
    let (status, body) = next.unwrap_or((599, "no answer is left".to_owned()));
    let response = Response::builder().status(status);
    response.body(Full::new(body.into())).unwrap()
}

fn granted(token: &str) -> (u16, String) {
    (
        200,
        json!({"access_token": token, "token_type": "bearer", "expires_in": 3600}).to_string(),
    )
}

fn encoded(base: &str, change: impl Fn(&mut Json, &mut Json)) -> String {
    let mut runner = json!({
        "agentId": "23", "AgentName": "sandbox-1", "PoolId": 1, "PoolName": "Default",
        "Ephemeral": "True", "DisableUpdate": "True", "UseV2Flow": "true",
        "ServerUrl": "https://old.example/", "ServerUrlV2": base, "GitHubUrl": "", "WorkFolder": "_work",
    });
    let mut credentials = json!({
        "Scheme": "OAuth",
        "Data": {
            "ClientId": "c-1", "AuthorizationUrl": format!("{base}token"), "requireFipsCryptography": "True",
        },
    });
    change(&mut runner, &mut credentials);
    let file = |json: &Json| STANDARD.encode(format!("\u{feff}{json}"));
    let key: Json = serde_json::from_str(KEY).unwrap();
    let files = json!({
        ".runner": file(&runner), ".credentials": file(&credentials), ".credentials_rsaparams": file(&key),
    });
    STANDARD.encode(files.to_string())
}

struct Runner {
    http: Http,
    tokens: Arc<TokenSource>,
    broker: Broker,
}

fn runner(base: &str) -> Runner {
    let config = JitConfig::decode(&encoded(base, |_, _| {})).unwrap();
    let http = Http::new("mayfly-test").unwrap();
    let key = Arc::new(config.key);
    let tokens = TokenSource::new(http.clone(), config.credentials, Arc::clone(&key));
    let tokens = Arc::new(tokens);
    let identity = Identity {
        version: "2.336.0".into(),
        owner: "host (PID: 7)".into(),
        os_description: "Linux".into(),
    };
    let asked = Arc::clone(&tokens);
    let broker = Broker::new(http.clone(), asked, key, config.runner, identity);
    Runner {
        http,
        tokens,
        broker,
    }
}

#[test]
fn a_just_in_time_configuration_is_read_whatever_the_form_of_its_scalars() {
    let config = JitConfig::decode(&encoded("https://broker.example/x", |_, _| {})).unwrap();
    assert_eq!(config.runner.agent_id, 23);
    assert_eq!(config.runner.agent_name, "sandbox-1");
    assert!(config.runner.ephemeral && config.runner.updates_disabled && config.credentials.fips);
    assert_eq!(config.runner.server.as_str(), "https://broker.example/x/");
    assert_eq!(
        config.credentials.token_url.as_str(),
        "https://broker.example/xtoken"
    );
    let shown = format!("{config:?}");
    let key: Json = serde_json::from_str(KEY).unwrap();
    assert!(!shown.contains(key["d"].as_str().unwrap()), "{shown}");
}

#[test]
fn a_broken_configuration_is_named_by_file_and_field() {
    type Change = fn(&mut Json, &mut Json);
    let table: [(Change, &str); 6] = [
        (
            |r, _| r["agentId"] = json!("x"),
            ".runner: AgentId is not a whole number",
        ),
        (
            |r, _| r["ServerUrlV2"] = json!("http://b.example"),
            ".runner: ServerUrlV2 is not an https URL",
        ),
        (
            |r, _| r["UseV2Flow"] = json!(false),
            "is for the old service protocol (UseV2Flow is off), which Mayfly does not speak",
        ),
        (
            |_, c| c["Scheme"] = json!("Basic"),
            ".credentials: Scheme is not OAuth",
        ),
        (
            |_, c| c["Data"]["ClientId"] = json!(null),
            ".credentials: Data.clientId is missing",
        ),
        (
            |_, c| *c = json!([]),
            ".credentials of the just-in-time configuration is not a JSON object",
        ),
    ];
    for (change, message) in table {
        let error = JitConfig::decode(&encoded("https://b.example/", change)).unwrap_err();
        assert!(error.to_string().ends_with(message), "{error}");
    }
    let error = JitConfig::decode("%%%").unwrap_err().to_string();
    assert!(
        error.starts_with("the whole of the just-in-time configuration is not Base64"),
        "{error}"
    );
    assert!(JitConfig::decode(&"A".repeat(300 << 10)).is_err());
    let other = KEY.replacen("\"p\": \"", "\"p\": \"AAAA", 1);
    assert_ne!(other, KEY);
    let files = json!({
        ".runner": "e30=", ".credentials": "e30=", ".credentials_rsaparams": STANDARD.encode(other),
    });
    assert!(JitConfig::decode(&STANDARD.encode(files.to_string())).is_err());
}

fn verify(algorithm: &'static dyn VerificationAlgorithm, assertion: &str) -> Json {
    let key: Json = serde_json::from_str(KEY).unwrap();
    let der = STANDARD.decode(key["pkcs8"].as_str().unwrap()).unwrap();
    let pair = RsaKeyPair::from_pkcs8(&der).unwrap();
    let (signed, signature) = assertion.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let public = UnparsedPublicKey::new(algorithm, pair.public_key().as_ref());
    public.verify(signed.as_bytes(), &signature).unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let part = |text: &str| -> Json {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
    };
    json!({"header": part(header), "claims": part(claims)})
}

#[tokio::test]
async fn the_assertion_is_signed_as_the_credentials_demand_and_its_token_is_kept() {
    for (fips, name, algorithm) in [
        (
            "True",
            "PS256",
            &RSA_PSS_2048_8192_SHA256 as &'static dyn VerificationAlgorithm,
        ),
        ("False", "RS256", &RSA_PKCS1_2048_8192_SHA256),
    ] {
        let service = Script::new([granted("one"), granted("two")]).await;
        let change =
            |_: &mut Json, c: &mut Json| c["Data"]["requireFipsCryptography"] = json!(fips);
        let config = JitConfig::decode(&encoded(&service.base, change)).unwrap();
        let http = Http::new("mayfly-test").unwrap();
        let tokens = TokenSource::new(http, config.credentials, Arc::new(config.key));
        assert_eq!(tokens.token().await.unwrap().expose_secret(), "one");
        assert_eq!(tokens.token().await.unwrap().expose_secret(), "one");
        tokens.forget().await;
        assert_eq!(tokens.token().await.unwrap().expose_secret(), "two");
        let form: Vec<(String, String)> =
            form_urlencoded::parse(service.asked()[0].body.as_bytes())
                .into_owned()
                .collect();
        assert_eq!(form[0].1, "client_credentials");
        let assertion = verify(algorithm, &form[2].1);
        assert_eq!(assertion["header"], json!({"typ": "JWT", "alg": name}));
        let claims = &assertion["claims"];
        assert_eq!(claims["aud"], json!(format!("{}token", service.base)));
        assert_eq!(
            (&claims["iss"], &claims["sub"]),
            (&json!("c-1"), &json!("c-1"))
        );
        assert_eq!(
            claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap(),
            300
        );
    }
}

#[tokio::test]
async fn a_token_that_is_not_given_says_why() {
    let gone = json!({"error": "invalid_client", "error_description": "no such client"});
    let clock = json!({"error": "invalid_grant", "error_description": "Current server time is 1"});
    let service = Script::new([
        (400, gone.to_string()),
        (400, clock.to_string()),
        (503, "busy\u{1b}[2J".to_owned()),
        (200, "{}".to_owned()),
    ]);
    let Runner { tokens, .. } = runner(&service.await.base);
    assert!(matches!(tokens.token().await, Err(TokenError::Gone(_))));
    assert!(matches!(tokens.token().await, Err(TokenError::Clock(_))));
    let refused = tokens.token().await.unwrap_err();
    assert!(refused.may_pass());
    assert_eq!(
        refused.to_string(),
        "GitHub gives this runner no token: HTTP 503"
    );
    assert!(matches!(tokens.token().await, Err(TokenError::Answer(_))));
}

#[tokio::test]
async fn a_session_is_opened_polled_and_closed() {
    let opened = json!({"sessionId": "s-1", "ownerName": "x", "agent": {}, "encryptionKey": null});
    let offer = json!({
        "runner_request_id": "r-1", "run_service_url": "https://run.example/1/",
        "should_acknowledge": true, "billing_owner_id": "b",
    });
    let message =
        json!({"messageId": 1, "messageType": "RunnerJobRequest", "body": offer.to_string()});
    let service = Script::new([
        granted("t-1"),
        (200, opened.to_string()),
        (202, String::new()),
        (401, String::new()),
        granted("t-2"),
        (200, message.to_string()),
        (200, String::new()),
        (204, String::new()),
    ])
    .await;
    let mut broker = runner(&service.base).broker;
    let session = broker.open().await.unwrap();
    assert_eq!(broker.poll(&session, Status::Online).await.unwrap(), None);
    let Some(Message::Job(offer)) = broker.poll(&session, Status::Busy).await.unwrap() else {
        panic!("no offer");
    };
    broker
        .acknowledge(&session, Status::Busy, &offer)
        .await
        .unwrap();
    broker.close(session).await.unwrap();
    let asked = service.asked();
    assert_eq!(asked[1].line, "POST /session");
    assert_eq!(asked[1].json()["agent"]["version"], json!("2.336.0"));
    assert_eq!(asked[1].json()["agent"]["id"], json!(23));
    let query = "sessionId=s-1&status=Online&runnerVersion=2.336.0&os=Linux&architecture=X64&disableUpdate=true";
    assert_eq!(asked[2].line, format!("GET /message?{query}"));
    assert_eq!(asked[3].authorization, "Bearer t-1");
    assert_eq!(asked[5].authorization, "Bearer t-2");
    assert!(
        asked[6]
            .line
            .starts_with("POST /acknowledge?sessionId=s-1&status=Busy")
    );
    assert_eq!(asked[6].json(), json!({"runnerRequestId": "r-1"}));
    assert_eq!(asked[7].line, "DELETE /session");
}

#[tokio::test]
async fn each_refusal_of_the_broker_has_its_own_error() {
    let kind =
        |kind: &str| json!({"source": "actions-broker-listener", "errorKind": kind}).to_string();
    let opened = json!({"sessionId": "s"}).to_string();
    let deprecated = "Runner version v2.336.0 is deprecated and cannot receive messages.";
    let service = Script::new([
        granted("t"),
        (409, kind("Conflict")),
        (403, String::new()),
        (400, kind("RunnerVersionTooOld")),
        (500, String::new()),
        (
            200,
            json!({"sessionId": "s", "encryptionKey": {"value": "x"}}).to_string(),
        ),
        (200, opened),
        (404, kind("RunnerSessionInvalid")),
        (404, kind("RunnerNotFound")),
        (403, json!({"errorMessage": deprecated}).to_string()),
        (502, "<html>".to_owned()),
        (200, "[]".to_owned()),
    ])
    .await;
    let mut broker = runner(&service.base).broker;
    assert!(matches!(
        broker.open().await,
        Err(SessionError::Conflict(_))
    ));
    assert!(matches!(broker.open().await, Err(SessionError::Denied(_))));
    assert!(matches!(
        broker.open().await,
        Err(SessionError::VersionTooOld { .. })
    ));
    assert!(matches!(broker.open().await, Err(SessionError::Refused(_))));
    assert!(matches!(broker.open().await, Err(SessionError::Key(_))));
    let session = broker.open().await.unwrap();
    let mut errors = Vec::new();
    for _ in 0..5 {
        errors.push(broker.poll(&session, Status::Online).await.unwrap_err());
    }
    assert!(
        matches!(errors[0], PollError::SessionInvalid(_)),
        "{errors:?}"
    );
    assert!(matches!(errors[1], PollError::RunnerGone(_)), "{errors:?}");
    assert!(
        matches!(errors[2], PollError::VersionTooOld { .. }),
        "{errors:?}"
    );
    assert!(matches!(errors[3], PollError::Refused(_)), "{errors:?}");
    assert!(matches!(errors[4], PollError::Message(_)), "{errors:?}");
}

#[tokio::test]
async fn a_job_is_acquired_with_the_runners_token_and_kept_with_its_own() {
    let message = MESSAGE.to_owned();
    let answers = [
        granted("runner"),
        (409, String::new()),
        (500, String::new()),
        (200, message),
        (
            200,
            json!({"lockedUntil": "2026-11-25T10:00:00Z"}).to_string(),
        ),
        (
            200,
            json!({"lockedUntil": "2026-11-25T10:00:00.5"}).to_string(),
        ),
        (404, String::new()),
        (200, String::new()),
        (401, String::new()),
    ];
    let service = Script::new(answers).await;
    let Runner { http, tokens, .. } = runner(&service.base);
    let offer = super::message::JobOffer {
        request_id: "r-1".into(),
        run_service: service.base.parse().unwrap(),
        billing_owner_id: Some("b".into()),
        acknowledge: false,
    };
    let acquire = || run_service::acquire(&http, &tokens, &offer);
    assert!(matches!(acquire().await, Err(AcquireError::Lost(_))));
    assert!(matches!(acquire().await, Err(AcquireError::Refused(_))));
    let mut job = acquire().await.unwrap();
    let connection = job
        .endpoints
        .iter_mut()
        .find(|e| e.name == "SystemVssConnection");
    connection.unwrap().url = format!("{}38", service.base);
    let calls = JobService::of(http.clone(), &job).unwrap();
    let first = calls.renew().await.unwrap();
    let second = calls.renew().await.unwrap();
    assert_eq!(second.duration_since(first).as_millis(), 500);
    assert!(matches!(calls.renew().await, Err(JobCallError::Lost(_))));
    let completion = Completion {
        conclusion: Conclusion::SucceededWithIssues,
        outputs: indexmap::IndexMap::new(),
        steps: Vec::new(),
        annotations: Vec::new(),
        environment_url: None,
    };
    calls.complete(&completion).await.unwrap();
    assert!(matches!(
        calls.complete(&completion).await,
        Err(JobCallError::Denied(_))
    ));
    let asked = service.asked();
    assert_eq!(
        asked[3].json(),
        json!({"jobMessageId": "r-1", "runnerOS": "Linux", "billingOwnerId": "b"})
    );
    assert_eq!(
        (asked[3].line.as_str(), asked[3].authorization.as_str()),
        ("POST /acquirejob", "Bearer runner")
    );
    assert_eq!(
        (asked[4].line.as_str(), asked[4].authorization.as_str()),
        ("POST /38/renewjob", "Bearer job-t0ken")
    );
    assert_eq!(asked[7].json()["conclusion"], json!("succeededWithIssues"));
    assert_eq!(
        asked[7].json()["jobId"],
        json!("8e3faf38-534e-5b05-9cf9-da9360891e1f")
    );
}

#[tokio::test]
async fn a_service_that_is_not_there_is_named_without_its_query() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let error = runner(&base).tokens.token().await.unwrap_err();
    assert!(error.may_pass());
    let error = error.to_string();
    assert!(
        error.starts_with("cannot reach 127.0.0.1: ") && !error.contains("token"),
        "{error}"
    );
}
