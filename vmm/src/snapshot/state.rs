//! The file `state` of a snapshot: everything of a machine but memory and disk.
//!
//! A fixed header (so that every version can read every other's) and one postcard document.

use serde::{Deserialize, Serialize};

use super::manifest::SNAPSHOT_VERSION;
use crate::{
    arch::cpuid::GuestCpu, config::MachineConfig, machine::DevicesState, vcpu::VcpuState,
    vm::VmState,
};

const MAGIC: [u8; 8] = *b"MAYFLYST";
const VERSION_BYTES: usize = 32;
const HEADER: usize = MAGIC.len() + 4 + VERSION_BYTES + 8;
/// Longest state in bytes; a machine of 32 vCPUs has about 400 KiB.
pub const STATE_MAX: u64 = 64 << 20;

/// A whole machine but for memory and disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// Its size.
    pub machine: MachineConfig,
    /// The processor that its vCPUs know.
    pub cpu: GuestCpu,
    /// Interrupt controllers, timer, clock.
    pub vm: VmState,
    /// Every vCPU, by its number.
    pub vcpus: Vec<VcpuState>,
    /// Every device.
    pub devices: DevicesState,
}

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It does not begin as a state does.
    #[error("the snapshot's state file is no machine state; remove the snapshot and make it again")]
    Foreign,
    /// Another format.
    #[error(
        "the snapshot's state has format {found}, this VMM reads format {SNAPSHOT_VERSION}; \
         make the snapshot again"
    )]
    Format {
        /// Format of the file.
        found: u32,
    },
    /// Another VMM wrote it.
    #[error(
        "the snapshot's state was written by VMM {found}, this is VMM {here}; make the snapshot \
         again",
        here = env!("CARGO_PKG_VERSION")
    )]
    Vmm {
        /// Version of the VMM that wrote it.
        found: String,
    },
    /// It is shorter or longer than its header says.
    #[error(
        "the snapshot's state file has {found} bytes, its header says {wanted}; it was damaged: \
         remove the snapshot and make it again"
    )]
    Length {
        /// Bytes found.
        found: u64,
        /// Bytes wanted.
        wanted: u64,
    },
    /// Its content does not decode.
    #[error("the snapshot's state does not decode: {0}; remove the snapshot and make it again")]
    Decode(postcard::Error),
}

impl MachineState {
    /// The bytes of the file.
    ///
    /// # Errors
    /// Only if a state is not serialisable, which would be a defect.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(SNAPSHOT_VERSION.to_le_bytes());
        bytes.extend(own_version());
        bytes.extend([0; 8]);
        let mut bytes = postcard::to_extend(self, bytes)?;
        let length = (bytes.len() - HEADER) as u64;
        bytes[HEADER - 8..HEADER].copy_from_slice(&length.to_le_bytes());
        Ok(bytes)
    }

    /// The state in the bytes of a file.
    ///
    /// # Errors
    /// [`StateError`] names what does not fit, both sides.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let (header, payload) = bytes.split_at_checked(HEADER).ok_or(StateError::Foreign)?;
        let (magic, rest) = header.split_at(MAGIC.len());
        let (format, rest) = rest.split_at(4);
        let (version, length) = rest.split_at(VERSION_BYTES);
        if magic != MAGIC {
            return Err(StateError::Foreign);
        }
        let found = format.try_into().map_or(0, u32::from_le_bytes);
        if found != SNAPSHOT_VERSION {
            return Err(StateError::Format { found });
        }
        if version != own_version() {
            let text = String::from_utf8_lossy(version);
            return Err(StateError::Vmm {
                found: text.trim_end_matches('\0').to_owned(),
            });
        }
        let wanted = length.try_into().map_or(0, u64::from_le_bytes);
        if payload.len() as u64 != wanted {
            return Err(StateError::Length {
                found: payload.len() as u64,
                wanted,
            });
        }
        postcard::from_bytes(payload).map_err(StateError::Decode)
    }
}

fn own_version() -> [u8; VERSION_BYTES] {
    let mut bytes = [0; VERSION_BYTES];
    for (target, byte) in bytes.iter_mut().zip(env!("CARGO_PKG_VERSION").bytes()) {
        *target = byte;
    }
    bytes
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A state without vCPUs and devices.
    fn empty() -> MachineState {
        MachineState {
            machine: MachineConfig {
                vcpus: 2,
                memory_mib: 256,
            },
            cpu: GuestCpu {
                vendor: "AuthenticAMD".into(),
                model: "a model".into(),
                signature: 0x00a2_0f10,
                features: "00".into(),
            },
            vm: VmState::default(),
            vcpus: Vec::new(),
            devices: DevicesState::default(),
        }
    }

    #[test]
    fn a_state_survives_the_file() {
        let bytes = empty().encode().unwrap();
        let back = MachineState::decode(&bytes).unwrap();
        assert_eq!(back.machine, empty().machine);
        assert_eq!(back.cpu, empty().cpu);
        assert_eq!(back.encode().unwrap(), bytes);
    }

    #[test]
    fn a_state_that_was_cut_is_refused_with_both_lengths() {
        let bytes = empty().encode().unwrap();
        let wanted = (bytes.len() - HEADER) as u64;
        let error = MachineState::decode(&bytes[..bytes.len() - 3]).unwrap_err();
        assert!(
            matches!(error, StateError::Length { found, wanted: w } if w == wanted && found == wanted - 3),
            "{error}"
        );
        assert!(matches!(
            MachineState::decode(&bytes[..10]),
            Err(StateError::Foreign)
        ));
    }

    #[test]
    fn another_format_or_vmm_is_named() {
        let mut bytes = empty().encode().unwrap();
        bytes[8] = 99;
        let error = MachineState::decode(&bytes).unwrap_err();
        assert!(error.to_string().contains("format 99"), "{error}");
        let mut bytes = empty().encode().unwrap();
        bytes[12..17].copy_from_slice(b"9.9.9");
        let error = MachineState::decode(&bytes).unwrap_err();
        assert!(error.to_string().contains("VMM 9.9.9"), "{error}");
    }
}
