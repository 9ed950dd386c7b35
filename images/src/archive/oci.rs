//! The OCI image layout (image-spec `image-layout.md`): `index.json` leads to a manifest, which
//! names configuration and layers by digest.

use std::fs::File;

use serde::Deserialize;

use super::{ArchiveError, DOCUMENT_LIMIT, blob::Blob, index::Index, layer::LayerBlob, parse};
use crate::digest::Digest;

/// How many indexes may lead to one another.
const DEPTH: usize = 4;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct ImageIndex {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
struct ImageManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Descriptor {
    /// Docker's media type for this is `…manifest.list.v2+json`.
    fn is_index(&self) -> bool {
        self.media_type.contains(".index.") || self.media_type.contains(".manifest.list.")
    }

    fn fits(&self) -> bool {
        self.platform
            .as_ref()
            .is_none_or(|platform| platform.os == "linux" && platform.architecture == "amd64")
    }
}

/// The configuration and the layers, lowest first, all checked against their digests.
pub(super) fn read(file: &File, index: &Index) -> Result<(Blob, Vec<LayerBlob>), ArchiveError> {
    let name = "index.json";
    let bytes = index.blob(name)?.bytes(file, DOCUMENT_LIMIT)?;
    let mut manifests: ImageIndex = parse(name, &bytes)?;
    for _ in 0..DEPTH {
        let descriptor = choose(&manifests.manifests)?;
        let (name, bytes) = document(file, index, &descriptor.digest)?;
        if descriptor.is_index() {
            manifests = parse(&name, &bytes)?;
            continue;
        }
        let manifest: ImageManifest = parse(&name, &bytes)?;
        let config = blob(index, &manifest.config.digest)?;
        config.check(file, &manifest.config.digest)?;
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            let blob = blob(index, &layer.digest)?;
            blob.check(file, &layer.digest)?;
            layers.push(LayerBlob::new(blob));
        }
        return Ok((config, layers));
    }
    Err(ArchiveError::TooDeep)
}

/// The one that guests can run. Attestations, which stand beside images, have another platform.
fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, ArchiveError> {
    let fitting: Vec<_> = manifests
        .iter()
        .filter(|descriptor| descriptor.fits())
        .collect();
    match fitting[..] {
        [descriptor] => Ok(descriptor),
        [] => Err(ArchiveError::NoPlatform {
            found: manifests
                .iter()
                .filter_map(|descriptor| descriptor.platform.as_ref())
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .collect(),
        }),
        _ => Err(ArchiveError::ManyImages {
            count: fitting.len(),
        }),
    }
}

fn blob(index: &Index, digest: &Digest) -> Result<Blob, ArchiveError> {
    index.blob(&format!("blobs/sha256/{}", digest.hex()))
}

/// A checked JSON document and its name.
fn document(
    file: &File,
    index: &Index,
    digest: &Digest,
) -> Result<(String, Vec<u8>), ArchiveError> {
    let blob = blob(index, digest)?;
    let bytes = blob.bytes(file, DOCUMENT_LIMIT)?;
    blob.check(file, digest)?;
    Ok((blob.name, bytes))
}
