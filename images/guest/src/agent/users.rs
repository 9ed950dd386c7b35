//! Users and groups from the root's own `/etc/passwd` and `/etc/group`: a static binary has no NSS.

use rustix::process::Gid;
use thiserror::Error;

use super::files::{FileError, Root};

/// Largest user database that is read, in bytes.
const DATABASE_LIMIT: u64 = 4 << 20;

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups, the primary one included.
    pub(super) groups: Vec<Gid>,
}

/// Why there is no such user.
#[derive(Debug, Error)]
pub enum UserError {
    /// Not in `/etc/passwd`, and not a number.
    #[error("there is no user {0:?} in /etc/passwd")]
    Unknown(String),
    /// Not in `/etc/group`.
    #[error("there is no group {0:?} in /etc/group")]
    UnknownGroup(String),
    /// The databases cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Finds a user by name or number. A number need not be in `/etc/passwd`; its group is then 0, as
/// in containers.
pub(super) fn lookup(root: &Root, user: &str) -> Result<User, UserError> {
    let passwd = read(root, "/etc/passwd")?;
    let number = user.parse::<u32>().ok();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(uid), Some(gid)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
            continue;
        };
        if name == user || number == Some(uid) {
            let groups = groups_of(&read(root, "/etc/group")?, name, gid);
            return Ok(User { uid, gid, groups });
        }
    }
    number
        .map(|uid| User {
            uid,
            gid: 0,
            groups: vec![Gid::from_raw(0)],
        })
        .ok_or_else(|| UserError::Unknown(user.to_owned()))
}

fn groups_of(group: &str, user: &str, primary: u32) -> Vec<Gid> {
    let mut groups = vec![Gid::from_raw(primary)];
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = fields[..] else {
            continue;
        };
        if let Ok(gid) = gid.parse().map(Gid::from_raw)
            && members.split(',').any(|member| member == user)
            && !groups.contains(&gid)
        {
            groups.push(gid);
        }
    }
    groups
}

/// A group's number by its name.
pub(crate) fn group_id(root: &Root, name: &str) -> Result<u32, UserError> {
    let groups = read(root, "/etc/group")?;
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let number = (fields.next() == Some(name)).then(|| fields.nth(1))??;
        number.parse().ok()
    });
    found.ok_or_else(|| UserError::UnknownGroup(name.to_owned()))
}

fn read(root: &Root, path: &str) -> Result<String, FileError> {
    let bytes = root.read(path, DATABASE_LIMIT)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let etc = folder.path().join("etc");
        std::fs::create_dir(&etc).expect("etc");
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nrunner:x:1001:1002:,,,:/home/runner:\n";
        std::fs::write(etc.join("passwd"), passwd).expect("passwd");
        let group = "root:x:0:\nsudo:x:27:a,runner\nrunners:x:1:arunner\ndocker:x:99:runner\n";
        std::fs::write(etc.join("group"), group).expect("group");
        let root = Root::open(folder.path()).expect("opens");
        (folder, root)
    }

    #[test]
    fn a_user_has_its_primary_and_supplementary_groups() {
        let (_folder, root) = root();
        let runner = User {
            uid: 1001,
            gid: 1002,
            groups: [1002, 27, 99].map(Gid::from_raw).to_vec(),
        };
        assert_eq!(lookup(&root, "runner").expect("known"), runner);
        assert_eq!(lookup(&root, "1001").expect("known"), runner);
    }

    #[test]
    fn a_number_without_an_entry_is_a_user_and_a_name_is_not() {
        let (_folder, root) = root();
        assert_eq!(lookup(&root, "4711").expect("number").uid, 4711);
        assert!(matches!(
            lookup(&root, "nobody"),
            Err(UserError::Unknown(name)) if name == "nobody"
        ));
    }

    #[test]
    fn a_group_is_found_by_its_name() {
        let (_folder, root) = root();
        assert_eq!(group_id(&root, "docker").expect("known"), 99);
        let unknown = group_id(&root, "dock");
        assert!(matches!(unknown, Err(UserError::UnknownGroup(name)) if name == "dock"));
    }
}
