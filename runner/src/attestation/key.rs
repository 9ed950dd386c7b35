//! The key of this host: ed25519, made once, in a file that only its owner reads.

use std::{
    fmt,
    fs::{DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Name of the private key's file.
const PRIVATE: &str = "sandbox.ed25519";
/// Name of the public key's file.
const PUBLIC: &str = "sandbox.pub";
/// Longest file that is read.
const MAX_BYTES: u64 = 4096;
/// What stands before the 32 bytes of an ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const BEGIN: &str = "-----BEGIN PUBLIC KEY-----\n";
const END: &str = "\n-----END PUBLIC KEY-----\n";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read or written.
    #[error("cannot {step} {}: {cause}; does the state folder belong to you?", .path.display())]
    Host {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// It can be read by others.
    #[error("{} can be read by others; remove it: a new key is made, and answers of the old one count no more", .0.display())]
    Open(PathBuf),
    /// It is no key.
    #[error("{} is no ed25519 key; remove it: a new one is made, and answers of the old one count no more", .0.display())]
    Damaged(PathBuf),
    /// A public key that is none.
    #[error("this is no public key as `mayfly sandbox key` prints it")]
    Public,
}

/// The private key.
pub struct HostKey(Ed25519KeyPair);

/// The public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl HostKey {
    /// The key in a folder; one is made where there is none.
    ///
    /// # Errors
    /// [`KeyError`] if it cannot be made, or what is there is not used.
    pub fn in_folder(folder: &Path) -> Result<Self, KeyError> {
        let path = folder.join(PRIVATE);
        if let Some(key) = Self::read(&path)? {
            return Ok(key);
        }
        let failed = |step, cause| KeyError::Host {
            step,
            path: path.clone(),
            cause,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|cause| failed("make the folder of", cause))?;
        let pair = Ed25519KeyPair::generate()
            .map_err(|_| failed("draw", io::Error::other("the library gave none")))?;
        let text: Pkcs8V1Der<'_> = pair
            .as_der()
            .map_err(|_| failed("write", io::Error::other("the library wrote none")))?;
        let made = put(folder, PRIVATE, text.as_ref()).map_err(|cause| failed("write", cause))?;
        // Another process may have been first: its key is the one.
        let key = match made {
            true => Self(pair),
            false => Self::read(&path)?.ok_or_else(|| KeyError::Damaged(path.clone()))?,
        };
        put(folder, PUBLIC, key.public().to_pem().as_bytes())
            .map_err(|cause| failed("write the public part of", cause))?;
        Ok(key)
    }

    fn read(path: &Path) -> Result<Option<Self>, KeyError> {
        let failed = |cause| KeyError::Host {
            step: "read",
            path: path.to_owned(),
            cause,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(failed(cause)),
        };
        let rights = file.metadata().map_err(failed)?.permissions().mode();
        if rights & 0o077 != 0 {
            return Err(KeyError::Open(path.to_owned()));
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let pair = Ed25519KeyPair::from_pkcs8(&bytes);
        pair.map(|pair| Some(Self(pair)))
            .map_err(|_| KeyError::Damaged(path.to_owned()))
    }

    /// The public part.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

impl PublicKey {
    /// Reads the PEM text of a key.
    ///
    /// # Errors
    /// [`KeyError::Public`].
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        let text: String = pem.lines().map(str::trim).collect();
        let inner = text
            .strip_prefix(BEGIN.trim())
            .and_then(|text| text.strip_suffix(END.trim()));
        let bytes = inner.and_then(|text| STANDARD.decode(text).ok());
        let key = bytes.as_deref().and_then(|bytes| bytes.strip_prefix(&SPKI));
        let key = key.and_then(|key| key.try_into().ok());
        key.map(Self).ok_or(KeyError::Public)
    }

    /// The PEM text, which `openssl pkey -pubin` reads, too.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let bytes = [&SPKI[..], &self.0].concat();
        format!("{BEGIN}{}{END}", STANDARD.encode(bytes))
    }

    /// What the key is called: the SHA-256 of its bytes.
    #[must_use]
    pub fn id(&self) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(self.0)))
    }

    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        key.verify(message, signature).is_ok()
    }
}

/// Puts a file in its place whole; `false` if there is one already.
fn put(folder: &Path, name: &str, content: &[u8]) -> io::Result<bool> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(folder.join(name)) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error.error),
    }
    File::open(folder)?.sync_all()?;
    Ok(true)
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKey")
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}
