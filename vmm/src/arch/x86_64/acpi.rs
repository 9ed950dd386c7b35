//! ACPI tables: hardware-reduced, as small as a Linux guest needs to find its devices.
//!
//! `virtio-mmio` devices are `LNRO0005` in the DSDT because Debian's kernel takes no device
//! descriptions from the command line.

use acpi_tables::{
    Aml,
    aml::{
        Device, EISAName, IO, Interrupt, Memory32Fixed, Method, Name, Notify, Package, Path,
        ResourceTemplate, Scope,
    },
    fadt::{FADT, FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::layout;

const OEM_ID: [u8; 6] = *b"MAYFLY";
const OEM_TABLE_ID: [u8; 8] = *b"MAYFLYVM";
const OEM_REVISION: u32 = 1;
/// `IAPC_BOOT_ARCH`: no VGA, no MSI-unsafe chipset, no ASPM, no CMOS clock; and by absence no
/// legacy devices and no keyboard controller.
const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 4 | 1 << 5;

/// Why the tables could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// The tables do not fit their area.
    #[error("{needed} bytes of ACPI tables do not fit the {available} bytes reserved for them")]
    TooLarge {
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// Guest memory does not cover the area.
    #[error("writing ACPI tables to guest memory: {0}")]
    Write(#[from] vm_memory::GuestMemoryError),
}

/// Writes all tables and returns the address of the root pointer.
///
/// # Errors
/// [`AcpiError`] when they do not fit or memory is too small.
pub fn write_tables(
    memory: &GuestMemoryMmap,
    vcpus: u8,
    virtio_devices: u32,
) -> Result<GuestAddress, AcpiError> {
    let mut next = layout::RSDP + align(Rsdp::len() as u64);
    let mut place = |table: &[u8]| -> Result<u64, AcpiError> {
        let address = next;
        next += align(table.len() as u64);
        if next > layout::ACPI_END {
            return Err(AcpiError::TooLarge {
                needed: next - layout::RSDP,
                available: layout::ACPI_END - layout::RSDP,
            });
        }
        memory.write_slice(table, GuestAddress(address))?;
        Ok(address)
    };
    let dsdt = place(&dsdt(virtio_devices))?;
    let fadt = place(&fadt(dsdt))?;
    let madt = place(&madt(vcpus))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&bytes(&xsdt))?;
    let root = GuestAddress(layout::RSDP);
    memory.write_slice(&bytes(&Rsdp::new(OEM_ID, xsdt)), root)?;
    Ok(root)
}

fn align(length: u64) -> u64 {
    length.next_multiple_of(64)
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn io_register(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(port),
    )
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut builder = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    builder.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    builder.reset_reg = io_register(layout::RESET_PORT);
    builder.reset_value = layout::RESET_VALUE;
    builder.sleep_control_reg = io_register(layout::SLEEP_CONTROL_PORT);
    builder.sleep_status_reg = io_register(layout::SLEEP_STATUS_PORT);
    builder.hypervisor_vendor_identity = u64::from_le_bytes(*b"MAYFLY\0\0").into();
    debug_assert_eq!(size_of_val(&builder), FADT::len());
    bytes(&builder.finalize())
}

/// Interrupt controllers. Own bytes: the crate's builder knows no source overrides.
fn madt(vcpus: u8) -> Vec<u8> {
    let mut table = Sdt::new(*b"APIC", 36, 5, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append(layout::LOCAL_APIC);
    table.append(0_u32);
    for id in 0..vcpus {
        // Type 0, 8 bytes: processor, local APIC, enabled.
        table.append_slice(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    // Type 1, 12 bytes: I/O APIC; its identifier follows those of the processors.
    table.append_slice(&[1, 12, vcpus, 0]);
    table.append(layout::IOAPIC);
    table.append(0_u32);
    // Type 2, 10 bytes: serial line and event device are edge-triggered, active high (0b0101),
    // at the line of their own number. Without this line 4 and 5 would be taken for ISA defaults.
    for line in [layout::SERIAL_GSI, layout::GED_GSI] {
        table.append_slice(&[2, 10, 0, line as u8]);
        table.append(line);
        table.append(0b0101_u16);
    }
    // Type 4, 6 bytes: non-maskable interrupts of all processors arrive at LINT1.
    table.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    table.as_slice().to_vec()
}

fn dsdt(virtio_devices: u32) -> Vec<u8> {
    let mut aml = Vec::new();
    append_serial(&mut aml);
    for slot in 0..virtio_devices {
        append_virtio(&mut aml, slot);
    }
    append_generation_id(&mut aml);
    append_sleep(&mut aml);
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&aml);
    table.as_slice().to_vec()
}

/// An edge-triggered, active-high, exclusive interrupt: what an irqfd delivers.
fn edge(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

fn append_serial(aml: &mut Vec<u8>) {
    Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0_u8),
            &Name::new("_DDN".into(), &"COM1"),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &edge(layout::SERIAL_GSI),
                    &IO::new(
                        layout::SERIAL_PORT,
                        layout::SERIAL_PORT,
                        1,
                        layout::SERIAL_PORTS as u8,
                    ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn append_virtio(aml: &mut Vec<u8>, slot: u32) {
    let base = layout::VIRTIO_MMIO_BASE as u32 + slot * layout::VIRTIO_MMIO_SIZE as u32;
    Device::new(
        Path::new(&format!("_SB_.V{slot:03}")),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &slot),
            &Name::new("_CCA".into(), &1_u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, base, layout::VIRTIO_MMIO_SIZE as u32),
                    &edge(layout::VIRTIO_GSI_BASE + slot),
                ]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// The generation identifier and the event device that announces its change.
fn append_generation_id(aml: &mut Vec<u8>) {
    let address = layout::GENERATION_ID as u32;
    Device::new(
        "_SB_.VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"MYFLVGID"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("ADDR".into(), &Package::new(vec![&address, &0_u32])),
        ],
    )
    .to_aml_bytes(aml);
    Device::new(
        "_SB_.GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &0_u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&edge(layout::GED_GSI)]),
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&Notify::new(&Path::new("\\_SB_.VGEN"), &0x80_u8)],
            ),
        ],
    )
    .to_aml_bytes(aml);
}

fn append_sleep(aml: &mut Vec<u8>) {
    Name::new(
        "\\_S5_".into(),
        &Package::new(vec![&layout::SLEEP_TYPE_S5, &0_u8, &0_u8, &0_u8]),
    )
    .to_aml_bytes(aml);
    // An empty processor scope keeps firmware test suites and old kernels quiet.
    Scope::new("_SB_".into(), Vec::new()).to_aml_bytes(aml);
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;

    fn written(vcpus: u8, devices: u32) -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        write_tables(&memory, vcpus, devices).unwrap();
        memory
    }

    fn table(memory: &GuestMemoryMmap, address: u64) -> Vec<u8> {
        let length: u32 = memory.read_obj(GuestAddress(address + 4)).unwrap();
        let mut bytes = vec![0; length as usize];
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// Root pointer -> XSDT -> (FADT, MADT); FADT -> DSDT.
    fn tables(memory: &GuestMemoryMmap) -> Vec<Vec<u8>> {
        let xsdt: u64 = memory.read_obj(GuestAddress(layout::RSDP + 24)).unwrap();
        let root = table(memory, xsdt);
        let mut all = vec![root.clone()];
        for entry in root[36..].chunks(8) {
            all.push(table(memory, u64::from_le_bytes(entry.try_into().unwrap())));
        }
        let dsdt = u64::from_le_bytes(all[1][140..148].try_into().unwrap());
        all.push(table(memory, dsdt));
        all
    }

    #[test]
    fn every_table_sums_to_zero_and_is_reachable_from_the_root() {
        let memory = written(4, 5);
        let mut root = [0; 36];
        memory
            .read_slice(&mut root, GuestAddress(layout::RSDP))
            .unwrap();
        assert_eq!(&root[..8], b"RSD PTR ");
        assert_eq!((sum(&root[..20]), sum(&root)), (0, 0));
        let tables = tables(&memory);
        let names: Vec<&[u8]> = tables.iter().map(|t| &t[..4]).collect();
        assert_eq!(names, [b"XSDT", b"FACP", b"APIC", b"DSDT"]);
        for table in &tables {
            assert_eq!(sum(table), 0, "{:?}", String::from_utf8_lossy(&table[..4]));
        }
    }

    #[test]
    fn the_madt_lists_one_enabled_local_apic_per_vcpu() {
        let madt = &tables(&written(3, 1))[2];
        let mut found = 0;
        let mut rest = &madt[44..];
        while let [kind, length, ..] = rest {
            if *kind == 0 {
                assert_eq!(&rest[2..8], [found, found, 1, 0, 0, 0]);
                found += 1;
            }
            rest = &rest[usize::from(*length)..];
        }
        assert_eq!(found, 3);
    }

    #[test]
    fn the_dsdt_has_one_device_per_virtio_slot() {
        let dsdt = tables(&written(1, 5)).pop().unwrap();
        let count = dsdt.windows(8).filter(|w| w == b"LNRO0005").count();
        assert_eq!(count, 5);
    }

    #[test]
    fn tables_of_the_largest_machine_fit() {
        written(32, layout::VIRTIO_SLOTS);
    }
}
