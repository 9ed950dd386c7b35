//! Images come and go whole, and what was tampered with is found.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt as _,
};

use tempfile::TempDir;

use super::*;
use crate::{
    digest::Hash,
    manifest::{BUILDER_REVISION, ImageConfig, Kernel, Part, Parts, Source},
};

struct Fixture {
    _state: TempDir,
    store: ImageStore,
}

fn fixture() -> Fixture {
    let state = tempfile::tempdir().unwrap();
    let store = ImageStore::open(state.path()).unwrap();
    Fixture {
        _state: state,
        store,
    }
}

/// Writes the four parts into a draft; the root holds `content`.
fn write_parts(draft: &Draft, content: &str) -> Manifest {
    let part = |index: usize, bytes: &[u8], hash: Hash| {
        let path = draft.directory().join(FILES[index]);
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .read(true)
            .open(&path)
            .unwrap();
        file.write_all(bytes).unwrap();
        if hash == Hash::Chunked {
            file.set_len(64 << 20).unwrap();
        }
        Part {
            file: FILES[index].to_owned(),
            size: file.metadata().unwrap().len(),
            hash,
            digest: hash.file(&file, &mut |_| ()).unwrap(),
        }
    };
    Manifest {
        version: MANIFEST_VERSION,
        builder: BUILDER_REVISION,
        source: Source::Recipe {
            name: "test".to_owned(),
        },
        recipe: Digest::of(b"recipe"),
        agent: Digest::of(b"agent"),
        program: None,
        kernel: Kernel {
            package: "linux-image".to_owned(),
            version: "6.1".to_owned(),
            release: "6.1-cloud".to_owned(),
            command_line: String::new(),
            modules: Vec::new(),
        },
        parts: Parts {
            kernel: part(0, b"kernel", Hash::Plain),
            initramfs: part(1, b"initramfs", Hash::Plain),
            root: part(2, content.as_bytes(), Hash::Plain),
            disk: part(3, b"disk", Hash::Chunked),
        },
        config: ImageConfig::default(),
        packages: BTreeMap::new(),
        node: Vec::new(),
    }
}

fn add(store: &ImageStore, name: &str, content: &str) -> Image {
    let draft = store.draft(&mut || ()).unwrap();
    let manifest = write_parts(&draft, content);
    store.publish(draft, &manifest, name).unwrap()
}

/// What lies in the store's directory, names and lock left out.
fn left(store: &ImageStore) -> Vec<String> {
    let mut entries = store.entries(store.directory()).unwrap();
    entries.retain(|entry| entry != "names" && entry != "lock");
    entries.sort();
    entries
}

#[test]
fn a_published_image_is_found_by_name_digest_and_prefix() {
    let fixture = fixture();
    let image = add(&fixture.store, "minimal", "root");
    let digest = image.digest.to_string();
    for reference in ["minimal", &digest, &digest[..20], &image.digest.hex()[..4]] {
        assert_eq!(
            fixture.store.get(reference).unwrap().digest,
            image.digest,
            "{reference}"
        );
    }
    assert_eq!(image.names, ["minimal"]);
    let list = fixture.store.list().unwrap();
    assert_eq!(list.len(), 1);
    assert!(
        list[0].disk_bytes < 1 << 20,
        "holes are not counted: {}",
        list[0].disk_bytes
    );
    assert_eq!(
        fixture.store.inspect("minimal").unwrap().manifest,
        image.manifest
    );
}

#[test]
fn an_unknown_image_says_which_there_are() {
    let fixture = fixture();
    let message = fixture.store.get("minimal").unwrap_err().to_string();
    assert!(message.contains("mayfly image build"), "{message}");
    add(&fixture.store, "standard", "root");
    let message = fixture.store.get("minimal").unwrap_err().to_string();
    assert!(message.contains("there are: standard"), "{message}");
    assert!(matches!(
        fixture.store.get(""),
        Err(StoreError::Unknown { .. })
    ));
}

#[test]
fn the_same_content_is_one_image_and_a_name_moves_to_the_newest() {
    let fixture = fixture();
    let first = add(&fixture.store, "minimal", "one");
    assert_eq!(add(&fixture.store, "minimal", "one").digest, first.digest);
    assert_eq!(left(&fixture.store).len(), 1);
    let second = add(&fixture.store, "minimal", "two");
    assert_ne!(first.digest, second.digest);
    assert_eq!(fixture.store.get("minimal").unwrap().digest, second.digest);
    assert!(
        fixture
            .store
            .get(&first.digest.to_string())
            .unwrap()
            .names
            .is_empty()
    );
}

#[test]
fn a_build_that_dies_leaves_nothing_that_counts_and_the_next_one_clears_it_away() {
    let fixture = fixture();
    let draft = fixture.store.draft(&mut || ()).unwrap();
    write_parts(&draft, "half");
    let Draft { directory, lock } = draft;
    // As after SIGKILL: the directory stays, the lock goes.
    let leftover = directory.keep();
    drop(lock);
    assert!(fixture.store.list().unwrap().is_empty());
    assert!(leftover.exists());
    drop(fixture.store.draft(&mut || ()).unwrap());
    assert!(left(&fixture.store).is_empty());
}

#[test]
fn a_draft_that_is_not_published_vanishes() {
    let fixture = fixture();
    let draft = fixture.store.draft(&mut || ()).unwrap();
    write_parts(&draft, "half");
    assert_eq!(left(&fixture.store).len(), 1);
    drop(draft);
    assert!(left(&fixture.store).is_empty());
}

#[test]
fn builds_wait_for_each_other() {
    let fixture = fixture();
    let draft = fixture.store.draft(&mut || ()).unwrap();
    let store = fixture.store.clone();
    let (sender, receiver) = std::sync::mpsc::channel();
    let second = std::thread::spawn(move || {
        drop(store.draft(&mut || sender.send(()).unwrap()).unwrap());
    });
    receiver.recv().unwrap();
    drop(draft);
    second.join().unwrap();
}

#[test]
fn removal_takes_names_and_files_but_not_from_under_a_user() {
    let fixture = fixture();
    let image = add(&fixture.store, "minimal", "root");
    let guard = image.hold().unwrap();
    assert!(matches!(
        fixture.store.remove("minimal"),
        Err(StoreError::InUse(_))
    ));
    assert_eq!(fixture.store.list().unwrap().len(), 1);
    drop(guard);
    assert_eq!(
        fixture.store.remove("minimal").unwrap().digest,
        image.digest
    );
    assert!(left(&fixture.store).is_empty());
    assert!(matches!(
        fixture.store.get("minimal"),
        Err(StoreError::Unknown { .. })
    ));
    assert!(image.hold().is_err());
}

/// Overwrites one byte of a part without changing its length.
fn flip(path: &Path, offset: u64) {
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    let mut file = File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(b"!").unwrap();
}

#[test]
fn a_changed_byte_in_any_part_is_found_even_after_an_earlier_check() {
    for (index, file) in FILES.iter().enumerate() {
        let fixture = fixture();
        let image = add(&fixture.store, "minimal", "root");
        image.verify(&mut |_, _| ()).unwrap();
        let offset = if index == 3 { 50 << 20 } else { 1 };
        flip(&image.directory.join(file), offset);
        let error = image.verify(&mut |_, _| ()).unwrap_err();
        assert!(
            matches!(error, VerifyError::Digest { .. }),
            "{file}: {error}"
        );
        let message = error.to_string();
        assert!(
            message.contains(file) && message.contains("--rebuild"),
            "{message}"
        );
    }
}

#[test]
fn a_truncated_or_missing_part_is_found() {
    let fixture = fixture();
    let image = add(&fixture.store, "minimal", "root");
    fs::set_permissions(image.root(), Permissions::from_mode(0o644)).unwrap();
    File::options()
        .write(true)
        .open(image.root())
        .unwrap()
        .set_len(2)
        .unwrap();
    let message = image.verify(&mut |_, _| ()).unwrap_err().to_string();
    assert!(message.contains("has 2 bytes instead of 4"), "{message}");
    fs::remove_file(image.root()).unwrap();
    assert!(matches!(
        image.verify(&mut |_, _| ()),
        Err(VerifyError::Io { .. })
    ));
}

#[test]
fn an_unchanged_image_is_read_once() {
    let fixture = fixture();
    let image = add(&fixture.store, "minimal", "root");
    let mut reads = 0;
    image.verify(&mut |_, _| reads += 1).unwrap();
    assert!(reads > 0);
    reads = 0;
    image.verify(&mut |_, _| reads += 1).unwrap();
    assert_eq!(reads, 0);
}

#[test]
fn a_changed_manifest_is_found_before_it_is_believed() {
    let fixture = fixture();
    let image = add(&fixture.store, "minimal", "root");
    flip(&image.directory.join(MANIFEST_FILE), 20);
    assert!(matches!(
        fixture.store.get("minimal"),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn names_that_are_paths_or_digests_are_refused() {
    for name in [
        "",
        "..",
        "a/b",
        ".tmp-x",
        "A",
        "-x",
        "beef",
        &"a".repeat(65),
    ] {
        assert!(check_name(name).is_err(), "{name}");
    }
    for name in ["minimal", "a", "ab", "my.image_2-x", "beefy"] {
        check_name(name).unwrap();
    }
}

#[test]
fn the_state_folder_is_made_for_one_user_and_refused_if_others_can_write_it() {
    let parent = tempfile::tempdir().unwrap();
    let state = parent.path().join("deep/state");
    ImageStore::open(&state).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("images"))), (0o700, 0o700));

    fs::set_permissions(&state, Permissions::from_mode(0o707)).unwrap();
    let error = ImageStore::open(&state).unwrap_err();
    assert!(matches!(&error, StoreError::Shared(path) if *path == state));
    assert!(error.to_string().contains("chmod o-w"), "{error}");
}
