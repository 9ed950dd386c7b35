//! Folders of this machine that stand for actions (`--action owner/repo@ref=FOLDER`).

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use rustix::fs::{Mode, OFlags};

use crate::checkout::PaddedFile;

use super::{
    bytes::{ActionBytes, ActionSource, SourceError, bundle},
    reference::{Reference, RepositoryReference},
};

/// Most files and folders of one action.
const MAX_ENTRIES: usize = 200_000;

/// `REFERENCE=FOLDER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderArgument {
    reference: RepositoryReference,
    folder: PathBuf,
}

impl FromStr for FolderArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((reference, folder)) if !folder.is_empty() => {
                let folder = folder.into();
                match Reference::parse(reference) {
                    Ok(Reference::Repository(reference)) => Ok(Self { reference, folder }),
                    Ok(_) => Err(format!("`{reference}` is not OWNER/REPO@REF")),
                    Err(error) => Err(error.to_string()),
                }
            }
            _ => Err(format!("`{text}` is not OWNER/REPO@REF=FOLDER")),
        }
    }
}

/// Folders by reference.
#[derive(Debug, Default)]
pub struct Folders {
    entries: Vec<Folder>,
}

/// A folder, and the folder of the repository that it stands for.
#[derive(Debug, Clone)]
struct Folder {
    reference: RepositoryReference,
    folder: PathBuf,
}

impl Folders {
    /// Takes the arguments; the later of two for the same reference wins.
    ///
    /// # Errors
    /// What is wrong with a folder.
    pub fn new(arguments: &[FolderArgument]) -> Result<Self, String> {
        let mut folders = Self::default();
        for FolderArgument { reference, folder } in arguments {
            let found =
                fs::canonicalize(folder).and_then(|path| match fs::metadata(&path)?.is_dir() {
                    true => Ok(path),
                    false => Err(io::ErrorKind::NotADirectory.into()),
                });
            let path = found.map_err(|error| {
                let folder = folder.display();
                let reference = bundle(reference);
                format!(
                    "--action {reference}={folder}: {error}; name the folder that holds the action"
                )
            })?;
            folders
                .entries
                .retain(|known| known.reference != *reference);
            folders.entries.push(Folder {
                reference: reference.clone(),
                folder: path,
            });
        }
        Ok(folders)
    }
}

impl ActionSource for Folders {
    fn find(&self, reference: &RepositoryReference) -> Result<Arc<dyn ActionBytes>, SourceError> {
        let same = |entry: &&Folder| entry.reference.key() == reference.key();
        let parts: Vec<_> = self.entries.iter().filter(same).cloned().collect();
        if parts.is_empty() {
            return Err(SourceError::Unknown(bundle(reference)));
        }
        Ok(Arc::new(FolderBytes { parts }))
    }
}

/// What the folders of one repository hold.
#[derive(Debug)]
struct FolderBytes {
    parts: Vec<Folder>,
}

impl ActionBytes for FolderBytes {
    fn origin(&self) -> String {
        let folders = self
            .parts
            .iter()
            .map(|part| part.folder.display().to_string());
        format!("folder {}", folders.collect::<Vec<_>>().join(", "))
    }

    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        for part in &self.parts {
            let Ok(inside) = Path::new(path).strip_prefix(&part.reference.path) else {
                continue;
            };
            match open(&part.folder.join(inside)) {
                Ok(file) if file.metadata()?.is_file() => {
                    let mut content = Vec::new();
                    file.take(limit.saturating_add(1))
                        .read_to_end(&mut content)?;
                    if content.len() as u64 > limit {
                        return Err(io::Error::other(format!(
                            "{path} is larger than {limit} bytes"
                        )));
                    }
                    return Ok(Some(content));
                }
                Ok(_) => {}
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn write_tar(&self, sink: &mut dyn Write) -> io::Result<()> {
        let mut packer = Packer {
            tar: tar::Builder::new(sink),
            entries: 0,
        };
        for part in &self.parts {
            let name = Path::new(&part.reference.path);
            packer.folder(&part.folder, name)?;
        }
        packer.tar.into_inner()?.flush()
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Opens a file without waiting for what is none.
fn open(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

struct Packer<'a> {
    tar: tar::Builder<&'a mut dyn Write>,
    entries: usize,
}

impl Packer<'_> {
    /// Adds a folder and what is in it, in the order of names; `.git` is no part of an action.
    fn folder(&mut self, folder: &Path, name: &Path) -> io::Result<()> {
        let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_name() == ".git" {
                continue;
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                let message = format!("the action has more than {MAX_ENTRIES} files");
                return Err(io::Error::other(message));
            }
            self.entry(&entry.path(), &name.join(entry.file_name()))?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(path)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&metadata);
        header.set_uid(0);
        header.set_gid(0);
        if metadata.is_symlink() {
            header.set_size(0);
            return self
                .tar
                .append_link(&mut header, name, fs::read_link(path)?);
        }
        header.set_mode(metadata.permissions().mode() & 0o777);
        if metadata.is_dir() {
            header.set_size(0);
            self.tar.append_data(&mut header, name, io::empty())?;
            return self.folder(path, name);
        }
        if !metadata.is_file() {
            return Ok(());
        }
        let content = open(path)?;
        let length = content.metadata()?.len();
        header.set_size(length);
        self.tar
            .append_data(&mut header, name, PaddedFile(content).take(length))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::symlink};

    use super::*;

    fn folders(arguments: &[(&str, &Path)]) -> Folders {
        let argument = |(reference, folder): &(&str, &Path)| {
            format!("{reference}={}", folder.display()).parse().unwrap()
        };
        let arguments: Vec<_> = arguments.iter().map(argument).collect();
        Folders::new(&arguments).unwrap()
    }

    fn reference(text: &str) -> RepositoryReference {
        match Reference::parse(text) {
            Ok(Reference::Repository(reference)) => reference,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_folder_stands_for_a_repository_or_for_a_folder_of_it() {
        let (whole, sub) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(whole.path().join("dist")).unwrap();
        fs::create_dir_all(whole.path().join(".git")).unwrap();
        fs::write(whole.path().join(".git/config"), "private").unwrap();
        fs::write(whole.path().join("dist/index.js"), "1").unwrap();
        symlink("dist/index.js", whole.path().join("link")).unwrap();
        fs::write(sub.path().join("action.yml"), "2").unwrap();
        let folders = folders(&[("o/r@v1", whole.path()), ("o/r/sub@v1", sub.path())]);

        let bytes = folders.find(&reference("O/R/any@v1")).unwrap();

        assert_eq!(bytes.read("sub/action.yml", 9).unwrap().unwrap(), b"2");
        assert_eq!(bytes.read("dist/index.js", 9).unwrap().unwrap(), b"1");
        assert_eq!(bytes.read("action.yml", 9).unwrap(), None);
        assert!(bytes.read("dist/index.js", 0).is_err());
        let mut tar = Vec::new();
        bytes.write_tar(&mut tar).unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut names = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let kind = entry.header().entry_type();
            names.insert(entry.path().unwrap().display().to_string(), kind);
        }
        let names: Vec<_> = names
            .keys()
            .map(|name| name.trim_end_matches('/'))
            .collect();
        assert_eq!(names, ["dist", "dist/index.js", "link", "sub/action.yml"]);
    }

    #[test]
    fn a_reference_without_a_folder_is_told_with_the_flag_that_gives_one() {
        let folder = tempfile::tempdir().unwrap();
        let folders = folders(&[("o/r@v1", folder.path())]);
        for text in ["o/r@v2", "o/other@v1"] {
            let error = folders.find(&reference(text)).unwrap_err().to_string();
            assert!(
                error.contains(&format!("--action {text}=FOLDER")),
                "{error}"
            );
        }
        for text in ["o/r@v1", "o/r@v1=", "r=x"] {
            assert!(text.parse::<FolderArgument>().is_err(), "{text}");
        }
        let missing = "o/r@v1=/nowhere/at/all".parse().unwrap();
        assert!(
            Folders::new(&[missing])
                .unwrap_err()
                .contains("/nowhere/at/all")
        );
    }
}
