//! Container registries, asked which images a tag stands for (the distribution API of OCI).
//!
//! What a registry sends is believed for its digest only: the digest of a manifest is computed here. A registry of this machine is asked by plain HTTP, every
//! other one by HTTPS.

mod credentials;

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::image::{ImageReference, is_digest};
use crate::printable;
use crate::web::{causes, is_loopback};

pub use credentials::{Credentials, CredentialsError, Login};

/// Longest manifest, in bytes: registries take no longer ones.
const MAX_MANIFEST: usize = 4 << 20;
/// Longest answer of a server that gives out tokens.
const MAX_TOKEN: usize = 64 << 10;
/// Longest wait for a connection, and for the next bytes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Manifests that are understood: an index of platforms, or one image, each by OCI's and Docker's name.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json";
/// The platform of sandboxes.
pub const PLATFORM: &str = "linux/amd64";
/// Header in which registries tell the digest of what they send.
const DIGEST: &str = "docker-content-digest";

/// Why a registry did not tell what an image is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It is not there, or not for this login.
    #[error(
        "{registry} shows no image `{image}`; correct its name, or write the image with its digest; {mend}"
    )]
    Missing {
        /// The registry.
        registry: String,
        /// The image.
        image: String,
        /// What to do about a login.
        mend: &'static str,
    },
    /// The registry failed.
    #[error("{registry} does not tell what the image `{image}` is: {why}")]
    Failed {
        /// The registry.
        registry: String,
        /// The image.
        image: String,
        /// What happened.
        why: String,
    },
    /// What came is not what the registry says.
    #[error(
        "{registry} sent a manifest of `{image}` whose digest is {found} and said that it is {said}"
    )]
    Other {
        /// The registry.
        registry: String,
        /// The image.
        image: String,
        /// The digest of what came.
        found: String,
        /// The digest that it was said to have.
        said: String,
    },
}

/// What a tag stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDigests {
    /// The digest of the manifest: an index of platforms, or one image.
    pub digest: String,
    /// The image of each platform (`linux/arm64/v8`); empty if there is one image only.
    pub platforms: Vec<(String, String)>,
    /// The configuration of the image for [`PLATFORM`], by which saved archives know it.
    pub config: Option<String>,
}

/// Asks registries.
#[derive(Debug, Clone)]
pub struct Registries {
    client: reqwest::Client,
    credentials: Credentials,
}

/// An index of platforms, or one image.
#[derive(Deserialize)]
struct Index {
    manifests: Option<Vec<Manifest>>,
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    digest: Option<String>,
}

#[derive(Deserialize)]
struct Manifest {
    digest: String,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<SecretString>,
    access_token: Option<SecretString>,
}

/// What is sent with a question.
enum Authorization {
    Nobody,
    Token(SecretString),
    Login(Login),
}

/// One question: about an image, and the place to ask.
struct Question<'a> {
    registries: &'a Registries,
    image: &'a ImageReference,
    url: Url,
}

impl Registries {
    /// A client of registries, with logins for some of them.
    ///
    /// # Errors
    /// What keeps this machine from having one, as text.
    pub fn new(credentials: Credentials) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .connect_timeout(PATIENCE)
            .read_timeout(PATIENCE)
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            client,
            credentials,
        })
    }

    /// What the tag of an image stands for now, with the image of each platform.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn resolve(&self, image: &ImageReference) -> Result<ImageDigests, RegistryError> {
        let (digest, index) = self.manifest(image).await?;
        let platforms = platforms(index.manifests.unwrap_or_default());
        let mut config = index.config;
        let own = platforms.iter().find(|(name, _)| name == PLATFORM);
        if let (None, Some((_, digest))) = (&config, own) {
            let one = image.with_digest(digest);
            config = self.manifest(&one).await?.1.config;
        }
        let config = config.and_then(|config| config.digest);
        Ok(ImageDigests {
            digest,
            platforms,
            config: config.filter(|digest| is_digest(digest)),
        })
    }

    /// The manifest of an image, with its digest, which is that asked for or said to be.
    async fn manifest(&self, image: &ImageReference) -> Result<(String, Index), RegistryError> {
        let question = self.question(image)?;
        let answer = question.ask(Method::GET).await?;
        let said = header(answer.headers(), DIGEST).filter(|said| is_digest(said));
        let manifest = question.body(answer, MAX_MANIFEST).await?;
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&manifest)));
        let expected = image.digest.clone().or(said);
        if let Some(said) = expected.filter(|said| *said != digest) {
            return Err(RegistryError::Other {
                registry: image.registry.clone(),
                image: image.to_string(),
                found: digest,
                said,
            });
        }
        let index = serde_json::from_slice(&manifest).map_err(|error| {
            question.failed(&format!("its manifest is not as documented: {error}"))
        })?;
        Ok((digest, index))
    }

    /// The digest that the tag of an image stands for now, which costs a registry less.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn digest(&self, image: &ImageReference) -> Result<String, RegistryError> {
        let question = self.question(image)?;
        let answer = question.ask(Method::HEAD).await?;
        match header(answer.headers(), DIGEST).filter(|digest| is_digest(digest)) {
            Some(digest) => Ok(digest),
            None => Ok(self.resolve(image).await?.digest),
        }
    }

    fn question<'a>(&'a self, image: &'a ImageReference) -> Result<Question<'a>, RegistryError> {
        // Docker's own registry is not at the name that it has in images.
        let host = match image.registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let what = image
            .digest
            .as_deref()
            .or(image.tag.as_deref())
            .unwrap_or("latest");
        let path = format!("{host}/v2/{}/manifests/{what}", image.repository);
        let url = Url::parse(&format!("https://{path}")).ok();
        let url = match url {
            Some(url) if is_loopback(&url) => Url::parse(&format!("http://{path}")).ok(),
            url => url,
        };
        let url = url.ok_or_else(|| RegistryError::Failed {
            registry: image.registry.clone(),
            image: image.to_string(),
            why: "its name makes no URL".to_owned(),
        })?;
        let registries = self;
        Ok(Question {
            registries,
            image,
            url,
        })
    }
}

impl Question<'_> {
    /// Asks for the manifest, with a token or a login if the registry wants one.
    async fn ask(&self, method: Method) -> Result<Response, RegistryError> {
        let answer = self.send(method.clone(), &Authorization::Nobody).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return self.good(answer);
        }
        let challenge = header(answer.headers(), WWW_AUTHENTICATE.as_str()).unwrap_or_default();
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((&challenge, ""));
        let given = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => self.token(parameters).await?.map(Authorization::Token),
            "basic" => self.login().cloned().map(Authorization::Login),
            _ => None,
        };
        let given = given.ok_or_else(|| self.missing())?;
        let answer = self.send(method, &given).await?;
        self.good(answer)
    }

    /// The login at the image's registry.
    fn login(&self) -> Option<&Login> {
        self.registries.credentials.of(&self.image.registry)
    }

    async fn send(
        &self,
        method: Method,
        authorization: &Authorization,
    ) -> Result<Response, RegistryError> {
        let request = self.registries.client.request(method, self.url.clone());
        let request = authorization.put(request.header(ACCEPT, MANIFESTS));
        let answer = request.send().await;
        answer.map_err(|error| self.failed(&causes(&error)))
    }

    fn good(&self, answer: Response) -> Result<Response, RegistryError> {
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(self.missing())
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let after = header(answer.headers(), RETRY_AFTER.as_str());
                let after = after
                    .map(|seconds| format!(" after {seconds} seconds"))
                    .unwrap_or_default();
                Err(self.failed(&format!("too many requests; run the command again{after}")))
            }
            status => Err(self.failed(&format!("the answer is {status}; try again later"))),
        }
    }

    /// A token, from the server that the registry names: for the registry's login if there is one, else
    /// for everybody; nothing if it names none.
    async fn token(&self, parameters: &str) -> Result<Option<SecretString>, RegistryError> {
        let value = |name: &str| parameter(parameters, name);
        let Some(mut url) = value("realm").and_then(|realm| Url::parse(&realm).ok()) else {
            return Ok(None);
        };
        // Only a registry of this machine may send to a server of this machine, and by plain HTTP.
        if url.scheme() != "https" && !(is_loopback(&url) && is_loopback(&self.url)) {
            return Err(self.failed("it names a server for tokens that is not asked by https"));
        }
        for name in ["service", "scope"] {
            if let Some(value) = value(name) {
                url.query_pairs_mut().append_pair(name, &value);
            }
        }
        let login = self.login().cloned();
        let login = login.map_or(Authorization::Nobody, Authorization::Login);
        let answer = login.put(self.registries.client.get(url)).send().await;
        let answer = self.good(answer.map_err(|error| self.failed(&causes(&error)))?)?;
        let body = self.body(answer, MAX_TOKEN).await?;
        let token: Token = serde_json::from_slice(&body)
            .map_err(|_| self.failed("the server for tokens gives none"))?;
        Ok(token.token.or(token.access_token))
    }

    async fn body(&self, mut answer: Response, most: usize) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        loop {
            match answer
                .chunk()
                .await
                .map_err(|error| self.failed(&causes(&error)))?
            {
                None => return Ok(body),
                Some(chunk) if body.len() + chunk.len() > most => {
                    return Err(self.failed(&format!("its answer is longer than {most} bytes")));
                }
                Some(chunk) => body.extend_from_slice(&chunk),
            }
        }
    }

    fn missing(&self) -> RegistryError {
        RegistryError::Missing {
            registry: self.image.registry.clone(),
            image: self.image.to_string(),
            mend: self.registries.credentials.mend(&self.image.registry),
        }
    }

    fn failed(&self, why: &str) -> RegistryError {
        RegistryError::Failed {
            registry: self.image.registry.clone(),
            image: self.image.to_string(),
            why: printable::line(why),
        }
    }
}

impl Authorization {
    /// Headers with secrets are marked, so that nobody prints them.
    fn put(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Nobody => request,
            Self::Token(token) => request.bearer_auth(token.expose_secret()),
            Self::Login(login) => {
                let password = login.password.expose_secret();
                request.basic_auth(&login.username, Some(password))
            }
        }
    }
}

/// The images by platform, in the order of the platforms' names. An entry of an unknown platform is no
/// image but what was said of one.
fn platforms(manifests: Vec<Manifest>) -> Vec<(String, String)> {
    let named = |Manifest { digest, platform }: Manifest| {
        let Platform {
            os,
            architecture,
            variant,
        } = platform?;
        let known = os != "unknown" && architecture != "unknown" && is_digest(&digest);
        let variant = variant
            .map(|variant| format!("/{variant}"))
            .unwrap_or_default();
        known.then(|| {
            (
                printable::line(&format!("{os}/{architecture}{variant}")),
                digest,
            )
        })
    };
    let mut platforms: Vec<_> = manifests.into_iter().filter_map(named).collect();
    platforms.sort();
    // Windows has one for each of its versions; the index tells them apart, its digest holds them all.
    platforms.dedup_by(|later, first| later.0 == first.0);
    platforms
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// A parameter of a challenge: `realm="…",service="…"`.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    while let Some((key, behind)) = rest.split_once('=') {
        let (value, after) = match behind.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => behind.split_once(',').unwrap_or((behind, "")),
        };
        if key.trim_matches([',', ' ']).eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests;
