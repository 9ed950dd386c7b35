//! The services of one job: who may ask, and addresses from which content is read and to which it
//! is written. Methods with names are in [`super::rpc`].

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};
use mayfly_guest::FORWARD_PORT;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::SecretString;
use serde_json::json;
use uuid::Uuid;

use super::{
    artifacts::{self, Artifacts},
    blobs::{Blob, Upload, UploadError, block_list},
    cache::RepositoryCache,
    http::{self, BodyError, Content},
    rpc,
    token::{JobKey, Permission},
};
use crate::attestation::{PROOF_PATH, Witness};

/// How long an address is good.
const ADDRESS_LIMIT: Duration = Duration::from_secs(3600);
/// How long a token says to be good: longer than a job may run. It ends with the job anyway.
const TOKEN_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Largest upload.
const MAX_UPLOAD: u64 = artifacts::MAX_BYTES;
/// Largest body of one request: more than Azure's client sends at once.
const MAX_PUT: u64 = 256 << 20;
/// Largest list of blocks.
const MAX_BLOCK_LIST: usize = 6 << 20;
/// Most uploads that are not finished, and most addresses to read from, of a job. The oldest
/// address is forgotten for a new one.
const MAX_OPEN: usize = 64;

/// What the jobs of one run share.
#[derive(Debug)]
pub struct RunServices {
    /// The repository's caches.
    pub caches: RepositoryCache,
    /// The run's artifacts.
    pub artifacts: Artifacts,
    id: Uuid,
    folder: PathBuf,
}

impl RunServices {
    /// Services of a run; content on its way is in unnamed files on the disk of `folder`.
    #[must_use]
    pub fn new(caches: RepositoryCache, folder: &Path) -> Self {
        Self {
            caches,
            artifacts: Artifacts::default(),
            id: Uuid::new_v4(),
            folder: folder.to_owned(),
        }
    }
}

/// What an upload becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A cache entry with this key and version.
    Cache(String, String),
    /// An artifact with this name.
    Artifact(String),
}

#[derive(Debug)]
struct OpenUpload {
    purpose: Purpose,
    mime: String,
    upload: Arc<Upload>,
}

#[derive(Debug, Clone)]
struct Download {
    content: Arc<Blob>,
    mime: String,
    /// Name for a browser, if it has one.
    name: Option<String>,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    uploads: HashMap<u64, OpenUpload>,
    downloads: HashMap<u64, Download>,
}

/// The services of one job.
#[derive(Debug)]
pub struct JobService {
    /// What it shares with other jobs of the run.
    pub run: Arc<RunServices>,
    /// The job's id in these services.
    pub job: Uuid,
    /// References whose caches it may read; it writes those of the first.
    pub scopes: Vec<String>,
    /// Who answers what the sandbox is.
    witness: Option<Witness>,
    key: JobKey,
    table: Mutex<Table>,
}

impl JobService {
    /// Services of a job that reads caches of these references and writes those of the first.
    ///
    /// # Errors
    /// Passes on that the kernel gave no key.
    pub fn new(run: Arc<RunServices>, scopes: Vec<String>) -> io::Result<Self> {
        Ok(Self {
            run,
            job: Uuid::new_v4(),
            scopes,
            witness: None,
            key: JobKey::draw()?,
            table: Mutex::default(),
        })
    }

    /// With somebody who answers what the sandbox is.
    #[must_use]
    pub fn with_witness(self, witness: Witness) -> Self {
        let witness = Some(witness);
        Self { witness, ..self }
    }

    /// Where steps of the sandbox find the services.
    #[must_use]
    pub fn address() -> String {
        format!("http://127.0.0.1:{FORWARD_PORT}/")
    }

    /// The token of the job.
    #[must_use]
    pub fn token(&self) -> SecretString {
        let now = seconds();
        let scope = format!("Actions.Results:{}:{}", self.run_id(), self.job);
        self.key.token(&json!({
            "scp": scope, "nbf": now, "iat": now, "exp": now + TOKEN_LIMIT.as_secs(),
        }))
    }

    /// The run's id in these services.
    #[must_use]
    pub fn run_id(&self) -> String {
        self.run.id.to_string()
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Content> {
        let path = request.uri().path();
        if let Some(method) = path.strip_prefix("/twirp/") {
            let method = method.to_owned();
            return self.call(&method, request).await;
        }
        if path == PROOF_PATH {
            return self.prove(&request);
        }
        match self.blob(request).await {
            Ok(response) => response,
            Err(refused) => refused.response(),
        }
    }

    /// What the sandbox is, signed. It is no secret: whoever is in the sandbox may ask.
    fn prove(&self, request: &Request<Incoming>) -> Response<Content> {
        let query = request.uri().query().unwrap_or_default();
        let mut fields = form_urlencoded::parse(query.as_bytes());
        let nonce = fields.find(|(name, _)| name == "nonce");
        let nonce = nonce.map(|(_, nonce)| nonce).unwrap_or_default();
        let refused = |status, why: &str| BlobRefused::new(status, why).response();
        match &self.witness {
            _ if request.method() != Method::GET => {
                refused(StatusCode::METHOD_NOT_ALLOWED, "no such method")
            }
            None => refused(StatusCode::NOT_FOUND, "nobody answers what this sandbox is"),
            Some(witness) => match witness.answer(&nonce) {
                Err(error) => refused(StatusCode::BAD_REQUEST, &error.to_string()),
                Ok(answer) => json_response(&json!(answer)),
            },
        }
    }

    async fn call(&self, method: &str, request: Request<Incoming>) -> Response<Content> {
        let called = async {
            if request.method() != Method::POST {
                return Err(rpc::Refusal::route());
            }
            if !self.holds_token(request.headers()) {
                return Err(rpc::Refusal::unauthenticated());
            }
            let body = http::small(request.into_body(), rpc::MAX_BODY).await;
            let body = body.map_err(|error| rpc::Refusal::malformed(&error))?;
            rpc::call(self, method, &body).await
        };
        let (status, body) = match called.await {
            Ok(answer) => (StatusCode::OK, answer),
            Err(refusal) => refusal.into_parts(),
        };
        let mut response = json_response(&body);
        *response.status_mut() = status;
        response
    }

    fn holds_token(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION);
        let value = value.and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer "));
        token.is_some_and(|token| self.key.made_token(token))
    }

    /// Begins an upload; gives the address to write to. `None` when too many are open.
    ///
    /// # Errors
    /// Passes on that its file could not be made.
    pub fn begin(&self, purpose: Purpose, mime: String) -> io::Result<Option<String>> {
        let upload = Arc::new(Upload::new(&self.run.folder, MAX_UPLOAD)?);
        let mut table = self.lock();
        table.uploads.retain(|_, open| open.purpose != purpose);
        if table.uploads.len() >= MAX_OPEN {
            return Ok(None);
        }
        table.last += 1;
        let id = table.last;
        let open = OpenUpload {
            purpose,
            mime,
            upload,
        };
        table.uploads.insert(id, open);
        Ok(Some(self.signed(Permission::Write, "uploads", id)))
    }

    /// Ends an upload; gives its content and type.
    #[must_use]
    pub fn finish(&self, purpose: &Purpose) -> Option<(Blob, String)> {
        let mut table = self.lock();
        let mut open = table.uploads.iter();
        let id = *open.find(|(_, open)| open.purpose == *purpose)?.0;
        let content = table.uploads.get(&id)?.upload.content()?;
        Some((content, table.uploads.remove(&id)?.mime))
    }

    /// Whether such an upload is open.
    #[must_use]
    pub fn is_open(&self, purpose: &Purpose) -> bool {
        let table = self.lock();
        table.uploads.values().any(|open| open.purpose == *purpose)
    }

    /// An address to read this content from.
    #[must_use]
    pub fn offer(&self, content: Arc<Blob>, mime: String, name: Option<String>) -> String {
        let mut table = self.lock();
        if table.downloads.len() >= MAX_OPEN
            && let Some(oldest) = table.downloads.keys().min().copied()
        {
            table.downloads.remove(&oldest);
        }
        table.last += 1;
        let id = table.last;
        let download = Download {
            content,
            mime,
            name,
        };
        table.downloads.insert(id, download);
        self.signed(Permission::Read, "content", id)
    }

    fn signed(&self, permission: Permission, container: &str, id: u64) -> String {
        let path = format!("blobs/{container}/{id}");
        let expiry = seconds() + ADDRESS_LIMIT.as_secs();
        let query = self.key.sign(permission, &format!("/{path}"), expiry);
        format!("{}{path}?{query}", Self::address())
    }

    async fn blob(&self, request: Request<Incoming>) -> Result<Response<Content>, BlobRefused> {
        let (permission, container) = match *request.method() {
            Method::GET | Method::HEAD => (Permission::Read, "content"),
            Method::PUT => (Permission::Write, "uploads"),
            _ => {
                return Err(BlobRefused::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "no such method",
                ));
            }
        };
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        let query: HashMap<String, String> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        let field = |name: &str| query.get(name).map_or("", String::as_str);
        let expiry = field("se").parse().unwrap_or(0);
        if !(self.key).signed(permission, path, expiry, field("sig"), seconds()) {
            let why = "the address is not signed for this, or not any more";
            return Err(BlobRefused::new(StatusCode::FORBIDDEN, why));
        }
        let id = path
            .strip_prefix("/blobs/")
            .and_then(|path| path.strip_prefix(container))
            .and_then(|path| path.strip_prefix('/')?.parse::<u64>().ok());
        let gone = || BlobRefused::new(StatusCode::NOT_FOUND, "the content is gone");
        let id = id.ok_or_else(gone)?;
        if permission == Permission::Read {
            let download = self.lock().downloads.get(&id).cloned();
            return download.ok_or_else(gone)?.response(&request);
        }
        let open = self.lock().uploads.get(&id).map(|o| Arc::clone(&o.upload));
        let block = (field("comp").to_owned(), field("blockid").to_owned());
        let upload = open.ok_or_else(gone)?;
        put(request, &upload, block).await
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn json_response(body: &serde_json::Value) -> Response<Content> {
    let mut response = Response::new(Content::whole(body.to_string()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Azure's Put Blob, Put Block or Put Block List.
async fn put(
    request: Request<Incoming>,
    upload: &Upload,
    (comp, block): (String, String),
) -> Result<Response<Content>, BlobRefused> {
    if comp == "blocklist" {
        let body = http::small(request.into_body(), MAX_BLOCK_LIST).await?;
        let xml = String::from_utf8_lossy(&body);
        upload.commit(&block_list(&xml)?)?;
        return Ok(created());
    }
    if !["", "block"].contains(&comp.as_str()) {
        let why = "this operation on content is not supported";
        return Err(BlobRefused::new(StatusCode::BAD_REQUEST, why));
    }
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let missing = || BlobRefused::new(StatusCode::LENGTH_REQUIRED, "a Content-Length is needed");
    let length = length.ok_or_else(missing)?;
    if length > MAX_PUT {
        return Err(UploadError::TooLarge(MAX_PUT).into());
    }
    let range = upload.reserve(length)?;
    http::receive(request.into_body(), upload, range.offset, length).await?;
    match comp.as_str() {
        "block" => upload.put_block(block, range)?,
        _ => upload.put(range),
    }
    Ok(created())
}

fn created() -> Response<Content> {
    let mut response = Response::new(Content::Whole(None));
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(header::ETAG, HeaderValue::from_static("\"0x1\""));
    response
}

impl Download {
    fn response(self, request: &Request<Incoming>) -> Result<Response<Content>, BlobRefused> {
        let size = self.content.size();
        let mut asked = ["x-ms-range", "range"].into_iter();
        let asked = asked.find_map(|name| request.headers().get(name)?.to_str().ok());
        let (start, length, status) = match asked {
            None => (0, size, StatusCode::OK),
            Some(range) => {
                let wrong = || BlobRefused::new(StatusCode::RANGE_NOT_SATISFIABLE, "no such range");
                let (start, length) = parse_range(range, size).ok_or_else(wrong)?;
                (start, length, StatusCode::PARTIAL_CONTENT)
            }
        };
        let content = match *request.method() {
            Method::HEAD => Content::Whole(None),
            _ => Content::read(self.content.reader(start, length), length),
        };
        let mut response = Response::new(content);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let mut text = |name, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        };
        text(header::CONTENT_TYPE, self.mime);
        if let Some(name) = self.name {
            let name = utf8_percent_encode(&name, NON_ALPHANUMERIC);
            let value = format!("attachment; filename*=UTF-8''{name}");
            text(header::CONTENT_DISPOSITION, value);
        }
        if status == StatusCode::PARTIAL_CONTENT {
            let end = (start + length).saturating_sub(1);
            text(header::CONTENT_RANGE, format!("bytes {start}-{end}/{size}"));
        }
        Ok(response)
    }
}

/// Start and length of `bytes=A-B` or `bytes=A-`.
fn parse_range(range: &str, size: u64) -> Option<(u64, u64)> {
    let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    let start: u64 = start.parse().ok().filter(|start| *start < size)?;
    let end: u64 = match end {
        "" => size - 1,
        end => end.parse::<u64>().ok()?.min(size - 1),
    };
    Some((start, end.checked_sub(start)? + 1))
}

/// Why content was not read or written.
#[derive(Debug)]
struct BlobRefused(StatusCode, String);

impl BlobRefused {
    fn new(status: StatusCode, why: &str) -> Self {
        Self(status, why.to_owned())
    }

    fn response(self) -> Response<Content> {
        let mut response = Response::new(Content::whole(self.1));
        *response.status_mut() = self.0;
        // What was not read of the body would be taken for the next request.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        response
    }
}

impl From<BodyError> for BlobRefused {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::Length | BodyError::Broken => StatusCode::BAD_REQUEST,
            BodyError::Io(_) => StatusCode::INSUFFICIENT_STORAGE,
        };
        Self(status, error.to_string())
    }
}

impl From<UploadError> for BlobRefused {
    fn from(error: UploadError) -> Self {
        let status = match error {
            UploadError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self(status, error.to_string())
    }
}

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}
