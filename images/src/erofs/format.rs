//! On-disk structures of EROFS, all little-endian, as in Linux `fs/erofs/erofs_fs.h`.

/// Block size in bytes.
pub(super) const BLOCK: usize = 4096;
/// Where the superblock begins in the image.
pub(super) const SUPERBLOCK_OFFSET: usize = 1024;
/// Inodes begin at multiples of this; an inode's number is its distance from the metadata's
/// first block in these units.
pub(super) const SLOT: usize = 32;
/// Size of one directory entry, without its name.
pub(super) const DIRENT: usize = 12;

const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock's block carries a CRC-32C.
const COMPAT_CHECKSUM: u32 = 1;
/// The time in an inode is the modification time.
const COMPAT_MTIME: u32 = 2;

/// Where an inode's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// In whole blocks of its own.
    Plain = 0,
    /// Right behind the inode and its extended attributes.
    Inline = 2,
}

/// The fields of the superblock that differ between images.
pub(super) struct SuperBlock {
    pub(super) root_nid: u16,
    pub(super) inodes: u64,
    pub(super) build_time: u64,
    pub(super) blocks: u32,
    pub(super) meta_block: u32,
    pub(super) uuid: [u8; 16],
}

impl SuperBlock {
    /// Writes the superblock to the beginning of what is left of the first block, which must be
    /// zero, and puts the checksum over all of it.
    pub(super) fn encode(&self, block: &mut [u8]) {
        let mut fields = Fields::default();
        fields.u32(MAGIC).u32(0).u32(COMPAT_CHECKSUM | COMPAT_MTIME);
        fields.u8(12).u8(0).u16(self.root_nid);
        fields.u64(self.inodes).u64(self.build_time).u32(0);
        fields.u32(self.blocks).u32(self.meta_block).u32(0);
        fields.bytes(&self.uuid).bytes(&[0; 16]);
        // No incompatible feature.
        fields.u32(0);
        let bytes = fields.finish();
        block[..bytes.len()].copy_from_slice(&bytes);
        let checksum = crc32c(block);
        block[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// An inode, compact (32 bytes) where it fits and extended (64 bytes) otherwise.
pub(super) struct Inode {
    pub(super) layout: DataLayout,
    pub(super) xattr_count: u16,
    /// File type and permissions.
    pub(super) mode: u16,
    pub(super) links: u32,
    pub(super) size: u64,
    /// First block of the content, or the device number.
    pub(super) location: u32,
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// `None` if it is the image's own time.
    pub(super) mtime: Option<u64>,
}

impl Inode {
    /// Whether it needs 64 bytes.
    pub(super) fn is_extended(&self) -> bool {
        let wide = |value: u32| value > u32::from(u16::MAX);
        self.mtime.is_some()
            || wide(self.uid)
            || wide(self.gid)
            || wide(self.links)
            || self.size > u64::from(u32::MAX)
    }

    /// Its length in bytes.
    pub(super) fn length(&self) -> usize {
        if self.is_extended() { 64 } else { 32 }
    }

    /// Its bytes; `build_time` is the image's own time.
    pub(super) fn encode(&self, build_time: u64) -> Vec<u8> {
        let extended = self.is_extended();
        let mut fields = Fields::default();
        fields.u16(u16::from(extended) | (self.layout as u16) << 1);
        fields.u16(self.xattr_count).u16(self.mode);
        if extended {
            fields
                .u16(0)
                .u64(self.size)
                .u32(self.location)
                .u32(self.number);
            fields.u32(self.uid).u32(self.gid);
            fields
                .u64(self.mtime.unwrap_or(build_time))
                .u32(0)
                .u32(self.links);
            fields.bytes(&[0; 16]);
        } else {
            // Casts lose nothing: `is_extended` looked at each of these.
            fields.u16(self.links as u16).u32(self.size as u32).u32(0);
            fields.u32(self.location).u32(self.number);
            fields.u16(self.uid as u16).u16(self.gid as u16).u32(0);
        }
        fields.finish()
    }
}

/// The kernel's 32-bit form of a device number.
pub(super) fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Puts little-endian fields one behind the other.
#[derive(Default)]
pub(super) struct Fields(Vec<u8>);

impl Fields {
    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// CRC-32C as the kernel's `crc32c(~0, …)`: begun with ones and not inverted at the end. It covers
/// three kilobytes per image, so no table is kept for it.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_castagnoli_one() {
        // The check value of CRC-32C is inverted at the end; the kernel's is not.
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn device_numbers_are_those_of_the_kernel() {
        assert_eq!(device_number(1, 3), 0x103);
        assert_eq!(device_number(259, 0x12345), 0x1231_0345);
    }
}
