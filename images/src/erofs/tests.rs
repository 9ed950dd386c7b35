//! Images that erofs-utils, an implementation of its own, reads back as what was written.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
    process::Command,
};

use proptest::prelude::*;

use super::*;
use crate::tree::{Kind, Layer, Limits, Meta};

const EPOCH: u64 = 1_735_689_600;

fn spool() -> Spool {
    Spool::new(&std::env::temp_dir()).unwrap()
}

fn image(tree: &Tree, spool: &Spool) -> Vec<u8> {
    let mut image = Vec::new();
    write(tree, spool, EPOCH, &mut image, &mut |_, _| ()).unwrap();
    image
}

/// Checks an image with `fsck.erofs` and unpacks it into `directory`.
fn extract(image: &[u8], directory: &Path) {
    let path = directory.with_extension("erofs");
    fs::write(&path, image).unwrap();
    let output = Command::new("fsck.erofs")
        .arg(format!("--extract={}", directory.display()))
        .args(["--preserve", "--overwrite"])
        .arg(&path)
        .output()
        .expect("fsck.erofs comes with the Debian package erofs-utils");
    // It says that a checksum is wrong and goes on.
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}

fn put_file(tree: &mut Tree, spool: &mut Spool, path: &str, bytes: &[u8]) {
    let content = spool.store(bytes).unwrap();
    tree.put(path, Kind::File(content), Meta::root(0o644, EPOCH))
        .unwrap();
}

#[test]
fn every_kind_of_file_is_read_back_with_its_metadata() {
    let (mut tree, mut spool) = (Tree::new(EPOCH), spool());
    for size in [0, 1, 4063, 4064, 4065, 4096, 4097, 100_000] {
        put_file(
            &mut tree,
            &mut spool,
            &format!("sizes/{size}"),
            &vec![b'x'; size],
        );
    }
    let old = Meta {
        mode: 0o750,
        uid: 70_000,
        gid: 12,
        mtime: 1_000_000_000,
        ..Meta::default()
    };
    let content = spool.store(b"old").unwrap();
    tree.put("old", Kind::File(content), old).unwrap();
    put_file(&mut tree, &mut spool, "aged", b"aged");
    let aged = tree.find("aged").unwrap();
    tree.meta_mut(aged).mtime = 1_500_000_000;
    tree.put(
        "link",
        Kind::Symlink(b"sizes/1".to_vec()),
        Meta::root(0o777, EPOCH),
    )
    .unwrap();
    tree.put(
        "long",
        Kind::Symlink(vec![b'y'; 4080]),
        Meta::root(0o777, EPOCH),
    )
    .unwrap();
    tree.put("fifo", Kind::Fifo, Meta::root(0o600, EPOCH))
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    extract(&image(&tree, &spool), &root);
    for size in [0, 1, 4063, 4064, 4065, 4096, 4097, 100_000] {
        let read = fs::read(root.join(format!("sizes/{size}"))).unwrap();
        assert!(read == vec![b'x'; size], "{size}");
    }
    let metadata = fs::metadata(root.join("old")).unwrap();
    assert_eq!(metadata.mode(), 0o100_750);
    assert_eq!(metadata.mtime(), 1_000_000_000);
    let mtime = fs::metadata(root.join("aged")).unwrap().mtime();
    assert_eq!(mtime, 1_500_000_000);
    assert_eq!(
        fs::metadata(root.join("sizes/1")).unwrap().mtime(),
        EPOCH as i64
    );
    assert_eq!(
        fs::read_link(root.join("link")).unwrap(),
        Path::new("sizes/1")
    );
    assert_eq!(
        fs::read_link(root.join("long")).unwrap().as_os_str().len(),
        4080
    );
    assert!(
        fs::symlink_metadata(root.join("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    if rustix::process::geteuid().is_root() {
        assert_eq!((metadata.uid(), metadata.gid()), (70_000, 12));
    }
}

#[test]
fn a_directory_with_thousands_of_names_is_read_back_whole() {
    let (mut tree, mut spool) = (Tree::new(EPOCH), spool());
    let names: Vec<String> = (0..3000)
        .map(|index| format!("{index:0>width$}", width = 1 + index % 200))
        .collect();
    for name in &names {
        put_file(
            &mut tree,
            &mut spool,
            &format!("many/{name}"),
            name.as_bytes(),
        );
    }
    // These sort before the two dots.
    put_file(&mut tree, &mut spool, "many/!first", b"!");
    put_file(&mut tree, &mut spool, "many/-dash", b"-");
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    extract(&image(&tree, &spool), &root);
    for name in &names {
        assert_eq!(
            fs::read_to_string(root.join("many").join(name)).unwrap(),
            *name
        );
    }
    assert_eq!(
        fs::read_dir(root.join("many")).unwrap().count(),
        tree_children(&tree, "many")
    );
}

fn tree_children(tree: &Tree, path: &str) -> usize {
    tree.children(tree.find(path).unwrap()).unwrap().len()
}

/// What `dump.erofs` says about the file at a path.
fn dump(image: &[u8], path: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), image).unwrap();
    let output = Command::new("dump.erofs")
        .arg(format!("--path={path}"))
        .arg(file.path())
        .output()
        .expect("dump.erofs comes with the Debian package erofs-utils");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn two_names_of_one_file_share_an_inode_that_counts_them() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(4);
    header.set_mode(0o755);
    builder.append_data(&mut header, "a", &b"same"[..]).unwrap();
    for name in ["b", "c"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        header.set_mode(0o755);
        builder.append_link(&mut header, name, "a").unwrap();
    }
    let (mut tree, mut spool) = (Tree::new(EPOCH), spool());
    let layer = Layer {
        tree: &mut tree,
        spool: &mut spool,
        limits: &Limits::default(),
        number: 0,
        epoch: EPOCH,
        latest: EPOCH,
        bytes: &mut 0,
        entries: &mut 0,
    };
    layer
        .apply(&builder.into_inner().unwrap()[..], &mut |_| ())
        .unwrap();
    let image = image(&tree, &spool);
    let nid = |name: &str| {
        let text = dump(&image, name);
        assert!(text.contains("Links: 3"), "{text}");
        text.lines()
            .find(|line| line.starts_with("NID"))
            .unwrap()
            .to_owned()
    };
    assert_eq!(nid("/a"), nid("/b"));
    assert_eq!(nid("/a"), nid("/c"));
}

#[test]
fn devices_and_attributes_make_a_sound_image() {
    let (mut tree, spool) = (Tree::new(EPOCH), spool());
    let mut meta = Meta::root(0o666, EPOCH);
    meta.xattrs.insert(b"user.note".to_vec(), b"hello".to_vec());
    meta.xattrs
        .insert(b"security.capability".to_vec(), vec![1; 20]);
    meta.xattrs.insert(b"user.large".to_vec(), vec![7; 9000]);
    tree.put(
        "null",
        Kind::Device {
            block: false,
            major: 1,
            minor: 3,
        },
        meta,
    )
    .unwrap();
    let kind = Kind::Device {
        block: true,
        major: 254,
        minor: 300,
    };
    tree.put("vda", kind, Meta::root(0o600, EPOCH)).unwrap();
    let image = image(&tree, &spool);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &image).unwrap();
    let output = Command::new("fsck.erofs")
        .arg(file.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(dump(&image, "/null").contains("Xattr size:"));
}

#[test]
fn an_attribute_that_erofs_cannot_hold_is_refused_by_path() {
    let (mut tree, spool) = (Tree::new(EPOCH), spool());
    let mut meta = Meta::root(0o644, EPOCH);
    meta.xattrs.insert(b"user.huge".to_vec(), vec![0; 70_000]);
    tree.put("a/b", Kind::Fifo, meta).unwrap();
    let error = write(&tree, &spool, EPOCH, &mut Vec::new(), &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("/a/b"), "{error}");
}

#[test]
fn the_checksum_covers_the_superblock() {
    let (tree, spool) = (Tree::new(EPOCH), spool());
    let mut image = image(&tree, &spool);
    let directory = tempfile::tempdir().unwrap();
    extract(&image, &directory.path().join("good"));
    image[1024 + 60] ^= 1;
    let path = directory.path().join("bad.erofs");
    fs::write(&path, &image).unwrap();
    let output = Command::new("fsck.erofs").arg(&path).output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("checksum"),
        "{output:?}"
    );
}

/// Paths with few distinct names, so that they meet, and contents around the limits of a block.
fn files() -> impl Strategy<Value = BTreeMap<String, usize>> {
    let name = prop_oneof![
        Just("a".to_owned()),
        Just(".x".to_owned()),
        "[!-.0-~]{1,60}"
    ]
    .prop_filter("two dots have a meaning", |name| {
        name != "." && name != ".."
    });
    let path = prop::collection::vec(name, 1..5).prop_map(|parts| parts.join("/"));
    let size = prop_oneof![0..10_usize, 3900..4200_usize, Just(20_000_usize)];
    prop::collection::btree_map(path, size, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_tree_is_read_back_as_it_was_and_twice_the_same(files in files()) {
        let (mut tree, mut spool) = (Tree::new(EPOCH), spool());
        let mut written = BTreeMap::new();
        for (path, size) in files {
            let bytes = vec![b'z'; size];
            let content = spool.store(&bytes).unwrap();
            // A file on the way of another path is refused; then that path is not there.
            if tree.put(&path, Kind::File(content), Meta::root(0o600, EPOCH)).is_ok() {
                written.retain(|other: &String, _| !path_below(other, &path));
                written.insert(path, bytes);
            }
        }
        let first = image(&tree, &spool);
        prop_assert!(first == image(&tree, &spool));
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        extract(&first, &root);
        for (path, bytes) in &written {
            prop_assert!(fs::read(root.join(path)).unwrap() == *bytes, "{}", path);
        }
        prop_assert_eq!(count_files(&root), written.len());
    }
}

/// Whether `path` is gone once `replaced` became a file.
fn path_below(path: &str, replaced: &str) -> bool {
    path.strip_prefix(replaced)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn count_files(directory: &Path) -> usize {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() {
                count_files(&path)
            } else {
                File::open(path).map(|_| 1).unwrap()
            }
        })
        .sum()
}
