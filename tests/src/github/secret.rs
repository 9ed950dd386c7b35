//! What old services do with messages: a key of the session, encrypted for the runner's own key, and
//! bodies encrypted with it.

use aws_lc_rs::{
    cipher::{AES_256, DecryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey},
    rsa::{
        OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PrivateDecryptingKey,
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

use super::{FakeGitHub, registry::KEY};

/// The key of all sessions.
const AES: [u8; 32] = *b"0123456789abcdef0123456789abcdef";

/// Whether and how messages are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    /// They are not.
    #[default]
    None,
    /// Their key is handed over in the clear.
    Plain,
    /// Their key is encrypted by RSA-OAEP with SHA-1.
    Sha1,
    /// Their key is encrypted by RSA-OAEP with SHA-256.
    Sha256,
}

impl FakeGitHub {
    /// Encrypts messages of sessions that begin from now on.
    pub fn encrypt(&self, encryption: Encryption) {
        self.shared.lock().encryption = encryption;
    }
}

impl Encryption {
    /// What a new session is told of its key.
    pub(super) fn key(self) -> Json {
        let algorithm = match self {
            Self::None => return json!(null),
            Self::Plain => return json!({"encrypted": false, "value": STANDARD.encode(AES)}),
            Self::Sha1 => &OAEP_SHA1_MGF1SHA1,
            Self::Sha256 => &OAEP_SHA256_MGF1SHA256,
        };
        let key: Json = serde_json::from_str(KEY).expect("our own file");
        let der = STANDARD.decode(key["pkcs8"].as_str().unwrap_or_default());
        let key = PrivateDecryptingKey::from_pkcs8(&der.expect("our own file"));
        let key = OaepPublicEncryptingKey::new(key.expect("our own key").public_key());
        let key = key.expect("our own key");
        let mut sealed = vec![0; key.ciphertext_size()];
        let sealed = key.encrypt(algorithm, &AES, &mut sealed, None);
        json!({"encrypted": true, "value": STANDARD.encode(sealed.expect("a short text"))})
    }

    /// A message with its body as it is sent: old services begin it with a byte order mark.
    pub(super) fn seal(self, mut message: Json) -> Json {
        if self == Self::None {
            return message;
        }
        let body = message["body"].as_str().unwrap_or_default();
        let mut sealed = format!("\u{feff}{body}").into_bytes();
        let key = UnboundCipherKey::new(&AES_256, &AES);
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(key.expect("32 bytes"));
        let context = key.expect("a key").encrypt(&mut sealed);
        let DecryptionContext::Iv128(iv) = context.expect("room") else {
            return message;
        };
        message["iv"] = json!(STANDARD.encode(iv.as_ref()));
        message["body"] = json!(STANDARD.encode(sealed));
        message
    }
}
