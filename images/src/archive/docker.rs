//! The format of `docker save` before Docker 25: `manifest.json` names configuration and layers by
//! file. No digest protects the layers there; the configuration's own list of them does.

use std::fs::File;

use serde::Deserialize;

use super::{ArchiveError, DOCUMENT_LIMIT, blob::Blob, index::Index, layer::LayerBlob, parse};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    layers: Vec<String>,
}

/// The configuration and the layers, lowest first.
pub(super) fn read(file: &File, index: &Index) -> Result<(Blob, Vec<LayerBlob>), ArchiveError> {
    let name = "manifest.json";
    let bytes = index.blob(name)?.bytes(file, DOCUMENT_LIMIT)?;
    let entries: Vec<Entry> = parse(name, &bytes)?;
    let [entry] = &entries[..] else {
        return Err(ArchiveError::ManyImages {
            count: entries.len(),
        });
    };
    let config = index.blob(&entry.config)?;
    // The configuration is named by its digest: `<hex>.json` or `blobs/sha256/<hex>`.
    let stem = config
        .name
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".json");
    if let Ok(digest) = format!("sha256:{stem}").parse() {
        config.check(file, &digest)?;
    }
    let layers = entry
        .layers
        .iter()
        .map(|name| Ok(LayerBlob::new(index.blob(name)?)));
    Ok((config, layers.collect::<Result<_, ArchiveError>>()?))
}
