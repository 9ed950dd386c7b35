//! Archives as git writes them, and what is done to them on the way.

use std::{
    io::{Read, Write},
    path::Path,
    process::Command,
};

use flate2::{Compression, write::GzEncoder};
use tar::{EntryType, Header};

use super::*;

type Build = fn(&mut Vec<u8>);

fn entry(tar: &mut Vec<u8>, kind: EntryType, path: &str, link: &str, mode: u32, content: &[u8]) {
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

fn file(tar: &mut Vec<u8>, path: &str, mode: u32, content: &[u8]) {
    entry(tar, EntryType::Regular, path, "", mode, content);
}

fn link(tar: &mut Vec<u8>, path: &str, target: &str) {
    entry(tar, EntryType::Symlink, path, target, 0o777, b"");
}

fn commit(tar: &mut Vec<u8>, id: &str) {
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

fn ended(mut tar: Vec<u8>) -> Vec<u8> {
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

const COMMIT: &str = "302a2aa32bda043133831ea456e78ac769675a8a";

/// An action as GitHub serves it, without an end.
fn honest() -> Vec<u8> {
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

fn expected() -> Expected {
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

fn verified(archive: &[u8]) -> Result<Verified, ArchiveError> {
    verify(
        archive,
        Layout::TopFolder,
        &expected(),
        Limits::default(),
        io::sink(),
    )
}

fn refused(archive: &[u8]) -> String {
    let mut sink = Vec::new();
    let limits = Limits::default();
    let error = verify(archive, Layout::TopFolder, &expected(), limits, &mut sink).unwrap_err();
    assert!(!sink.ends_with(&[0; 2 * BLOCK]), "the stream was ended");
    error.to_string()
}

fn added(build: Build) -> String {
    let mut tar = honest();
    build(&mut tar);
    refused(&gzip(&ended(tar)))
}

#[test]
fn an_honest_archive_is_verified_and_what_was_packed_anew_verifies_again() {
    let tar = ended(honest());
    for archive in [gzip(&tar), tar] {
        let mut packed = Vec::new();
        let layout = Layout::TopFolder;
        let found = verify(
            &archive[..],
            layout,
            &expected(),
            Limits::default(),
            &mut packed,
        );
        let found = found.unwrap();
        assert_eq!(found.files, 3);
        let mut again = Vec::new();
        verify_content(&packed[..], found.content, &mut again).unwrap();
        assert_eq!(packed, again);
        let file = packed
            .windows(11)
            .position(|part| part == b"echo honest")
            .unwrap();
        packed[file] ^= 1;
        let error = verify_content(&packed[..], found.content, io::sink()).unwrap_err();
        assert!(
            matches!(error, ArchiveError::OtherContent { .. }),
            "{error}"
        );
    }
}

#[test]
fn each_change_is_refused_with_words_of_its_own() {
    let tar = ended(honest());
    let mut flipped = tar.clone();
    let at = tar
        .windows(11)
        .position(|part| part == b"echo honest")
        .unwrap();
    flipped[at] ^= 1;
    assert!(refused(&flipped).contains("files are git tree"));
    let mut packed = gzip(&tar);
    let length = packed.len();
    packed[length - 6] ^= 1;
    assert!(refused(&packed).contains("gzip stream is damaged"));
    let mut header = tar.clone();
    header[1024 + 2] ^= 1;
    assert!(refused(&header).contains("check sum"));
    let mut padding = tar.clone();
    padding[at + 100] = 1;
    assert!(refused(&padding).contains("behind the end of a file"));

    let mut mode = Vec::new();
    commit(&mut mode, COMMIT);
    file(&mut mode, "t/action.yml", 0o775, b"name: honest\n");
    file(&mut mode, "t/run.sh", 0o775, b"echo honest\n");
    link(&mut mode, "t/start", "run.sh");
    assert!(refused(&ended(mode)).contains("files are git tree"));

    let mut other = Vec::new();
    commit(&mut other, &"1".repeat(40));
    assert!(refused(&ended(other)).contains("says that it is commit 1111"));

    for (build, why) in [
        (
            (|tar| file(tar, "o-r-302a2aa/more", 0o664, b"x")) as Build,
            "files are git tree",
        ),
        (
            |tar| file(tar, "o-r-302a2aa/run.sh", 0o664, b"x"),
            "is there twice",
        ),
        (
            |tar| link(tar, "o-r-302a2aa/out", "../../etc/passwd"),
            "leads out of the tree",
        ),
        (
            |tar| link(tar, "o-r-302a2aa/out", "/etc/passwd"),
            "leads to an absolute path",
        ),
        (
            |tar| file(tar, "o-r-302a2aa/../x", 0o664, b""),
            "leads out with `..`",
        ),
        (
            |tar| file(tar, "o-r-302a2aa//etc/x", 0o664, b""),
            "absolute path",
        ),
        (
            |tar| file(tar, "/etc/x", 0o664, b""),
            "outside the archive's top folder",
        ),
        (
            |tar| file(tar, "o-r-302a2aa/start/x", 0o664, b""),
            "a file and a folder",
        ),
        (|tar| file(tar, "o-r-302a2aa/s", 0o4755, b""), "set-user-id"),
        (
            |tar| entry(tar, EntryType::Link, "o-r-302a2aa/h", "x", 0o664, b""),
            "a hard link",
        ),
        (
            |tar| entry(tar, EntryType::Char, "o-r-302a2aa/d", "", 0o664, b""),
            "a device",
        ),
        (
            |tar| entry(tar, EntryType::Fifo, "o-r-302a2aa/p", "", 0o664, b""),
            "a named pipe",
        ),
    ] {
        let said = added(build);
        assert!(said.contains(why), "{why}: {said}");
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_is_refused() {
    let tar = ended(honest());
    let packed = gzip(&tar);
    for cut in (0..tar.len()).step_by(256) {
        assert!(refused(&tar[..cut]).contains("ends in the middle"), "{cut}");
    }
    for cut in 2..packed.len() {
        assert!(
            refused(&packed[..cut]).contains("ends in the middle"),
            "{cut}"
        );
    }
    let more = [&packed[..], b"x"].concat();
    assert!(refused(&more).contains("after its gzip stream"));
    let more = [&tar[..], &[0; 700], b"x"].concat();
    assert!(refused(&more).contains("after its end"));
}

/// Ten gibibytes of zeros, compressed as they are read.
#[test]
fn a_bomb_is_cut_off_early() {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..3].copy_from_slice(b"t/z");
    header.set_mode(0o644);
    header.set_size(1 << 30);
    header.set_cksum();
    for (start, why) in [
        (&[][..], "gzip bomb"),
        (&header.as_bytes()[..], "gzip bomb"),
    ] {
        let zeros = io::repeat(0).take(10 << 30);
        let bomb = flate2::read::GzEncoder::new(start.chain(zeros), Compression::fast());
        let layout = Layout::TopFolder;
        let error = verify(bomb, layout, &expected(), Limits::default(), io::sink());
        let said = error.unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    }
    let mut large = Vec::new();
    header.set_size(10 << 30);
    header.set_cksum();
    large.extend(header.as_bytes());
    assert!(refused(&large).contains("longer than 2147483648 bytes unpacked"));
}

#[test]
fn git_archives_of_odd_names_are_read_and_long_names_survive() {
    let folder = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@example.org"])
            .arg("-C")
            .arg(folder.path())
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}");
        output.stdout
    };
    git(&["init", "-q"]);
    let long = format!("{}/{}", "d".repeat(120), "n".repeat(200));
    for name in [&long, "a.b", "a/b", "new\nline", "\u{e9} \t"] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    std::os::unix::fs::symlink(Path::new(&long), folder.path().join("link")).unwrap();
    git(&["add", "."]);
    git(&["commit", "-qm", "all"]);
    let id = |name| String::from_utf8(git(&["rev-parse", name])).unwrap();
    let mut expected = Expected {
        commit: id("HEAD").trim().parse().ok(),
        tree: id("HEAD^{tree}").trim().parse().unwrap(),
        content: None,
        submodules: Submodules::new(),
    };
    for (arguments, layout) in [
        (
            &["archive", "--format=tar.gz", "--prefix=o-r-1/", "HEAD"][..],
            Layout::TopFolder,
        ),
        (&["archive", "--format=tar", "HEAD"], Layout::Bare),
    ] {
        let mut packed = Vec::new();
        let archive = git(arguments);
        let found = verify(
            &archive[..],
            layout,
            &expected,
            Limits::default(),
            &mut packed,
        );
        let found = found.unwrap();
        expected.content = Some(found.content);
        assert_eq!(found.files, 6);
        verify_content(&packed[..], found.content, io::sink()).unwrap();
    }
}

#[test]
fn an_archive_has_a_bound_on_everything() {
    let tar = ended(honest());
    let with = |limits| {
        verify(&tar[..], Layout::TopFolder, &expected(), limits, io::sink())
            .unwrap_err()
            .to_string()
    };
    let limits = Limits::default();
    assert!(
        with(Limits {
            packed: 1000,
            ..limits
        })
        .contains("longer than 1000 bytes")
    );
    assert!(
        with(Limits {
            unpacked: 2000,
            ..limits
        })
        .contains("2000 bytes unpacked")
    );
    assert!(
        with(Limits {
            entries: 2,
            ..limits
        })
        .contains("more than 2 files")
    );
    assert!(verified(&tar).is_ok());
    let mut endless = Vec::new();
    entry(
        &mut endless,
        EntryType::GNULongName,
        "x",
        "",
        0o644,
        &vec![b'x'; 70_000],
    );
    assert!(refused(&endless).contains("longer than 64 KiB"));
}
