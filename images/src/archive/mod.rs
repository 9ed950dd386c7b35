//! Roots that people bring: OCI image layouts and what `docker save` writes, each as one tar file.
//!
//! Everything in an archive is hostile. Nothing of it touches the host's file system; every blob
//! is checked against the digest that names it, and every layer against the one that the image
//! configuration names.

mod blob;
mod docker;
mod error;
mod index;
mod layer;
mod oci;

use std::{collections::BTreeMap, fs::File, path::Path};

pub use error::ArchiveError;
use index::Index;
use layer::LayerBlob;
use serde::Deserialize;

use crate::{
    digest::Digest,
    manifest::{ImageConfig, Source},
    progress::Progress,
    tree::{Kind, Limits, Meta, Spool, Tree},
};

/// Largest JSON document of an archive, in bytes.
const DOCUMENT_LIMIT: u64 = 4 << 20;

/// An image in an archive: what it is made of, before anything is unpacked.
pub(crate) struct Archive {
    file: File,
    /// Digest of the configuration, which names all layers: Docker's image id.
    config_digest: Digest,
    config: Config,
    layers: Vec<LayerBlob>,
}

/// An image configuration (OCI image-spec `config.md`); Docker's is the same in all of this.
#[derive(Debug, Deserialize)]
struct Config {
    architecture: String,
    os: String,
    #[serde(default)]
    config: Option<ContainerConfig>,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ContainerConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

impl Archive {
    /// Reads the archive's own metadata and checks that this machine's guests could run it.
    pub(crate) fn open(path: &Path) -> Result<Self, ArchiveError> {
        let file = File::open(path).map_err(|error| ArchiveError::Open {
            path: path.to_owned(),
            error,
        })?;
        let index = Index::read(&file)?;
        let (config_blob, layers) = if index.contains("index.json") {
            oci::read(&file, &index)?
        } else if index.contains("manifest.json") {
            docker::read(&file, &index)?
        } else {
            return Err(ArchiveError::NoImage);
        };
        let bytes = config_blob.bytes(&file, DOCUMENT_LIMIT)?;
        let config: Config = parse(&config_blob.name, &bytes)?;
        if (config.os.as_str(), config.architecture.as_str()) != ("linux", "amd64") {
            let Config {
                os, architecture, ..
            } = config;
            return Err(ArchiveError::Platform { os, architecture });
        }
        let named = config.rootfs.diff_ids.len();
        if named != layers.len() {
            return Err(ArchiveError::LayerCount {
                named,
                found: layers.len(),
            });
        }
        Ok(Self {
            file,
            config_digest: Digest::of(&bytes),
            config,
            layers,
        })
    }

    /// What stands in the manifest of an image that is made from this.
    pub(crate) fn source(&self) -> Source {
        Source::Archive {
            config: self.config_digest,
            layers: self.config.rootfs.diff_ids.clone(),
        }
    }

    /// User, directory and environment that the image asks for.
    pub(crate) fn image_config(&self) -> ImageConfig {
        let empty = ContainerConfig::default();
        let config = self.config.config.as_ref().unwrap_or(&empty);
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let env: BTreeMap<_, _> = config
            .env
            .iter()
            .flatten()
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        ImageConfig {
            user: given(&config.user),
            working_directory: given(&config.working_dir),
            env,
        }
    }

    /// Applies all layers, lowest first.
    pub(crate) fn unpack(
        &self,
        limits: &Limits,
        spool: &mut Spool,
        epoch: u64,
        progress: &mut Progress<'_>,
    ) -> Result<Tree, ArchiveError> {
        let mut tree = Tree::new(epoch);
        let mut target = layer::Target {
            tree: &mut tree,
            spool,
            limits,
            epoch,
            bytes: 0,
            entries: 0,
        };
        let count = self.layers.len();
        for (number, (blob, diff_id)) in self
            .layers
            .iter()
            .zip(&self.config.rootfs.diff_ids)
            .enumerate()
        {
            progress.step(format!("Unpacking layer {} of {count}", number + 1));
            blob.apply(&self.file, number, diff_id, &mut target, progress)?;
        }
        for (directory, mode) in [
            ("dev", 0o755),
            ("proc", 0o555),
            ("run", 0o755),
            ("sys", 0o555),
            ("tmp", 0o1777),
        ] {
            // The agent mounts something there.
            if tree.find(directory).is_none() {
                let kind = Kind::Directory(BTreeMap::new());
                tree.put(directory, kind, Meta::root(mode, epoch))
                    .map_err(|error| ArchiveError::Root {
                        path: directory.to_owned(),
                        why: error.to_string(),
                    })?;
            }
        }
        Ok(tree)
    }
}

/// Reads a JSON document of the archive.
fn parse<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|error| ArchiveError::Document {
        name: name.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests;
