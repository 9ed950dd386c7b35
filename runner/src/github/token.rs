//! The runner's own OAuth token: an assertion signed by its key, exchanged for a bearer.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::Mutex, time::Instant};
use uuid::Uuid;

use super::{
    http::{Http, Refusal, TransportError},
    jit::Credentials,
    key::{Algorithm, KeyError, RunnerKey},
};

/// How long an assertion is good.
const ASSERTION: u64 = 5 * 60;
/// A token is renewed when less than this part of its life is left.
const LEFT: u32 = 5;
/// Life of a token whose answer does not say it.
const UNKNOWN_LIFE: u64 = 10 * 60;

/// Gets the runner's token, and keeps it until shortly before it ends.
#[derive(Debug)]
pub struct TokenSource {
    http: Http,
    credentials: Credentials,
    key: Arc<RunnerKey>,
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug, Clone)]
struct Kept {
    token: SecretString,
    renew_at: Instant,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The service was not reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The key cannot sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The runner is not registered any more.
    #[error("GitHub does not know this runner any more ({0}); register it again")]
    Gone(Refusal),
    /// The clock of this machine is wrong.
    #[error("GitHub refuses the assertion because of its time ({0}); set this machine's clock")]
    Clock(Refusal),
    /// Another refusal.
    #[error("GitHub gives this runner no token: {0}")]
    Refused(Refusal),
    /// An answer that is not understood.
    #[error("the token service's answer cannot be read: {0}")]
    Answer(String),
}

impl TokenError {
    /// Whether another try may help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Transport(_) => true,
            Self::Refused(refusal) => refusal.status == 429 || refusal.status >= 500,
            Self::Key(_) | Self::Gone(_) | Self::Clock(_) | Self::Answer(_) => false,
        }
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretString,
    expires_in: Option<u64>,
}

impl TokenSource {
    /// A source without a token yet.
    #[must_use]
    pub fn new(http: Http, credentials: Credentials, key: Arc<RunnerKey>) -> Self {
        Self {
            http,
            credentials,
            key,
            kept: Mutex::new(None),
        }
    }

    /// The token; one that ends soon is replaced first.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn token(&self) -> Result<SecretString, TokenError> {
        let mut kept = self.kept.lock().await;
        if let Some(kept) = &*kept
            && Instant::now() < kept.renew_at
        {
            return Ok(kept.token.clone());
        }
        let granted = self.exchange().await?;
        let life = Duration::from_secs(granted.expires_in.unwrap_or(UNKNOWN_LIFE));
        let fresh = Kept {
            token: granted.access_token,
            renew_at: Instant::now() + life - life / LEFT,
        };
        let token = fresh.token.clone();
        *kept = Some(fresh);
        Ok(token)
    }

    /// Forgets a token that was refused or that the service wants replaced.
    pub async fn forget(&self) {
        *self.kept.lock().await = None;
    }

    async fn exchange(&self) -> Result<Granted, TokenError> {
        let assertion = self.assertion(jiff::Timestamp::now().as_second())?;
        let form = [
            ("grant_type", "client_credentials"),
            (
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ),
            ("client_assertion", assertion.expose_secret()),
        ];
        let url = self.credentials.token_url.clone();
        let answer = self.http.send(self.http.client().post(url).form(&form));
        let answer = answer.await?;
        if answer.status.is_success() {
            return answer.json().map_err(TokenError::Answer);
        }
        let refusal = answer.refusal();
        Err(match refusal.kind.as_deref() {
            Some("invalid_client") if refusal.status == 400 => TokenError::Gone(refusal),
            _ if refusal.message.contains("Current server time is") => TokenError::Clock(refusal),
            _ => TokenError::Refused(refusal),
        })
    }

    /// A JWT (RFC 7523 section 3) that proves the key, good from `now` (seconds of the Unix epoch).
    fn assertion(&self, now: i64) -> Result<SecretString, KeyError> {
        let algorithm = if self.credentials.fips {
            Algorithm::Ps256
        } else {
            Algorithm::Rs256
        };
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let header = part(json!({"typ": "JWT", "alg": algorithm.name()}));
        let claims = part(json!({
            "sub": self.credentials.client_id,
            "iss": self.credentials.client_id,
            "aud": self.credentials.authorization_url,
            "jti": Uuid::new_v4().to_string(),
            "nbf": now,
            "exp": now.saturating_add_unsigned(ASSERTION),
        }));
        let signed = format!("{header}.{claims}");
        let signature = self.key.sign(algorithm, signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)).into())
    }
}
