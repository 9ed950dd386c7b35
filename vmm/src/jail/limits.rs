//! Resource limits, soft and hard alike.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{JailError, JailOptions, Journal, Layer, mandatory};

/// Threads that KVM itself makes in this process: from Linux 6.14 on, one per VM that recovers
/// huge pages, at the first `KVM_RUN`, which fails without room for it. Some are spare.
const KERNEL_THREADS: u64 = 4;

/// Sets every limit to the wanted value, or to the hard limit at hand where that is lower.
/// With a uid of its own (`own_uid`) the number of threads is limited too; otherwise that limit
/// would count what else the user runs, and the filters forbid new threads anyway.
pub(super) fn apply(
    options: &JailOptions,
    own_uid: bool,
    journal: &mut Journal,
) -> Result<(), JailError> {
    // A write past the file size limit must fail with EFBIG (an I/O error for the guest), not end
    // the process.
    ignore_sigxfsz().map_err(mandatory("ignoring SIGXFSZ"))?;
    let threads = options.max_threads + KERNEL_THREADS;
    let threads = own_uid.then_some((Resource::Nproc, threads));
    for (resource, wanted) in wanted(options).into_iter().chain(threads) {
        let hard = getrlimit(resource).maximum;
        let value = Some(hard.map_or(wanted, |hard| wanted.min(hard)));
        setrlimit(
            resource,
            Rlimit {
                current: value,
                maximum: value,
            },
        )
        .map_err(mandatory("setrlimit"))?;
    }
    journal.applied(
        Layer::Limits,
        format!(
            "{} descriptors, files of {} bytes",
            options.max_descriptors, options.max_file_bytes
        ),
    );
    Ok(())
}

fn wanted(options: &JailOptions) -> [(Resource, u64); 6] {
    [
        // A core file would hold guest memory.
        (Resource::Core, 0),
        (Resource::Fsize, options.max_file_bytes),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Nofile, options.max_descriptors),
        (Resource::Rtprio, 0),
    ]
}

fn ignore_sigxfsz() -> std::io::Result<()> {
    // SAFETY: SIG_IGN is a valid disposition and no handler of ours is replaced.
    let previous = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if previous == libc::SIG_ERR {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}
