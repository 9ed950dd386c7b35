//! The key of a session with an old service, and the bodies that it encrypts.

use std::fmt;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::key::{OaepHash, RunnerKey};
use crate::tolerant::{FieldError, Fields};

/// A key of AES in CBC mode. It is never shown.
pub struct SessionKey(PaddedBlockDecryptingKey);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey([secret])")
    }
}

/// Why a session's key or a body cannot be used. Nothing of either is part of the message.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// A field of the key is missing or no Base64.
    #[error("encryptionKey.{0}")]
    Field(#[from] FieldError),
    /// The runner's key does not open it.
    #[error("encryptionKey is encrypted, and not for this runner's key (RSA-OAEP)")]
    NotOurs,
    /// It is no key of AES.
    #[error("encryptionKey is no key of AES")]
    NoKey,
    /// A part of a message is no Base64.
    #[error("the {0} of an encrypted message is not Base64")]
    Base64(&'static str),
    /// The key does not open it.
    #[error("an encrypted message is not encrypted with the session's key")]
    Body,
}

impl SessionKey {
    /// Reads `encryptionKey` of a session: `{encrypted, value}`.
    ///
    /// # Errors
    /// [`SealedError`].
    pub(super) fn read(mut fields: Fields, runner: &RunnerKey) -> Result<Self, SealedError> {
        let encrypted = fields.boolean("encrypted")?.unwrap_or_default();
        let value = Zeroizing::new(fields.required("value")?);
        let value = STANDARD.decode(value.as_bytes()).map(Zeroizing::new);
        let value = value.map_err(|_| fields.wrong("value", "is not Base64"))?;
        let key = if encrypted {
            // SHA-256 is what was asked for; services from before that answer with SHA-1.
            let opened = [OaepHash::Sha256, OaepHash::Sha1]
                .into_iter()
                .find_map(|hash| runner.open(hash, &value));
            opened.ok_or(SealedError::NotOurs)?
        } else {
            value
        };
        let algorithm = match key.len() {
            16 => &AES_128,
            24 => &AES_192,
            32 => &AES_256,
            _ => return Err(SealedError::NoKey),
        };
        let key = UnboundCipherKey::new(algorithm, &key).map_err(|_| SealedError::NoKey)?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key);
        key.map(Self).map_err(|_| SealedError::NoKey)
    }

    /// Opens a body.
    ///
    /// # Errors
    /// [`SealedError`].
    pub(super) fn open(&self, body: &str, iv: &str) -> Result<String, SealedError> {
        let bytes = |name, text: &str| {
            STANDARD
                .decode(text.trim())
                .map_err(|_| SealedError::Base64(name))
        };
        let iv: [u8; 16] = bytes("iv", iv)?.try_into().map_err(|_| SealedError::Body)?;
        let mut body = Zeroizing::new(bytes("body", body)?);
        let context = DecryptionContext::Iv128(iv.into());
        let opened = self.0.decrypt(&mut body, context);
        let opened = opened.map_err(|_| SealedError::Body)?;
        let opened = std::str::from_utf8(opened).map_err(|_| SealedError::Body)?;
        Ok(opened.to_owned())
    }
}
