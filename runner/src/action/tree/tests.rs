//! Trees, compared with git's own.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use proptest::prelude::*;

use super::{Blob, FileMode, Submodules, TreeBuilder, TreeDigests, TreeError, leads_out};
use crate::action::digest::CommitId;

/// A file of a generated tree.
#[derive(Debug, Clone)]
enum File {
    Content { executable: bool, content: Vec<u8> },
    Symlink(Vec<u8>),
    Submodule([u8; 20]),
}

type Files = BTreeMap<Vec<u8>, File>;

fn git(repository: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("git")
        .arg("-C")
        .arg(repository)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "git {arguments:?}");
    output.stdout
}

fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec())
        .unwrap()
        .trim()
        .to_owned()
}

/// The tree's id by `git update-index` and `git write-tree`.
fn by_index(repository: &Path, files: &Files) -> String {
    let _ = std::fs::remove_file(repository.join(".git/index"));
    let mut listed = Vec::new();
    for (path, file) in files {
        let (mode, content) = match file {
            File::Submodule(commit) => {
                listed.extend(format!("160000 {}\t", hex::encode(commit)).into_bytes());
                listed.extend(path.iter().chain(&[0]));
                continue;
            }
            File::Content {
                executable,
                content,
            } if *executable => ("100755", content),
            File::Content { content, .. } => ("100644", content),
            File::Symlink(target) => ("120000", target),
        };
        let id = text(&git(repository, &["hash-object", "-w", "--stdin"], content));
        listed.extend(format!("{mode} {id}\t").into_bytes());
        listed.extend(path.iter().chain(&[0]));
    }
    git(repository, &["update-index", "-z", "--index-info"], &listed);
    text(&git(repository, &["write-tree"], b""))
}

fn built(files: impl IntoIterator<Item = (Vec<u8>, File)>) -> Result<TreeDigests, TreeError> {
    let mut tree = TreeBuilder::new();
    let mut submodules = Submodules::new();
    for (path, file) in files {
        match file {
            File::Content {
                executable,
                content,
            } => tree.file(&path, executable, Blob::of(&content))?,
            File::Symlink(target) => tree.symlink(&path, &target)?,
            File::Submodule(commit) => {
                tree.folder(&path)?;
                submodules.insert(path, CommitId::from_bytes(commit));
            }
        }
    }
    tree.finish(&submodules)
}

fn repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    git(folder.path(), &["init", "-q"], b"");
    folder
}

/// Names that order oddly beside folders, are no UTF-8, or look like something else.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd: [&[u8]; 14] = [
        b"a",
        b"a.b",
        b"a-b",
        b"a0",
        b"ab",
        b"A",
        b" ",
        b"a b",
        b"a\tb\n",
        b"\xff\xfe",
        "\u{e9}".as_bytes(),
        b"...",
        b"\x01",
        b".gitignore",
    ];
    prop_oneof![
        4 => proptest::sample::select(odd.to_vec()).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(1_u8.., 1..20).prop_filter("no name of a file", |name| {
            !name.contains(&b'/') && name != b"." && name != b".."
                && !name.to_ascii_lowercase().starts_with(b".git")
        }),
    ]
}

fn file() -> impl Strategy<Value = File> {
    let content = proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        4 => (any::<bool>(), content).prop_map(|(executable, content)| {
            File::Content { executable, content }
        }),
        1 => name().prop_map(File::Symlink),
        1 => any::<[u8; 20]>().prop_map(|mut commit| {
            commit[0] |= 1; // git refuses an id of zeros
            File::Submodule(commit)
        }),
    ]
}

/// Files whose paths do not meet, in any order.
fn files() -> impl Strategy<Value = Vec<(Vec<u8>, File)>> {
    let path = proptest::collection::vec(name(), 1..5).prop_map(|parts| parts.join(&b'/'));
    proptest::collection::vec((path, file()), 1..30).prop_map(|candidates| {
        let mut tree = TreeBuilder::new();
        let apart = |(path, _): &(Vec<u8>, File)| tree.file(path, false, Blob::of(b"")).is_ok();
        candidates.into_iter().filter(apart).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_id_is_git_write_trees(files in files()) {
        let repository = repository();
        let digests = built(files.clone()).unwrap();
        let sorted: Files = files.into_iter().collect();
        prop_assert_eq!(digests.tree.hex(), by_index(repository.path(), &sorted));
    }
}

#[test]
fn a_folder_orders_as_git_mktree_orders_it() {
    let repository = repository();
    let empty = text(&git(
        repository.path(),
        &["hash-object", "-w", "--stdin"],
        b"",
    ));
    let inner = git(
        repository.path(),
        &["mktree"],
        format!("100644 blob {empty}\tx\n").as_bytes(),
    );
    let inner = text(&inner);
    let outer = format!(
        "100644 blob {empty}\ta.b\n040000 tree {inner}\ta\n100755 blob {empty}\ta0\n\
         120000 blob {empty}\ta-b\n"
    );
    let expected = text(&git(repository.path(), &["mktree"], outer.as_bytes()));

    let mut tree = TreeBuilder::new();
    let blob = Blob::of(b"");
    tree.file(b"a0", true, blob).unwrap();
    tree.file(b"a/x", false, blob).unwrap();
    tree.file(b"a.b", false, blob).unwrap();
    let link = super::Content::Blob(blob);
    tree.insert(b"a-b", FileMode::Symlink, link).unwrap();

    assert_eq!(
        tree.finish(&Submodules::new()).unwrap().tree.hex(),
        expected
    );
}

#[test]
fn an_empty_tree_is_gits_empty_tree() {
    let digests = TreeBuilder::new().finish(&Submodules::new()).unwrap();
    let git = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
    assert_eq!(digests.tree.hex(), git);
}

#[test]
fn both_digests_tell_contents_modes_kinds_and_paths_apart() {
    let plain = |content: &[u8]| File::Content {
        executable: false,
        content: content.to_vec(),
    };
    let script = File::Content {
        executable: true,
        content: b"x".to_vec(),
    };
    let one = |path: &[u8], file: File| built([(path.to_vec(), file)]).unwrap();
    let variants = [
        one(b"a", plain(b"x")),
        one(b"a", plain(b"y")),
        one(b"a", script),
        one(b"a", File::Symlink(b"x".to_vec())),
        one(b"a", File::Submodule([1; 20])),
        one(b"b", plain(b"x")),
        one(b"b/a", plain(b"x")),
    ];
    for (at, left) in variants.iter().enumerate() {
        for right in &variants[at + 1..] {
            assert!(left.tree != right.tree && left.content != right.content);
        }
    }
    // What a submodule would hold is not in the archive: only the tree tells which one it is.
    let [left, right] = [[1; 20], [2; 20]].map(|commit| one(b"a", File::Submodule(commit)));
    assert!(left.tree != right.tree && left.content == right.content);
}

#[test]
fn the_content_digest_is_what_the_documents_script_prints() {
    let repository = repository();
    let content = |executable, content: &[u8]| File::Content {
        executable,
        content: content.to_vec(),
    };
    let files: Files = [
        (b"action.yml".to_vec(), content(false, b"name: a\n")),
        (b"a/run.sh".to_vec(), content(true, b"#!/bin/sh\n\0\xff")),
        (b"a.b".to_vec(), File::Symlink(b"a/run.sh".to_vec())),
        (b" with\ttab and\nline \n".to_vec(), content(false, b"")),
        (b"vendor/lib".to_vec(), File::Submodule([7; 20])),
    ]
    .into();
    let tree = by_index(repository.path(), &files);
    let page = include_str!("../../../../docs/pins.md");
    let script = page.split("```bash\n").nth(1).unwrap();
    let script = script.split("```").next().unwrap();
    let output = Command::new("bash")
        .args(["-euc", script, "canonical-digest", &tree])
        .current_dir(repository.path())
        .output()
        .unwrap();
    let digest = built(files).unwrap().content;
    assert_eq!(text(&output.stdout), digest.to_string());
}

#[test]
fn paths_that_no_git_tree_has_are_refused() {
    let long = [b'n'; 256];
    let deep = b"d/".repeat(101);
    let endless = b"dd/".repeat(1400);
    let deep = [&deep[..], b"f"].concat();
    let endless = [&endless[..], b"f"].concat();
    for (path, why) in [
        (&b"/etc/passwd"[..], "absolute"),
        (b"a/../../b", "`..`"),
        (b"./a", "`.`"),
        (b"a//b", "without a name"),
        (b"a/", "without a name"),
        (b"", "without a name"),
        (b"a\0b", "zero byte"),
        (b".git/config", "git's own"),
        (b"a/.GIT/hooks/x", "git's own"),
        (&long, "longer than 255"),
        (&deep, "more than 100 folders"),
        (&endless, "longer than 4095"),
    ] {
        let error = TreeBuilder::new()
            .file(path, false, Blob::of(b""))
            .unwrap_err();
        assert!(matches!(error, TreeError::Path { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn one_path_is_one_file() {
    let blob = Blob::of(b"");
    let mut tree = TreeBuilder::new();
    tree.file(b"a/b", false, blob).unwrap();
    tree.folder(b"a").unwrap();
    let duplicate = |error| matches!(error, Err(TreeError::Duplicate(_)));
    assert!(duplicate(tree.file(b"a/b", true, blob)));
    assert!(duplicate(tree.folder(b"a")));
    assert!(duplicate(tree.folder(b"a/b")));
    let both = |error| matches!(error, Err(TreeError::FileAndFolder(_)));
    assert!(both(tree.symlink(b"a/b/c", b"x")));
    let mut tree = TreeBuilder::new();
    tree.file(b"a/b", false, blob).unwrap();
    assert!(both(tree.file(b"a", false, blob)));
}

#[test]
fn links_stay_in_the_tree_however_they_are_chained() {
    let stays = |path: &[u8], target: &[u8]| leads_out(path, target).is_none();
    assert!(stays(b"a/b/c", b"../d") && stays(b"a", b"b/c") && stays(b"a", b"./b/"));
    assert!(stays(b"node_modules/.bin/tool", b"../tool/bin.js"));
    assert!(!stays(b"a", b"..") && !stays(b"a/b", b"../../x") && !stays(b"a", b"/etc"));
    assert!(!stays(b"a", b"") && !stays(b"a", b"x\0y"));
    // `b` may be a link to the root: then `b/..` is outside.
    assert!(!stays(b"a/c", b"b/../x"));
    let error = TreeBuilder::new().symlink(b"a", b"../etc").unwrap_err();
    assert!(
        error.to_string().contains("leads out of the tree"),
        "{error}"
    );
}

#[test]
fn an_empty_folder_is_a_submodule_or_refused() {
    let mut tree = TreeBuilder::new();
    tree.file(b"action.yml", false, Blob::of(b"")).unwrap();
    tree.folder(b"vendor").unwrap();
    tree.folder(b"vendor/lib").unwrap();
    let error = tree.clone().finish(&Submodules::new()).unwrap_err();
    assert!(matches!(error, TreeError::EmptyFolder(_)), "{error}");
    let commit = CommitId::from_bytes([7; 20]);
    let submodules = [(b"vendor/lib".to_vec(), commit)].into();
    tree.finish(&submodules).unwrap();
}
