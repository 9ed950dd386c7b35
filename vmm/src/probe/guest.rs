//! The guest of the probe: from ring 3 through SYSCALL to LSTAR, which must be ring 0.
//!
//! Long mode, one identity-mapped page of 2 MiB. Ring 0 returns to ring 3 by IRETQ, ring 3 makes a
//! system call, and its handler does what only ring 0 may and some KVMs cannot: CMPXCHG16B, as
//! Linux's allocator does, and a write of its code segment to an I/O port.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// How long the guest may run. Real KVM needs less than a millisecond.
pub(super) const LIMIT: Duration = Duration::from_secs(5);
/// How long to wait for the vCPU thread to notice that it is stopped.
const STOP_LIMIT: Duration = Duration::from_secs(2);

const MEMORY_SIZE: usize = 0x10000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const GDT: u64 = 0x4000;
const KERNEL_ENTRY: u64 = 0x5000;
const USER_ENTRY: u64 = 0x6000;
const SYSCALL_ENTRY: u64 = 0x7000;
/// Sixteen bytes that CMPXCHG16B turns from zero into [`EXCHANGED`].
const DATA: u64 = 0x8000;
const KERNEL_STACK: u64 = 0xa000;

const EXCHANGED: [u64; 2] = [1, 2];
const PORT: u16 = 0xf4;

/// Present, writable, reachable from ring 3.
const PAGE_FLAGS: u64 = 0b111;
const LARGE_PAGE: u64 = 1 << 7;

const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
/// Code and data of ring 3 as SYSRET wants them: 32-bit code, data, 64-bit code in a row.
const USER_BASE: u16 = 0x18;
const SEGMENTS: [u64; 6] = [
    0,
    0x00af_9b00_0000_ffff, // 0x08 ring 0 code, 64-bit
    0x00cf_9300_0000_ffff, // 0x10 ring 0 data
    0x00cf_fb00_0000_ffff, // 0x18 ring 3 code, 32-bit
    0x00cf_f300_0000_ffff, // 0x20 ring 3 data
    0x00af_fb00_0000_ffff, // 0x28 ring 3 code, 64-bit
];

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SYSCALL_MASK: u32 = 0xc000_0084;

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_SCE: u64 = 1;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS: u64 = 2;

/// Ring 0: go to [`USER_ENTRY`] in ring 3.
const KERNEL_CODE_BYTES: [u8; 18] = [
    0x6a, 0x23, //                   push 0x20 | 3       ss
    0x68, 0x00, 0x90, 0x00, 0x00, // push 0x9000         rsp
    0x6a, 0x02, //                   push 2              rflags
    0x6a, 0x2b, //                   push 0x28 | 3       cs
    0x68, 0x00, 0x60, 0x00, 0x00, // push USER_ENTRY     rip
    0x48, 0xcf, //                   iretq
];
/// Ring 3.
const USER_CODE_BYTES: [u8; 4] = [
    0x0f, 0x05, // syscall
    0x0f, 0x0b, // ud2
];
/// Ring 0 again, if KVM is sound.
const SYSCALL_CODE_BYTES: [u8; 27] = [
    0xbf, 0x00, 0x80, 0x00, 0x00, // mov edi, DATA
    0x31, 0xc0, //                   xor eax, eax
    0x31, 0xd2, //                   xor edx, edx
    0xbb, 0x01, 0x00, 0x00, 0x00, // mov ebx, 1
    0xb9, 0x02, 0x00, 0x00, 0x00, // mov ecx, 2
    0xf0, 0x48, 0x0f, 0xc7, 0x0f, // lock cmpxchg16b [rdi]
    0x8c, 0xc8, //                   mov eax, cs
    0xe7, //                         out PORT, eax
];

/// Runs the guest; the error says in what way it went wrong.
pub(super) fn run(kvm: Kvm) -> Result<(), String> {
    run_bounded(prepare(kvm, &KERNEL_CODE_BYTES)?, LIMIT)
}

/// A machine that starts with `kernel_code` in ring 0.
fn prepare(kvm: Kvm, kernel_code: &[u8]) -> Result<Guest, String> {
    let memory =
        load_memory(kernel_code).map_err(|error| format!("no memory for a guest ({error})"))?;
    let vm = create_vm(&kvm, &memory)?;
    let vcpu = vm
        .create_vcpu(0)
        .map_err(|error| failed("KVM_CREATE_VCPU", error))?;
    set_state(&kvm, &vcpu)?;
    Ok(Guest {
        vcpu,
        _vm: vm,
        _kvm: kvm,
        memory,
    })
}

/// What has to live as long as the vCPU runs.
struct Guest {
    vcpu: VcpuFd,
    _vm: VmFd,
    _kvm: Kvm,
    memory: GuestMemoryMmap,
}

fn failed(call: &str, error: kvm_ioctls::Error) -> String {
    format!("{call} fails ({})", std::io::Error::from(error))
}

fn load_memory(kernel_code: &[u8]) -> Result<GuestMemoryMmap, Box<dyn std::error::Error>> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)])?;
    let put = |address: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(address));
    put(PML4, &(PDPT | PAGE_FLAGS).to_le_bytes())?;
    put(PDPT, &(PAGE_DIRECTORY | PAGE_FLAGS).to_le_bytes())?;
    put(PAGE_DIRECTORY, &(PAGE_FLAGS | LARGE_PAGE).to_le_bytes())?;
    put(GDT, &SEGMENTS.map(u64::to_le_bytes).concat())?;
    put(KERNEL_ENTRY, kernel_code)?;
    put(USER_ENTRY, &USER_CODE_BYTES)?;
    put(SYSCALL_ENTRY, &SYSCALL_CODE_BYTES)?;
    put(
        SYSCALL_ENTRY + SYSCALL_CODE_BYTES.len() as u64,
        &[PORT as u8],
    )?;
    Ok(memory)
}

fn create_vm(kvm: &Kvm, memory: &GuestMemoryMmap) -> Result<VmFd, String> {
    let vm = kvm
        .create_vm()
        .map_err(|error| failed("KVM_CREATE_VM", error))?;
    // Intel CPUs without unrestricted guest mode need it; the value is the usual one.
    vm.set_tss_address(0xfffb_d000)
        .map_err(|error| failed("KVM_SET_TSS_ADDR", error))?;
    let host = memory
        .get_host_address(GuestAddress(0))
        .map_err(|error| format!("no memory for a guest ({error})"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY_SIZE as u64,
        userspace_addr: host as u64,
    };
    // SAFETY: the range is one live mapping of MEMORY_SIZE bytes that `Guest` keeps as long as
    // the machine exists.
    unsafe { vm.set_user_memory_region(region) }
        .map_err(|error| failed("KVM_SET_USER_MEMORY_REGION", error))?;
    Ok(vm)
}

fn set_state(kvm: &Kvm, vcpu: &VcpuFd) -> Result<(), String> {
    let cpuid = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(|error| failed("KVM_GET_SUPPORTED_CPUID", error))?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(|error| failed("KVM_SET_CPUID2", error))?;
    set_segments(vcpu).map_err(|error| failed("KVM_SET_SREGS", error))?;
    let regs = kvm_regs {
        rip: KERNEL_ENTRY,
        rsp: KERNEL_STACK,
        rflags: RFLAGS,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&regs)
        .map_err(|error| failed("KVM_SET_REGS", error))?;
    let star = u64::from(USER_BASE) << 48 | u64::from(KERNEL_CODE) << 32;
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    };
    let entries = [
        entry(MSR_STAR, star),
        entry(MSR_LSTAR, SYSCALL_ENTRY),
        entry(MSR_SYSCALL_MASK, 0x200),
    ];
    let msrs = Msrs::from_entries(&entries).map_err(|error| format!("{error:?}"))?;
    match vcpu.set_msrs(&msrs) {
        Ok(set) if set == entries.len() => Ok(()),
        Ok(set) => Err(format!(
            "KVM_SET_MSRS refuses the system call register {:#x}",
            entries[set].index
        )),
        Err(error) => Err(failed("KVM_SET_MSRS", error)),
    }
}

fn set_segments(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    let data = kvm_segment {
        selector: KERNEL_DATA,
        limit: u32::MAX,
        type_: 3,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..kvm_segment::default()
    };
    sregs.cs = kvm_segment {
        selector: KERNEL_CODE,
        type_: 11,
        db: 0,
        l: 1,
        ..data
    };
    sregs.ds = data;
    sregs.es = data;
    sregs.ss = data;
    sregs.gdt.base = GDT;
    sregs.gdt.limit = (SEGMENTS.len() * 8 - 1) as u16;
    sregs.cr3 = PML4;
    sregs.cr4 = CR4_PAE;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.efer = EFER_SCE | EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs)
}

/// Runs the guest on a thread that can be stopped: a guest that loops must not hold up the probe.
fn run_bounded(mut guest: Guest, limit: Duration) -> Result<(), String> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    // The handler does nothing: that a signal arrives is what makes KVM_RUN return.
    let signal = SIGRTMIN();
    register_signal_handler(signal, nothing)
        .map_err(|error| format!("no signal to stop a guest ({error})"))?;
    let (sender, outcome) = channel();
    let deadline = Instant::now() + limit;
    let spawned = thread::Builder::new()
        .name("kvm-probe".into())
        .spawn(move || {
            // The receiver is gone when it has waited too long.
            let _ = sender.send(run_guest(&mut guest, deadline));
        });
    let thread = spawned.map_err(|error| format!("no thread for a guest ({error})"))?;
    match outcome.recv_timeout(limit) {
        Ok(result) => return result,
        Err(RecvTimeoutError::Disconnected) => {
            return Err("the thread of its guest ended".to_owned());
        }
        Err(RecvTimeoutError::Timeout) => {}
    }
    let give_up = Instant::now() + STOP_LIMIT;
    while !thread.is_finished() && Instant::now() < give_up {
        // A signal may come just before KVM_RUN is entered, so one is not enough.
        let _ = thread.kill(signal);
        thread::sleep(Duration::from_millis(5));
    }
    Err(format!(
        "a guest of a few instructions did not end within {} ms",
        limit.as_millis()
    ))
}

fn run_guest(guest: &mut Guest, deadline: Instant) -> Result<(), String> {
    let what = loop {
        match guest.vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, data)) => {
                let selector = data
                    .iter()
                    .rev()
                    .fold(0, |value, byte| value << 8 | u32::from(*byte));
                return check_result(&guest.memory, selector);
            }
            Ok(exit) => break format!("{exit:?}"),
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => {
                if Instant::now() >= deadline {
                    return Err("its guest was stopped".to_owned());
                }
            }
            Err(error) => break failed("KVM_RUN", error),
        }
    };
    Err(format!(
        "its guest stopped with {what} {}",
        place(&guest.vcpu)
    ))
}

/// Where in the guest's short life it stopped.
fn place(vcpu: &VcpuFd) -> String {
    let (Ok(regs), Ok(sregs)) = (vcpu.get_regs(), vcpu.get_sregs()) else {
        return "at an unknown place".to_owned();
    };
    let ring = sregs.cs.selector & 3;
    match regs.rip & !0xfff {
        KERNEL_ENTRY => format!("before it left ring 0 (CPL {ring})"),
        USER_ENTRY => format!("in ring 3, before or at SYSCALL (CPL {ring})"),
        SYSCALL_ENTRY => format!("after SYSCALL, where it must be in ring 0 (CPL {ring})"),
        _ => format!("at {:#x} (CPL {ring})", regs.rip),
    }
}

fn check_result(memory: &GuestMemoryMmap, selector: u32) -> Result<(), String> {
    if selector != u32::from(KERNEL_CODE) {
        return Err(format!(
            "after SYSCALL its guest has the code segment {selector:#x} instead of {KERNEL_CODE:#x}"
        ));
    }
    let data: Result<[u64; 2], _> = memory.read_obj(GuestAddress(DATA));
    match data {
        Ok(EXCHANGED) => Ok(()),
        other => Err(format!(
            "CMPXCHG16B in its guest gives {other:?} instead of {EXCHANGED:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guests run wherever the device opens, sound or not.
    fn kvm() -> Option<Kvm> {
        let kvm = Kvm::new().ok();
        if kvm.is_none() {
            println!("SKIPPED: /dev/kvm does not open here");
        }
        kvm
    }

    #[test]
    fn a_guest_that_never_ends_is_stopped() {
        const LOOP: [u8; 2] = [0xeb, 0xfe]; // jmp to itself
        let Some(kvm) = kvm() else { return };
        let start = Instant::now();
        let stopped = run_bounded(prepare(kvm, &LOOP).unwrap(), Duration::from_millis(200));
        assert!(stopped.unwrap_err().contains("did not end"));
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{:?}",
            start.elapsed()
        );
    }

    #[test]
    fn a_guest_that_stops_elsewhere_is_described_by_where_it_stopped() {
        const HALT: [u8; 1] = [0xf4]; // hlt
        let Some(kvm) = kvm() else { return };
        let why = run_bounded(prepare(kvm, &HALT).unwrap(), LIMIT).unwrap_err();
        assert!(why.contains("Hlt before it left ring 0 (CPL 0)"), "{why}");
    }

    #[test]
    fn a_system_call_that_stays_in_ring_3_is_not_accepted() {
        let memory = load_memory(&KERNEL_CODE_BYTES).unwrap();
        memory.write_obj(EXCHANGED, GuestAddress(DATA)).unwrap();
        check_result(&memory, u32::from(KERNEL_CODE)).unwrap();
        assert!(check_result(&memory, 0x33).unwrap_err().contains("0x33"));
        memory.write_obj([0u64; 2], GuestAddress(DATA)).unwrap();
        assert!(
            check_result(&memory, u32::from(KERNEL_CODE))
                .unwrap_err()
                .contains("CMPXCHG16B")
        );
    }
}
