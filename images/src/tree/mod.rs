//! A root file system in memory: names and metadata here, file contents in a [`Spool`].
//!
//! Archives are applied to this tree and never to the host's file system, so no entry of one can
//! reach anything but the tree itself, and owners and devices need no privilege.

mod layer;
mod pax;
mod spool;

use std::collections::BTreeMap;

pub(crate) use layer::{Layer, LayerError, Limits};
pub(crate) use spool::{Content, Spool};

/// How many symbolic links one path may go through, as in Linux.
const LINK_LIMIT: usize = 40;

/// How deep a tree may be: what walks it may then use the stack.
const DEPTH_LIMIT: usize = 256;

/// Number of a node in its [`Tree`].
pub(crate) type NodeId = usize;

/// A root file system. Node 0 is the root directory.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

/// A file of any kind. Several names may lead to one that is no directory.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) meta: Meta,
    /// Which layer wrote it last.
    layer: u32,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory(BTreeMap<Vec<u8>, NodeId>),
    File(Content),
    Symlink(Vec<u8>),
    Device { block: bool, major: u32, minor: u32 },
    Fifo,
}

/// Metadata of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permission bits, `07777`.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) mtime: u64,
    /// Full names and values.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Meta {
    /// Root's, with these permissions and this time.
    pub(crate) fn root(mode: u32, mtime: u64) -> Self {
        Self {
            mode,
            mtime,
            ..Self::default()
        }
    }
}

/// Why a change to a tree is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TreeError {
    #[error("{0:?} is on the way and is no directory")]
    NotADirectory(String),
    #[error("{0:?} leads through too many symbolic links")]
    LinkLoop(String),
    #[error("{0:?} is more than {DEPTH_LIMIT} directories deep")]
    TooDeep(String),
    #[error("{0:?} is not there to be linked to")]
    NoTarget(String),
    #[error("{0:?} is a directory, which cannot have a second name")]
    LinkToDirectory(String),
    #[error("the root directory cannot become anything else")]
    Root,
}

impl Tree {
    /// An empty root directory.
    pub(crate) fn new(mtime: u64) -> Self {
        let root = Node {
            kind: Kind::Directory(BTreeMap::new()),
            meta: Meta::root(0o755, mtime),
            layer: 0,
        };
        Self { nodes: vec![root] }
    }

    pub(crate) const ROOT: NodeId = 0;

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub(crate) fn meta_mut(&mut self, id: NodeId) -> &mut Meta {
        &mut self.nodes[id].meta
    }

    /// The names in a directory; nothing for any other node.
    pub(crate) fn children(&self, id: NodeId) -> Option<&BTreeMap<Vec<u8>, NodeId>> {
        match &self.nodes[id].kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        }
    }

    fn children_mut(&mut self, id: NodeId) -> Option<&mut BTreeMap<Vec<u8>, NodeId>> {
        match &mut self.nodes[id].kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// The node at a path, symbolic links in it followed inside the tree, also the last one.
    pub(crate) fn find(&self, path: &str) -> Option<NodeId> {
        self.walk(components(path.as_bytes()))
            .ok()
            .and_then(Result::ok)
    }

    /// Writes a node at a path, making directories (root's, mode 0755) on the way.
    pub(crate) fn put(&mut self, path: &str, kind: Kind, meta: Meta) -> Result<NodeId, TreeError> {
        let parts: Vec<_> = components(path.as_bytes()).collect();
        let Some((name, parents)) = parts.split_last() else {
            return Err(TreeError::Root);
        };
        let mtime = meta.mtime;
        let parent = self.make_directories(parents, mtime, 0)?;
        Ok(self.insert(parent, name, kind, meta, 0))
    }

    /// Removes whatever is at a path; nothing there is no error.
    pub(crate) fn remove(&mut self, path: &str) {
        let parts: Vec<_> = components(path.as_bytes()).collect();
        let Some((name, parents)) = parts.split_last() else {
            return;
        };
        if let Ok(Ok(parent)) = self.walk(parents.iter().copied())
            && let Some(children) = self.children_mut(parent)
        {
            children.remove(*name);
        }
    }

    /// Copies `id` of another tree (which shares the spool) to a path here; all of it is root's
    /// and from `mtime`.
    pub(crate) fn graft(
        &mut self,
        path: &str,
        other: &Self,
        id: NodeId,
        mtime: u64,
    ) -> Result<(), TreeError> {
        let node = other.node(id);
        let meta = Meta::root(node.meta.mode, mtime);
        let Kind::Directory(children) = &node.kind else {
            return self.put(path, node.kind.clone(), meta).map(|_| ());
        };
        self.put(path, Kind::Directory(BTreeMap::new()), meta)?;
        for (name, child) in children {
            let path = format!("{path}/{}", String::from_utf8_lossy(name));
            self.graft(&path, other, *child, mtime)?;
        }
        Ok(())
    }

    /// The directory at the end of `parts`, made where it is missing.
    fn make_directories(
        &mut self,
        parts: &[&[u8]],
        mtime: u64,
        layer: u32,
    ) -> Result<NodeId, TreeError> {
        for end in 1..=parts.len() {
            if self.walk(parts[..end].iter().copied())?.is_err() {
                let parent = self.walk(parts[..end - 1].iter().copied())?;
                let parent = parent.map_err(|()| not_a_directory(&parts[..end]))?;
                // A symbolic link that leads nowhere stays what it is.
                if self
                    .children(parent)
                    .is_none_or(|names| names.contains_key(parts[end - 1]))
                {
                    return Err(not_a_directory(&parts[..end]));
                }
                let kind = Kind::Directory(BTreeMap::new());
                self.insert(
                    parent,
                    parts[end - 1],
                    kind,
                    Meta::root(0o755, mtime),
                    layer,
                );
            }
        }
        match self.walk(parts.iter().copied())? {
            Ok(id) if self.children(id).is_some() => Ok(id),
            _ => Err(not_a_directory(parts)),
        }
    }

    /// Follows `parts` from the root. The inner error says that something is not there.
    fn walk<'p>(
        &self,
        parts: impl IntoIterator<Item = &'p [u8]>,
    ) -> Result<Result<NodeId, ()>, TreeError> {
        // What is still to be walked, last first.
        let mut rest: Vec<Vec<u8>> = parts.into_iter().map(<[u8]>::to_vec).collect();
        rest.reverse();
        let mut trail = vec![Self::ROOT];
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == b".." {
                // As in Linux, the root's parent is the root.
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let here = trail[trail.len() - 1];
            let Some(next) = self.children(here).and_then(|names| names.get(&part)) else {
                return Ok(Err(()));
            };
            if let Kind::Symlink(target) = &self.nodes[*next].kind {
                links += 1;
                if links > LINK_LIMIT {
                    return Err(TreeError::LinkLoop(lossy(&part)));
                }
                if target.first() == Some(&b'/') {
                    trail.truncate(1);
                }
                rest.extend(components(target).rev().map(<[u8]>::to_vec));
            } else {
                trail.push(*next);
                if trail.len() > DEPTH_LIMIT {
                    return Err(TreeError::TooDeep(lossy(&part)));
                }
            }
        }
        Ok(Ok(trail[trail.len() - 1]))
    }

    /// Gives `parent` a child. A directory that meets a directory keeps its content; anything
    /// else takes the place of what was there.
    fn insert(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: Kind,
        meta: Meta,
        layer: u32,
    ) -> NodeId {
        let old = self
            .children(parent)
            .and_then(|names| names.get(name))
            .copied();
        if let Some(old) = old
            && matches!(kind, Kind::Directory(_))
            && self.children(old).is_some()
        {
            self.nodes[old].meta = meta;
            self.nodes[old].layer = layer;
            return old;
        }
        let id = self.nodes.len();
        self.nodes.push(Node { kind, meta, layer });
        if let Some(children) = self.children_mut(parent) {
            children.insert(name.to_vec(), id);
        }
        id
    }

    /// Gives the file at `target` (its last part not followed) a second name in `parent`.
    fn link(
        &mut self,
        parent: NodeId,
        name: &[u8],
        target: &[&[u8]],
        layer: u32,
    ) -> Result<(), TreeError> {
        let missing = || TreeError::NoTarget(join(target));
        let (last, parents) = target.split_last().ok_or_else(missing)?;
        let directory = self
            .walk(parents.iter().copied())?
            .map_err(|()| missing())?;
        let id = self
            .children(directory)
            .and_then(|names| names.get(*last))
            .copied();
        let id = id.ok_or_else(missing)?;
        if self.children(id).is_some() {
            return Err(TreeError::LinkToDirectory(join(target)));
        }
        self.nodes[id].layer = layer;
        if let Some(children) = self.children_mut(parent) {
            children.insert(name.to_vec(), id);
        }
        Ok(())
    }

    /// Removes what layers below `layer` put at `name` in `parent`.
    fn whiteout(&mut self, parent: NodeId, name: &[u8], layer: u32) {
        let child = self
            .children(parent)
            .and_then(|names| names.get(name))
            .copied();
        if let Some(child) = child
            && !self.prune(child, layer)
            && let Some(children) = self.children_mut(parent)
        {
            children.remove(name);
        }
    }

    /// Removes what layers below `layer` put into the directory `id`.
    fn opaque(&mut self, id: NodeId, layer: u32) {
        let names: Vec<Vec<u8>> = self
            .children(id)
            .map(|names| names.keys().cloned().collect())
            .unwrap_or_default();
        for name in names {
            self.whiteout(id, &name, layer);
        }
    }

    /// Removes older layers' content below `id`; false if nothing of `layer` is there at all.
    /// Goes no deeper than the tree, whose depth the reader of archives bounds.
    fn prune(&mut self, id: NodeId, layer: u32) -> bool {
        self.opaque(id, layer);
        self.nodes[id].layer == layer
            || self
                .children(id)
                .is_some_and(|children| !children.is_empty())
    }
}

/// The parts of a path that mean something; `..` is one.
pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
}

fn join(parts: &[&[u8]]) -> String {
    lossy(&parts.join(&b'/'))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(200).collect()
}

fn not_a_directory(parts: &[&[u8]]) -> TreeError {
    TreeError::NotADirectory(join(parts))
}
