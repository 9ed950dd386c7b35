//! The empty file system on the writable disk of each sandbox.
//!
//! It is thrown away with its sandbox, so it has no journal and no reserve for root. Its metadata
//! is marked as initialized, or the guest's kernel would write zeros to it in the background, and
//! each of them would cost memory in each sandbox.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use crate::tool::{MKE2FS, ToolError};

/// Everything that ext4 is to have, so that the host's own defaults do not matter.
const FEATURES: &str = "none,dir_index,dir_nlink,ext_attr,extent,extra_isize,filetype,flex_bg,\
                        huge_file,large_file,sparse_super,uninit_bg,64bit";

/// Identifier of every such file system. It is not a secret, and nothing looks for it.
const UUID: &str = "6d617966-6c79-8000-8000-000000000001";

/// Why the file system cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be made.
    #[error("cannot create {}: {error}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// `mke2fs` did not do its work.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// Writes an empty file system of `size` bytes to a new sparse file.
pub(crate) fn write(path: &Path, size: u64, epoch: u64) -> Result<(), DiskError> {
    File::create_new(path)
        .and_then(|file| file.set_len(size))
        .map_err(|error| DiskError::Create {
            path: path.to_owned(),
            error,
        })?;
    let mut command = MKE2FS.command()?;
    command
        // Neither this host's defaults nor the time of day get in.
        .env("MKE2FS_CONFIG", "/dev/null")
        .env("E2FSPROGS_FAKE_TIME", epoch.to_string())
        .args([
            "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0",
        ])
        .args(["-G", "256", "-L", "mayfly", "-U", UUID, "-O", FEATURES])
        .arg("-E")
        .arg(format!(
            "hash_seed={UUID},root_owner=0:0,lazy_itable_init=0,discard"
        ))
        .arg(path);
    MKE2FS.output(command)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _, process::Command};

    use super::*;
    use crate::digest::Hash;

    #[test]
    fn two_disks_are_the_same_small_and_sound() {
        let directory = tempfile::tempdir().unwrap();
        let digests = ["a", "b"].map(|name| {
            let path = directory.path().join(name);
            write(&path, 4 << 30, 1_735_689_600).unwrap();
            Hash::Chunked
                .file(&File::open(path).unwrap(), &mut |_| ())
                .unwrap()
        });
        assert_eq!(digests[0], digests[1]);
        let path = directory.path().join("a");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 4 << 30);
        assert!(
            metadata.blocks() * 512 < 2 << 20,
            "{} bytes",
            metadata.blocks() * 512
        );
        let output = Command::new("/sbin/e2fsck")
            .args(["-f", "-n"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn a_file_that_is_there_is_not_overwritten() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(
            write(file.path(), 64 << 20, 0),
            Err(DiskError::Create { .. })
        ));
    }
}
