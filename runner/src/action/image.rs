//! References to container images, by the rules of registries.

use std::fmt;

/// Longest image reference that is looked at, in bytes.
const MAX_LENGTH: usize = 512;
/// The registry of names that name none.
const DOCKER_HUB: &str = "docker.io";

/// `[registry/]repository[:tag][@digest]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    /// Host and port of the registry; `docker.io` where none is named.
    pub registry: String,
    /// The repository there, with the `library/` that Docker Hub's own images have.
    pub repository: String,
    /// The tag, if one is named.
    pub tag: Option<String>,
    /// The digest (`sha256:…`), if one is named.
    pub digest: Option<String>,
    /// As it was written.
    written: String,
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no image ({why}); write `[registry/]name[:tag][@sha256:…]`")]
pub struct ImageError {
    text: String,
    why: &'static str,
}

impl ImageReference {
    /// Reads a reference, without `docker://`.
    ///
    /// # Errors
    /// [`ImageError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let wrong = |why| {
            let text = text.chars().take(200).collect();
            Err(ImageError { text, why })
        };
        if text.is_empty() || text.len() > MAX_LENGTH {
            return wrong("it is empty or too long");
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) if is_digest(digest) => (name, Some(digest.to_owned())),
            Some(_) => return wrong("a digest is `sha256:` and 64 digits of a to f and 0 to 9"),
            None => (text, None),
        };
        // A colon behind the last slash begins the tag; one before it, a port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return wrong("a tag has letters, digits, `_`, `.` and `-`");
        }
        let (registry, repository) = match name.split_once('/') {
            Some((host, rest)) if is_host(host) => (host, rest),
            _ => (DOCKER_HUB, name),
        };
        let registry = if registry == "index.docker.io" {
            DOCKER_HUB
        } else {
            registry
        };
        if !is_authority(registry) || !repository.split('/').all(is_component) {
            return wrong("names have small letters, digits, `_`, `.` and `-`");
        }
        let official = registry == DOCKER_HUB && !repository.contains('/');
        let repository = if official {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest,
            written: text.to_owned(),
        })
    }

    /// The key in lock files: registry, repository and tag in full, so that no two spellings of one
    /// image have two entries.
    #[must_use]
    pub fn key(&self) -> String {
        let tag = self.tag.as_deref().unwrap_or("latest");
        format!("{}/{}:{tag}", self.registry, self.repository)
    }

    /// The same with a digest.
    #[must_use]
    pub fn with_digest(&self, digest: &str) -> Self {
        Self {
            digest: Some(digest.to_owned()),
            ..self.clone()
        }
    }

    /// The key that lock files know it by: that of its tag, or its digest where it names one, which a
    /// tag beside it does not change.
    #[must_use]
    pub fn lock_key(&self) -> String {
        match &self.digest {
            Some(digest) => format!("{}/{}@{digest}", self.registry, self.repository),
            None => self.key(),
        }
    }

    /// Whether a tag and digest stand for nothing: Docker's name for no base image.
    #[must_use]
    pub fn is_scratch(&self) -> bool {
        self.written == "scratch"
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// Whether a text is a digest that images are pinned by.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let digits = text.strip_prefix("sha256:");
    digits.is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hex))
}

fn is_tag(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    !text.is_empty()
        && text.len() <= 128
        && !text.starts_with(['.', '-'])
        && text.bytes().all(legal)
}

/// Whether the first part of a name is a registry: Docker's rule.
fn is_host(text: &str) -> bool {
    text == "localhost"
        || text.contains(['.', ':'])
        || text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && label.bytes().all(legal)
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_component(text: &str) -> bool {
    let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
    let ends = |c: char| matches!(c, '_' | '.' | '-');
    !text.is_empty() && !text.starts_with(ends) && !text.ends_with(ends) && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_image_has_one_key_however_it_is_written() {
        for (text, key) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            (
                "docker.io/library/alpine:3.20",
                "docker.io/library/alpine:3.20",
            ),
            (
                "index.docker.io/library/alpine:3.20",
                "docker.io/library/alpine:3.20",
            ),
            ("octo/tool", "docker.io/octo/tool:latest"),
            ("ghcr.io/octo/tool:v1", "ghcr.io/octo/tool:v1"),
            ("localhost/x", "localhost/x:latest"),
            ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b:1"),
        ] {
            let image = ImageReference::parse(text).unwrap();
            assert_eq!(image.key(), key);
            assert_eq!(image.to_string(), text);
        }
        let digest = format!("sha256:{}", "ab".repeat(32));
        let image = ImageReference::parse(&format!("node:20@{digest}")).unwrap();
        assert_eq!(image.digest.as_deref(), Some(digest.as_str()));
        assert_eq!(image.tag.as_deref(), Some("20"));
        assert!(ImageReference::parse("scratch").unwrap().is_scratch());
    }

    #[test]
    fn what_names_no_image_is_refused() {
        let upper = format!("a@sha256:{}", "AB".repeat(32));
        for text in [
            "",
            "a b",
            "a:",
            "a:-x",
            "Alpine",
            "a@sha256:00",
            "a@md5:00",
            &upper,
            "a/../b",
            "-x",
            "a//b",
            "host:99999/a",
            "a:b:c",
            "http://x/y",
        ] {
            assert!(ImageReference::parse(text).is_err(), "{text}");
        }
    }
}
