//! Methods of the cache and artifact services, as JSON (Twirp): field names, answers, refusals.

use std::sync::Arc;

use hyper::StatusCode;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{
    artifacts::{self, Artifact, ArtifactError},
    blobs::Blob,
    cache::{self, CacheError, EntryName},
    service::{JobService, Purpose},
};

/// Largest request.
pub const MAX_BODY: usize = 256 << 10;
/// Most restore keys.
const MAX_RESTORE_KEYS: usize = 64;

/// Why a method was refused: Twirp's name of it and a message.
#[derive(Debug)]
pub struct Refusal(&'static str, String);

impl Refusal {
    /// There is no such method.
    #[must_use]
    pub fn route() -> Self {
        Self("bad_route", "there is no such method".to_owned())
    }

    /// The token is none of this job.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self("unauthenticated", "the token is not this job's".to_owned())
    }

    /// The request could not be read.
    pub fn malformed(error: &dyn std::fmt::Display) -> Self {
        Self("malformed", error.to_string())
    }

    fn invalid(why: &str) -> Self {
        Self("invalid_argument", why.to_owned())
    }

    fn internal(error: &dyn std::fmt::Display) -> Self {
        Self("internal", error.to_string())
    }

    /// Status and body of the answer.
    #[must_use]
    pub fn into_parts(self) -> (StatusCode, Value) {
        let status = match self.0 {
            "bad_route" | "not_found" => StatusCode::NOT_FOUND,
            "unauthenticated" => StatusCode::UNAUTHORIZED,
            "permission_denied" => StatusCode::FORBIDDEN,
            "already_exists" => StatusCode::CONFLICT,
            "internal" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        (status, json!({"code": self.0, "msg": self.1}))
    }
}

impl From<CacheError> for Refusal {
    fn from(error: CacheError) -> Self {
        let code = match error {
            CacheError::Exists => "already_exists",
            CacheError::Key | CacheError::Version | CacheError::TooLarge { .. } => {
                "invalid_argument"
            }
            CacheError::Io(..) => "internal",
        };
        Self(code, error.to_string())
    }
}

impl From<ArtifactError> for Refusal {
    fn from(error: ArtifactError) -> Self {
        let code = match error {
            ArtifactError::Exists => "already_exists",
            ArtifactError::Io(_) => "internal",
            _ => "invalid_argument",
        };
        Self(code, error.to_string())
    }
}

#[derive(Deserialize)]
struct CacheRequest {
    #[serde(default)]
    key: String,
    #[serde(default)]
    version: String,
    #[serde(default, alias = "restoreKeys")]
    restore_keys: Vec<String>,
    #[serde(default, alias = "sizeBytes", deserialize_with = "number")]
    size_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct ArtifactRequest {
    #[serde(default, alias = "workflowRunBackendId")]
    workflow_run_backend_id: String,
    #[serde(default)]
    name: String,
    #[serde(default, alias = "mimeType")]
    mime_type: Option<String>,
    #[serde(default, deserialize_with = "number")]
    size: Option<u64>,
    hash: Option<String>,
    #[serde(default, alias = "nameFilter")]
    name_filter: Option<String>,
    #[serde(default, alias = "idFilter", deserialize_with = "number")]
    id_filter: Option<u64>,
}

/// A 64-bit number, which JSON of protocol buffers writes as text.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let wrong = || serde::de::Error::custom("not a number");
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) => text.parse().map(Some).map_err(|_| wrong()),
        Value::Number(number) => number.as_u64().map(Some).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::malformed(&error))
}

/// Answers `<service>/<method>`.
///
/// # Errors
/// [`Refusal`].
pub async fn call(job: &JobService, method: &str, body: &[u8]) -> Result<Value, Refusal> {
    let (service, method) = method.split_once('/').ok_or_else(Refusal::route)?;
    match service {
        "github.actions.results.api.v1.CacheService" => {
            let request: CacheRequest = parse(body)?;
            match method {
                "CreateCacheEntry" => create_cache(job, request),
                "FinalizeCacheEntryUpload" => finalize_cache(job, request).await,
                "GetCacheEntryDownloadURL" => find_cache(job, request).await,
                _ => Err(Refusal::route()),
            }
        }
        "github.actions.results.api.v1.ArtifactService" => {
            let request: ArtifactRequest = parse(body)?;
            if request.workflow_run_backend_id != job.run_id() {
                let why = "only artifacts of this run can be reached".to_owned();
                return Err(Refusal("permission_denied", why));
            }
            match method {
                "CreateArtifact" => create_artifact(job, request),
                "FinalizeArtifact" => finalize_artifact(job, request).await,
                "ListArtifacts" => Ok(list_artifacts(job, &request)),
                "GetSignedArtifactURL" => artifact_address(job, &request),
                "DeleteArtifact" => delete_artifact(job, &request),
                _ => Err(Refusal::route()),
            }
        }
        _ => Err(Refusal::route()),
    }
}

fn entry(job: &JobService, request: &CacheRequest) -> EntryName {
    EntryName {
        scope: job.scopes.first().cloned().unwrap_or_default(),
        version: request.version.clone(),
        key: request.key.clone(),
    }
}

/// Opens an upload.
fn begin(job: &JobService, purpose: Purpose, mime: String) -> Result<Value, Refusal> {
    let address = job.begin(purpose, mime);
    let address = address.map_err(|error| Refusal::internal(&error))?;
    let full = || Refusal::invalid("too many uploads of this job are not finished");
    Ok(json!({"ok": true, "signed_upload_url": address.ok_or_else(full)?}))
}

/// Takes what was uploaded, if it has the announced size.
fn finish(
    job: &JobService,
    purpose: &Purpose,
    size: Option<u64>,
) -> Result<(Blob, String), Refusal> {
    let nothing = || Refusal("not_found", "nothing was uploaded for this".to_owned());
    let (content, mime) = job.finish(purpose).ok_or_else(nothing)?;
    if size.unwrap_or(0) != content.size() {
        let why = "the content that arrived has not the size that was announced";
        return Err(Refusal::invalid(why));
    }
    Ok((content, mime))
}

fn create_cache(job: &JobService, request: CacheRequest) -> Result<Value, Refusal> {
    cache::check(&request.key, &request.version)?;
    let exists = job.run.caches.has(&entry(job, &request));
    let purpose = Purpose::Cache(request.key, request.version);
    if exists || job.is_open(&purpose) {
        return Err(CacheError::Exists.into());
    }
    begin(job, purpose, "application/octet-stream".to_owned())
}

async fn finalize_cache(job: &JobService, request: CacheRequest) -> Result<Value, Refusal> {
    let name = entry(job, &request);
    let purpose = Purpose::Cache(request.key, request.version);
    let (content, _) = finish(job, &purpose, request.size_bytes)?;
    let run = Arc::clone(&job.run);
    let kept = spawn_blocking(move || {
        let size = content.size();
        run.caches.keep(name, size, &mut content.reader(0, size))
    });
    kept.await.map_err(|error| Refusal::internal(&error))??;
    Ok(json!({"ok": true, "entry_id": "1"}))
}

async fn find_cache(job: &JobService, request: CacheRequest) -> Result<Value, Refusal> {
    cache::check(&request.key, &request.version)?;
    if request.restore_keys.len() > MAX_RESTORE_KEYS {
        return Err(Refusal::invalid("too many restore keys"));
    }
    let run = Arc::clone(&job.run);
    let scopes = job.scopes.clone();
    let found = spawn_blocking(move || {
        let CacheRequest {
            key,
            version,
            restore_keys,
            ..
        } = request;
        run.caches.find(&scopes, &version, &key, &restore_keys)
    });
    let found = found.await.map_err(|error| Refusal::internal(&error))?;
    let Some(found) = found else {
        return Ok(json!({"ok": false}));
    };
    let content = Arc::new(Blob::of(found.content, found.size));
    let address = job.offer(content, "application/octet-stream".to_owned(), None);
    Ok(json!({
        "ok": true, "signed_download_url": address, "matched_key": found.name.key,
    }))
}

fn create_artifact(job: &JobService, request: ArtifactRequest) -> Result<Value, Refusal> {
    job.run.artifacts.check(&request.name)?;
    let mime = request.mime_type.filter(|mime| mime.len() <= 256);
    let mime = mime.unwrap_or_else(|| artifacts::ZIP.to_owned());
    begin(job, Purpose::Artifact(request.name), mime)
}

async fn finalize_artifact(job: &JobService, request: ArtifactRequest) -> Result<Value, Refusal> {
    let purpose = Purpose::Artifact(request.name.clone());
    let (content, mime) = finish(job, &purpose, request.size)?;
    let (run, id) = (Arc::clone(&job.run), job.job);
    let added = spawn_blocking(move || {
        let ArtifactRequest { name, hash, .. } = request;
        (run.artifacts).add(&name, mime, id, content, hash.as_deref())
    });
    let id = added.await.map_err(|error| Refusal::internal(&error))??;
    Ok(json!({"ok": true, "artifact_id": id.to_string()}))
}

fn list_artifacts(job: &JobService, request: &ArtifactRequest) -> Value {
    let name = request.name_filter.as_deref();
    let found = job.run.artifacts.list(name, request.id_filter);
    let shown = |artifact: Artifact| {
        json!({
            "workflow_run_backend_id": job.run_id(),
            "workflow_job_run_backend_id": artifact.job.to_string(),
            "database_id": artifact.id.to_string(),
            "name": artifact.name,
            "size": artifact.content.size().to_string(),
            "created_at": artifact.created.to_string(),
            "digest": artifact.digest,
        })
    };
    json!({"artifacts": found.into_iter().map(shown).collect::<Vec<_>>()})
}

fn missing() -> Refusal {
    let why = "there is no artifact of this name in this run".to_owned();
    Refusal("not_found", why)
}

fn artifact_address(job: &JobService, request: &ArtifactRequest) -> Result<Value, Refusal> {
    let found = job.run.artifacts.list(Some(&request.name), None);
    let artifact = found.into_iter().next().ok_or_else(missing)?;
    let name = match artifact.mime.as_str() {
        artifacts::ZIP => format!("{}.zip", artifact.name),
        _ => artifact.name,
    };
    let address = job.offer(artifact.content, artifact.mime, Some(name));
    Ok(json!({"signed_url": address}))
}

fn delete_artifact(job: &JobService, request: &ArtifactRequest) -> Result<Value, Refusal> {
    let id = job.run.artifacts.remove(&request.name);
    let id = id.ok_or_else(missing)?;
    Ok(json!({"ok": true, "artifact_id": id.to_string()}))
}
