//! 64-bit Linux boot protocol: kernel, initramfs, command line and `boot_params` in guest memory.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use linux_loader::{
    configurator::{BootConfigurator, BootParams, linux::LinuxBootConfigurator},
    loader::{
        KernelLoader,
        bootparam::{boot_e820_entry, boot_params},
        elf::Elf,
    },
};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, ReadVolatile,
    VolatileMemoryError, VolatileSlice, bitmap::BitmapSlice,
};

use super::layout;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// `boot_flag`, `header`, `type_of_loader` (undefined) and alignment of Documentation/x86/boot.rst.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
const LOADER_OTHER: u8 = 0xff;
const KERNEL_ALIGNMENT: u32 = 0x100_0000;
const PAGE: u64 = 4096;

/// Why a kernel could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel is not a loadable ELF image, or does not fit.
    #[error("loading the kernel: {0}; it must be an uncompressed x86-64 vmlinux that fits memory")]
    Kernel(linux_loader::loader::Error),
    /// The initramfs cannot be read.
    #[error("reading the initramfs: {0}")]
    Initramfs(std::io::Error),
    /// The initramfs does not fit between kernel and end of memory.
    #[error(
        "an initramfs of {size} bytes does not fit memory between the kernel's end at \
         {kernel_end:#x} and {memory_end:#x}; give the machine more memory"
    )]
    InitramfsTooLarge {
        /// Bytes of the archive.
        size: u64,
        /// First free address.
        kernel_end: u64,
        /// End of low memory.
        memory_end: u64,
    },
    /// The command line is too long or contains a zero byte.
    #[error("the kernel command line has {0} bytes or a zero byte in it; at most {max} are possible", max = layout::CMDLINE_MAX - 1)]
    CommandLine(usize),
    /// Guest memory does not cover an address of the boot protocol.
    #[error("writing boot parameters to guest memory: {0}")]
    Memory(String),
}

/// Loads everything that a kernel finds in memory and returns its 64-bit entry point.
///
/// # Errors
/// [`BootError`] names the part that does not fit.
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: File,
    initramfs: File,
    cmdline: &str,
    rsdp: GuestAddress,
) -> Result<GuestAddress, BootError> {
    let high = Some(GuestAddress(layout::HIGH_RAM));
    let kernel =
        Elf::load(memory, None, &mut KernelFile(kernel), high).map_err(BootError::Kernel)?;
    let initrd = load_initramfs(memory, initramfs, kernel.kernel_end)?;
    write_cmdline(memory, cmdline)?;
    let mut params = boot_params::default();
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.type_of_loader = LOADER_OTHER;
    params.hdr.kernel_alignment = KERNEL_ALIGNMENT;
    params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    params.hdr.cmdline_size = cmdline.len() as u32 + 1;
    params.hdr.ramdisk_image = initrd.address as u32;
    params.hdr.ramdisk_size = initrd.size;
    params.acpi_rsdp_addr = rsdp.0;
    for (slot, entry) in params.e820_table.iter_mut().zip(e820(memory)) {
        *slot = entry;
        params.e820_entries += 1;
    }
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, GuestAddress(layout::ZERO_PAGE)),
        memory,
    )
    .map_err(|e| BootError::Memory(e.to_string()))?;
    Ok(kernel.kernel_load)
}

/// A kernel image, seekable and readable straight into guest memory.
struct KernelFile(File);

impl Read for KernelFile {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Seek for KernelFile {
    fn seek(&mut self, position: SeekFrom) -> std::io::Result<u64> {
        self.0.seek(position)
    }
}

impl ReadVolatile for KernelFile {
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buffer: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        self.0.read_volatile(buffer)
    }
}

struct Initrd {
    address: u64,
    size: u32,
}

/// Reads the archive to the end of low memory, where the kernel does not unpack itself over it.
fn load_initramfs(
    memory: &GuestMemoryMmap,
    mut file: File,
    kernel_end: u64,
) -> Result<Initrd, BootError> {
    let size = file
        .seek(SeekFrom::End(0))
        .and_then(|size| file.rewind().map(|()| size))
        .map_err(BootError::Initramfs)?;
    let memory_end = low_memory_end(memory);
    let too_large = BootError::InitramfsTooLarge {
        size,
        kernel_end,
        memory_end,
    };
    let Some(address) = memory_end.checked_sub(size).map(|a| a & !(PAGE - 1)) else {
        return Err(too_large);
    };
    let (true, Ok(length)) = (address >= kernel_end, u32::try_from(size)) else {
        return Err(too_large);
    };
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut file, length as usize)
        .map_err(|e| BootError::Initramfs(std::io::Error::other(e)))?;
    Ok(Initrd {
        address,
        size: length,
    })
}

fn low_memory_end(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().next().map_or(0, GuestMemoryRegion::len)
}

fn write_cmdline(memory: &GuestMemoryMmap, cmdline: &str) -> Result<(), BootError> {
    if cmdline.len() >= layout::CMDLINE_MAX || cmdline.contains('\0') {
        return Err(BootError::CommandLine(cmdline.len()));
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    memory
        .write_slice(&bytes, GuestAddress(layout::CMDLINE))
        .map_err(|e| BootError::Memory(e.to_string()))
}

/// The memory map that the kernel gets instead of one from firmware.
fn e820(memory: &GuestMemoryMmap) -> Vec<boot_e820_entry> {
    let entry = |addr, end: u64, kind| boot_e820_entry {
        addr,
        size: end - addr,
        r#type: kind,
    };
    let mut map = vec![
        entry(0, layout::LOW_RAM_END, E820_RAM),
        entry(layout::LOW_RAM_END, layout::HIGH_RAM, E820_RESERVED),
        entry(layout::HIGH_RAM, low_memory_end(memory), E820_RAM),
    ];
    map.extend(memory.iter().skip(1).map(|region| {
        let start = region.start_addr().0;
        entry(start, start + region.len(), E820_RAM)
    }));
    map
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{config::MachineConfig, memory};

    fn guest(memory_mib: u64) -> GuestMemoryMmap {
        memory::anonymous(MachineConfig {
            vcpus: 1,
            memory_mib,
        })
        .unwrap()
    }

    #[test]
    fn the_memory_map_covers_all_ram_once_and_leaves_out_the_device_hole() {
        let map = e820(&guest(4096));
        let ram: u64 = map
            .iter()
            .filter(|entry| entry.r#type == E820_RAM)
            .map(|entry| entry.size)
            .sum();
        assert_eq!(ram, (4096 << 20) - (layout::HIGH_RAM - layout::LOW_RAM_END));
        let mut last = 0;
        for entry in map {
            let (addr, size) = (entry.addr, entry.size);
            assert!(addr >= last);
            last = addr + size;
            assert!(last <= layout::MMIO_GAP_START || addr >= layout::MMIO_GAP_END);
        }
    }

    #[test]
    fn an_initramfs_larger_than_memory_is_refused_by_name() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(256 << 20).unwrap();
        let error = load_initramfs(&guest(128), file, 0).map(drop).unwrap_err();
        assert!(
            matches!(error, BootError::InitramfsTooLarge { .. }),
            "{error}"
        );
    }

    #[test]
    fn the_initramfs_ends_at_the_end_of_low_memory() {
        let memory = guest(128);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 5000]).unwrap();
        let initrd = load_initramfs(&memory, file, 64 << 20).unwrap();
        assert_eq!((initrd.address, initrd.size), ((128 << 20) - 8192, 5000));
        let last: u8 = memory
            .read_obj(GuestAddress(initrd.address + 4999))
            .unwrap();
        assert_eq!(last, 7);
    }

    #[test]
    fn something_that_is_not_a_kernel_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 4096]).unwrap();
        let empty = tempfile::tempfile().unwrap();
        let error = load(&guest(128), file, empty, "", GuestAddress(0)).unwrap_err();
        assert!(error.to_string().contains("vmlinux"), "{error}");
    }

    #[test]
    fn a_command_line_that_the_kernel_would_cut_is_refused() {
        let error = write_cmdline(&guest(128), &"a".repeat(layout::CMDLINE_MAX)).unwrap_err();
        assert!(matches!(error, BootError::CommandLine(_)));
    }
}
