//! The RSA key of a runner, with which it proves who it is.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    rsa::{
        KeyPair, KeyPairComponents, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256,
        OaepPrivateDecryptingKey, PrivateDecryptingKey, PublicKeyComponents,
    },
    signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::tolerant::{FieldError, Fields};

/// How a message is signed (RFC 7518 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256 and a salt of 32 bytes.
    Ps256,
}

impl Algorithm {
    /// Its name in a JWT's header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
        }
    }

    fn encoding(self) -> &'static dyn RsaEncoding {
        match self {
            Self::Rs256 => &RSA_PKCS1_SHA256,
            Self::Ps256 => &RSA_PSS_SHA256,
        }
    }
}

/// The hash of RSA-OAEP (RFC 8017 section 7.1), for its mask, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OaepHash {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A number of the key is missing or no Base64.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The numbers are no RSA key of 2048 to 8192 bits.
    #[error("the numbers of the runner's key are no RSA key of 2048 to 8192 bits")]
    Rejected,
    /// Signing failed.
    #[error("cannot sign with the runner's key; is /dev/urandom there?")]
    Sign,
}

/// An RSA private key. It is never shown.
pub struct RunnerKey(KeyPair);

impl std::fmt::Debug for RunnerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RunnerKey([secret])")
    }
}

impl RunnerKey {
    /// Reads a `.credentials_rsaparams`: standard Base64 of big-endian numbers.
    ///
    /// # Errors
    /// [`KeyError`] without any of the numbers.
    pub(super) fn read(mut fields: Fields) -> Result<Self, KeyError> {
        let mut number = |name: &str| -> Result<Zeroizing<Vec<u8>>, FieldError> {
            let text = Zeroizing::new(fields.required(name)?);
            let bytes = STANDARD.decode(text.as_bytes()).map(Zeroizing::new);
            bytes.map_err(|_| fields.wrong(name, "is not Base64"))
        };
        let (n, e) = (number("modulus")?, number("exponent")?);
        let components = KeyPairComponents {
            public_key: PublicKeyComponents {
                n: without_zeros(&n),
                e: without_zeros(&e),
            },
            d: number("d")?,
            p: number("p")?,
            q: number("q")?,
            dP: number("dp")?,
            dQ: number("dq")?,
            qInv: number("inverseQ")?,
        };
        KeyPair::from_components(&components)
            .map(Self)
            .map_err(|_| KeyError::Rejected)
    }

    /// Opens what was encrypted for this key by RSA-OAEP; nothing if it was not.
    pub(super) fn open(&self, hash: OaepHash, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        // Its bytes are cleared when it is dropped.
        let der: Pkcs8V1Der<'_> = self.0.as_der().ok()?;
        let key = PrivateDecryptingKey::from_pkcs8(der.as_ref()).ok()?;
        let key = OaepPrivateDecryptingKey::new(key).ok()?;
        let algorithm = match hash {
            OaepHash::Sha1 => &OAEP_SHA1_MGF1SHA1,
            OaepHash::Sha256 => &OAEP_SHA256_MGF1SHA256,
        };
        let mut room = Zeroizing::new(vec![0; key.min_output_size()]);
        let opened = key.decrypt(algorithm, sealed, &mut room, None).ok()?;
        Some(Zeroizing::new(opened.to_vec()))
    }

    /// Signs a message.
    ///
    /// # Errors
    /// [`KeyError::Sign`].
    pub fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(
                algorithm.encoding(),
                &SystemRandom::new(),
                message,
                &mut signature,
            )
            .map_err(|_| KeyError::Sign)?;
        Ok(signature)
    }
}

/// A big-endian number without the zeros before it, which signed encodings add.
fn without_zeros(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0);
    &number[start.unwrap_or(number.len())..]
}
