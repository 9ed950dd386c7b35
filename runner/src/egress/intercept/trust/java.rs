//! Java's file of trusted certificates (JKS): a head, entries, and a digest over all with a password that
//! everybody knows.

use std::time::{SystemTime, UNIX_EPOCH};

use sha1::{Digest, Sha1};

/// What such a file begins with, and its version.
const MAGIC: [u8; 8] = [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2];
/// The kind of an entry that is a trusted certificate.
const TRUSTED: u32 = 2;
/// Length of the digest at its end.
const DIGEST: usize = 20;
/// What the entry is called.
const ALIAS: &str = "mayfly-sandbox";

/// `store` with one more certificate; `None` if it is no such file or has another password.
pub(super) fn with(store: &[u8], certificate: &[u8], at: SystemTime) -> Option<Vec<u8>> {
    let (data, digest) = store.split_at_checked(store.len().checked_sub(DIGEST)?)?;
    if !data.starts_with(&MAGIC) || signature(data) != digest {
        return None;
    }
    let (count, entries) = data.get(MAGIC.len()..)?.split_first_chunk()?;
    let count = u32::from_be_bytes(*count).checked_add(1)?;
    let mut new = MAGIC.to_vec();
    new.extend(count.to_be_bytes());
    new.extend_from_slice(entries);
    new.extend(TRUSTED.to_be_bytes());
    text(&mut new, ALIAS);
    let since = at
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    new.extend(u64::try_from(since).ok()?.to_be_bytes());
    text(&mut new, "X.509");
    new.extend(u32::try_from(certificate.len()).ok()?.to_be_bytes());
    new.extend_from_slice(certificate);
    let digest = signature(&new);
    new.extend(digest);
    Some(new)
}

fn text(into: &mut Vec<u8>, text: &str) {
    // Both texts are short.
    into.extend((text.len() as u16).to_be_bytes());
    into.extend_from_slice(text.as_bytes());
}

fn signature(data: &[u8]) -> [u8; DIGEST] {
    let mut digest = Sha1::new();
    for unit in "changeit".encode_utf16() {
        digest.update(unit.to_be_bytes());
    }
    digest.update(b"Mighty Aphrodite");
    digest.update(data);
    digest.finalize().into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A file without entries.
    pub fn empty() -> Vec<u8> {
        let mut store = MAGIC.to_vec();
        store.extend([0; 4]);
        let digest = signature(&store);
        store.extend(digest);
        store
    }

    #[test]
    fn a_certificate_is_added_and_the_digest_is_right() {
        let one = with(&empty(), b"first", SystemTime::now()).unwrap();
        let two = with(&one, b"second", SystemTime::now()).unwrap();
        assert_eq!(two[8..12], [0, 0, 0, 2]);
        assert!(two.windows(5).any(|part| part == b"first"));
        assert_eq!(
            signature(&two[..two.len() - DIGEST]),
            two[two.len() - DIGEST..]
        );
    }

    #[test]
    fn other_files_are_left_alone() {
        let mut broken = empty();
        broken[10] ^= 1;
        for store in [&b""[..], b"short", &broken, &[0x30; 64]] {
            assert!(with(store, b"x", SystemTime::now()).is_none());
        }
    }

    /// Java's own tool reads it, where there is one.
    #[test]
    fn keytool_reads_what_is_written() {
        let authority = crate::egress::intercept::Authority::draw(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cacerts");
        std::fs::write(
            &path,
            with(&empty(), authority.der(), SystemTime::now()).unwrap(),
        )
        .unwrap();
        let mut keytool = std::process::Command::new("keytool");
        keytool
            .args(["-list", "-storepass", "changeit", "-keystore"])
            .arg(&path);
        let Ok(output) = keytool.output() else {
            eprintln!("not checked: there is no keytool");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.contains("mayfly-sandbox") && said.contains("trustedCertEntry"),
            "{said}"
        );
    }
}
