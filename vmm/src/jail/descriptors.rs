//! Closes every descriptor that the configuration does not name.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use super::{JailError, Journal, Layer, mandatory};

/// Closes all descriptors but `kept`; of 0, 1 and 2, those not kept become `/dev/null`, so that no
/// later descriptor takes their number and receives what a library prints.
pub(super) fn close_all_but(kept: &[RawFd], journal: &mut Journal) -> Result<(), JailError> {
    for &fd in kept {
        check_kept(fd)?;
    }
    replace_standard_streams(kept)?;
    let mut gaps = gaps_between(kept);
    gaps.try_for_each(|(first, last)| close_range(first, last))
        .map_err(mandatory("close_range"))?;
    journal.applied(Layer::Descriptors, format!("{} kept", kept.len()));
    Ok(())
}

/// A kept descriptor must be open, and must not be a directory: `openat` below a directory's
/// descriptor ignores the root.
fn check_kept(fd: RawFd) -> Result<(), JailError> {
    if fd < 0 {
        let source = io::Error::from_raw_os_error(libc::EBADF);
        return Err(JailError::KeptDescriptor { fd, source });
    }
    // SAFETY: the borrow lives for this call only and `fstat` answers EBADF if `fd` is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = rustix::fs::fstat(borrowed).map_err(|errno| JailError::KeptDescriptor {
        fd,
        source: errno.into(),
    })?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        return Err(JailError::KeptDirectory { fd });
    }
    Ok(())
}

fn replace_standard_streams(kept: &[RawFd]) -> Result<(), JailError> {
    if (0..=2).all(|fd| kept.contains(&fd)) {
        return Ok(());
    }
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(mandatory("opening /dev/null"))?;
    for fd in (0..=2).filter(|fd| !kept.contains(fd)) {
        match fd {
            0 => rustix::stdio::dup2_stdin(&null),
            1 => rustix::stdio::dup2_stdout(&null),
            _ => rustix::stdio::dup2_stderr(&null),
        }
        .map_err(mandatory("replacing a standard stream by /dev/null"))?;
    }
    Ok(())
}

/// The ranges of descriptor numbers, both ends included, between the kept ones and the standard
/// streams.
fn gaps_between(kept: &[RawFd]) -> impl Iterator<Item = (u32, u32)> {
    let mut kept: Vec<u32> = kept
        .iter()
        .filter_map(|&fd| u32::try_from(fd).ok())
        .chain(0..=2)
        .collect();
    kept.sort_unstable();
    kept.dedup();
    let ends = kept
        .clone()
        .into_iter()
        .skip(1)
        .map(|next| next - 1)
        .chain([u32::MAX]);
    kept.into_iter()
        .map(|fd| fd + 1)
        .zip(ends)
        .filter(|(first, last)| first <= last)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closes descriptors that nobody in this process uses from here on: the caller named
    // all that are used. No memory is involved.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_leave_out_kept_descriptors_and_standard_streams() {
        let gaps: Vec<_> = gaps_between(&[7, 3, 9, 7, 4]).collect();
        assert_eq!(gaps, [(5, 6), (8, 8), (10, u32::MAX)]);
    }

    #[test]
    fn nothing_kept_leaves_one_gap() {
        assert_eq!(gaps_between(&[]).collect::<Vec<_>>(), [(3, u32::MAX)]);
    }

    #[test]
    fn a_closed_descriptor_is_named() {
        let error = check_kept(9999).expect_err("not open");
        assert!(error.to_string().contains("descriptor 9999"), "{error}");
        assert!(matches!(
            check_kept(-1),
            Err(JailError::KeptDescriptor { fd: -1, .. })
        ));
    }

    #[test]
    fn a_directory_is_refused() {
        use std::os::fd::AsRawFd;
        let directory = std::fs::File::open("/").expect("root opens");
        let fd = directory.as_raw_fd();
        assert!(matches!(
            check_kept(fd),
            Err(JailError::KeptDirectory { .. })
        ));
    }
}
