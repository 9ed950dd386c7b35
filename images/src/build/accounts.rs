//! Adds users to a root, as `useradd` would, without running anything in it.

use super::{BuildError, keep};
use crate::{
    recipe::UserRecipe,
    tree::{Kind, Meta, Spool, Tree},
};

/// Largest account file that is read, in bytes.
const LIMIT: u64 = 1 << 20;

/// Adds a user, its group, its home with the skeleton's files, and its right to use sudo.
pub(super) fn add(
    user: &UserRecipe,
    tree: &mut Tree,
    spool: &mut Spool,
    epoch: u64,
) -> Result<(), BuildError> {
    let UserRecipe { name, uid, .. } = user;
    let failed = |why: String| BuildError::User {
        user: name.clone(),
        why,
    };
    let mut edit = Edit { tree, spool, epoch };
    let mut passwd = edit.read("/etc/passwd").map_err(failed)?;
    if field(&passwd, 0, name) || field(&passwd, 2, &uid.to_string()) {
        return Err(failed(
            "the packages bring a user with that name or number".to_owned(),
        ));
    }
    passwd.push_str(&format!("{name}:x:{uid}:{uid}::/home/{name}:/bin/bash\n"));
    edit.write("/etc/passwd", &passwd, 0o644).map_err(failed)?;
    let days = epoch / 86_400;
    let mut shadow = edit.read("/etc/shadow").map_err(failed)?;
    // A password that nothing matches.
    shadow.push_str(&format!("{name}:*:{days}:0:99999:7:::\n"));
    edit.rewrite("/etc/shadow", &shadow).map_err(failed)?;
    for (path, password) in [("/etc/group", "x"), ("/etc/gshadow", "!")] {
        let mut groups = edit.read(path).map_err(failed)?;
        for group in &user.groups {
            groups = join_group(&groups, group, name).ok_or_else(|| {
                failed(format!(
                    "there is no group {group}: name the package that makes it"
                ))
            })?;
        }
        let number = if path == "/etc/group" {
            uid.to_string()
        } else {
            String::new()
        };
        groups.push_str(&format!("{name}:{password}:{number}:\n"));
        edit.rewrite(path, &groups).map_err(failed)?;
    }
    if user.sudo {
        if edit.tree.find("/usr/bin/sudo").is_none() {
            return Err(failed("there is no sudo: add the package sudo".to_owned()));
        }
        let rule = format!("{name} ALL=(ALL:ALL) NOPASSWD: ALL\n");
        edit.write(&format!("/etc/sudoers.d/{name}"), &rule, 0o440)
            .map_err(failed)?;
    }
    home(user, tree, epoch).map_err(failed)
}

/// Makes the home: a copy of the skeleton that belongs to the user.
fn home(user: &UserRecipe, tree: &mut Tree, epoch: u64) -> Result<(), String> {
    let meta = Meta {
        mode: 0o755,
        uid: user.uid,
        gid: user.uid,
        mtime: epoch,
        ..Meta::default()
    };
    let home = format!("/home/{}", user.name);
    let directory = Kind::Directory(std::collections::BTreeMap::new());
    tree.put(&home, directory, meta.clone())
        .map_err(|error| error.to_string())?;
    let skeleton: Vec<_> = tree
        .find("/etc/skel")
        .and_then(|id| tree.children(id))
        .into_iter()
        .flatten()
        .map(|(name, id)| {
            (
                String::from_utf8_lossy(name).into_owned(),
                tree.node(*id).kind.clone(),
            )
        })
        .collect();
    for (file, kind) in skeleton {
        if matches!(kind, Kind::File(_)) {
            let meta = Meta {
                mode: 0o644,
                ..meta.clone()
            };
            tree.put(&format!("{home}/{file}"), kind, meta)
                .map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

struct Edit<'a> {
    tree: &'a mut Tree,
    spool: &'a mut Spool,
    epoch: u64,
}

impl Edit<'_> {
    fn read(&self, path: &str) -> Result<String, String> {
        let missing = || format!("there is no {path}");
        let id = self.tree.find(path).ok_or_else(missing)?;
        let Kind::File(content) = self.tree.node(id).kind else {
            return Err(missing());
        };
        let bytes = self
            .spool
            .read(content, LIMIT)
            .map_err(|error| format!("{path}: {error}"))?;
        String::from_utf8(bytes).map_err(|_| format!("{path} is no text"))
    }

    /// Replaces a file's content and keeps its owner and permissions.
    fn rewrite(&mut self, path: &str, text: &str) -> Result<(), String> {
        let id = self
            .tree
            .find(path)
            .ok_or_else(|| format!("there is no {path}"))?;
        let meta = self.tree.node(id).meta.clone();
        self.put(
            path,
            text,
            Meta {
                mtime: self.epoch,
                ..meta
            },
        )
    }

    fn write(&mut self, path: &str, text: &str, mode: u32) -> Result<(), String> {
        self.put(path, text, Meta::root(mode, self.epoch))
    }

    fn put(&mut self, path: &str, text: &str, meta: Meta) -> Result<(), String> {
        let kind = keep(self.spool, text.as_bytes()).map_err(|error| error.to_string())?;
        self.tree
            .put(path, kind, meta)
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

/// Whether a line of a colon-separated file has `value` in a column.
fn field(text: &str, column: usize, value: &str) -> bool {
    text.lines()
        .any(|line| line.split(':').nth(column) == Some(value))
}

/// The group file with `user` among the members of `group`; `None` if there is no such group.
fn join_group(text: &str, group: &str, user: &str) -> Option<String> {
    let mut found = false;
    let lines: Vec<_> = text
        .lines()
        .map(|line| {
            if line.split(':').next() != Some(group) {
                return line.to_owned();
            }
            found = true;
            let comma = if line.ends_with(':') { "" } else { "," };
            format!("{line}{comma}{user}")
        })
        .collect();
    found.then(|| lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (Tree, Spool) {
        let (mut tree, mut spool) = (Tree::new(0), Spool::new(&std::env::temp_dir()).unwrap());
        for (path, text, mode) in [
            ("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n", 0o644),
            ("/etc/shadow", "root:*:1:0:99999:7:::\n", 0o640),
            (
                "/etc/group",
                "root:x:0:\nsudo:x:27:\ndocker:x:101:me\n",
                0o644,
            ),
            ("/etc/gshadow", "root:*::\nsudo:*::\ndocker:!::me\n", 0o640),
            ("/etc/skel/.bashrc", "# hi\n", 0o644),
            ("/usr/bin/sudo", "", 0o4755),
        ] {
            let kind = keep(&mut spool, text.as_bytes()).unwrap();
            tree.put(
                path,
                kind,
                Meta {
                    gid: 42,
                    ..Meta::root(mode, 0)
                },
            )
            .unwrap();
        }
        (tree, spool)
    }

    fn runner() -> UserRecipe {
        UserRecipe {
            name: "runner".to_owned(),
            uid: 1001,
            groups: vec!["docker".to_owned(), "sudo".to_owned()],
            sudo: true,
        }
    }

    #[test]
    fn a_user_gets_all_that_useradd_would_make() {
        let (mut tree, mut spool) = root();
        add(&runner(), &mut tree, &mut spool, 86_400).unwrap();
        let edit = Edit {
            tree: &mut tree,
            spool: &mut spool,
            epoch: 0,
        };
        let last = |path| edit.read(path).unwrap().lines().last().unwrap().to_owned();
        assert_eq!(
            last("/etc/passwd"),
            "runner:x:1001:1001::/home/runner:/bin/bash"
        );
        assert_eq!(last("/etc/shadow"), "runner:*:1:0:99999:7:::");
        assert_eq!(last("/etc/gshadow"), "runner:!::");
        assert_eq!(
            edit.read("/etc/group").unwrap(),
            "root:x:0:\nsudo:x:27:runner\ndocker:x:101:me,runner\nrunner:x:1001:\n"
        );
        assert!(
            edit.read("/etc/sudoers.d/runner")
                .unwrap()
                .contains("NOPASSWD")
        );
        let meta = |path| tree.node(tree.find(path).unwrap()).meta.clone();
        assert_eq!(
            (meta("/etc/shadow").mode, meta("/etc/shadow").gid),
            (0o640, 42)
        );
        assert_eq!(meta("/etc/sudoers.d/runner").mode, 0o440);
        assert_eq!(meta("/home/runner/.bashrc").uid, 1001);
    }

    #[test]
    fn a_user_that_cannot_be_is_refused_with_what_is_missing() {
        let refuse = |change: fn(&mut UserRecipe)| {
            let (mut tree, mut spool) = root();
            let mut user = runner();
            change(&mut user);
            add(&user, &mut tree, &mut spool, 0)
                .unwrap_err()
                .to_string()
        };
        assert!(refuse(|user| user.groups.push("kvm".to_owned())).contains("no group kvm"));
        assert!(refuse(|user| user.name = "root".to_owned()).contains("that name"));
        let (mut tree, mut spool) = root();
        tree.remove("/usr/bin/sudo");
        let message = add(&runner(), &mut tree, &mut spool, 0)
            .unwrap_err()
            .to_string();
        assert!(message.contains("add the package sudo"), "{message}");
    }
}
