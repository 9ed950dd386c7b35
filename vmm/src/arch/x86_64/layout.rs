//! The guest's physical address map, interrupt lines and I/O ports.
//!
//! Everything is fixed, so that a snapshot and every machine restored from it agree without
//! negotiation. A change here is a new [`crate::snapshot::manifest::SNAPSHOT_VERSION`].

/// Stack of the boot processor until the kernel has its own.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Global descriptor table of the boot processor.
pub const BOOT_GDT: u64 = 0x500;
/// Interrupt descriptor table of the boot processor; empty.
pub const BOOT_IDT: u64 = 0x520;
/// Linux `boot_params`.
pub const ZERO_PAGE: u64 = 0x7000;
/// First of the identity-mapping page tables: one PML4, one PDPT, four page directories.
pub const PAGE_TABLES: u64 = 0x9000;
/// Kernel command line.
pub const CMDLINE: u64 = 0x20000;
/// Longest kernel command line, terminating zero included (`COMMAND_LINE_SIZE` of x86).
pub const CMDLINE_MAX: usize = 2048;
/// End of conventional memory; up to [`HIGH_RAM`] the guest sees reserved memory.
pub const LOW_RAM_END: u64 = 0x9fc00;
/// Page with the generation identifier (VMGENID), in reserved memory.
pub const GENERATION_ID: u64 = 0xd_0000;
/// ACPI: root pointer first, tables behind it.
pub const RSDP: u64 = 0xe_0000;
/// First address behind the ACPI tables.
pub const ACPI_END: u64 = 0xf_0000;
/// Memory above the first MiB; the kernel is loaded from here on.
pub const HIGH_RAM: u64 = 0x10_0000;

/// Start of the hole in RAM for devices.
pub const MMIO_GAP_START: u64 = 0xc000_0000;
/// End of that hole.
pub const MMIO_GAP_END: u64 = 1 << 32;
/// Registers of the first virtio device.
pub const VIRTIO_MMIO_BASE: u64 = MMIO_GAP_START;
/// Bytes of registers per virtio device.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Registers of the I/O interrupt controller in KVM.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Registers of the local interrupt controller in KVM.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Page that KVM on Intel needs for real mode.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM on Intel needs for real mode.
pub const KVM_TSS: usize = 0xfffb_d000;

/// Interrupt line of the serial port.
pub const SERIAL_GSI: u32 = 4;
/// Interrupt line of the ACPI generic event device.
pub const GED_GSI: u32 = 5;
/// Interrupt line of the first virtio device.
pub const VIRTIO_GSI_BASE: u32 = 6;
/// How many virtio devices fit: the I/O interrupt controller has lines 0 to 23.
pub const VIRTIO_SLOTS: u32 = 24 - VIRTIO_GSI_BASE;

/// First I/O port of COM1.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Number of I/O ports of COM1.
pub const SERIAL_PORTS: u16 = 8;
/// Command and status port of the keyboard controller; only its reset line exists.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// ACPI sleep control register (hardware-reduced ACPI).
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register.
pub const RESET_PORT: u16 = 0x602;
/// Value that resets the machine.
pub const RESET_VALUE: u8 = 1;
/// `SLP_TYP` of S5 (soft off) in `\_S5`.
pub const SLEEP_TYPE_S5: u8 = 5;
