//! What files an archive holds, and where.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Seek as _},
};

use tar::{Archive, EntryType};

use super::{ArchiveError, blob::Blob};

/// Most files that an archive of layers can have: an image has at most a few hundred layers.
const LIMIT: usize = 20_000;

/// Files of an archive by name.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    File {
        offset: u64,
        length: u64,
    },
    /// Old `docker save` stores equal layers once and links to them.
    Link(String),
}

impl Index {
    /// Reads the headers of all entries.
    pub(super) fn read(mut file: &File) -> Result<Self, ArchiveError> {
        file.rewind().map_err(ArchiveError::Read)?;
        let mut archive = Archive::new(BufReader::new(file));
        let mut index = Self::default();
        let mut long_name = None;
        for entry in archive
            .entries_with_seek()
            .map_err(ArchiveError::Read)?
            .raw(true)
        {
            let mut entry = entry.map_err(ArchiveError::Read)?;
            let header = entry.header().clone();
            let name = long_name
                .take()
                .unwrap_or_else(|| header.path_bytes().into_owned());
            let name = clean(&String::from_utf8_lossy(&name), "");
            let found = match header.entry_type() {
                EntryType::Regular | EntryType::Continuous => Entry::File {
                    offset: entry.raw_file_position(),
                    length: header.size().map_err(ArchiveError::Read)?,
                },
                EntryType::Symlink => {
                    let target = header.link_name_bytes().unwrap_or_default().into_owned();
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    Entry::Link(clean(&String::from_utf8_lossy(&target), folder))
                }
                EntryType::Link => {
                    let target = header.link_name_bytes().unwrap_or_default().into_owned();
                    Entry::Link(clean(&String::from_utf8_lossy(&target), ""))
                }
                EntryType::GNULongName => {
                    let mut bytes = Vec::new();
                    io::Read::read_to_end(&mut io::Read::take(&mut entry, 4096), &mut bytes)
                        .map_err(ArchiveError::Read)?;
                    bytes.retain(|byte| *byte != 0);
                    long_name = Some(bytes);
                    continue;
                }
                _ => continue,
            };
            index.entries.insert(name, found);
            if index.entries.len() > LIMIT {
                return Err(ArchiveError::Read(io::Error::other(
                    "it has too many files",
                )));
            }
        }
        Ok(index)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The file with this name; one link is followed.
    pub(super) fn blob(&self, name: &str) -> Result<Blob, ArchiveError> {
        let missing = || ArchiveError::Missing {
            name: name.to_owned(),
        };
        let name = clean(name, "");
        let mut entry = self.entries.get(&name).ok_or_else(missing)?;
        if let Entry::Link(target) = entry {
            entry = self.entries.get(target).ok_or_else(missing)?;
        }
        match entry {
            Entry::File { offset, length } => Ok(Blob::new(name, *offset, *length)),
            Entry::Link(_) => Err(missing()),
        }
    }
}

/// A name without `.`, `..` and empty parts, seen from `folder`. It is only ever looked up.
fn clean(name: &str, folder: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => (),
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
