//! Applies one tar stream to a tree: a whole root, or an OCI layer with whiteouts.
//!
//! The stream is hostile. Its entries are bounded in number, size, path and depth; `..` and
//! absolute paths are refused; symbolic links on the way are followed inside the tree only.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use tar::{Archive, EntryType, Header};

use super::{
    Kind, Meta, NodeId, Spool, Tree, TreeError, components, lossy,
    pax::{Extension, long_name},
};

/// Prefix of names that hide what lower layers hold.
const WHITEOUT: &[u8] = b".wh.";
/// Hides everything that lower layers put into a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of aufs's own files, which mean nothing here.
const AUFS: &[u8] = b".wh..wh.";

/// What archives may ask of us.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Entries of all layers together.
    pub(crate) entries: usize,
    /// Bytes of file content of all layers together.
    pub(crate) bytes: u64,
    /// Bytes of one path or link target.
    pub(crate) path: usize,
    /// Bytes of one name: EROFS, like every Linux file system, takes no more.
    pub(crate) name: usize,
    /// Bytes of one extended header.
    pub(crate) extension: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            bytes: 64 << 30,
            path: 4095,
            name: 255,
            extension: 1 << 20,
        }
    }
}

/// Why a layer cannot be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error("cannot read the archive: {0}")]
    Read(io::Error),
    #[error("cannot keep {path:?}: {error}")]
    Write { path: String, error: io::Error },
    #[error("{path:?}: {error}")]
    Tree { path: String, error: TreeError },
    #[error("{path:?}: {why}")]
    Entry { path: String, why: &'static str },
    #[error("{path:?} is entry number {limit}, which is more than an image may have")]
    TooMany { path: String, limit: usize },
    #[error("{path:?} brings the files to more than {limit} bytes")]
    TooLarge { path: String, limit: u64 },
}

/// One tar stream on its way into a tree.
pub(crate) struct Layer<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) spool: &'a mut Spool,
    pub(crate) limits: &'a Limits,
    /// Number of the layer, lowest first.
    pub(crate) number: u32,
    /// Time of directories that the stream does not mention.
    pub(crate) epoch: u64,
    /// Latest time that a file may carry.
    pub(crate) latest: u64,
    /// Bytes of content and number of entries of all layers so far.
    pub(crate) bytes: &'a mut u64,
    pub(crate) entries: &'a mut usize,
}

impl Layer<'_> {
    /// Applies the whole stream; `progress` hears the bytes of content so far.
    pub(crate) fn apply(
        mut self,
        stream: impl Read,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), LayerError> {
        let mut archive = Archive::new(stream);
        let mut extension = Extension::default();
        // Raw: the library would read extended headers of any length into memory.
        for entry in archive.entries().map_err(LayerError::Read)?.raw(true) {
            let mut entry = entry.map_err(LayerError::Read)?;
            let kind = entry.header().entry_type();
            match kind {
                EntryType::XHeader => {
                    let bytes = self.extension(&mut entry)?;
                    extension.read(&bytes).ok_or(LayerError::Entry {
                        path: "pax header".to_owned(),
                        why: "not a list of records",
                    })?;
                }
                EntryType::GNULongName => {
                    extension.path = Some(long_name(&self.extension(&mut entry)?));
                }
                EntryType::GNULongLink => {
                    extension.link = Some(long_name(&self.extension(&mut entry)?));
                }
                EntryType::XGlobalHeader => (),
                _ => {
                    self.entry(&mut entry, &std::mem::take(&mut extension))?;
                    progress(*self.bytes);
                }
            }
        }
        Ok(())
    }

    /// Reads an extended header, which must be short.
    fn extension<R: Read>(&self, entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, LayerError> {
        let limit = self.limits.extension;
        let mut bytes = Vec::new();
        entry
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(LayerError::Read)?;
        if bytes.len() as u64 > limit {
            let path = "extended header".to_owned();
            return Err(LayerError::Entry {
                path,
                why: "longer than a megabyte",
            });
        }
        Ok(bytes)
    }

    fn entry<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        extension: &Extension,
    ) -> Result<(), LayerError> {
        let header = entry.header().clone();
        let path = extension
            .path
            .clone()
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let refuse = |why| LayerError::Entry {
            path: lossy(&path),
            why,
        };
        *self.entries += 1;
        if *self.entries > self.limits.entries {
            let limit = self.limits.entries;
            return Err(LayerError::TooMany {
                path: lossy(&path),
                limit,
            });
        }
        let parts = self.parts(&path).map_err(refuse)?;
        let meta = self.meta(&header, extension).map_err(refuse)?;
        let tree_error = |error| LayerError::Tree {
            path: lossy(&path),
            error,
        };
        let Some((name, parents)) = parts.split_last() else {
            if header.entry_type() != EntryType::Directory {
                return Err(tree_error(TreeError::Root));
            }
            *self.tree.meta_mut(Tree::ROOT) = meta;
            return Ok(());
        };
        let parent = self
            .tree
            .make_directories(parents, self.epoch, self.number)
            .map_err(tree_error)?;
        if name.starts_with(WHITEOUT) && self.number > 0 {
            return self.hide(parent, name).map_err(refuse);
        }
        if header.entry_type() == EntryType::Link {
            let target = target(&header, extension);
            let target = self.parts(&target).map_err(refuse)?;
            return self
                .tree
                .link(parent, name, &target, self.number)
                .map_err(tree_error);
        }
        let kind = self.kind(entry, &header, extension, &path)?;
        self.tree.insert(parent, name, kind, meta, self.number);
        Ok(())
    }

    /// Checks a path of the archive and takes it apart.
    fn parts<'p>(&self, path: &'p [u8]) -> Result<Vec<&'p [u8]>, &'static str> {
        if path.len() > self.limits.path {
            return Err("the path is too long");
        }
        if path.starts_with(b"/") {
            return Err("an absolute path");
        }
        if path.contains(&0) {
            return Err("a path with a zero byte");
        }
        let parts: Vec<_> = components(path).collect();
        for part in &parts {
            if *part == b".." {
                return Err("a path with '..'");
            }
            if part.len() > self.limits.name {
                return Err("a name longer than 255 bytes");
            }
        }
        Ok(parts)
    }

    fn meta(&self, header: &Header, extension: &Extension) -> Result<Meta, &'static str> {
        let number = |field: [u8; 8], value: io::Result<u64>| {
            // Some tools leave the field of a zero empty.
            let empty = field.iter().all(|byte| matches!(byte, 0 | b' '));
            if empty { Ok(0) } else { value }
                .ok()
                .and_then(|value| u32::try_from(value).ok())
                .ok_or("an owner out of range")
        };
        Ok(Meta {
            mode: header.mode().map_err(|_| "broken permissions")? & 0o7777,
            uid: extension
                .uid
                .map_or_else(|| number(header.as_old().uid, header.uid()), Ok)?,
            gid: extension
                .gid
                .map_or_else(|| number(header.as_old().gid, header.gid()), Ok)?,
            mtime: extension
                .mtime
                .unwrap_or_else(|| header.mtime().unwrap_or(0))
                .min(self.latest),
            xattrs: extension.xattrs.clone(),
        })
    }

    /// What the entry becomes; a file's content is kept on the way.
    fn kind<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        header: &Header,
        extension: &Extension,
        path: &[u8],
    ) -> Result<Kind, LayerError> {
        let refuse = |why| LayerError::Entry {
            path: lossy(path),
            why,
        };
        match header.entry_type() {
            EntryType::Directory => Ok(Kind::Directory(BTreeMap::new())),
            EntryType::Regular | EntryType::Continuous => {
                let size = header.size().map_err(LayerError::Read)?;
                if extension.sparse {
                    return Err(refuse("a sparse file: pack the archive without --sparse"));
                }
                if extension.size.is_some_and(|larger| larger != size) {
                    return Err(refuse("a file of more than 8 GiB"));
                }
                self.content(entry, size, path)
            }
            EntryType::Symlink => {
                let target = target(header, extension);
                let fits = !target.is_empty() && target.len() <= self.limits.path;
                if fits && !target.contains(&0) {
                    Ok(Kind::Symlink(target))
                } else {
                    Err(refuse("a broken symbolic link"))
                }
            }
            kind @ (EntryType::Char | EntryType::Block) => device(header, kind)
                .ok_or_else(|| refuse("a device without numbers that Linux could have")),
            EntryType::Fifo => Ok(Kind::Fifo),
            EntryType::GNUSparse => Err(refuse("a sparse file: pack the archive without --sparse")),
            _ => Err(refuse("an entry of a kind that no root file system has")),
        }
    }

    fn content<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        size: u64,
        path: &[u8],
    ) -> Result<Kind, LayerError> {
        let total = self.bytes.saturating_add(size);
        if total > self.limits.bytes {
            let limit = self.limits.bytes;
            return Err(LayerError::TooLarge {
                path: lossy(path),
                limit,
            });
        }
        *self.bytes = total;
        self.spool
            .append(entry, size)
            .map(Kind::File)
            .map_err(|error| LayerError::Write {
                path: lossy(path),
                error,
            })
    }

    /// Obeys a whiteout.
    fn hide(&mut self, parent: NodeId, name: &[u8]) -> Result<(), &'static str> {
        if name == OPAQUE {
            self.tree.opaque(parent, self.number);
            return Ok(());
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err("a whiteout of nothing");
        }
        self.tree.whiteout(parent, hidden, self.number);
        Ok(())
    }
}

fn target(header: &Header, extension: &Extension) -> Vec<u8> {
    let link = || header.link_name_bytes().map(std::borrow::Cow::into_owned);
    extension.link.clone().or_else(link).unwrap_or_default()
}

fn device(header: &Header, kind: EntryType) -> Option<Kind> {
    let major = header.device_major().ok()??;
    let minor = header.device_minor().ok()??;
    // 12 and 20 bits, as in the kernel.
    (major < 1 << 12 && minor < 1 << 20).then_some(Kind::Device {
        block: kind == EntryType::Block,
        major,
        minor,
    })
}
