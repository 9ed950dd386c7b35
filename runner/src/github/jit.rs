//! The configuration of a just-in-time runner, as `generate-jitconfig` gives it.
//!
//! It is Base64 of a JSON object whose keys are the names of the files that the official runner would
//! write, and whose values are Base64 of their content. Here they stay in memory.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value as Json;
use url::Url;
use zeroize::Zeroizing;

use super::key::{KeyError, RunnerKey};
use crate::{
    tolerant::{FieldError, Fields},
    web::is_loopback,
};

/// Most bytes of a configuration; GitHub's have about 4 KiB.
pub const MAX_JIT_CONFIG: usize = 256 << 10;

/// Who a runner is, and how it proves it.
#[derive(Debug)]
pub struct JitConfig {
    /// Who it is, and whom it asks for work.
    pub runner: RunnerSettings,
    /// How it gets its token.
    pub credentials: Credentials,
    /// The key that the service made for it.
    pub key: RunnerKey,
}

/// The file `.runner`.
#[derive(Debug, Clone)]
pub struct RunnerSettings {
    /// Number of the runner.
    pub agent_id: i64,
    /// Its name.
    pub agent_name: String,
    /// Number of its group.
    pub pool_id: i64,
    /// Name of its group.
    pub pool_name: String,
    /// Whether it is gone after one job.
    pub ephemeral: bool,
    /// Whether the service leaves updates to the operator.
    pub updates_disabled: bool,
    /// Base of the service that hands out jobs, with a slash at its end.
    pub server: Url,
}

/// The file `.credentials`.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Its identity at the token service.
    pub client_id: String,
    /// Whom an assertion is addressed to.
    pub authorization_url: String,
    /// Where the assertion is sent.
    pub token_url: Url,
    /// Whether assertions are signed with RSASSA-PSS.
    pub fips: bool,
}

/// Why a configuration cannot be used. Nothing of its content is part of the message.
#[derive(Debug, thiserror::Error)]
pub enum JitError {
    /// It has more bytes than any that GitHub makes.
    #[error("the just-in-time configuration has more than {MAX_JIT_CONFIG} bytes")]
    Large,
    /// It, or a file in it, is no Base64.
    #[error(
        "{0} of the just-in-time configuration is not Base64; pass `encoded_jit_config` as GitHub gave it"
    )]
    Base64(&'static str),
    /// It, or a file in it, is no JSON.
    #[error("{0} of the just-in-time configuration is not a JSON object")]
    Json(&'static str),
    /// A file is missing or a field of it wrong.
    #[error("the just-in-time configuration's {file}: {why}")]
    Field {
        /// The file.
        file: &'static str,
        /// What is wrong.
        why: FieldError,
    },
    /// The key cannot be used.
    #[error("the just-in-time configuration's {RSA}: {0}")]
    Key(#[source] KeyError),
    /// It is for a service that is not supported.
    #[error("the just-in-time configuration {0}")]
    Unsupported(&'static str),
}

const WHOLE: &str = "the whole";
const RUNNER: &str = ".runner";
const CREDENTIALS: &str = ".credentials";
const RSA: &str = ".credentials_rsaparams";

impl JitConfig {
    /// Reads `encoded_jit_config`.
    ///
    /// # Errors
    /// [`JitError`] names the file and the field.
    pub fn decode(encoded: &str) -> Result<Self, JitError> {
        if encoded.len() > MAX_JIT_CONFIG {
            return Err(JitError::Large);
        }
        let mut files = object(WHOLE, encoded)?;
        let mut file = |name: &'static str| -> Result<Fields, JitError> {
            let content = files.required(name).map(Zeroizing::new);
            let content = content.map_err(|why| JitError::Field { file: name, why })?;
            object(name, &content)
        };
        let key = file(RSA)?;
        Ok(Self {
            runner: runner(file(RUNNER)?)?,
            credentials: credentials(file(CREDENTIALS)?)?,
            key: RunnerKey::read(key).map_err(JitError::Key)?,
        })
    }
}

/// The fields of a JSON object in Base64.
fn object(name: &'static str, encoded: &str) -> Result<Fields, JitError> {
    let bytes = STANDARD.decode(encoded.trim()).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| JitError::Base64(name))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let json: Json = serde_json::from_slice(bytes).map_err(|_| JitError::Json(name))?;
    Fields::new(json, String::new()).map_err(|_| JitError::Json(name))
}

fn runner(mut f: Fields) -> Result<RunnerSettings, JitError> {
    let at = |why| JitError::Field { file: RUNNER, why };
    let v2 = f.boolean("UseV2Flow").map_err(at)?.unwrap_or_default();
    let server = f
        .text("ServerUrlV2")
        .map_err(at)?
        .filter(|url| !url.is_empty());
    let Some(server) = server.filter(|_| v2) else {
        return Err(JitError::Unsupported(
            "is for the old service protocol (UseV2Flow is off), which Mayfly does not speak",
        ));
    };
    let agent_id = f.integer("AgentId").map_err(at)?;
    Ok(RunnerSettings {
        agent_id: agent_id.ok_or_else(|| at(f.wrong("AgentId", "is missing")))?,
        agent_name: f.required("AgentName").map_err(at)?,
        pool_id: f.integer("PoolId").map_err(at)?.unwrap_or_default(),
        pool_name: f.text("PoolName").map_err(at)?.unwrap_or_default(),
        ephemeral: f.boolean("Ephemeral").map_err(at)?.unwrap_or_default(),
        updates_disabled: f.boolean("DisableUpdate").map_err(at)?.unwrap_or_default(),
        server: base(&server).map_err(|problem| at(f.wrong("ServerUrlV2", problem)))?,
    })
}

fn credentials(mut f: Fields) -> Result<Credentials, JitError> {
    let at = |why| JitError::Field {
        file: CREDENTIALS,
        why,
    };
    let scheme = f.required("Scheme").map_err(at)?;
    if !scheme.eq_ignore_ascii_case("OAuth") {
        return Err(at(f.wrong("Scheme", "is not OAuth")));
    }
    let data = f.object("Data", Ok).map_err(at)?;
    let mut data = data.ok_or_else(|| at(f.wrong("Data", "is missing")))?;
    let authorization_url = data.required("authorizationUrl").map_err(at)?;
    let token_url = data.text("oauthEndpointUrl").map_err(at)?;
    let token_url = token_url.filter(|url| !url.is_empty());
    let token_url = token_url.as_deref().unwrap_or(&authorization_url);
    Ok(Credentials {
        client_id: data.required("clientId").map_err(at)?,
        token_url: web(token_url).map_err(|why| at(data.wrong("authorizationUrl", why)))?,
        fips: data
            .boolean("requireFipsCryptography")
            .map_err(at)?
            .unwrap_or_default(),
        authorization_url,
    })
}

/// An address that ends with a slash, so that names are resolved below it.
pub(in crate::github) fn base(text: &str) -> Result<Url, &'static str> {
    let mut url = web(text)?;
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// An address that a token may be sent to: HTTPS, or plain HTTP to this machine itself.
pub(in crate::github) fn web(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "is not a URL")?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err("is not an https URL"),
    }
}
