//! Archives that the person gives for images, held against what lock files or references say of them.

use std::collections::BTreeSet;

use tokio::task::spawn_blocking;

use crate::{
    action::{
        image_archives::ImageArchives,
        image_content::{self, ImageContent, ImageContentError},
        lockfile::PinKey,
        resolve::{Entry, Graph, Offender, Pin, PinnedImage, Wrong},
    },
    printable,
};

/// What was found of the archives.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) offenders: Vec<Offender>,
    /// Keys of the images whose archives are not to be used.
    pub(super) refused: BTreeSet<String>,
}

/// Compares each archive that stands for an image with a known digest.
pub(super) async fn judge(graph: &Graph, archives: &ImageArchives) -> Judged {
    let mut judged = Judged::default();
    for (key, entry) in &graph.entries {
        let (PinKey::Image(key), Some(Pin::Image(pin))) = (key, &entry.pin) else {
            continue;
        };
        let Some(path) = archives.archive(key).map(ToOwned::to_owned) else {
            continue;
        };
        // One that was only seen before is not locked: what the person gives now counts.
        if !pin.locked {
            continue;
        }
        let read = spawn_blocking(move || image_content::read(&path)).await;
        let read = read.unwrap_or_else(|_| Err(std::io::Error::other("it was broken off").into()));
        if let Err((wrong, why)) = compare(pin, read) {
            judged.refused.insert(key.clone());
            judged.offenders.extend(offend(entry, wrong, key, &why));
        }
    }
    judged
}

fn compare(
    pin: &PinnedImage,
    read: Result<ImageContent, ImageContentError>,
) -> Result<(), (Wrong, String)> {
    let content = read.map_err(|error| (Wrong::Unverifiable, error.to_string()))?;
    let platforms = pin.platforms.iter().map(|(_, digest)| digest);
    let mut known = [&pin.digest]
        .into_iter()
        .chain(platforms)
        .chain(&pin.config);
    if known.any(|digest| content.is(digest)) {
        return Ok(());
    }
    let (found, locked) = (&content.config, &pin.digest);
    match &pin.config {
        Some(config) => Err((
            Wrong::Tampered,
            format!("it is the image {found}, and {locked} with the image {config} is locked"),
        )),
        // It has no manifest that could be compared, and the image's own digest is not known.
        None if content.manifests.is_empty() => Err((
            Wrong::Unverifiable,
            format!(
                "it says only that it is the image {found}, and {locked} is locked; `mayfly pin --update` \
                 notes the image's own digest, too"
            ),
        )),
        None => Err((
            Wrong::Tampered,
            format!("it is the image {found}, and {locked} is locked"),
        )),
    }
}

fn offend<'a>(
    entry: &'a Entry,
    wrong: Wrong,
    key: &str,
    why: &str,
) -> impl Iterator<Item = Offender> + 'a {
    let message = printable::line(&format!(
        "the archive given with `--container-image` for `{key}` is not used: {why}"
    ));
    entry.mentions.iter().map(move |mention| Offender {
        wrong,
        mention: mention.clone(),
        message: message.clone(),
    })
}
