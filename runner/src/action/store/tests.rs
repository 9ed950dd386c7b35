//! The store under honest and hostile archives, crashes and other processes.

use std::{
    collections::BTreeMap,
    env,
    process::{Child, Command, Stdio},
    thread::sleep,
};

use tokio::{io::AsyncReadExt, runtime::Handle, task::spawn_blocking};

use super::*;
use crate::action::archive::{Pace, Paced, samples};

/// Names the store to the process that adds to it.
const STORE: &str = "MAYFLY_TEST_STORE";

fn store() -> (tempfile::TempDir, ActionStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = ActionStore::at(folder.path().join("state/actions"));
    (folder, store)
}

fn add(store: &ActionStore, archive: impl Read) -> Result<Verified, AddError> {
    let (layout, limits) = (Layout::TopFolder, Limits::default());
    store.add(archive, layout, &samples::expected(), limits)
}

fn honest() -> Vec<u8> {
    samples::gzip(&samples::ended(samples::honest()))
}

/// All files with their content and time.
fn state(store: &ActionStore) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let files = store.files().unwrap().into_iter();
    files
        .map(|(name, path)| {
            let time = path.metadata().unwrap().modified().unwrap();
            (name, (fs::read(path).unwrap(), time))
        })
        .collect()
}

async fn read(store: &ActionStore, digest: ContentDigest) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut reading = store.read(digest).map_err(io::Error::other)?;
    reading.read_to_end(&mut bytes).await.map(|_| bytes)
}

#[tokio::test]
async fn an_action_is_kept_under_its_digest_and_read_as_a_tar_stream() {
    let (_folder, store) = store();
    assert_eq!(store.list().unwrap(), []);
    let digest = samples::expected().content.unwrap();
    let missing = read(&store, digest).await.unwrap_err().to_string();
    assert!(missing.contains("no action sha256:"), "{missing}");
    assert!(!store.contains(digest));

    assert_eq!(add(&store, &honest()[..]).unwrap().content, digest);
    assert!(store.contains(digest));
    let entries = store.list().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].digest, digest);
    assert_eq!(store.verify(digest).unwrap().files, 3);
    let tar = read(&store, digest).await.unwrap();
    assert_eq!(tar.len() as u64, entries[0].bytes);
    let mut archive = tar::Archive::new(&tar[..]);
    let names = archive.entries().unwrap();
    let names: Vec<_> = names
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["action.yml", "run.sh", "start"]);
}

#[test]
fn what_is_refused_leaves_the_store_as_it_was() {
    let (_folder, store) = store();
    for with_honest in [false, true] {
        if with_honest {
            add(&store, &honest()[..]).unwrap();
        }
        let mut before = None;
        for tampered in samples::tampered() {
            let error = add(&store, &tampered.archive[..]).unwrap_err();
            let AddError::Archive(error) = error else {
                panic!("{error}")
            };
            let said = error.explained(&samples::listing()).to_string();
            assert!(said.contains(tampered.why), "{}: {said}", tampered.name);
            let after = state(&store);
            // The first attempt makes the folder and its lock.
            assert_eq!(before.get_or_insert(after.clone()), &after, "{said}");
            assert_eq!(store.list().unwrap().len(), usize::from(with_honest));
            assert_eq!(after.len(), 1 + usize::from(with_honest));
        }
        let start = samples::large_file(1 << 30);
        let error = add(&store, samples::bomb(&start)).unwrap_err().to_string();
        assert!(error.contains("gzip bomb"), "{error}");
        assert_eq!(before.unwrap(), state(&store));
    }
}

#[tokio::test]
async fn a_slow_stream_leaves_the_store_as_it_was() {
    let (_folder, store) = store();
    add(&store, &honest()[..]).unwrap();
    let before = state(&store);
    let (reader, _writer) = tokio::io::duplex(64);
    let pace = Pace {
        bytes: 1000,
        within: Duration::from_millis(50),
    };
    let paced = Paced::new(reader, Handle::current(), pace);
    let adding = store.clone();
    let error = spawn_blocking(move || add(&adding, paced)).await.unwrap();
    let said = error.unwrap_err().to_string();
    assert!(said.contains("comes too slowly"), "{said}");
    assert_eq!(before, state(&store));
}

#[tokio::test]
async fn a_damaged_action_is_never_read_to_an_end_and_adding_it_mends_it() {
    let (_folder, store) = store();
    let digest = add(&store, &honest()[..]).unwrap().content;
    let path = store.path(digest);
    let whole = fs::read(&path).unwrap();
    let at = whole.windows(4).position(|part| part == b"echo").unwrap();
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    let mut longer = whole.clone();
    longer.extend([1; 512]);
    let shorter = whole[..whole.len() - 1024].to_vec();
    for (damaged, why) in [
        (flipped, "is locked"),
        (longer, "after its end"),
        (shorter, "ends in the middle"),
        (Vec::new(), "ends before the first header"),
    ] {
        fs::write(&path, &damaged).unwrap();
        for error in [
            store.verify(digest).unwrap_err().to_string(),
            read(&store, digest).await.unwrap_err().to_string(),
        ] {
            assert!(error.contains("is damaged"), "{error}");
            assert!(error.contains(why), "{error}");
        }
        add(&store, &honest()[..]).unwrap();
        assert_eq!(read(&store, digest).await.unwrap(), whole);
    }
}

#[tokio::test]
async fn an_action_goes_when_it_was_not_used_for_long_and_its_reader_reads_on() {
    let (_folder, store) = store();
    let digest = add(&store, &honest()[..]).unwrap().content;
    let day = Duration::from_secs(24 * 60 * 60);
    let age = || {
        let file = File::open(store.path(digest)).unwrap();
        file.set_modified(SystemTime::now() - 31 * day).unwrap();
    };
    age();
    assert!(store.collect(32 * day).unwrap().entries.is_empty());
    read(&store, digest).await.unwrap();
    assert!(store.collect(30 * day).unwrap().entries.is_empty());
    let mut reading = store.read(digest).unwrap();
    age();
    store.verify(digest).unwrap();
    let collected = store.collect(30 * day).unwrap();
    assert_eq!(collected.entries.len(), 1);
    assert_eq!(collected.leftovers, Some(0));
    assert!(!store.contains(digest));
    let mut bytes = Vec::new();
    reading.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len() as u64, collected.entries[0].bytes);
}

#[test]
#[ignore = "the other process of the tests below"]
fn adds_what_comes_on_stdin() {
    let store = ActionStore::at(env::var_os(STORE).unwrap().into());
    add(&store, io::stdin()).unwrap();
}

/// Another process that adds to the store, when it has begun.
fn adder(store: &ActionStore, begun: usize) -> Child {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact"])
        .arg("action::store::tests::adds_what_comes_on_stdin")
        .env(STORE, &store.folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let input = child.stdin.as_mut().unwrap();
    input.write_all(&honest()[..100]).unwrap();
    for _ in 0..2000 {
        let files = store.files().unwrap();
        let adding = files.iter().filter(|(name, _)| name.starts_with(ADDING));
        if adding.count() == begun {
            return child;
        }
        sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("the other process does not begin");
}

#[test]
fn two_processes_add_the_same_action_at_once() {
    let (_folder, store) = store();
    let children = [adder(&store, 1), adder(&store, 2)];
    assert_eq!(store.list().unwrap(), []);
    // Neither is taken for what a crash left.
    let collected = store.collect(Duration::ZERO).unwrap();
    assert_eq!(collected, Collected::default());
    for mut child in children {
        let mut input = child.stdin.take().unwrap();
        input.write_all(&honest()[100..]).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success());
        let digest = samples::expected().content.unwrap();
        assert_eq!(store.verify(digest).unwrap().files, 3);
    }
    assert_eq!(state(&store).len(), 2, "the entry and the lock");
}

#[test]
fn a_crash_leaves_no_entry_and_what_it_leaves_is_swept() {
    let (_folder, store) = store();
    for by_add in [false, true] {
        let mut child = adder(&store, 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(state(&store).len(), 2, "the leftover and the lock");
        if by_add {
            add(&store, &honest()[..]).unwrap();
            assert_eq!(store.list().unwrap().len(), 1);
        } else {
            let collected = store.collect(Duration::ZERO).unwrap();
            assert_eq!(collected.leftovers, Some(1));
        }
        assert_eq!(state(&store).len(), 1 + usize::from(by_add));
    }
}
