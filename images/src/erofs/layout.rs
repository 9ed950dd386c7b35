//! Decides where everything in an image goes, and makes its metadata.

use std::collections::BTreeMap;

use super::{
    ErofsError,
    format::{BLOCK, DIRENT, DataLayout, Fields, Inode, SLOT, device_number},
    xattr,
};
use crate::tree::{Content, Kind, NodeId, Spool, Tree};

/// One node of the tree with its place in the image.
struct Planned {
    id: NodeId,
    parent: NodeId,
    inode: Inode,
    xattrs: Vec<u8>,
    /// Bytes from the start of the metadata.
    offset: usize,
}

/// The plan of an image.
pub(super) struct Layout {
    epoch: u64,
    /// In the order of their paths; the root is first.
    planned: Vec<Planned>,
    /// Where a node is in `planned`.
    index: BTreeMap<NodeId, usize>,
    metadata_blocks: u32,
    blocks: u32,
}

impl Layout {
    /// Gives every reachable node an inode and its content a place.
    pub(super) fn plan(tree: &Tree, epoch: u64) -> Result<Self, ErofsError> {
        let mut layout = Self {
            epoch,
            planned: Vec::new(),
            index: BTreeMap::new(),
            metadata_blocks: 0,
            blocks: 0,
        };
        layout.collect(tree)?;
        layout.place_metadata();
        layout.place_contents()?;
        Ok(layout)
    }

    pub(super) fn inodes(&self) -> u64 {
        self.planned.len() as u64
    }

    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The root is placed first, so its number is small.
    pub(super) fn root_nid(&self) -> u16 {
        u16::try_from(self.nid(Tree::ROOT)).expect("the root is the first inode")
    }

    fn nid(&self, id: NodeId) -> u64 {
        (self.planned[self.index[&id]].offset / SLOT) as u64
    }

    /// Finds all nodes in the order of their paths and counts their names.
    fn collect(&mut self, tree: &Tree) -> Result<(), ErofsError> {
        let mut stack = vec![(Tree::ROOT, Tree::ROOT, Vec::new())];
        while let Some((id, parent, path)) = stack.pop() {
            if let Some(known) = self.index.get(&id) {
                // A further name of a file that is planned already.
                self.planned[*known].inode.links += 1;
                continue;
            }
            let planned = self
                .inode(tree, id, parent)
                .map_err(|why| ErofsError::Unsupported {
                    path: String::from_utf8_lossy(&path).into_owned(),
                    why,
                })?;
            self.index.insert(id, self.planned.len());
            self.planned.push(planned);
            for (name, child) in tree.children(id).into_iter().flatten().rev() {
                stack.push((*child, id, [&path[..], b"/", name].concat()));
            }
        }
        Ok(())
    }

    fn inode(&self, tree: &Tree, id: NodeId, parent: NodeId) -> Result<Planned, &'static str> {
        let node = tree.node(id);
        let xattrs = xattr::encode(&node.meta.xattrs)?;
        let (kind, size, location) = match &node.kind {
            Kind::Directory(children) => (0o040_000, directory_size(children), 0),
            Kind::File(content) => (0o100_000, content.length(), 0),
            Kind::Symlink(target) => (0o120_000, target.len() as u64, 0),
            Kind::Device {
                block,
                major,
                minor,
            } => (
                if *block { 0o060_000 } else { 0o020_000 },
                0,
                device_number(*major, *minor),
            ),
            Kind::Fifo => (0o010_000, 0, 0),
        };
        let mut inode = Inode {
            layout: DataLayout::Plain,
            xattr_count: xattr::count(&xattrs).ok_or("too many extended attributes")?,
            mode: kind | (node.meta.mode & 0o7777) as u16,
            links: 1,
            size,
            location,
            number: u32::try_from(self.planned.len() + 1).map_err(|_| "too many files")?,
            uid: node.meta.uid,
            gid: node.meta.gid,
            mtime: (node.meta.mtime != self.epoch).then_some(node.meta.mtime),
        };
        if let Kind::Directory(children) = &node.kind {
            let below = children
                .values()
                .filter(|id| tree.children(**id).is_some())
                .count();
            inode.links = u32::try_from(below + 2).map_err(|_| "too many directories")?;
        }
        Ok(Planned {
            id,
            parent,
            inode,
            xattrs,
            offset: 0,
        })
    }

    /// Puts each inode with its attributes and inline content into the fullest block that has
    /// room: inline content must not cross a block's end.
    fn place_metadata(&mut self) {
        // Beginnings of what is free at the ends of blocks, by free bytes.
        let mut free: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut end = 0;
        for planned in &mut self.planned {
            planned.choose_layout();
            let length = planned.length().next_multiple_of(SLOT);
            let fitting = free.range(length..).next().map(|(room, _)| *room);
            let (offset, room) = match fitting {
                Some(room) => {
                    let blocks = free.get_mut(&room).expect("the range found it");
                    let offset = blocks.pop().expect("no empty list is kept");
                    if blocks.is_empty() {
                        free.remove(&room);
                    }
                    (offset, room)
                }
                None => {
                    let offset = end;
                    end += length.next_multiple_of(BLOCK);
                    (offset, end - offset)
                }
            };
            planned.offset = offset;
            if room > length {
                free.entry(room - length).or_default().push(offset + length);
            }
        }
        self.metadata_blocks = (end / BLOCK) as u32;
    }

    /// Gives blocks to what is not inline: directories first, then files.
    fn place_contents(&mut self) -> Result<(), ErofsError> {
        let mut next = u64::from(1 + self.metadata_blocks);
        for directories in [true, false] {
            for planned in &mut self.planned {
                if planned.has_blocks() && planned.is_directory() == directories {
                    planned.inode.location = u32::try_from(next).unwrap_or(u32::MAX);
                    next += planned.inode.size.div_ceil(BLOCK as u64);
                }
            }
        }
        self.blocks = u32::try_from(next).map_err(|_| ErofsError::Unsupported {
            path: "/".to_owned(),
            why: "all files together are larger than 16 TiB",
        })?;
        Ok(())
    }

    /// The metadata area.
    pub(super) fn metadata(&self, tree: &Tree, spool: &Spool) -> Result<Vec<u8>, ErofsError> {
        let mut area = vec![0; self.metadata_blocks as usize * BLOCK];
        for planned in &self.planned {
            let mut bytes = planned.inode.encode(self.epoch);
            bytes.extend_from_slice(&planned.xattrs);
            if planned.inode.layout == DataLayout::Inline {
                match &tree.node(planned.id).kind {
                    Kind::File(content) => bytes.extend(
                        spool
                            .read(*content, BLOCK as u64)
                            .map_err(ErofsError::Read)?,
                    ),
                    Kind::Symlink(target) => bytes.extend_from_slice(target),
                    Kind::Directory(_) => bytes.extend(self.directory(tree, planned)),
                    Kind::Device { .. } | Kind::Fifo => (),
                }
            }
            area[planned.offset..planned.offset + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(area)
    }

    /// What has blocks of its own, in the order of those blocks.
    pub(super) fn contents<'t>(&self, tree: &'t Tree) -> impl Iterator<Item = Stored<'t>> {
        let with_blocks = || self.planned.iter().filter(|planned| planned.has_blocks());
        let directories = with_blocks().filter(|planned| planned.is_directory());
        let others = with_blocks().filter(|planned| !planned.is_directory());
        directories
            .chain(others)
            .map(|planned| match &tree.node(planned.id).kind {
                Kind::File(content) => Stored::File(*content),
                Kind::Symlink(target) => Stored::Link(target),
                _ => Stored::Directory(self.directory(tree, planned)),
            })
    }

    /// The entries of a directory.
    fn directory(&self, tree: &Tree, planned: &Planned) -> Vec<u8> {
        let children = tree
            .children(planned.id)
            .expect("only called for directories");
        let mut bytes = Vec::new();
        for block in split(children) {
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            let mut offset = block.len() * DIRENT;
            let mut fields = Fields::default();
            for name in &block {
                let id = match *name {
                    b"." => planned.id,
                    b".." => planned.parent,
                    name => children[name],
                };
                fields
                    .u64(self.nid(id))
                    .u16(offset as u16)
                    .u8(file_type(tree, id))
                    .u8(0);
                offset += name.len();
            }
            for name in &block {
                fields.bytes(name);
            }
            bytes.extend(fields.finish());
        }
        bytes
    }
}

/// Content in blocks of its own.
pub(super) enum Stored<'t> {
    Directory(Vec<u8>),
    Link(&'t [u8]),
    File(Content),
}

impl Planned {
    /// What fits into one block together with its inode is inline. Larger files are not, not even
    /// their last bytes: they are read ahead in one go.
    fn choose_layout(&mut self) {
        let fixed = (self.inode.length() + self.xattrs.len()) as u64;
        if self.inode.size > 0 && fixed + self.inode.size <= BLOCK as u64 {
            self.inode.layout = DataLayout::Inline;
        }
    }

    /// Length of what stands in the metadata, in bytes.
    fn length(&self) -> usize {
        let fixed = self.inode.length() + self.xattrs.len();
        match self.inode.layout {
            DataLayout::Inline => fixed + self.inode.size as usize,
            DataLayout::Plain => fixed,
        }
    }

    fn has_blocks(&self) -> bool {
        self.inode.size > 0 && self.inode.layout == DataLayout::Plain
    }

    fn is_directory(&self) -> bool {
        self.inode.mode & 0o170_000 == 0o040_000
    }
}

/// The names of a directory, `.` and `..` among them, sorted and split into its blocks.
fn split(children: &BTreeMap<Vec<u8>, NodeId>) -> Vec<Vec<&[u8]>> {
    let mut names: Vec<&[u8]> = children.keys().map(Vec::as_slice).collect();
    names.extend([&b"."[..], b".."]);
    names.sort_unstable();
    let mut blocks = vec![Vec::new()];
    let mut used = 0;
    for name in names {
        let length = DIRENT + name.len();
        if used + length > BLOCK {
            blocks.push(Vec::new());
            used = 0;
        }
        used += length;
        blocks.last_mut().expect("it begins with one").push(name);
    }
    blocks
}

fn directory_size(children: &BTreeMap<Vec<u8>, NodeId>) -> u64 {
    let blocks = split(children);
    let last: usize = blocks
        .last()
        .into_iter()
        .flatten()
        .map(|name| DIRENT + name.len())
        .sum();
    ((blocks.len() - 1) * BLOCK + last) as u64
}

fn file_type(tree: &Tree, id: NodeId) -> u8 {
    match &tree.node(id).kind {
        Kind::File(_) => 1,
        Kind::Directory(_) => 2,
        Kind::Device { block: false, .. } => 3,
        Kind::Device { block: true, .. } => 4,
        Kind::Fifo => 5,
        Kind::Symlink(_) => 7,
    }
}
