//! What an ordinary user needs for `mmdebstrap`: a range of user and group numbers that are its own.
//!
//! `mmdebstrap` says what is missing only in its own terms, so it is looked for before it starts.

use std::{fs, path::Path};

use super::BuildError;
use crate::tool::{ID, NEWGIDMAP, NEWUIDMAP};

/// Numbers that a Debian root uses: up to `nobody` and a bit.
const NEEDED: u64 = 65_536;

/// Where ranges begin that nobody has yet.
const FIRST: u64 = 100_000;

/// Checks that this user may make user namespaces with enough numbers in them.
pub(super) fn check() -> Result<(), BuildError> {
    for sysctl in [
        "user/max_user_namespaces",
        "kernel/unprivileged_userns_clone",
    ] {
        let value = fs::read_to_string(Path::new("/proc/sys").join(sysctl));
        if value.is_ok_and(|value| value.trim() == "0") {
            let why = format!(
                "user namespaces are switched off by {}; build as root, or switch them on",
                sysctl.replace('/', ".")
            );
            return Err(BuildError::Ordinary(why));
        }
    }
    NEWUIDMAP.command()?;
    NEWGIDMAP.command()?;
    let mut id = ID.command()?;
    id.arg("-un");
    let user = String::from_utf8_lossy(&ID.output(id)?).trim().to_owned();
    let [users, groups] =
        ["/etc/subuid", "/etc/subgid"].map(|path| fs::read_to_string(path).unwrap_or_default());
    ranges(&user, &users, &groups).map_err(BuildError::Ordinary)
}

/// Checks the content of `/etc/subuid` and `/etc/subgid`.
fn ranges(user: &str, users: &str, groups: &str) -> Result<(), String> {
    for (path, text) in [("/etc/subuid", users), ("/etc/subgid", groups)] {
        // mmdebstrap takes the first entry by name, and no other.
        let count = entries(text)
            .find(|entry| entry.0 == user)
            .map(|entry| entry.2);
        let problem = match count {
            Some(count) if count >= NEEDED => continue,
            Some(count) => format!("gives {user} {count} numbers of {NEEDED}"),
            None => format!("has no entry for {user}"),
        };
        let used = entries(users).chain(entries(groups));
        let free = used.map(|(_, first, count)| first.saturating_add(count));
        let free = free.chain([FIRST]).max().unwrap_or(FIRST);
        let range = format!("{free}-{}", free.saturating_add(NEEDED - 1));
        return Err(format!(
            "{path} {problem}; run `sudo usermod --add-subuids {range} --add-subgids {range} {user}` \
             (remove a smaller entry first), or build as root"
        ));
    }
    Ok(())
}

/// Name, first number and count of each entry.
fn entries(text: &str) -> impl Iterator<Item = (&str, u64, u64)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        Some((
            name,
            fields.next()?.parse().ok()?,
            fields.next()?.parse().ok()?,
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOUGH: &str = "other:100000:65536\nme:165536:65536\n";

    #[test]
    fn a_user_with_both_ranges_may_build() {
        assert_eq!(ranges("me", ENOUGH, ENOUGH), Ok(()));
    }

    #[test]
    fn a_missing_range_is_named_with_a_command_that_gives_a_free_one() {
        let message = ranges("new", ENOUGH, ENOUGH).unwrap_err();
        assert!(
            message.contains("/etc/subuid has no entry for new"),
            "{message}"
        );
        assert!(message.contains("--add-subuids 231072-296607"), "{message}");
        let message = ranges("me", ENOUGH, "").unwrap_err();
        assert!(
            message.contains("/etc/subgid has no entry for me"),
            "{message}"
        );
        let message = ranges("me", "", "").unwrap_err();
        assert!(message.contains("--add-subuids 100000-165535"), "{message}");
    }

    #[test]
    fn a_range_that_is_too_small_or_no_number_does_not_count() {
        let message = ranges("me", "me:1000:100", ENOUGH).unwrap_err();
        assert!(message.contains("100 numbers of 65536"), "{message}");
        assert!(ranges("me", "me:x:65536\n:\nme", ENOUGH).is_err());
    }
}
