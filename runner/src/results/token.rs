//! The token of a job and signatures of addresses, both made with a key that only this job's service
//! has: what another sandbox, or a later job, presents is nothing here.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use rustix::rand::{GetRandomFlags, getrandom};
use secrecy::SecretString;
use sha2::Sha256;
use zeroize::Zeroizing;

/// What the holder of an address may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Read the content.
    Read,
    /// Write the content, once.
    Write,
}

impl Permission {
    fn letter(self) -> char {
        match self {
            Self::Read => 'r',
            Self::Write => 'w',
        }
    }
}

/// The key of one job's service.
pub struct JobKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for JobKey {
    /// Says nothing of the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JobKey")
    }
}

impl JobKey {
    /// Draws a key from the host kernel's generator.
    ///
    /// # Errors
    /// Passes on that `getrandom` failed.
    pub fn draw() -> std::io::Result<Self> {
        let mut key = Zeroizing::new([0; 32]);
        let mut filled = 0;
        while filled < key.len() {
            filled += getrandom(&mut key[filled..], GetRandomFlags::empty())?;
        }
        Ok(Self(key))
    }

    /// A JSON Web Token with these claims; the packages read `scp` and `exp` from it.
    #[must_use]
    pub fn token(&self, claims: &serde_json::Value) -> SecretString {
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let head = part(r#"{"alg":"HS256","typ":"JWT"}"#);
        let signed = format!("{head}.{}", part(&claims.to_string()));
        let signature = self.mac("token", &signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)).into()
    }

    /// Whether this key made the token. There is one token to a key, so that is all to ask.
    #[must_use]
    pub fn made_token(&self, token: &str) -> bool {
        token
            .rsplit_once('.')
            .is_some_and(|(signed, signature)| self.made("token", signed, signature))
    }

    /// The query of an address at `path` that ends to be good at `expiry`, seconds since the epoch.
    #[must_use]
    pub fn sign(&self, permission: Permission, path: &str, expiry: u64) -> String {
        let letter = permission.letter();
        let mac = self.mac("url", &format!("{letter}\n{expiry}\n{path}"));
        let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        format!("sp={letter}&se={expiry}&sig={signature}")
    }

    /// Whether this key signed for `permission` at `path` until a time that is not over.
    #[must_use]
    pub fn signed(
        &self,
        permission: Permission,
        path: &str,
        expiry: u64,
        signature: &str,
        now: u64,
    ) -> bool {
        let letter = permission.letter();
        let text = format!("{letter}\n{expiry}\n{path}");
        now < expiry && self.made("url", &text, signature)
    }

    fn made(&self, purpose: &str, text: &str, signature: &str) -> bool {
        let decoded = URL_SAFE_NO_PAD.decode(signature);
        // Compares in constant time.
        decoded.is_ok_and(|bytes| self.mac(purpose, text).verify_slice(&bytes).is_ok())
    }

    fn mac(&self, purpose: &str, text: &str) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0[..]).expect("HMAC takes a key of any length");
        mac.update(purpose.as_bytes());
        mac.update(b"\0");
        mac.update(text.as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_good_where_it_was_made_and_nowhere_else() {
        let (ours, other) = (JobKey::draw().unwrap(), JobKey::draw().unwrap());
        let token = ours.token(&json!({"scp": "Actions.Results:run:job"}));
        let token = token.expose_secret();
        assert!(ours.made_token(token) && !other.made_token(token));
        assert_eq!(token.split('.').count(), 3);
        let forged = token.replacen('.', ".x", 1);
        for wrong in ["", ".", "a.b.c", &token[..token.len() - 1], &forged] {
            assert!(!ours.made_token(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_signature_holds_for_its_path_permission_and_time_only() {
        let key = JobKey::draw().unwrap();
        let query = key.sign(Permission::Read, "/blobs/caches/1", 100);
        let signature = query.rsplit_once("sig=").unwrap().1;
        let good =
            |permission, path, expiry, now| key.signed(permission, path, expiry, signature, now);
        assert!(good(Permission::Read, "/blobs/caches/1", 100, 99));
        assert!(!good(Permission::Read, "/blobs/caches/1", 100, 100));
        assert!(!good(Permission::Read, "/blobs/caches/1", 101, 99));
        assert!(!good(Permission::Read, "/blobs/caches/2", 100, 99));
        assert!(!good(Permission::Write, "/blobs/caches/1", 100, 99));
        assert!(!key.made_token(signature));
    }
}
