//! The system calls that each thread kind may make, each with its reason.
//!
//! What is missing is meant: no path is opened, no socket made, no program or thread started, no
//! memory made executable, no descriptor mapped. vCPU and VM state is set before the filters are
//! installed, so no `KVM_SET_*` is here.
//!
//! A process that ends by `SIGSYS` met a call that is missing: the kernel's audit log (`dmesg`,
//! "type=1326 … syscall=N") or `strace -f` names it.

use std::mem::size_of;

use kvm_bindings as kvm;

use super::ThreadKind;

/// A system call that a thread may make.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// `__NR_*` of x86-64.
    pub(super) number: i64,
    /// With what arguments.
    pub(super) arguments: Arguments,
}

/// Which arguments of a call are allowed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arguments {
    /// All.
    Any,
    /// The argument of this index has one of these values.
    OneOf(u8, &'static [u32]),
    /// For each (argument, mask, value): argument & mask = value.
    Bits(&'static [(u8, u32, u32)]),
    /// Argument 0 is the id of this process.
    OwnProcess,
}

/// The tables of `kind`.
pub(super) fn tables_of(kind: ThreadKind) -> [&'static [Entry]; 2] {
    let own = match kind {
        ThreadKind::Main => MAIN,
        ThreadKind::Devices => DEVICES,
        ThreadKind::Vcpu => VCPU,
    };
    [EVERY_THREAD, own]
}

/// A call with any arguments; the reason is for the reader.
const fn any(number: i64, _reason: &'static str) -> Entry {
    Entry {
        number,
        arguments: Arguments::Any,
    }
}

const fn only(number: i64, arguments: Arguments, _reason: &'static str) -> Entry {
    Entry { number, arguments }
}

/// What Rust's and C's runtime do anywhere, and the end of the process.
const EVERY_THREAD: &[Entry] = &[
    any(libc::SYS_futex, "locks and condition variables"),
    any(libc::SYS_sched_yield, "spinning locks"),
    any(libc::SYS_brk, "malloc"),
    only(libc::SYS_mmap, ANONYMOUS_NO_EXEC, "malloc"),
    only(libc::SYS_mprotect, NO_EXEC, "malloc: growing an arena"),
    any(libc::SYS_munmap, "free; the stack of a thread that ended"),
    any(
        libc::SYS_mremap,
        "realloc of large blocks; keeps the protection",
    ),
    only(
        libc::SYS_madvise,
        Arguments::OneOf(2, ADVICE),
        "free; prefetch of guest memory",
    ),
    any(libc::SYS_sched_getaffinity, "malloc: number of arenas"),
    any(libc::SYS_getrandom, "hash map seeds, vsock and rng device"),
    any(
        libc::SYS_clock_gettime,
        "clocks where the vDSO cannot answer",
    ),
    any(libc::SYS_read, "eventfds, files"),
    any(
        libc::SYS_write,
        "eventfds, console log, messages on standard error",
    ),
    any(libc::SYS_writev, "messages on standard error"),
    any(
        libc::SYS_close,
        "descriptors that were received, accepted or are no longer needed",
    ),
    only(
        libc::SYS_fcntl,
        Arguments::OneOf(1, &[libc::F_GETFD as u32]),
        "Rust's check at close",
    ),
    any(libc::SYS_rt_sigprocmask, "abort, end of a thread"),
    only(
        libc::SYS_rt_sigaction,
        Arguments::OneOf(0, FATAL_SIGNALS),
        "a fault ends as itself",
    ),
    any(
        libc::SYS_rt_sigreturn,
        "return from the handler of the vCPU kick",
    ),
    any(libc::SYS_sigaltstack, "end of a Rust thread"),
    any(
        libc::SYS_restart_syscall,
        "the kernel's own, after a stop signal",
    ),
    any(libc::SYS_getpid, "abort, pthread_kill"),
    any(libc::SYS_gettid, "abort, pthread_kill"),
    only(libc::SYS_tgkill, Arguments::OwnProcess, "abort, vCPU kick"),
    any(libc::SYS_exit, "end of a thread"),
    any(libc::SYS_exit_group, "end of the process"),
];

/// The control socket, snapshots, the end of the machine.
const MAIN: &[Entry] = &[
    only(
        libc::SYS_ioctl,
        Arguments::OneOf(1, MAIN_IOCTLS),
        "state of the VM for a snapshot",
    ),
    any(libc::SYS_ppoll, "control socket and end of the machine"),
    any(
        libc::SYS_recvmsg,
        "control messages and the descriptors with them",
    ),
    any(libc::SYS_sendmsg, "control messages"),
    any(libc::SYS_pread64, "snapshot: private disks"),
    any(
        libc::SYS_pwrite64,
        "snapshot: memory and disks, leaving holes",
    ),
    any(libc::SYS_lseek, "snapshot: holes"),
    any(libc::SYS_ftruncate, "snapshot: a hole at the end of a file"),
    any(
        libc::SYS_fsync,
        "snapshot: files are on disk before the answer",
    ),
    any(
        libc::SYS_fdatasync,
        "snapshot: files are on disk before the answer",
    ),
    only(
        libc::SYS_statx,
        OF_A_DESCRIPTOR,
        "snapshot: length of a file",
    ),
    any(libc::SYS_fstat, "kind and length of a received descriptor"),
];

/// The device event loop: block, net, vsock, rng. A driver's notification is handled here, however
/// it was made.
const DEVICES: &[Entry] = &[
    only(
        libc::SYS_ioctl,
        Arguments::OneOf(1, DEVICE_IOCTLS),
        "vsock: streams do not block",
    ),
    any(libc::SYS_epoll_wait, "the event loop"),
    any(libc::SYS_epoll_pwait, "vsock: which streams are ready"),
    any(libc::SYS_epoll_ctl, "vsock: streams come and go"),
    any(
        libc::SYS_accept4,
        "vsock: peers connect to the inherited listener",
    ),
    any(libc::SYS_recvfrom, "vsock: streams"),
    any(libc::SYS_sendto, "vsock: streams"),
    any(libc::SYS_readv, "vsock: streams"),
    any(libc::SYS_shutdown, "vsock: half-closed streams"),
    any(libc::SYS_recvmsg, "net: frames"),
    any(libc::SYS_sendmsg, "net: frames"),
    any(libc::SYS_pread64, "block: base image and private file"),
    any(libc::SYS_preadv, "block: base image and private file"),
    any(libc::SYS_pwrite64, "block: private file"),
    any(libc::SYS_pwritev, "block: private file"),
    any(libc::SYS_fallocate, "block: discard and write zeroes"),
    any(libc::SYS_fsync, "block: flush"),
    any(libc::SYS_fdatasync, "block: flush"),
];

/// One vCPU: runs the guest, answers its register accesses, saves its state. Work on queues is the
/// device thread's.
const VCPU: &[Entry] = &[
    only(
        libc::SYS_ioctl,
        Arguments::OneOf(1, VCPU_IOCTLS),
        "running and saving the vCPU",
    ),
    any(
        libc::SYS_epoll_ctl,
        "a driver resets a device, whose streams end",
    ),
];

/// A mapping that comes from nowhere and holds no code.
const ANONYMOUS_NO_EXEC: Arguments = Arguments::Bits(&[
    (2, libc::PROT_EXEC as u32, 0),
    (3, libc::MAP_ANONYMOUS as u32, libc::MAP_ANONYMOUS as u32),
]);
/// `AT_EMPTY_PATH`: by descriptor instead of by path.
const OF_A_DESCRIPTOR: Arguments =
    Arguments::Bits(&[(2, libc::AT_EMPTY_PATH as u32, libc::AT_EMPTY_PATH as u32)]);
const NO_EXEC: Arguments = Arguments::Bits(&[(2, libc::PROT_EXEC as u32, 0)]);

/// Rust's handler of these gives them back to the kernel, so that the parent sees the right signal.
const FATAL_SIGNALS: &[u32] = &[
    libc::SIGSEGV as u32,
    libc::SIGBUS as u32,
    libc::SIGABRT as u32,
];

const ADVICE: &[u32] = &[
    libc::MADV_DONTNEED as u32,
    libc::MADV_WILLNEED as u32,
    libc::MADV_POPULATE_READ as u32,
];

const MAIN_IOCTLS: &[u32] = &[KVM_GET_CLOCK, KVM_GET_IRQCHIP, KVM_GET_PIT2];

const DEVICE_IOCTLS: &[u32] = &[FIONBIO];

// KVM_RUN comes first: the filter compares in this order.
const VCPU_IOCTLS: &[u32] = &[
    KVM_RUN,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_GET_XSAVE,
    KVM_GET_XCRS,
    KVM_GET_MSRS,
    KVM_GET_LAPIC,
    KVM_GET_MP_STATE,
    KVM_GET_VCPU_EVENTS,
    KVM_GET_DEBUGREGS,
    KVM_GET_CPUID2,
    KVM_GET_TSC_KHZ,
    KVM_KVMCLOCK_CTRL,
];

const FIONBIO: u32 = libc::FIONBIO as u32;

const KVM_RUN: u32 = kvm_io(0x80);
const KVM_GET_IRQCHIP: u32 = kvm_iowr(0x62, size_of::<kvm::kvm_irqchip>());
const KVM_GET_CLOCK: u32 = kvm_ior(0x7c, size_of::<kvm::kvm_clock_data>());
const KVM_GET_REGS: u32 = kvm_ior(0x81, size_of::<kvm::kvm_regs>());
const KVM_GET_SREGS: u32 = kvm_ior(0x83, size_of::<kvm::kvm_sregs>());
const KVM_GET_MSRS: u32 = kvm_iowr(0x88, size_of::<kvm::kvm_msrs>());
const KVM_GET_LAPIC: u32 = kvm_ior(0x8e, size_of::<kvm::kvm_lapic_state>());
const KVM_GET_CPUID2: u32 = kvm_iowr(0x91, size_of::<kvm::kvm_cpuid2>());
const KVM_GET_MP_STATE: u32 = kvm_ior(0x98, size_of::<kvm::kvm_mp_state>());
const KVM_GET_PIT2: u32 = kvm_ior(0x9f, size_of::<kvm::kvm_pit_state2>());
const KVM_GET_VCPU_EVENTS: u32 = kvm_ior(0x9f, size_of::<kvm::kvm_vcpu_events>());
const KVM_GET_DEBUGREGS: u32 = kvm_ior(0xa1, size_of::<kvm::kvm_debugregs>());
const KVM_GET_TSC_KHZ: u32 = kvm_io(0xa3);
const KVM_GET_XSAVE: u32 = kvm_ior(0xa4, size_of::<kvm::kvm_xsave>());
const KVM_GET_XCRS: u32 = kvm_ior(0xa6, size_of::<kvm::kvm_xcrs>());
const KVM_KVMCLOCK_CTRL: u32 = kvm_io(0xad);

// `_IO`, `_IOR` and `_IOWR` of linux/ioctl.h, with KVM's type 0xAE.
const fn kvm_io(number: u32) -> u32 {
    0xae << 8 | number
}
const fn kvm_ior(number: u32, size: usize) -> u32 {
    2 << 30 | (size as u32) << 16 | kvm_io(number)
}
const fn kvm_iowr(number: u32, size: usize) -> u32 {
    3 << 30 | (size as u32) << 16 | kvm_io(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_the_kernels() {
        // As a C program prints them with linux/kvm.h.
        assert_eq!(KVM_RUN, 0xae80);
        assert_eq!(KVM_GET_REGS, 0x8090_ae81);
        assert_eq!(KVM_GET_SREGS, 0x8138_ae83);
        assert_eq!(KVM_GET_MSRS, 0xc008_ae88);
        assert_eq!(KVM_GET_LAPIC, 0x8400_ae8e);
        assert_eq!(KVM_GET_IRQCHIP, 0xc208_ae62);
        assert_eq!(KVM_GET_CLOCK, 0x8030_ae7c);
        assert_eq!(KVM_GET_PIT2, 0x8070_ae9f);
        assert_eq!(KVM_GET_VCPU_EVENTS, 0x8040_ae9f);
        assert_eq!(KVM_GET_XSAVE, 0x9000_aea4);
        assert_eq!(KVM_GET_XCRS, 0x8188_aea6);
        assert_eq!(KVM_GET_MP_STATE, 0x8004_ae98);
        assert_eq!(KVM_GET_DEBUGREGS, 0x8080_aea1);
        assert_eq!(KVM_GET_CPUID2, 0xc008_ae91);
        assert_eq!(KVM_GET_TSC_KHZ, 0xaea3);
        assert_eq!(KVM_KVMCLOCK_CTRL, 0xaead);
    }

    #[test]
    fn no_thread_may_change_vcpu_or_vm_state() {
        for ioctls in [MAIN_IOCTLS, DEVICE_IOCTLS, VCPU_IOCTLS] {
            // All KVM_SET_* but the TSC frequency's are _IOW.
            assert!(
                ioctls
                    .iter()
                    .all(|request| request >> 30 != 1 && *request != kvm_io(0xa2))
            );
        }
    }
}
