//! Extended headers of POSIX tar archives, and GNU's long names. Both are input from outside.

use std::collections::BTreeMap;

/// What extended headers say about the entry that follows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<u64>,
    pub(super) size: Option<u64>,
    pub(super) sparse: bool,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Prefix under which GNU tar, Go and libarchive keep extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Extended attributes that mean something inside a guest. Others belong to the machine that
/// packed the archive: SELinux labels, overlay's own bookkeeping.
fn is_kept(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && name.len() > 5)
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

impl Extension {
    /// Adds the records of a pax header: `<length> <key>=<value>\n`, repeated. Values may hold
    /// any byte. `None` if that is not what stands there.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
            let length: usize = parse(&bytes[..space])?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            self.record(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Some(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"uid" => self.uid = Some(parse(value)?),
            b"gid" => self.gid = Some(parse(value)?),
            b"size" => self.size = Some(parse(value)?),
            // Fractions of a second are dropped; times before 1970 become 1970.
            b"mtime" if value.starts_with(b"-") => self.mtime = Some(0),
            b"mtime" => self.mtime = Some(parse(value.split(|byte| *byte == b'.').next()?)?),
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR)
                    && is_kept(name)
                {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        Some(())
    }
}

/// GNU's long names end with a zero byte that is no part of them.
pub(super) fn long_name(bytes: &[u8]) -> Vec<u8> {
    bytes
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .to_vec()
}

fn parse<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len() + 1;
        while length.to_string().len() + body.len() != length {
            length += 1;
        }
        [length.to_string().as_bytes(), &body].concat()
    }

    #[test]
    fn values_may_hold_newlines_and_unknown_keys_are_skipped() {
        let value = b"\x01\x00\x00\x02\x0a=\x0a";
        let bytes = [
            record("comment", b"x"),
            record("SCHILY.xattr.security.capability", value),
            record("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            record("mtime", b"1700000000.25"),
            record("path", b"a/b"),
        ]
        .concat();
        let mut extension = Extension::default();
        extension.read(&bytes).unwrap();
        assert_eq!(extension.xattrs.len(), 1);
        assert_eq!(extension.xattrs[&b"security.capability"[..]], value);
        assert_eq!(extension.mtime, Some(1_700_000_000));
        assert_eq!(extension.path.as_deref(), Some(&b"a/b"[..]));
    }

    #[test]
    fn broken_records_are_refused() {
        for bytes in [
            &b"5"[..],
            b"x path=a\n",
            b"0 path=a\n",
            b"3 path=a\n",
            b"99 path=a\n",
            b"9 path=ab",
            b"8 patha\n",
            b"99999999999999999999999 a=b\n",
            b"11 size=-5\n",
        ] {
            assert_eq!(Extension::default().read(bytes), None, "{:?}", lossy(bytes));
        }
    }

    fn lossy(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }
}
