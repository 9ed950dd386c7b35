//! What a snapshot is made of and which machines may restore it.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::digest::ContentDigest;
use crate::config::MachineConfig;

/// Version of the snapshot directory and of the saved state in it.
pub const SNAPSHOT_VERSION: u32 = 1;

/// `manifest.json` of a snapshot directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotManifest {
    /// [`SNAPSHOT_VERSION`].
    pub version: u32,
    /// Which machines may restore it.
    pub key: SnapshotKey,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Guest memory, as long as the machine's memory.
    pub memory: ContentDigest,
    /// Saved state of vCPUs, interrupt controllers, clock and devices.
    pub state: ContentDigest,
    /// The writable disk as the guest left it.
    pub disk: ContentDigest,
}

/// All that must be equal for a snapshot to be restored (design.md, border 2).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotKey {
    /// Digest of the image that was booted.
    pub image: String,
    /// Size of the machine.
    pub machine: MachineConfig,
    /// Processor of the host.
    pub cpu: CpuIdentity,
    /// Version of the VMM that saved it.
    pub vmm: String,
}

/// A host processor, as far as a saved vCPU depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuIdentity {
    /// Vendor, family, model and stepping.
    pub model: String,
    /// SHA-256 of the sorted feature flags.
    pub features: String,
}

impl SnapshotKey {
    /// The key of snapshots that this VMM makes on this host.
    ///
    /// # Errors
    /// When `/proc/cpuinfo` cannot be read.
    pub fn here(image: &str, machine: MachineConfig) -> io::Result<Self> {
        Ok(Self {
            image: image.to_owned(),
            machine,
            cpu: CpuIdentity::of_this_host()?,
            vmm: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    /// A name for the snapshot's directory: as distinct as the key, safe in a path.
    #[must_use]
    pub fn name(&self) -> String {
        let bytes = serde_json::to_vec(self).expect("a key is made of strings and numbers");
        hex::encode(&Sha256::digest(bytes)[..16])
    }

    /// Each thing in which `self` differs from `other`, both sides named.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let machine = |m: MachineConfig| format!("{} vCPUs, {} MiB", m.vcpus, m.memory_mib);
        [
            ("image", self.image.clone(), other.image.clone()),
            (
                "machine size",
                machine(self.machine),
                machine(other.machine),
            ),
            ("CPU", self.cpu.model.clone(), other.cpu.model.clone()),
            (
                "CPU features",
                self.cpu.features.clone(),
                other.cpu.features.clone(),
            ),
            ("VMM version", self.vmm.clone(), other.vmm.clone()),
        ]
        .into_iter()
        .filter(|(_, ours, theirs)| ours != theirs)
        .map(|(what, snapshot, host)| Difference {
            what,
            snapshot,
            host,
        })
        .collect()
    }
}

/// One thing that is not the same in a snapshot and here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What differs.
    pub what: &'static str,
    /// The snapshot's side.
    pub snapshot: String,
    /// This host's side.
    pub host: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "its {} is {}, here it is {}",
            self.what, self.snapshot, self.host
        )
    }
}

impl CpuIdentity {
    /// Reads the first processor of `/proc/cpuinfo`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_this_host() -> io::Result<Self> {
        // Only the first processor is read: the kernel makes the text as it goes, and a large host
        // has hundreds of them.
        let mut lines = BufReader::with_capacity(4096, File::open("/proc/cpuinfo")?).lines();
        let mut fields = std::collections::BTreeMap::new();
        while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
            if let Some((name, value)) = line.split_once(':') {
                fields.insert(name.trim().to_owned(), value.trim().to_owned());
            }
        }
        Ok(Self::from_fields(|name| {
            fields.get(name).cloned().unwrap_or_default()
        }))
    }

    fn from_fields(field: impl Fn(&str) -> String) -> Self {
        let flags = field("flags");
        let mut flags: Vec<_> = flags.split_whitespace().collect();
        flags.sort_unstable();
        let model = format!(
            "{} family {} model {} stepping {}",
            field("vendor_id"),
            field("cpu family"),
            field("model"),
            field("stepping")
        );
        Self {
            model,
            features: hex::encode(Sha256::digest(flags.join(" "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CpuIdentity, SnapshotKey};
    use crate::config::MachineConfig;

    fn key() -> SnapshotKey {
        SnapshotKey::here(
            "sha256:aa",
            MachineConfig {
                vcpus: 2,
                memory_mib: 512,
            },
        )
        .unwrap()
    }

    #[test]
    fn equal_keys_have_one_name_and_no_difference() {
        assert_eq!(key().name(), key().name());
        assert!(key().differences(&key()).is_empty());
    }

    #[test]
    fn every_difference_names_both_sides_and_changes_the_name() {
        let mut other = key();
        other.image = "sha256:bb".into();
        other.machine.vcpus = 4;
        other.cpu.model = "another".into();
        let said: Vec<_> = key()
            .differences(&other)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(said[0], "its image is sha256:aa, here it is sha256:bb");
        assert_eq!(
            said[1],
            "its machine size is 2 vCPUs, 512 MiB, here it is 4 vCPUs, 512 MiB"
        );
        assert!(said[2].contains("here it is another"));
        assert_ne!(key().name(), other.name());
    }

    #[test]
    fn the_order_of_feature_flags_does_not_matter_but_each_flag_does() {
        let identity = |flags: &str| {
            CpuIdentity::from_fields(|name| {
                if name == "flags" {
                    flags.to_owned()
                } else {
                    "x".to_owned()
                }
            })
        };
        assert_eq!(identity("svm sse"), identity("sse svm"));
        assert_ne!(identity("svm sse"), identity("sse"));
    }
}
