//! The references of one file that others lead to: of a manifest, its Dockerfile, or a workflow.

use std::sync::Arc;

use super::graph::Wrong;
use super::pins::Failure;
use super::{Resolver, local};
use crate::action::bytes::ActionBytes;
use crate::action::digest::ContentDigest;
use crate::action::find::{self, Found, Target};
use crate::action::manifest::{MANIFEST_NAMES, MAX_MANIFEST};
use crate::action::reference::local_path;
use crate::workflow::source::{MAX_FILE_BYTES, Source};

/// The references of a file.
pub(super) struct Read {
    /// The file, from the top of its repository.
    pub(super) path: String,
    pub(super) found: Vec<Found>,
}

/// Where files are read from.
#[derive(Clone)]
pub(super) enum Bytes {
    Checkout,
    Stored(ContentDigest),
    Given(Arc<dyn ActionBytes>),
}

impl Resolver {
    /// The references of an action: of its manifest and its Dockerfile.
    pub(super) fn read_action(&self, bytes: &Bytes, folder: &str) -> Result<Vec<Read>, Failure> {
        let [yml, yaml] = MANIFEST_NAMES.map(|name| below(folder, name));
        let dockerfile = below(folder, "Dockerfile");
        let mut files = self.files(bytes, &[&yml, &yaml, &dockerfile], MAX_MANIFEST)?;
        let manifest = [yml, yaml]
            .into_iter()
            .find_map(|path| files.remove(&path).map(|text| (path, text)));
        let Some((path, text)) = manifest else {
            let text = files
                .remove(&dockerfile)
                .ok_or_else(|| missing(bytes, folder))?;
            return Ok(vec![images(dockerfile, &text)?]);
        };
        let source = Source::new(&path, utf8(&path, text)?);
        let found = find::in_action(&source).map_err(|error| broken(&error.to_string()))?;
        let mut all = Vec::new();
        let mut kept = Vec::new();
        for found in found {
            match &found.target {
                Ok(Target::Dockerfile(file)) => {
                    let file = local_path(&below(folder, file)).ok_or_else(|| {
                        broken(&format!("{path}: `{file}` leaves the repository"))
                    })?;
                    let mut files = self.files(bytes, &[&file], MAX_MANIFEST)?;
                    let text = files.remove(&file).ok_or_else(|| {
                        broken(&format!("{path}: there is no Dockerfile `{file}`"))
                    })?;
                    all.push(images(file, &text)?);
                }
                _ => kept.push(found),
            }
        }
        let found = kept;
        all.push(Read { path, found });
        Ok(all)
    }

    /// The references of a workflow file.
    pub(super) fn read_workflow(&self, bytes: &Bytes, path: &str) -> Result<Vec<Read>, Failure> {
        let mut files = self.files(bytes, &[path], MAX_FILE_BYTES as u64)?;
        let text = files.remove(path).ok_or_else(|| {
            let message = format!("there is no workflow `{path}`; correct the reference");
            Failure::new(Wrong::Unverifiable, message)
        })?;
        let source = Source::new(path, utf8(path, text)?);
        let found = find::in_workflow(&source).map_err(|error| broken(&error.to_string()))?;
        let path = path.to_owned();
        Ok(vec![Read { path, found }])
    }

    fn files(
        &self,
        bytes: &Bytes,
        paths: &[&str],
        limit: u64,
    ) -> Result<std::collections::BTreeMap<String, Vec<u8>>, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::new(Wrong::Unverifiable, error.to_string());
        match bytes {
            Bytes::Stored(digest) => {
                let picked = self.store.pick(*digest, paths, limit);
                picked.map_err(|error| failed(&error))
            }
            Bytes::Given(given) => {
                let read = |path: &&str| {
                    let content = given.read(path, limit);
                    let content = content.map_err(|error| failed(&format!("{path}: {error}")))?;
                    Ok(content.map(|content| ((*path).to_owned(), content)))
                };
                paths
                    .iter()
                    .filter_map(|path| read(path).transpose())
                    .collect()
            }
            Bytes::Checkout => {
                let checkout = self.checkout.as_deref().ok_or_else(|| {
                    let message =
                        "it lies in the checkout, and this is none; run the command in one";
                    Failure::new(Wrong::Later, message)
                })?;
                let mut files = std::collections::BTreeMap::new();
                for path in paths {
                    let content = local::read(checkout, path, limit);
                    let content = content.map_err(|error| failed(&format!("{path}: {error}")))?;
                    files.extend(content.map(|content| ((*path).to_owned(), content)));
                }
                Ok(files)
            }
        }
    }
}

/// The images of a Dockerfile.
fn images(path: String, text: &[u8]) -> Result<Read, Failure> {
    let text = utf8(&path, text.to_vec())?;
    let found = find::in_dockerfile(&text).map_err(|error| broken(&format!("{path}: {error}")))?;
    Ok(Read { path, found })
}

fn utf8(path: &str, text: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(text).map_err(|_| broken(&format!("{path} is not UTF-8")))
}

fn below(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

fn missing(bytes: &Bytes, folder: &str) -> Failure {
    let place = match folder {
        "" => "at its top".to_owned(),
        folder => format!("in `{folder}`"),
    };
    let message = format!(
        "there is no action.yml, action.yaml or Dockerfile {place}: what is put there while the job \
         runs cannot be known beforehand"
    );
    let wrong = match bytes {
        Bytes::Checkout => Wrong::Later,
        Bytes::Stored(_) | Bytes::Given(_) => Wrong::Unverifiable,
    };
    Failure::new(wrong, message)
}

/// A file that says something no runner could run; only the first line of a longer text.
fn broken(why: &str) -> Failure {
    Failure::new(Wrong::Unverifiable, why.lines().next().unwrap_or_default())
}
