//! Writes a paused machine into the files of a snapshot.

use std::{fs::File, io::Write, os::fd::OwnedFd};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{Machine, devices};
use crate::{
    control::SnapshotParts,
    devices::virtio::block::MergeDiskError,
    snapshot::{
        digest::{CHUNK, ContentDigest, SparseWriter, digest_file},
        state::MachineState,
    },
    vcpu::VcpuError,
    vm::VmError,
};

/// Why a machine could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It runs.
    #[error("the machine runs; pause it before a snapshot")]
    Running,
    /// The parent did not pass the three files.
    #[error("a snapshot needs three files beside the request, there are {0}")]
    Files(usize),
    /// Virtual machine state.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// vCPU state.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// Guest memory.
    #[error("reading guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// The state could not be encoded.
    #[error("encoding the machine's state: {0}")]
    Encode(#[from] postcard::Error),
    /// The writable disk.
    #[error(transparent)]
    Disk(#[from] MergeDiskError),
    /// More than one disk is writable, but a snapshot has one disk file.
    #[error("the machine has {0} writable disks; a snapshot holds one")]
    ManyDisks(usize),
    /// A file could not be written.
    #[error("writing the snapshot's {file}: {cause}; is there room on its file system?")]
    Write {
        /// Which.
        file: &'static str,
        /// The system's answer.
        cause: std::io::Error,
    },
}

impl Machine {
    /// Writes the paused machine into three empty files: memory, state, and the writable disk
    /// merged over its base. The machine stays paused.
    ///
    /// # Errors
    /// [`SaveError`] names what failed; the files are then worth nothing.
    pub fn save(&self, files: Vec<OwnedFd>) -> Result<SnapshotParts, SaveError> {
        if !self.paused {
            return Err(SaveError::Running);
        }
        let count = files.len();
        let [memory, state, disk] = <[OwnedFd; 3]>::try_from(files)
            .map_err(|_| SaveError::Files(count))?
            .map(File::from);
        let machine = MachineState {
            machine: self.config,
            cpu: self.cpu.clone(),
            vcpus: self
                .vcpus
                .iter()
                .map(|vcpu| vcpu.save(self.msrs.clone()))
                .collect::<Result<_, _>>()?,
            vm: self.vm.save()?,
            devices: devices::save(&self.devices),
        };
        Ok(SnapshotParts {
            state: write_state(&machine, state)?,
            memory: self.write_memory(&memory)?,
            disk: self.write_disk(&disk)?,
        })
    }

    fn write_memory(&self, file: &File) -> Result<ContentDigest, SaveError> {
        let failed = write_error("memory");
        let mut writer = SparseWriter::new(file);
        let mut chunk = vec![0; CHUNK];
        for region in self.vm.memory().iter() {
            let end = region.start_addr().0 + region.len();
            let mut address = region.start_addr().0;
            while address < end {
                let length = CHUNK.min((end - address) as usize);
                let chunk = &mut chunk[..length];
                self.vm.memory().read_slice(chunk, GuestAddress(address))?;
                writer.write(chunk).map_err(&failed)?;
                address += length as u64;
            }
        }
        writer.finish().map_err(&failed)
    }

    fn write_disk(&self, file: &File) -> Result<ContentDigest, SaveError> {
        let failed = write_error("disk");
        let writable: Vec<usize> = (0..self.devices.virtio_count())
            .filter(|slot| {
                let transport = self.devices.virtio(*slot);
                transport.is_some_and(|t| t.device().as_block().is_some_and(|b| b.is_writable()))
            })
            .collect();
        if writable.len() > 1 {
            return Err(SaveError::ManyDisks(writable.len()));
        }
        for transport in writable
            .iter()
            .filter_map(|slot| self.devices.virtio(*slot))
        {
            if let Some(block) = transport.device().as_block() {
                block.write_merged(file)?;
            }
        }
        file.sync_all().map_err(&failed)?;
        digest_file(file, &mut |_| ()).map_err(&failed)
    }
}

fn write_state(state: &MachineState, mut file: File) -> Result<ContentDigest, SaveError> {
    let failed = write_error("state");
    let bytes = state.encode()?;
    file.write_all(&bytes).map_err(&failed)?;
    file.sync_all().map_err(&failed)?;
    digest_file(&file, &mut |_| ()).map_err(&failed)
}

fn write_error(file: &'static str) -> impl Fn(std::io::Error) -> SaveError {
    move |cause| SaveError::Write { file, cause }
}
