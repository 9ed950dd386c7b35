//! System calls that end a filtered process.

use std::fs::File;
use std::os::unix::process::parent_id;

use mayfly_vmm::jail::ThreadKind;

use crate::child::{Ended, Start, in_child};
use crate::{enter, filter};

const KINDS: [ThreadKind; 3] = [ThreadKind::Main, ThreadKind::Devices, ThreadKind::Vcpu];

/// Runs `case` in a jailed and filtered process; it must end by a forbidden system call.
fn killed(kinds: &[ThreadKind], case: impl Fn()) {
    for &kind in kinds {
        assert_eq!(
            filtered(kind, &case),
            Ended::BySignal(libc::SIGSYS),
            "{kind:?}"
        );
    }
}

fn filtered(kind: ThreadKind, case: impl Fn()) -> Ended {
    in_child(Start::AsIs, |pipe| {
        enter(&[pipe])?;
        filter(kind)?;
        case();
        Err("survived".into())
    })
}

fn system_call(number: i64, arguments: [i64; 5]) {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the filter ends this process before the call does anything; where a test expects it
    // to be let through, it is `getpid`.
    unsafe { libc::syscall(number, a, b, c, d, e) };
}

#[test]
fn an_allowed_call_does_not_kill() {
    for kind in KINDS {
        let ended = filtered(kind, || system_call(libc::SYS_getpid, [0; 5]));
        assert_eq!(ended, Ended::Badly("survived".into()));
    }
}

#[test]
fn opening_a_path_kills() {
    killed(&KINDS, || drop(File::open("/etc/passwd")));
}

#[test]
fn making_a_socket_kills() {
    killed(&KINDS, || drop(std::net::UdpSocket::bind("127.0.0.1:0")));
    killed(&KINDS, || drop(std::os::unix::net::UnixStream::pair()));
}

#[test]
fn starting_a_program_or_a_process_kills() {
    let program = c"/bin/true".as_ptr() as i64;
    killed(&KINDS, || {
        system_call(libc::SYS_execve, [program, 0, 0, 0, 0]);
    });
    killed(&KINDS, || {
        system_call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0]);
    });
}

#[test]
fn making_a_thread_kills() {
    killed(&KINDS, || drop(std::thread::spawn(|| {})));
}

#[test]
fn looking_into_a_process_kills() {
    let parent = i64::from(parent_id());
    let attach = i64::from(libc::PTRACE_SEIZE);
    killed(&KINDS, || {
        system_call(libc::SYS_ptrace, [attach, parent, 0, 0, 0]);
    });
    killed(&KINDS, || {
        system_call(libc::SYS_process_vm_readv, [parent, 0, 0, 0, 0]);
    });
}

#[test]
fn a_signal_to_another_process_kills() {
    let parent = i64::from(parent_id());
    killed(&KINDS, || system_call(libc::SYS_kill, [parent, 0, 0, 0, 0]));
    killed(&KINDS, || {
        system_call(libc::SYS_tgkill, [parent, parent, 0, 0, 0]);
    });
}

#[test]
fn executable_memory_kills() {
    let page = anonymous_page() as i64;
    let executable = i64::from(libc::PROT_READ | libc::PROT_EXEC);
    let anonymous = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    killed(&KINDS, || {
        system_call(libc::SYS_mprotect, [page, 4096, executable, 0, 0]);
    });
    killed(&KINDS, || {
        system_call(libc::SYS_pkey_mprotect, [page, 4096, executable, -1, 0]);
    });
    killed(&KINDS, || {
        system_call(libc::SYS_mmap, [0, 4096, executable, anonymous, -1]);
    });
}

#[test]
fn mapping_a_descriptor_kills() {
    let (read, private) = (libc::PROT_READ.into(), libc::MAP_PRIVATE.into());
    killed(&KINDS, || {
        system_call(libc::SYS_mmap, [0, 4096, read, private, 1]);
    });
}

#[test]
fn a_foreign_ioctl_kills() {
    let (create_vm, create_vcpu, set_regs, set_msrs) = (0xae01, 0xae41, 0x4090_ae82, 0x4008_ae89);
    let terminal_input = libc::TIOCSTI as i64;
    for request in [terminal_input, create_vm, create_vcpu, set_regs, set_msrs] {
        killed(&KINDS, || {
            system_call(libc::SYS_ioctl, [0, request, 0, 0, 0]);
        });
    }
}

#[test]
fn running_a_vcpu_from_another_thread_kind_kills() {
    let run = 0xae80;
    killed(&[ThreadKind::Main, ThreadKind::Devices], || {
        system_call(libc::SYS_ioctl, [0, run, 0, 0, 0]);
    });
    let ended = filtered(ThreadKind::Vcpu, || {
        system_call(libc::SYS_ioctl, [0, run, 0, 0, 0]);
    });
    assert_eq!(ended, Ended::Badly("survived".into()));
}

#[test]
fn system_calls_of_other_architectures_kill() {
    // x32 has the same numbers with bit 30 set; getpid is allowed as itself.
    killed(&KINDS, || {
        system_call(libc::SYS_getpid | 0x4000_0000, [0; 5]);
    });
    for kind in KINDS {
        let ended = filtered(kind, getpid_of_i386);
        // SIGSEGV where the kernel was built without 32-bit emulation.
        let signals = [libc::SIGSYS, libc::SIGSEGV].map(Ended::BySignal);
        assert!(signals.contains(&ended), "{kind:?}: {ended:?}");
    }
}

#[test]
fn undoing_or_widening_the_jail_kills() {
    killed(&KINDS, || {
        system_call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0]);
    });
    killed(&KINDS, || {
        system_call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0]);
    });
    killed(&KINDS, || {
        system_call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]);
    });
    killed(&KINDS, || system_call(libc::SYS_bpf, [0; 5]));
}

/// A readable and writable page.
fn anonymous_page() -> *mut libc::c_void {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping, at no fixed address.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    page
}

/// `getpid` by the 32-bit entry.
fn getpid_of_i386() {
    // SAFETY: number 20 of i386 takes no arguments and touches no memory; r8 to r11 may be lost.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inout("eax") 20 => _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
}
