//! The RSA key of a runner, with which it proves who it is.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair, KeyPairComponents, PublicKeyComponents},
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
