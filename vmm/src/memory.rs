//! Guest memory: where it lies, how it is mapped, and how it is told to KVM.
//!
//! RAM below [`layout::MMIO_GAP_START`] is one region, the rest is a second one above 4 GiB. In a
//! snapshot's memory file the regions follow each other without the gap.

use std::{fs::File, os::unix::fs::MetadataExt, sync::Arc};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, mmap::MmapRegionBuilder,
};

use crate::{arch::layout, config::MachineConfig};

const MIB: u64 = 1 << 20;

/// Why guest memory could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The snapshot's memory file does not fit the machine.
    #[error(
        "the snapshot's memory file has {found} bytes, a machine of {memory_mib} MiB needs {wanted}; \
         it was truncated or belongs to another machine size: remove the snapshot and make it again"
    )]
    FileSize {
        /// Length of the file in bytes.
        found: u64,
        /// Length that the machine needs in bytes.
        wanted: u64,
        /// Size of the machine in MiB.
        memory_mib: u64,
    },
    /// The length of the memory file cannot be read.
    #[error("reading the length of the snapshot's memory file: {0}")]
    Stat(std::io::Error),
    /// The kernel refused the mapping.
    #[error("mapping {size} bytes of guest memory: {cause}; lower the machine's memory")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// The kernel's answer.
        cause: String,
    },
    /// KVM refused a region.
    #[error("registering {size} bytes of guest memory at {address:#x} with KVM: {cause}")]
    Register {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        size: u64,
        /// KVM's answer.
        cause: kvm_ioctls::Error,
    },
}

/// Guest physical ranges of a machine, lowest first: address and bytes.
#[must_use]
pub fn ranges(machine: MachineConfig) -> Vec<(GuestAddress, u64)> {
    let total = machine.memory_mib * MIB;
    if total <= layout::MMIO_GAP_START {
        return vec![(GuestAddress(0), total)];
    }
    vec![
        (GuestAddress(0), layout::MMIO_GAP_START),
        (
            GuestAddress(layout::MMIO_GAP_END),
            total - layout::MMIO_GAP_START,
        ),
    ]
}

/// Maps fresh, zeroed memory for a boot.
///
/// Nothing is reserved: a sandbox uses what its guest touches.
///
/// # Errors
/// [`MemoryError::Map`] when the kernel refuses the mapping.
pub fn anonymous(machine: MachineConfig) -> Result<GuestMemoryMmap, MemoryError> {
    map(machine, None)
}

/// Maps a snapshot's memory file privately: pages are shared with every other sandbox of the
/// snapshot until this guest writes them, and the file never changes.
///
/// # Errors
/// [`MemoryError::FileSize`] when the file is not as long as the machine's memory.
pub fn from_snapshot(machine: MachineConfig, file: File) -> Result<GuestMemoryMmap, MemoryError> {
    let found = file.metadata().map_err(MemoryError::Stat)?.size();
    let wanted = machine.memory_mib * MIB;
    if found != wanted {
        return Err(MemoryError::FileSize {
            found,
            wanted,
            memory_mib: machine.memory_mib,
        });
    }
    map(machine, Some(&Arc::new(file)))
}

fn map(machine: MachineConfig, file: Option<&Arc<File>>) -> Result<GuestMemoryMmap, MemoryError> {
    let mut regions = Vec::with_capacity(2);
    let mut offset = 0;
    for (address, size) in ranges(machine) {
        let failed = |cause: String| MemoryError::Map { size, cause };
        let length = usize::try_from(size).map_err(|e| failed(e.to_string()))?;
        let mut builder = MmapRegionBuilder::new(length)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(match file {
                Some(_) => libc::MAP_PRIVATE | libc::MAP_NORESERVE,
                None => libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_ANONYMOUS,
            });
        if let Some(file) = file {
            builder = builder.with_file_offset(FileOffset::from_arc(Arc::clone(file), offset));
        }
        let mapping = builder.build().map_err(|e| failed(e.to_string()))?;
        exclude_from_dumps(mapping.as_ptr(), length);
        regions.push(
            GuestRegionMmap::new(mapping, address)
                .ok_or_else(|| failed("the region overflows the address space".into()))?,
        );
        offset += size;
    }
    GuestMemoryMmap::from_regions(regions).map_err(|e| MemoryError::Map {
        size: offset,
        cause: e.to_string(),
    })
}

/// Keeps guest memory out of core dumps: a job's data must not outlive it in a crash file.
fn exclude_from_dumps(start: *mut u8, length: usize) {
    // SAFETY: the range is exactly one live mapping that the caller owns; MADV_DONTDUMP does not
    // change its content. It is a precaution, so a kernel that refuses it is no error.
    unsafe {
        libc::madvise(start.cast(), length, libc::MADV_DONTDUMP);
    }
}

/// Makes guest memory known to KVM, one slot per region.
///
/// # Errors
/// [`MemoryError::Register`] when KVM refuses a region.
pub fn register(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), MemoryError> {
    for (slot, region) in memory.iter().enumerate() {
        let description = kvm_userspace_memory_region {
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the region is a live mapping of this length that `memory` keeps alive, and the
        // machine drops its vCPUs and the VM before it drops `memory`; regions do not overlap.
        unsafe { vm.set_user_memory_region(description) }.map_err(|cause| {
            MemoryError::Register {
                address: description.guest_phys_addr,
                size: description.memory_size,
                cause,
            }
        })?;
    }
    Ok(())
}

/// Bytes of guest memory.
#[must_use]
pub fn size(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().map(GuestMemoryRegion::len).sum()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::Bytes;

    use super::*;

    fn machine(memory_mib: u64) -> MachineConfig {
        MachineConfig {
            vcpus: 1,
            memory_mib,
        }
    }

    #[test]
    fn memory_up_to_the_gap_is_one_region() {
        assert_eq!(ranges(machine(256)), [(GuestAddress(0), 256 * MIB)]);
        assert_eq!(ranges(machine(3072)), [(GuestAddress(0), 3072 * MIB)]);
    }

    #[test]
    fn memory_beyond_the_gap_goes_above_four_gib() {
        assert_eq!(
            ranges(machine(4096)),
            [
                (GuestAddress(0), 3072 * MIB),
                (GuestAddress(1 << 32), 1024 * MIB)
            ]
        );
    }

    #[test]
    fn a_memory_file_of_another_size_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(127 * MIB).unwrap();
        let error = from_snapshot(machine(128), file).unwrap_err();
        assert!(matches!(error, MemoryError::FileSize { found, .. } if found == 127 * MIB));
        assert!(error.to_string().contains("128 MiB"), "{error}");
    }

    #[test]
    fn writes_to_a_restored_memory_do_not_reach_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"snapshot").unwrap();
        file.set_len(128 * MIB).unwrap();
        let memory = from_snapshot(machine(128), file.try_clone().unwrap()).unwrap();
        let mut read = [0; 8];
        memory.read_slice(&mut read, GuestAddress(0)).unwrap();
        assert_eq!(&read, b"snapshot");
        memory.write_slice(b"sandbox!", GuestAddress(0)).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).unwrap();
        assert_eq!(&read, b"snapshot");
    }
}
