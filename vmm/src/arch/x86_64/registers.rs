//! Registers of the boot processor at the 64-bit entry point: flat segments, paging on.

use kvm_bindings::{kvm_fpu, kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::layout;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Null, 64-bit code, data, task state: limit 0xfffff in pages.
const GDT: [u64; 4] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x008f_8b00_0000_ffff,
];

/// Present and writable, as Linux expects of the identity map that it starts on.
const TABLE: u64 = 0b11;
/// Present, writable, 2 MiB.
const LARGE_PAGE: u64 = 0b1000_0011;

/// `x87` and SSE control words after reset.
const FPU_CONTROL: u16 = 0x37f;
const SSE_CONTROL: u32 = 0x1f80;

/// Offsets and delivery modes of LINT0 (from the legacy controller) and LINT1 (NMI).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVERY_NMI: u32 = 4;
const DELIVERY_EXTINT: u32 = 7;

/// General registers: entry point, stack, and `boot_params` in RSI.
#[must_use]
pub fn boot_regs(entry: u64) -> kvm_regs {
    kvm_regs {
        rip: entry,
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        rsi: layout::ZERO_PAGE,
        rflags: 2,
        ..Default::default()
    }
}

/// Floating-point state after reset.
#[must_use]
pub fn boot_fpu() -> kvm_fpu {
    kvm_fpu {
        fcw: FPU_CONTROL,
        mxcsr: SSE_CONTROL,
        ..Default::default()
    }
}

/// Turns `sregs` into long mode on the tables of [`write_boot_tables`].
pub fn enter_long_mode(sregs: &mut kvm_sregs) {
    let data = segment(2);
    sregs.cs = segment(1);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(3);
    sregs.gdt.base = layout::BOOT_GDT;
    sregs.gdt.limit = (size_of_val(&GDT) - 1) as u16;
    sregs.idt.base = layout::BOOT_IDT;
    sregs.idt.limit = 7;
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 |= CR0_PE | CR0_ET | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
}

/// The cached form of a GDT entry.
fn segment(index: u16) -> kvm_segment {
    let entry = GDT[usize::from(index)];
    let bit = |position: u32| (entry >> position & 1) as u8;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_: (entry >> 40 & 0xf) as u8,
        present: bit(47),
        dpl: (entry >> 45 & 3) as u8,
        db: bit(54),
        s: bit(44),
        l: bit(53),
        g: bit(55),
        avl: bit(52),
        unusable: 0,
        padding: 0,
    }
}

/// Writes GDT, empty IDT, and page tables that map the first 4 GiB to themselves.
///
/// # Errors
/// When guest memory is smaller than the first 64 KiB.
pub fn write_boot_tables(memory: &GuestMemoryMmap) -> Result<(), vm_memory::GuestMemoryError> {
    for (index, entry) in (0_u64..).zip(GDT) {
        memory.write_obj(entry, GuestAddress(layout::BOOT_GDT + index * 8))?;
    }
    memory.write_obj(0_u64, GuestAddress(layout::BOOT_IDT))?;
    let directory_pointers = layout::PAGE_TABLES + 0x1000;
    memory.write_obj(
        directory_pointers | TABLE,
        GuestAddress(layout::PAGE_TABLES),
    )?;
    for gib in 0..4_u64 {
        let directory = directory_pointers + 0x1000 * (gib + 1);
        memory.write_obj(
            directory | TABLE,
            GuestAddress(directory_pointers + gib * 8),
        )?;
        for page in 0..512_u64 {
            let target = (gib << 30) + (page << 21);
            memory.write_obj(target | LARGE_PAGE, GuestAddress(directory + page * 8))?;
        }
    }
    Ok(())
}

/// Routes LINT0 to the legacy controller and LINT1 to NMI, as firmware would.
pub fn set_local_interrupts(lapic: &mut kvm_lapic_state) {
    set_delivery_mode(lapic, LVT_LINT0, DELIVERY_EXTINT);
    set_delivery_mode(lapic, LVT_LINT1, DELIVERY_NMI);
}

fn set_delivery_mode(lapic: &mut kvm_lapic_state, offset: usize, mode: u32) {
    let register = &mut lapic.regs[offset..offset + 4];
    let mut bytes = [0; 4];
    for (byte, source) in bytes.iter_mut().zip(register.iter()) {
        *byte = source.cast_unsigned();
    }
    let value = (u32::from_le_bytes(bytes) & !0x700) | mode << 8;
    for (target, byte) in register.iter_mut().zip(value.to_le_bytes()) {
        *target = byte.cast_signed() as _;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_segment_is_64_bit_and_data_is_writable() {
        let code = segment(1);
        assert_eq!((code.l, code.db, code.type_, code.selector), (1, 0, 0xb, 8));
        let data = segment(2);
        assert_eq!((data.l, data.db, data.type_, data.g), (0, 1, 0x3, 1));
    }

    #[test]
    fn boot_tables_map_the_kernel_to_itself_and_stay_below_the_command_line() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_boot_tables(&memory).unwrap();
        let directory = layout::PAGE_TABLES + 0x2000;
        let entry: u64 = memory.read_obj(GuestAddress(directory + 8 * 8)).unwrap();
        assert_eq!(entry, 0x100_0000 | LARGE_PAGE);
        const { assert!(layout::PAGE_TABLES + 6 * 0x1000 <= layout::CMDLINE) };
    }

    #[test]
    fn local_interrupt_modes_are_set_without_touching_other_bits() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[LVT_LINT0] = 0x21;
        set_local_interrupts(&mut lapic);
        assert_eq!(lapic.regs[LVT_LINT0..LVT_LINT0 + 2], [0x21, 0x7]);
        assert_eq!(lapic.regs[LVT_LINT1 + 1], 0x4);
    }
}
