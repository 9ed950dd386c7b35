//! A GitHub App's private key, and the assertions that it signs.

use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::json;
use zeroize::Zeroizing;

/// How far the two clocks may be apart, in seconds.
const SKEW: i64 = 60;
/// How long an assertion is good, in seconds; GitHub takes at most ten minutes.
const LIFE: i64 = 9 * 60;

/// An RSA private key. It is never shown, and its memory is cleared when it is dropped.
pub struct AppKey(KeyPair);

impl std::fmt::Debug for AppKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppKey([secret])")
    }
}

/// Why a key cannot be used. Nothing of its content is part of the message.
#[derive(Debug, thiserror::Error)]
pub enum AppKeyError {
    /// There is no private key in the file.
    #[error("it has no private key in PEM; take the .pem file that the App's page gave you")]
    Pem,
    /// It is a key of another kind, or broken.
    #[error(
        "its private key is no RSA key of 2048 to 8192 bits; take the .pem file that the App's page gave you"
    )]
    Rejected,
    /// Signing failed.
    #[error("cannot sign with the App's key; is /dev/urandom there?")]
    Sign,
}

impl AppKey {
    /// Reads the `.pem` that GitHub gives: PKCS#1, or PKCS#8 of a key that was converted.
    ///
    /// # Errors
    /// [`AppKeyError`].
    pub fn read(pem: &[u8]) -> Result<Self, AppKeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| AppKeyError::Pem)?;
        let der = Zeroizing::new(der);
        let key = match &*der {
            PrivateKeyDer::Pkcs1(key) => KeyPair::from_der(key.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(key) => KeyPair::from_pkcs8(key.secret_pkcs8_der()),
            _ => return Err(AppKeyError::Rejected),
        };
        key.map(Self).map_err(|_| AppKeyError::Rejected)
    }

    /// A JWT that says who asks, good for the next minutes.
    pub(super) fn assertion(&self, issuer: &str, now: Timestamp) -> Result<String, AppKeyError> {
        let now = now.as_second();
        let header = json!({"typ": "JWT", "alg": "RS256"});
        let claims = json!({"iss": issuer, "iat": now - SKEW, "exp": now + LIFE});
        let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.0.public_modulus_len()];
        let random = SystemRandom::new();
        self.0
            .sign(
                &RSA_PKCS1_SHA256,
                &random,
                signed.as_bytes(),
                &mut signature,
            )
            .map_err(|_| AppKeyError::Sign)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn a_pem_is_read_and_what_is_none_is_told_without_its_content() {
        let key: serde_json::Value = serde_json::from_str(include_str!("../key.json")).unwrap();
        let body = key["pkcs8"].as_str().unwrap();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        let key = AppKey::read(pem.as_bytes()).unwrap();
        let now = "2026-11-25T10:00:00Z".parse().unwrap();
        let assertion = key.assertion("12345", now).unwrap();
        let claims = assertion.split('.').nth(1).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
        assert!(life <= 600, "GitHub refuses more than ten minutes: {life}");
        assert_eq!(claims["iss"], "12345");
        let broken = format!(
            "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n",
            STANDARD.encode("hunter2-canary")
        );
        for (wrong, part) in [
            ("hunter2", "no private key"),
            (broken.as_str(), "no RSA key"),
        ] {
            let said = AppKey::read(wrong.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(part) && !said.contains("hunter2"), "{said}");
        }
        assert_eq!(format!("{key:?}"), "AppKey([secret])");
    }
}
