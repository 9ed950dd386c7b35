//! The services as a step sees them: HTTP over a stream.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{
    cache::{CacheLimits, RepositoryCache},
    http::connection,
    service::{JobService, RunServices},
};

const CACHE: &str = "github.actions.results.api.v1.CacheService";
const ARTIFACT: &str = "github.actions.results.api.v1.ArtifactService";

/// One step's connection and its job's token.
struct Step {
    sender: http1::SendRequest<Full<Bytes>>,
    service: Arc<JobService>,
    token: String,
    run: String,
}

/// What came back.
struct Answer {
    status: u16,
    headers: hyper::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn run() -> (tempfile::TempDir, Arc<RunServices>) {
    let folder = tempfile::tempdir().unwrap();
    let caches = RepositoryCache::new(folder.path(), "octo/hello", CacheLimits::default());
    let run = Arc::new(RunServices::new(caches, folder.path()));
    (folder, run)
}

async fn step(run: &Arc<RunServices>, scopes: &[&str]) -> Step {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let service = Arc::new(JobService::new(Arc::clone(run), scopes).unwrap());
    Step {
        sender: connect(&service).await,
        token: service.token().expose_secret().to_owned(),
        run: service.run_id(),
        service,
    }
}

async fn connect(service: &Arc<JobService>) -> http1::SendRequest<Full<Bytes>> {
    let (ours, theirs) = tokio::io::duplex(4096);
    tokio::spawn(connection(theirs, Arc::clone(service)));
    let (sender, driver) = http1::handshake(TokioIo::new(ours)).await.unwrap();
    tokio::spawn(driver);
    sender
}

impl Step {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        if self.sender.ready().await.is_err() {
            // Refusals of content close the connection.
            self.sender = connect(&self.service).await;
        }
        let response = self.sender.send_request(request).await.unwrap();
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.into_body().collect().await.unwrap().to_bytes(),
        }
    }

    async fn call(&mut self, service: &str, method: &str, body: Value) -> Answer {
        let request = Request::post(format!("/twirp/{service}/{method}"))
            .header("host", "127.0.0.1:20777")
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::from(body.to_string()));
        self.send(request.unwrap()).await
    }

    async fn blob(&mut self, method: &str, url: &str, range: &str, body: &str) -> Answer {
        let path = url.strip_prefix("http://127.0.0.1:20777").unwrap();
        let mut request = Request::builder().method(method).uri(path);
        if !range.is_empty() {
            request = request.header("range", range);
        }
        let body = Full::from(body.to_owned());
        self.send(request.body(body).unwrap()).await
    }

    async fn save(&mut self, key: &str, content: &str) {
        let name = json!({"key": key, "version": "v"});
        let created = self.call(CACHE, "CreateCacheEntry", name).await.json();
        let url = created["signed_upload_url"].as_str().unwrap().to_owned();
        assert_eq!(self.blob("PUT", &url, "", content).await.status, 201);
        let size = content.len().to_string();
        let done = json!({"key": key, "version": "v", "size_bytes": size});
        let done = self.call(CACHE, "FinalizeCacheEntryUpload", done).await;
        assert_eq!(done.json()["ok"], true);
    }

    async fn find(&mut self, key: &str, restore: &[&str]) -> Value {
        let name = json!({"key": key, "version": "v", "restore_keys": restore});
        let found = self.call(CACHE, "GetCacheEntryDownloadURL", name).await;
        assert_eq!(found.status, 200);
        found.json()
    }

    fn artifact(&self, name: &str) -> Value {
        json!({"workflow_run_backend_id": self.run, "name": name, "version": 7,
               "mime_type": "application/zip"})
    }

    async fn upload(&mut self, name: &str, blocks: [&str; 2]) -> String {
        let request = self.artifact(name);
        let created = self.call(ARTIFACT, "CreateArtifact", request).await.json();
        let url = created["signed_upload_url"].as_str().unwrap().to_owned();
        for (id, content) in ["YQ%3D%3D", "Yg%3D%3D"].iter().zip(blocks) {
            let block = format!("{url}&comp=block&blockid={id}");
            assert_eq!(self.blob("PUT", &block, "", content).await.status, 201);
        }
        let list = "<BlockList><Latest>YQ==</Latest><Latest>Yg==</Latest></BlockList>";
        let commit = format!("{url}&comp=blocklist");
        assert_eq!(self.blob("PUT", &commit, "", list).await.status, 201);
        url
    }
}

#[tokio::test]
async fn a_cache_is_saved_found_again_by_another_job_and_never_changes() {
    let (_folder, run) = run();
    let mut first = step(&run, &["refs/heads/main"]).await;
    first.save("npm-1", "the content").await;
    let name = json!({"key": "npm-1", "version": "v"});
    let again = first.call(CACHE, "CreateCacheEntry", name).await;
    assert_eq!(
        (again.status, &again.json()["code"]),
        (409, &json!("already_exists"))
    );

    let mut second = step(&run, &["refs/pull/1/merge", "refs/heads/main"]).await;
    assert_eq!(second.find("go-1", &[]).await, json!({"ok": false}));
    let found = second.find("npm-2", &["npm-"]).await;
    assert_eq!(found["matched_key"], "npm-1");
    let url = found["signed_download_url"].as_str().unwrap();
    let read = second.blob("GET", url, "", "").await;
    assert_eq!((read.status, &read.body[..]), (200, &b"the content"[..]));
    let part = second.blob("GET", url, "bytes=4-6", "").await;
    assert_eq!((part.status, &part.body[..]), (206, &b"con"[..]));
    assert_eq!(part.headers["content-range"], "bytes 4-6/11");
    let head = second.blob("HEAD", url, "", "").await;
    assert_eq!(head.headers["content-length"], "11");
    assert_eq!(second.blob("GET", url, "bytes=11-", "").await.status, 416);
}

#[tokio::test]
async fn an_artifact_in_blocks_is_seen_by_the_runs_other_jobs_until_it_is_deleted() {
    let (_folder, run) = run();
    let mut first = step(&run, &["m"]).await;
    first.upload("report", ["hello ", "world"]).await;
    let mut done = first.artifact("report");
    done["size"] = json!("11");
    // printf 'hello world' | sha256sum
    let digest = "sha256:b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
    done["hash"] = json!(digest);
    let finished = first.call(ARTIFACT, "FinalizeArtifact", done).await.json();
    assert_eq!(finished["artifact_id"], "1");
    let again = first.artifact("report");
    let again = first.call(ARTIFACT, "CreateArtifact", again).await;
    assert_eq!(again.status, 409);

    let mut second = step(&run, &["m"]).await;
    let mut asked = second.artifact("");
    asked["id_filter"] = json!("1");
    let list = second.call(ARTIFACT, "ListArtifacts", asked).await.json();
    let shown = &list["artifacts"][0];
    assert_eq!(
        (&shown["name"], &shown["size"]),
        (&json!("report"), &json!("11"))
    );
    assert_eq!(shown["digest"], digest);
    let asked = second.artifact("report");
    let url = second
        .call(ARTIFACT, "GetSignedArtifactURL", asked.clone())
        .await;
    let url = url.json()["signed_url"].as_str().unwrap().to_owned();
    let read = second.blob("GET", &url, "", "").await;
    assert_eq!(&read.body[..], b"hello world");
    assert_eq!(read.headers["content-type"], "application/zip");
    let deleted = second.call(ARTIFACT, "DeleteArtifact", asked.clone()).await;
    assert_eq!(deleted.status, 200);
    let gone = second.call(ARTIFACT, "GetSignedArtifactURL", asked).await;
    assert_eq!(
        (gone.status, &gone.json()["code"]),
        (404, &json!("not_found"))
    );
}

#[tokio::test]
async fn what_arrived_must_be_what_was_announced() {
    let (_folder, run) = run();
    let mut step = step(&run, &["m"]).await;
    for (size, hash) in [("12", None), ("11", Some("sha256:00"))] {
        step.upload("report", ["hello ", "world"]).await;
        let mut done = step.artifact("report");
        done["size"] = json!(size);
        done["hash"] = json!(hash);
        let refused = step.call(ARTIFACT, "FinalizeArtifact", done).await;
        assert_eq!(refused.json()["code"], "invalid_argument", "{size}");
    }
    assert!(run.artifacts.list(None, None).is_empty());
    let done = step.artifact("other");
    let nothing = step.call(ARTIFACT, "FinalizeArtifact", done).await;
    assert_eq!(nothing.status, 404);
}

#[tokio::test]
async fn tokens_and_addresses_of_another_job_are_nothing_here() {
    let (_folder, run) = run();
    let mut ours = step(&run, &["m"]).await;
    let mut other = step(&run, &["m"]).await;
    let url = ours.upload("report", ["a", "b"]).await;
    assert_eq!(other.blob("PUT", &url, "", "x").await.status, 403);
    let read = ours.blob("GET", &url.replace("sp=w", "sp=r"), "", "").await;
    assert_eq!(read.status, 403);
    let elsewhere = url.replace("/uploads/1", "/content/1");
    assert_eq!(ours.blob("PUT", &elsewhere, "", "x").await.status, 403);
    ours.token = other.token;
    let name = json!({"key": "k", "version": "v"});
    let refused = ours.call(CACHE, "CreateCacheEntry", name).await;
    assert_eq!(refused.status, 401);
}

#[tokio::test]
async fn methods_and_bodies_that_are_none_are_refused_and_another_run_is_not_reached() {
    let (_folder, run) = run();
    let mut step = step(&run, &["m"]).await;
    let nowhere = step.call(CACHE, "Nothing", json!({})).await;
    assert_eq!(
        (nowhere.status, &nowhere.json()["code"]),
        (404, &json!("bad_route"))
    );
    let wrong = step.call(CACHE, "CreateCacheEntry", json!([1])).await;
    assert_eq!(wrong.json()["code"], "malformed");
    let key = json!({"key": "a,b", "version": "v"});
    let wrong = step.call(CACHE, "CreateCacheEntry", key).await;
    assert_eq!(wrong.json()["code"], "invalid_argument");
    let other = json!({"workflow_run_backend_id": "other", "name": "a"});
    let refused = step.call(ARTIFACT, "ListArtifacts", other).await;
    assert_eq!(refused.status, 403);
    let long = json!({"key": "x".repeat(300 << 10), "version": "v"});
    let refused = step.call(CACHE, "CreateCacheEntry", long).await;
    assert_eq!(refused.status, 400);
}

/// Each sandbox's worker answers for its own job, whoever asks and whatever they ask.
#[tokio::test]
async fn a_step_gets_a_signed_answer_about_its_own_job_only() {
    use crate::attestation::{self, Expected, HostKey, ImageName, Pins, Witness, verify};

    const NONCE: &str = "0123456789abcdef";
    let (folder, run) = run();
    let key = || HostKey::in_folder(&folder.path().join("keys")).unwrap();
    let service = |job: &str| {
        let sandbox = attestation::Sandbox {
            sandbox: job.to_owned(),
            run: "1".to_owned(),
            job: job.to_owned(),
            repository: "octo/hello".to_owned(),
            image: ImageName {
                name: "minimal".to_owned(),
                digest: "sha256:aa".to_owned(),
            },
            pins: Pins {
                policy: crate::action::policy::PinPolicy::Require,
                ok: true,
                violations: std::collections::BTreeMap::new(),
            },
            mayfly: "0".to_owned(),
        };
        let service = JobService::new(Arc::clone(&run), Vec::new()).unwrap();
        Arc::new(service.with_witness(Witness::new(key(), sandbox)))
    };
    let ask = async |service: &Arc<JobService>, method: &str, query: &str| {
        let mut step = Step {
            sender: connect(service).await,
            token: String::new(),
            run: String::new(),
            service: Arc::clone(service),
        };
        let url = format!("http://127.0.0.1:20777/sandbox/v1/proof?{query}");
        step.blob(method, &url, "", "").await
    };
    let nonce = format!("nonce={NONCE}");
    for job in ["build", "deploy"] {
        // A step may say that it is another job: nobody listens to that.
        for query in [nonce.clone(), format!("{nonce}&job=deploy&sandbox=deploy")] {
            let answer = ask(&service(job), "GET", &query).await;
            assert_eq!(answer.status, 200);
            let expected = |job: &str| Expected {
                nonce: Some(NONCE.to_owned()),
                job: Some(job.to_owned()),
                ..Expected::default()
            };
            let public = key().public();
            assert!(verify(&answer.body, &public, &expected(job)).is_ok());
            assert!(verify(&answer.body, &public, &expected("other")).is_err());
        }
    }
    for (method, query, status) in [
        ("GET", "", 400),
        ("GET", "nonce=short", 400),
        ("POST", nonce.as_str(), 405),
    ] {
        assert_eq!(
            ask(&service("build"), method, query).await.status,
            status,
            "{query}"
        );
    }
    let silent = Arc::new(JobService::new(Arc::clone(&run), Vec::new()).unwrap());
    assert_eq!(ask(&silent, "GET", &nonce).await.status, 404);
}
