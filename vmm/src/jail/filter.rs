//! One seccomp filter per thread kind, made from the tables of [`super::allowlist`].

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::allowlist::{Arguments, Entry, tables_of};
use super::{JailError, ThreadKind};

/// Makes the C library's allocator do without files. With an arena per thread, glibc reads
/// `/proc/sys/vm/overcommit_memory` when it first shrinks one, which the filters answer by the end
/// of the process. One arena for all threads never does, and holds less memory. Must be called by
/// the main thread before there are others, since an arena once made stays in use.
pub(super) fn keep_allocator_off_files() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number in the allocator; there is no other thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Installs the filter of `kind` on the calling thread. A system call that is not in its table
/// ends the whole process with `SIGSYS` from here on.
///
/// Call it on every thread, when all threads exist and before any of them acts on what a guest
/// said: no filter allows to make a thread.
///
/// # Errors
///
/// [`JailError::Filter`] if the kernel has no seccomp filters; the VMM must then not run a guest.
pub fn filter_thread(kind: ThreadKind) -> Result<(), JailError> {
    let program = compile(kind)?;
    seccompiler::apply_filter(&program).map_err(|source| JailError::Filter { kind, source })
}

/// Compiles the filter of `kind` for this process, whose id it holds.
///
/// # Errors
///
/// [`JailError::Filter`] only on a bug in the tables; a unit test compiles them all.
pub fn compile(kind: ThreadKind) -> Result<BpfProgram, JailError> {
    let wrap = |source| JailError::Filter { kind, source };
    rules_of(kind)
        .and_then(|rules| {
            SeccompFilter::new(
                rules,
                SeccompAction::KillProcess,
                SeccompAction::Allow,
                TargetArch::x86_64,
            )?
            .try_into()
        })
        .map_err(|source: seccompiler::BackendError| wrap(source.into()))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// An empty chain allows the call with any arguments; the tables name a call either so or with
/// conditions (see the unit test), so that chains can simply be joined.
fn rules_of(kind: ThreadKind) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for entry in tables_of(kind).into_iter().flatten() {
        rules
            .entry(entry.number)
            .or_default()
            .extend(chain_of(entry)?);
    }
    Ok(rules)
}

fn chain_of(entry: &Entry) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let equal = |argument: u8, value: u32| {
        let value = u64::from(value);
        // The kernel takes these arguments as 32 bits and ignores the upper half.
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
    };
    match entry.arguments {
        Arguments::Any => Ok(Vec::new()),
        Arguments::OneOf(argument, values) => values
            .iter()
            .map(|&value| SeccompRule::new(vec![equal(argument, value)?]))
            .collect(),
        Arguments::Bits(conditions) => {
            let conditions = conditions
                .iter()
                .map(|&(argument, mask, value)| {
                    let mask = SeccompCmpOp::MaskedEq(u64::from(mask));
                    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, mask, value.into())
                })
                .collect::<Result<_, _>>()?;
            Ok(vec![SeccompRule::new(conditions)?])
        }
        Arguments::OwnProcess => Ok(vec![SeccompRule::new(vec![equal(0, std::process::id())?])?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ThreadKind; 3] = [ThreadKind::Main, ThreadKind::Devices, ThreadKind::Vcpu];

    #[test]
    fn every_table_compiles_to_a_program_that_the_kernel_takes() {
        for kind in KINDS {
            let program = compile(kind).expect("compiles");
            assert!(
                (50..4096).contains(&program.len()),
                "{kind:?}: {}",
                program.len()
            );
        }
    }

    #[test]
    fn a_call_is_allowed_with_any_arguments_or_with_conditions_never_both() {
        for kind in KINDS {
            let mut seen: BTreeMap<i64, bool> = BTreeMap::new();
            for entry in tables_of(kind).into_iter().flatten() {
                let any = matches!(entry.arguments, Arguments::Any);
                if let Some(before) = seen.insert(entry.number, any) {
                    assert!(!any && !before, "{kind:?}: call {} twice", entry.number);
                }
            }
        }
    }

    #[test]
    fn a_vcpu_thread_reaches_no_file_and_no_socket() {
        let rules = rules_of(ThreadKind::Vcpu).expect("compiles");
        for number in [
            libc::SYS_accept4,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_recvmsg,
            libc::SYS_sendmsg,
        ] {
            assert!(!rules.contains_key(&number), "{number}");
        }
    }

    #[test]
    fn no_table_lets_code_in_or_the_process_out() {
        let never = [
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_io_uring_setup,
            libc::SYS_kill,
            libc::SYS_mount,
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_pkey_mprotect,
            libc::SYS_prctl,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_ptrace,
            libc::SYS_setns,
            libc::SYS_setresuid,
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_unshare,
            libc::SYS_vfork,
        ];
        for kind in KINDS {
            let rules = rules_of(kind).expect("compiles");
            for number in never {
                assert!(!rules.contains_key(&number), "{kind:?} allows {number}");
            }
            for number in [
                libc::SYS_ioctl,
                libc::SYS_mmap,
                libc::SYS_mprotect,
                libc::SYS_tgkill,
            ] {
                let chain = rules.get(&number).expect("is in every table");
                assert!(
                    !chain.is_empty(),
                    "{kind:?} allows {number} with any arguments"
                );
            }
        }
    }
}
