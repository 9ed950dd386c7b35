//! Files with secrets: read only where nobody else can read them.

use std::{
    env, fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, process::geteuid};
use zeroize::Zeroizing;

/// Most bytes of such a file; keys have a few thousand.
const MAX_SECRET: u64 = 64 << 10;

/// Why a file with a secret is not read. Nothing of its content is part of the message.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("cannot read {}: {cause}; is it there, and may this user read it?", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// It is a folder, a pipe, a device.
    #[error("{} is no regular file; name the file with the secret", .0.display())]
    Kind(PathBuf),
    /// Others may read it.
    #[error("{} may be read by others (mode {mode:04o}); run `chmod 600` on it", .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is somebody else's, who can change it.
    #[error("{} belongs to user {owner}; give it to this user ({user}) or to root", .path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// This process's user.
        user: u32,
    },
    /// It is larger than any secret.
    #[error("{} has more than {MAX_SECRET} bytes; that is no key and no token", .0.display())]
    Large(PathBuf),
}

/// Reads a file that only this user or root may read.
///
/// # Errors
/// [`SecretFileError`] where it is not so, or it cannot be read.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let failed = |cause| SecretFileError::Read {
        path: path.to_owned(),
        cause,
    };
    // Opened before it is looked at, so that it is the same file; and never waited for, as a pipe's
    // other end would be.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path);
    let mut file = opened.map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(SecretFileError::Kind(path.to_owned()));
    }
    let user = geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != user {
        return Err(SecretFileError::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
            user,
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & foreign_bits(path) != 0 {
        let path = path.to_owned();
        return Err(SecretFileError::Mode { path, mode });
    }
    if metadata.len() > MAX_SECRET {
        return Err(SecretFileError::Large(path.to_owned()));
    }
    let mut secret = Zeroizing::new(Vec::with_capacity(MAX_SECRET as usize + 1));
    let mut bounded = (&mut file).take(MAX_SECRET + 1);
    bounded.read_to_end(&mut secret).map_err(failed)?;
    if secret.len() as u64 > MAX_SECRET {
        return Err(SecretFileError::Large(path.to_owned()));
    }
    Ok(secret)
}

/// Mode bits that let others in. systemd's credentials are given to this user by an access list, whose
/// mask shows as the group's bits.
fn foreign_bits(path: &Path) -> u32 {
    let folder = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    if folder.is_some_and(|folder| !folder.as_os_str().is_empty() && path.starts_with(folder)) {
        0o007
    } else {
        0o077
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_file_of_our_own_that_nobody_else_reads_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "ghp_secret").unwrap();
        let with = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read_secret(&path)
        };
        assert_eq!(with(0o600).unwrap().as_slice(), b"ghp_secret");
        assert_eq!(with(0o400).unwrap().as_slice(), b"ghp_secret");
        for mode in [0o640, 0o604, 0o620] {
            let said = with(mode).unwrap_err().to_string();
            assert!(
                said.contains("chmod 600") && said.contains("token"),
                "{said}"
            );
            assert!(!said.contains("ghp_"), "{said}");
        }
        let said = read_secret(folder.path()).unwrap_err().to_string();
        assert!(said.contains("no regular file"), "{said}");
        let said = read_secret(&folder.path().join("none")).unwrap_err();
        assert!(said.to_string().contains("none"), "{said}");
        fs::write(&path, vec![b'x'; 65 << 10]).unwrap();
        assert!(matches!(with(0o600), Err(SecretFileError::Large(_))));
    }
}
