//! What an archive that `docker save` or another tool wrote holds: an image by the digests that prove it.
//!
//! The engine loads what `manifest.json` names, checks each layer against the image's configuration, and
//! knows the image by that configuration's digest. So an archive is the locked image if its
//! configuration is that of the lock, or is what a locked manifest names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::image::is_digest;

/// Longest file of an archive that can say something of an image; longer ones are layers.
const MAX_TEXT: u64 = 4 << 20;
/// Most bytes of such files together.
const MAX_TEXTS: u64 = 64 << 20;
/// Most entries of an archive.
const MAX_ENTRIES: usize = 100_000;

/// Why an archive does not tell which image it is.
#[derive(Debug, thiserror::Error)]
pub enum ImageContentError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It has no list of images.
    #[error("it has no manifest.json as `docker save` writes it")]
    NoManifest,
    /// It says something that no tool writes.
    #[error("it says wrong things of itself: {0}")]
    Odd(&'static str),
    /// It holds several images.
    #[error("it holds {0} images; save one alone")]
    Several(usize),
}

/// The digests that one image of an archive is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageContent {
    /// Of its configuration: the image's id.
    pub config: String,
    /// Of manifests with this configuration, and of indexes that name them.
    pub manifests: BTreeSet<String>,
}

impl ImageContent {
    /// Whether it is known by a digest.
    #[must_use]
    pub fn is(&self, digest: &str) -> bool {
        self.config == digest || self.manifests.contains(digest)
    }
}

#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
}

#[derive(Deserialize)]
struct Described {
    digest: String,
}

/// An image's manifest, or an index of some.
#[derive(Deserialize)]
struct Manifest {
    config: Option<Described>,
    manifests: Option<Vec<Described>>,
}

/// Reads an archive to its end; layers are passed over.
///
/// # Errors
/// [`ImageContentError`].
pub fn read(path: &Path) -> Result<ImageContent, ImageContentError> {
    let texts = texts(path)?;
    let saved = texts.get("manifest.json");
    let saved = saved.ok_or(ImageContentError::NoManifest)?;
    let saved: Vec<Saved> = serde_json::from_slice(saved)
        .map_err(|_| ImageContentError::Odd("manifest.json is no list of images"))?;
    let [Saved { config }] = saved.as_slice() else {
        return Err(ImageContentError::Several(saved.len()));
    };
    let config = texts.get(config.trim_start_matches("./"));
    let config = config.ok_or(ImageContentError::Odd("its configuration is not there"))?;
    let config = digest(config);
    let manifests = manifests(&texts, &config);
    Ok(ImageContent { config, manifests })
}

/// The small files of an archive. One that is there twice could be read here and loaded there.
fn texts(path: &Path) -> Result<BTreeMap<String, Vec<u8>>, ImageContentError> {
    let mut input = BufReader::with_capacity(256 << 10, File::open(path)?);
    let packed = input.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let input: Box<dyn Read> = match packed {
        true => Box::new(MultiGzDecoder::new(input)),
        false => Box::new(input),
    };
    let mut archive = tar::Archive::new(input);
    let (mut texts, mut names, mut left) = (BTreeMap::new(), BTreeSet::new(), MAX_TEXTS);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name
            .trim_start_matches("./")
            .trim_end_matches('/')
            .to_owned();
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            continue;
        }
        if !names.insert(name.clone()) || names.len() > MAX_ENTRIES {
            return Err(ImageContentError::Odd(
                "a file is there twice, or there are too many",
            ));
        }
        if !kind.is_file() || entry.size() > MAX_TEXT {
            continue;
        }
        left = left
            .checked_sub(entry.size())
            .ok_or(ImageContentError::Odd(
                "its small files are longer than 64 MiB together",
            ))?;
        let mut text = Vec::new();
        entry.read_to_end(&mut text)?;
        texts.insert(name, text);
    }
    Ok(texts)
}

/// Digests of manifests with a configuration, and of the indexes that name those, as far as they are
/// in the archive. Each is computed.
fn manifests(texts: &BTreeMap<String, Vec<u8>>, config: &str) -> BTreeSet<String> {
    let parsed = |text: &Vec<u8>| {
        let manifest: Manifest = serde_json::from_slice(text).ok()?;
        Some((digest(text), manifest))
    };
    let all: Vec<_> = texts.values().filter_map(parsed).collect();
    let mut known: BTreeSet<String> = all
        .iter()
        .filter(|(_, manifest)| {
            let named = manifest.config.as_ref().map(|config| &config.digest);
            named.is_some_and(|named| named == config)
        })
        .map(|(digest, _)| digest.clone())
        .collect();
    let names = |manifest: &Manifest, known: &BTreeSet<String>| {
        let mut named = manifest.manifests.iter().flatten();
        named.any(|named| known.contains(&named.digest))
    };
    let direct = known.clone();
    let indexes = all.iter().filter(|(_, index)| names(index, &direct));
    known.extend(indexes.map(|(digest, _)| digest.clone()));
    known.retain(|digest| is_digest(digest));
    known
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use super::*;

    /// An archive with these files.
    pub(crate) fn archive(folder: &Path, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let path = folder.join(name);
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, *content).unwrap();
        }
        tar.into_inner().unwrap();
        path
    }

    /// What `docker save` writes of an image with a configuration, and that configuration's digest.
    pub(crate) fn saved(folder: &Path, name: &str, config: &str) -> (PathBuf, String) {
        let id = digest(config.as_bytes());
        let file = format!("{}.json", &id[7..]);
        let list = format!(r#"[{{"Config":"{file}","RepoTags":["x:1"],"Layers":[]}}]"#);
        let files: [(&str, &[u8]); 2] = [
            (&file, config.as_bytes()),
            ("manifest.json", list.as_bytes()),
        ];
        (archive(folder, name, &files), id)
    }

    #[test]
    fn an_image_is_known_by_its_configuration_and_by_manifests_that_name_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, id) = saved(folder.path(), "one.tar", "{}");
        let content = read(&path).unwrap();
        assert!(content.is(&id) && content.manifests.is_empty());
        let manifest = format!(r#"{{"config":{{"digest":"{id}"}},"layers":[]}}"#);
        let other = r#"{"config":{"digest":"sha256:00"},"layers":[]}"#;
        let index = format!(
            r#"{{"manifests":[{{"digest":"{}"}}]}}"#,
            digest(manifest.as_bytes())
        );
        let list = format!(r#"[{{"Config":"blobs/sha256/{}"}}]"#, &id[7..]);
        let blob = |text: &str| format!("blobs/sha256/{}", &digest(text.as_bytes())[7..]);
        let texts = ["{}", &manifest, other, &index];
        let names = texts.map(blob);
        let mut files: Vec<(&str, &[u8])> = vec![("manifest.json", list.as_bytes())];
        files.extend(
            names
                .iter()
                .zip(texts)
                .map(|(name, text)| (name.as_str(), text.as_bytes())),
        );
        let path = archive(folder.path(), "two.tar", &files);
        let content = read(&path).unwrap();
        for (text, expected) in [
            ("{}", true),
            (&manifest, true),
            (&index, true),
            (other, false),
        ] {
            assert_eq!(content.is(&digest(text.as_bytes())), expected, "{text}");
        }
    }

    #[test]
    fn what_could_be_loaded_as_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let list: &[u8] = br#"[{"Config":"a.json"}]"#;
        let two: &[u8] = br#"[{"Config":"a.json"},{"Config":"a.json"}]"#;
        type Case<'a> = (&'a [(&'a str, &'a [u8])], &'a str);
        let cases: [Case<'_>; 5] = [
            (&[("a.json", b"{}")], "no manifest.json"),
            (&[("manifest.json", list)], "not there"),
            (&[("manifest.json", two), ("a.json", b"{}")], "2 images"),
            (&[("manifest.json", b"{}"), ("a.json", b"{}")], "no list"),
            (
                &[
                    ("manifest.json", list),
                    ("a.json", b"{}"),
                    ("./a.json", b"{ }"),
                ],
                "twice",
            ),
        ];
        for (files, expected) in cases {
            let error = read(&archive(folder.path(), "x.tar", files)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
