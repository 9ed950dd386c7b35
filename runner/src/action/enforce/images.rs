//! Images by digest: the name under which one may be pulled, whatever its tag stands for then.

use std::collections::BTreeMap;

use crate::action::{image::ImageReference, policy::PinPolicy, resolve::Locks};

/// The images of a run that are pinned.
#[derive(Clone, Debug)]
pub struct ImagePins {
    policy: PinPolicy,
    /// Digests by the images' keys.
    digests: BTreeMap<String, String>,
    locks: Locks,
}

/// Why an image may not be pulled.
#[derive(Debug, thiserror::Error)]
pub enum ImageRefused {
    /// Nothing pins it.
    #[error(
        "the image {0} may not be pulled under the policy pins = {1}: it became known while the job ran, and no \
         lock file has its digest; write {0}@sha256:… where it is named, or give it with \
         `--container-image {0}=ARCHIVE`"
    )]
    Unpinned(String, PinPolicy),
    /// What pins it could not be read.
    #[error("the image may not be pulled: {0}")]
    Unknown(String),
    /// It is no image.
    #[error(transparent)]
    Wrong(#[from] crate::action::image::ImageError),
}

impl ImagePins {
    pub(super) fn new(policy: PinPolicy, digests: BTreeMap<String, String>, locks: Locks) -> Self {
        Self {
            policy,
            digests,
            locks,
        }
    }

    /// The digest that an image's tag was pinned to, by the image's key.
    #[must_use]
    pub fn digest(&self, key: &str) -> Option<String> {
        let locked = || self.locks.image(key).map(|pin| pin.digest);
        self.digests.get(key).cloned().or_else(locked)
    }

    /// Whether an image that nothing pins is not pulled.
    #[must_use]
    pub fn refuses_unpinned(&self) -> bool {
        self.policy.fails()
    }

    /// The name under which an image is pulled: with its digest and without its tag, so that a tag that
    /// moved changes nothing.
    ///
    /// # Errors
    /// [`ImageRefused`] if the policy lets nothing run that is not pinned.
    pub fn name(&self, image: &str) -> Result<String, ImageRefused> {
        let reference = ImageReference::parse(image)?;
        let by_digest =
            |digest: &str| format!("{}/{}@{digest}", reference.registry, reference.repository);
        // A tag beside a digest says nothing.
        if let Some(digest) = &reference.digest {
            return Ok(by_digest(digest));
        }
        match self.digest(&reference.key()) {
            Some(digest) => Ok(by_digest(&digest)),
            None if self.policy.fails() => {
                Err(ImageRefused::Unpinned(image.to_owned(), self.policy))
            }
            None => Ok(image.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_pulled_by_its_digest_or_not_at_all() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let known = ("ghcr.io/octo/db:16".to_owned(), digest.clone());
        let pins = |policy| ImagePins::new(policy, [known.clone()].into(), Locks::default());
        let by_digest = format!("ghcr.io/octo/db@{digest}");
        for policy in [
            PinPolicy::Require,
            PinPolicy::LockOnFirstUse,
            PinPolicy::Audit,
        ] {
            let pins = pins(policy);
            assert_eq!(pins.name("ghcr.io/octo/db:16").unwrap(), by_digest);
            assert_eq!(pins.name(&by_digest).unwrap(), by_digest);
            // A tag beside a digest is not looked up, not even one that is pinned to another image.
            let both = format!("ghcr.io/octo/db:16@sha256:{}", "b".repeat(64));
            let other = by_digest.replace(&"a".repeat(64), &"b".repeat(64));
            assert_eq!(pins.name(&both).unwrap(), other);
            let other = pins
                .name("ghcr.io/octo/db:17")
                .map_err(|error| error.to_string());
            match policy.fails() {
                true => assert!(other.unwrap_err().contains("db:17@sha256:… where")),
                false => assert_eq!(other.unwrap(), "ghcr.io/octo/db:17"),
            }
            assert!(pins.name("Not An Image").is_err());
        }
    }
}
