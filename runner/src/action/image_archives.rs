//! Archives of this machine that stand for container images (`--container-image REF=ARCHIVE`).

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

use super::image::ImageReference;

/// `REF=ARCHIVE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageArgument {
    reference: ImageReference,
    archive: PathBuf,
}

impl FromStr for ImageArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((reference, archive)) if !archive.is_empty() => {
                let name = reference.strip_prefix("docker://").unwrap_or(reference);
                let reference = ImageReference::parse(name).map_err(|error| error.to_string())?;
                let archive = archive.into();
                Ok(Self { reference, archive })
            }
            _ => Err(format!("`{text}` is not REF=ARCHIVE")),
        }
    }
}

/// Archives by the reference that they stand for.
#[derive(Debug, Default, Clone)]
pub struct ImageArchives {
    entries: Vec<(ImageReference, PathBuf)>,
}

impl ImageArchives {
    /// Takes the arguments; the later of two for the same image wins.
    ///
    /// # Errors
    /// What is wrong with an archive.
    pub fn new(arguments: &[ImageArgument]) -> Result<Self, String> {
        let mut archives = Self::default();
        for ImageArgument { reference, archive } in arguments {
            let path = readable(archive).map_err(|error| {
                let archive = archive.display();
                format!(
                    "--container-image {reference}={archive}: {error}; name the file that \
                     `docker save {reference} -o FILE` wrote"
                )
            })?;
            archives
                .entries
                .retain(|(known, _)| !same(known, reference));
            archives.entries.push((reference.clone(), path));
        }
        Ok(archives)
    }

    /// Whether an archive stands for the image.
    #[must_use]
    pub fn has(&self, image: &ImageReference) -> bool {
        self.entries.iter().any(|(known, _)| same(known, image))
    }

    /// The keys of the images, as lock files name them: what a person gives needs no digest.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<String> {
        let keys = self.entries.iter().map(|(known, _)| known.lock_key());
        keys.collect()
    }

    /// The archive that stands for an image, by its key.
    #[must_use]
    pub fn archive(&self, key: &str) -> Option<&Path> {
        let mut entries = self.entries.iter();
        let found = entries.find(|(known, _)| known.lock_key() == key);
        found.map(|(_, path)| path.as_path())
    }

    /// These without some, by their keys.
    #[must_use]
    pub fn without(&self, keys: &BTreeSet<String>) -> Self {
        let kept = |(known, _): &&(ImageReference, PathBuf)| !keys.contains(&known.lock_key());
        let entries = self.entries.iter().filter(kept).cloned().collect();
        Self { entries }
    }

    /// All of them, by the reference as it was written.
    #[must_use]
    pub fn entries(&self) -> Vec<(String, PathBuf)> {
        let entries = self.entries.iter();
        let text =
            |(reference, path): &(ImageReference, PathBuf)| (reference.to_string(), path.clone());
        entries.map(text).collect()
    }
}

/// Whether two references are one image, however they are written.
fn same(one: &ImageReference, other: &ImageReference) -> bool {
    one.lock_key() == other.lock_key()
}

/// The whole path of an archive, once its beginning was read.
fn readable(archive: &Path) -> io::Result<PathBuf> {
    let path = fs::canonicalize(archive)?;
    if !fs::metadata(&path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    // The beginning of a tar archive, compressed or not, is as long as this.
    let mut beginning = [0; 18];
    fs::File::open(&path)?.read_exact(&mut beginning)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> ImageReference {
        ImageReference::parse(text).unwrap()
    }

    #[test]
    fn an_archive_stands_for_an_image_however_that_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let one = folder.path().join("one.tar");
        let two = folder.path().join("two.tar");
        for path in [&one, &two] {
            fs::write(path, [0; 1024]).unwrap();
        }
        let argument = |reference: &str, path: &Path| {
            format!("{reference}={}", path.display())
                .parse::<ImageArgument>()
                .unwrap()
        };
        let arguments = [
            argument("alpine", &one),
            argument("docker://docker.io/library/alpine:latest", &two),
            argument("ghcr.io/octo/tool:v1", &one),
        ];
        let archives = ImageArchives::new(&arguments).unwrap();
        let entries = archives.entries();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].0, "docker.io/library/alpine:latest");
        assert!(archives.keys().contains("ghcr.io/octo/tool:v1"));
        assert!(entries[0].1.ends_with("two.tar"));
        for (text, expected) in [
            ("alpine:latest", true),
            ("library/alpine", true),
            ("alpine:3", false),
            ("ghcr.io/octo/tool:v1", true),
            ("octo/tool:v1", false),
        ] {
            assert_eq!(archives.has(&image(text)), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_archive_is_refused_with_what_to_do() {
        for text in ["alpine", "alpine=", "=x", "Alpine=x", "--privileged=x"] {
            assert!(text.parse::<ImageArgument>().is_err(), "{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.tar");
        fs::write(&empty, "").unwrap();
        for path in [
            folder.path().join("none.tar"),
            folder.path().to_owned(),
            empty,
        ] {
            let argument = format!("alpine:3={}", path.display()).parse().unwrap();
            let error = ImageArchives::new(&[argument]).unwrap_err();
            assert!(error.starts_with("--container-image alpine:3=/"), "{error}");
            assert!(error.contains("`docker save alpine:3 -o FILE`"), "{error}");
        }
    }
}
