//! Workspaces, as trees in a fake sandbox and as streams that a guest may send.

use super::*;
use crate::sandbox::fake::FakeSandbox;

fn sha(content: &str) -> Sha {
    Sha256::digest(content).into()
}

/// As the official runner: the hash of the hashes.
fn expected(contents: &[&str]) -> String {
    let digests: Vec<u8> = contents.iter().flat_map(|content| sha(content)).collect();
    hex::encode(Sha256::digest(digests))
}

async fn example() -> FileIndex {
    let fake = FakeSandbox::new();
    for (path, content) in [
        ("/w/a-b/lock", "1"),
        ("/w/a/lock", "2"),
        ("/w/lock", "3"),
        ("/w/z/.hidden", "4"),
        ("/w/node_modules/x/lock", "5"),
        ("/other/lock", "6"),
    ] {
        fake.put(path, content);
    }
    index(&fake, "/w").await.unwrap()
}

fn hash(index: &FileIndex, patterns: &[&str]) -> String {
    let patterns: Vec<String> = patterns.iter().map(|&text| text.to_owned()).collect();
    index.hash(&patterns).unwrap()
}

#[tokio::test]
async fn files_are_hashed_in_the_order_of_folders_and_names() {
    let index = example().await;
    assert_eq!(hash(&index, &["**/lock"]), expected(&["2", "1", "3", "5"]));
    assert_eq!(
        hash(&index, &["**/lock", "!node_modules"]),
        expected(&["2", "1", "3"])
    );
    assert_eq!(
        hash(&index, &["!node_modules", "**/lock"]),
        expected(&["2", "1", "3", "5"])
    );
    assert_eq!(hash(&index, &["z", "lock"]), expected(&["4", "3"]));
    assert_eq!(hash(&index, &["lock\na/*"]), expected(&["3", "2"]));
    assert_eq!(
        hash(&index, &["a/*", "**/lock"]),
        expected(&["2", "1", "3", "5"])
    );
    assert_eq!(hash(&index, &["none", "/other/lock"]), "");
    assert!(
        index
            .hash(&["--x".to_owned()])
            .unwrap_err()
            .contains("Invalid glob option")
    );
    assert!(
        index
            .hash(&["../x".to_owned()])
            .unwrap_err()
            .contains("'..' is not allowed")
    );
}

#[tokio::test]
async fn a_workspace_that_is_not_there_is_an_error() {
    let error = index(&FakeSandbox::new(), "/w").await.unwrap_err();
    assert!(error.contains("no such file"), "{error}");
}

fn tar_of(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().unwrap()
}

fn link(tar: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, path, target).unwrap();
}

fn folder(tar: &mut tar::Builder<Vec<u8>>, path: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_size(0);
    tar.append_data(&mut header, path, io::empty()).unwrap();
}

fn file(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content.as_bytes())
        .unwrap();
}

#[test]
fn links_are_hashed_by_what_they_lead_to_and_folders_behind_them_only_when_asked() {
    let long = format!("deep/{}", "x".repeat(150));
    let bytes = tar_of(|tar| {
        folder(tar, "real");
        file(tar, "real/a", "1");
        file(tar, &long, "9");
        link(tar, "file", "real/../real/a");
        link(tar, "folder", "/w/real");
        link(tar, "real/loop", "..");
        link(tar, "out", "/etc/passwd");
        link(tar, "up", "../../x");
    });
    let index = read(&bytes[..], "/w").unwrap();
    assert_eq!(hash(&index, &["file"]), expected(&["1"]));
    assert_eq!(hash(&index, &["folder"]), "");
    assert_eq!(hash(&index, &["folder/*"]), "");
    assert_eq!(hash(&index, &["none/a", "none/*/b"]), "");
    let error = index.hash(&["file/x".to_owned()]).unwrap_err();
    assert!(error.contains("behind a file"), "{error}");
    assert_eq!(hash(&index, &["folder/a"]), expected(&["1"]));
    assert_eq!(
        hash(&index, &["--follow-symbolic-links", "folder/a"]),
        expected(&["1"])
    );
    assert_eq!(hash(&index, &["deep"]), expected(&["9"]));
    for outside in ["out", "up"] {
        let error = index.hash(&[outside.to_owned()]).unwrap_err();
        assert!(error.contains("out of the workspace"), "{error}");
        assert_eq!(hash(&index, &["--follow-symbolic-links", outside]), "");
    }
}

#[test]
fn a_hostile_stream_is_refused() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let error = read(&header.as_bytes()[..], "/w").unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
    let mut bytes = tar_of(|tar| file(tar, "a", "content"));
    bytes.truncate(515);
    assert!(read(&bytes[..], "/w").is_err());
    assert!(read(&[7_u8; 2000][..], "/w").is_err());
    assert!(plain(b"a/../../b").is_err());
}
