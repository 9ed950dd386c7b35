//! Archives for tests: an honest one, as GitHub serves it, and what is done to it on the way.

use std::io::{Read, Write};

use flate2::{Compression, write::GzEncoder};
use tar::{EntryType, Header};

use super::*;

pub(crate) type Build = fn(&mut Vec<u8>);

pub(crate) fn entry(
    tar: &mut Vec<u8>,
    kind: EntryType,
    path: &str,
    link: &str,
    mode: u32,
    content: &[u8],
) {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    tar.extend(header.as_bytes());
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

pub(crate) fn file(tar: &mut Vec<u8>, path: &str, mode: u32, content: &[u8]) {
    entry(tar, EntryType::Regular, path, "", mode, content);
}

pub(crate) fn link(tar: &mut Vec<u8>, path: &str, target: &str) {
    entry(tar, EntryType::Symlink, path, target, 0o777, b"");
}

pub(crate) fn commit(tar: &mut Vec<u8>, id: &str) {
    let record = format!("52 comment={id}\n");
    entry(
        tar,
        EntryType::XGlobalHeader,
        "pax_global_header",
        "",
        0o666,
        record.as_bytes(),
    );
}

pub(crate) fn ended(mut tar: Vec<u8>) -> Vec<u8> {
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}

pub(crate) fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

pub(crate) const COMMIT: &str = "302a2aa32bda043133831ea456e78ac769675a8a";

/// An action as GitHub serves it, without an end.
pub(crate) fn honest() -> Vec<u8> {
    let mut tar = Vec::new();
    commit(&mut tar, COMMIT);
    entry(
        &mut tar,
        EntryType::Directory,
        "o-r-302a2aa/",
        "",
        0o775,
        b"",
    );
    file(&mut tar, "o-r-302a2aa/action.yml", 0o664, b"name: honest\n");
    file(&mut tar, "o-r-302a2aa/run.sh", 0o775, b"echo honest\n");
    link(&mut tar, "o-r-302a2aa/start", "run.sh");
    tar
}

pub(crate) fn expected() -> Expected {
    let mut tree = TreeBuilder::new();
    tree.file(b"action.yml", false, Blob::of(b"name: honest\n"))
        .unwrap();
    tree.file(b"run.sh", true, Blob::of(b"echo honest\n"))
        .unwrap();
    tree.symlink(b"start", b"run.sh").unwrap();
    let digests = tree.finish(&Submodules::new()).unwrap();
    Expected {
        commit: COMMIT.parse().ok(),
        tree: digests.tree,
        content: Some(digests.content),
        submodules: Submodules::new(),
    }
}

/// What git says that the honest archive's commit has.
pub(crate) fn listing() -> Listing {
    // `git hash-object` of the three contents.
    let text = format!(
        "100644 blob {}\taction.yml\0100755 blob {}\trun.sh\0120000 blob {}\tstart\0",
        "739fd07a6fc3caac3c6ee52d929ffa64516905c6",
        "f70adfe7bd44fb1a5a1f40cda92eb17154595e62",
        "e0e63473c2593040d7d1c67637864821b28cef4b"
    );
    Listing::parse(text.as_bytes()).unwrap()
}

/// An archive that is not what it says.
pub(crate) struct Tampered {
    pub(crate) name: &'static str,
    pub(crate) archive: Vec<u8>,
    /// Part of the message that refuses it.
    pub(crate) why: &'static str,
}

/// All that is done to archives, but for what no buffer holds.
pub(crate) fn tampered() -> Vec<Tampered> {
    let mut all = changed_bytes();
    all.extend(other_entries());
    all
}

fn changed_bytes() -> Vec<Tampered> {
    let tar = ended(honest());
    let at = tar
        .windows(11)
        .position(|part| part == b"echo honest")
        .unwrap();
    let flipped = |at: usize| {
        let mut tar = tar.clone();
        tar[at] ^= 1;
        tar
    };
    let mut packed = gzip(&tar);
    let length = packed.len();
    packed[length - 6] ^= 1;

    let mut mode = Vec::new();
    commit(&mut mode, COMMIT);
    file(&mut mode, "t/action.yml", 0o775, b"name: honest\n");
    file(&mut mode, "t/run.sh", 0o775, b"echo honest\n");
    link(&mut mode, "t/start", "run.sh");
    let mut content = Vec::new();
    commit(&mut content, COMMIT);
    file(&mut content, "t/action.yml", 0o664, b"name: evil\n");
    file(&mut content, "t/run.sh", 0o775, b"echo evil\n");
    link(&mut content, "t/start", "run.sh");
    let mut tree = Vec::new();
    file(&mut tree, "t/README.md", 0o664, b"another commit\n");
    let mut other = Vec::new();
    commit(&mut other, &"1".repeat(40));
    let half = gzip(&tar[..tar.len() / 2]);
    let cut = gzip(&tar);
    let cut = cut[..cut.len() / 2].to_vec();
    [
        (
            "flipped byte in a file",
            flipped(at),
            "the content of \"run.sh\" was changed: it is not that of the commit",
        ),
        (
            "right commit, other content",
            ended(content),
            "\"action.yml\" was changed: it is not that of the commit; another file differs",
        ),
        ("flipped byte in a header", flipped(1024 + 2), "check sum"),
        (
            "byte in padding",
            flipped(at + 100),
            "behind the end of a file",
        ),
        ("flipped byte, compressed", packed, "gzip stream is damaged"),
        (
            "mode bit",
            ended(mode),
            "\"action.yml\" has the mode 100755, and 100644",
        ),
        (
            "wrong tree",
            ended(tree),
            "they are another tree altogether",
        ),
        ("other commit", ended(other), "says that it is commit 1111"),
        (
            "truncated",
            tar[..tar.len() - 1024].to_vec(),
            "ends in the middle",
        ),
        (
            "truncated before it was compressed",
            half,
            "it was cut before it was packed",
        ),
        (
            "truncated, compressed",
            cut,
            "gzip stream ends in the middle",
        ),
        (
            "no archive at all",
            b"<!DOCTYPE html>".to_vec(),
            "no tar stream: it ends before the first header",
        ),
        (
            "something long that is no archive",
            "<!DOCTYPE html>".repeat(100).into_bytes(),
            "no tar stream: what should be its first header",
        ),
    ]
    .map(|(name, archive, why)| Tampered { name, archive, why })
    .into()
}

fn other_entries() -> impl Iterator<Item = Tampered> {
    let all: [(&str, Build, &str); 13] = [
        (
            "added file",
            |tar| file(tar, "o-r-302a2aa/more", 0o664, b"x"),
            "the file \"more\" was added",
        ),
        (
            "two entries for one path",
            |tar| file(tar, "o-r-302a2aa/run.sh", 0o664, b"x"),
            "is there twice",
        ),
        (
            "symlink out",
            |tar| link(tar, "o-r-302a2aa/out", "../../etc/passwd"),
            "leads out of the tree",
        ),
        (
            "absolute symlink",
            |tar| link(tar, "o-r-302a2aa/out", "/etc/passwd"),
            "leads to an absolute path",
        ),
        (
            "`..` in a path",
            |tar| file(tar, "o-r-302a2aa/../x", 0o664, b""),
            "leads out with `..`",
        ),
        (
            "absolute path below the top",
            |tar| file(tar, "o-r-302a2aa//etc/x", 0o664, b""),
            "absolute path",
        ),
        (
            "absolute path",
            |tar| file(tar, "/etc/x", 0o664, b""),
            "outside the archive's top folder",
        ),
        (
            "file below a symlink",
            |tar| file(tar, "o-r-302a2aa/start/x", 0o664, b""),
            "a file and a folder",
        ),
        (
            "set-user-id",
            |tar| file(tar, "o-r-302a2aa/s", 0o4755, b""),
            "set-user-id",
        ),
        (
            "hard link",
            |tar| entry(tar, EntryType::Link, "o-r-302a2aa/h", "x", 0o664, b""),
            "a hard link",
        ),
        (
            "device",
            |tar| entry(tar, EntryType::Char, "o-r-302a2aa/d", "", 0o664, b""),
            "a device",
        ),
        (
            "named pipe",
            |tar| entry(tar, EntryType::Fifo, "o-r-302a2aa/p", "", 0o664, b""),
            "a named pipe",
        ),
        (
            "ten gibibytes",
            |tar| tar.extend(large_file(10 << 30)),
            "bytes unpacked",
        ),
    ];
    all.into_iter().map(|(name, build, why)| {
        let mut tar = honest();
        build(&mut tar);
        let archive = gzip(&ended(tar));
        Tampered { name, archive, why }
    })
}

/// The header of a file that is not there.
pub(crate) fn large_file(size: u64) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..13].copy_from_slice(b"o-r-302a2aa/z");
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Ten gibibytes of zeros after a start, compressed as they are read.
pub(crate) fn bomb(start: &[u8]) -> impl Read {
    let zeros = io::repeat(0).take(10 << 30);
    flate2::read::GzEncoder::new(start.chain(zeros), Compression::fast())
}
