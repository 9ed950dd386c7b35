//! Extended attributes behind an inode.

use std::collections::BTreeMap;

use super::format::Fields;

/// Prefixes that EROFS stores as a number.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
];

/// Header in front of the entries.
const HEADER: usize = 12;

/// The attributes' bytes as they stand behind the inode; empty if there are none.
///
/// # Errors
/// Why EROFS cannot hold them.
pub(super) fn encode(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<u8>, &'static str> {
    if xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut fields = Fields::default();
    // No shared attributes.
    fields.bytes(&[0; HEADER]);
    for (name, value) in xattrs {
        let (prefix, index) = PREFIXES
            .iter()
            .find(|(prefix, _)| name.starts_with(prefix))
            .ok_or("an extended attribute of an unknown kind")?;
        let rest = &name[prefix.len()..];
        let length =
            u8::try_from(rest.len()).map_err(|_| "the name of an attribute is too long")?;
        let size = u16::try_from(value.len()).map_err(|_| "an attribute is too large")?;
        fields
            .u8(length)
            .u8(*index)
            .u16(size)
            .bytes(rest)
            .bytes(value);
        let entry = 4 + rest.len() + value.len();
        fields.bytes(&[0; 3][..entry.next_multiple_of(4) - entry]);
    }
    let bytes = fields.finish();
    if count(&bytes).is_none() {
        return Err("too many extended attributes");
    }
    Ok(bytes)
}

/// What the inode says about the length of its attributes.
pub(super) fn count(encoded: &[u8]) -> Option<u16> {
    if encoded.is_empty() {
        return Some(0);
    }
    u16::try_from((encoded.len() - HEADER) / 4 + 1).ok()
}
