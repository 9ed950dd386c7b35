//! Archives as git writes them, and what is done to them on the way.

use std::{path::Path, process::Command};

use tar::EntryType;

use super::{samples::*, *};

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
    error.explained(&listing()).to_string()
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
    for tampered in tampered() {
        let said = refused(&tampered.archive);
        assert!(said.contains(tampered.why), "{}: {said}", tampered.name);
        // Where nobody tells the commit's files, and where somebody tells wrong ones.
        let plain = verified(&tampered.archive).unwrap_err();
        let before = plain.to_string();
        let wrong = Listing::parse(b"").unwrap();
        assert_eq!(plain.explained(&wrong).to_string(), before);
    }
}

/// What a test of the whole table would not show: that no two of these share their words.
#[test]
fn what_is_done_to_archives_is_told_apart() {
    let mut said: Vec<String> = tampered()
        .iter()
        .map(|tampered| refused(&tampered.archive))
        .collect();
    let all = said.len();
    said.sort();
    said.dedup();
    assert_eq!(said.len(), all, "{said:#?}");
}

#[test]
fn a_stream_that_is_cut_anywhere_is_refused() {
    let tar = ended(honest());
    let packed = gzip(&tar);
    for cut in (0..tar.len()).step_by(256) {
        let said = refused(&tar[..cut]);
        let why = match cut < BLOCK {
            true => "no tar stream: it ends before the first header does",
            false => "the archive ends in the middle, after",
        };
        assert!(said.contains(why), "{cut}: {said}");
    }
    for cut in 2..packed.len() {
        let said = refused(&packed[..cut]);
        assert!(
            said.contains("gzip stream ends in the middle"),
            "{cut}: {said}"
        );
    }
    for cut in (BLOCK..tar.len()).step_by(256) {
        let said = refused(&gzip(&tar[..cut]));
        assert!(said.contains("cut before it was packed"), "{cut}: {said}");
    }
    let more = [&packed[..], b"x"].concat();
    assert!(refused(&more).contains("after its gzip stream"));
    let more = [&tar[..], &[0; 700], b"x"].concat();
    assert!(refused(&more).contains("after its end"));
}

/// Ten gibibytes of zeros, compressed as they are read.
#[test]
fn a_bomb_is_cut_off_early() {
    let header = large_file(1 << 30);
    for start in [&[][..], &header[..]] {
        let layout = Layout::TopFolder;
        let error = verify(
            bomb(start),
            layout,
            &expected(),
            Limits::default(),
            io::sink(),
        );
        let said = error.unwrap_err().to_string();
        assert!(said.contains("gzip bomb"), "{said}");
    }
    assert!(refused(&large_file(10 << 30)).contains("longer than 2147483648 bytes unpacked"));
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
