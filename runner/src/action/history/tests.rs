//! What is known of references, through moves, crashes and damage.

use super::*;

const V1: &str = "octo/tool@v1";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn sighting(commit: &str, locked: bool) -> Sighting {
    Sighting {
        reference: V1.to_owned(),
        value: Value {
            commit: commit.to_owned(),
            content: None,
        },
        from: "/mirror".to_owned(),
        locked,
        at: None,
    }
}

fn history() -> (tempfile::TempDir, History) {
    let folder = tempfile::tempdir().unwrap();
    let history = History::at(folder.path().join("pins"));
    (folder, history)
}

fn known(history: &History) -> String {
    let memory = history.read().unwrap();
    memory.known(V1).unwrap().value.commit.clone()
}

#[test]
fn a_moved_tag_is_told_with_both_commits_and_their_times_until_a_lock_file_names_the_new_one() {
    let (_folder, history) = history();
    let record = |commit, locked, time| {
        history
            .record(&[sighting(commit, locked)], at(time))
            .unwrap()
    };
    assert_eq!(record("aaaa", false, "2026-03-01T10:00:00Z"), []);
    assert_eq!(record("aaaa", false, "2026-03-02T10:00:00Z"), []);
    for time in ["2026-03-19T17:43:00Z", "2026-03-20T08:00:00Z"] {
        let moved = record("bbbb", false, time);
        assert_eq!(moved[0].before.value.commit, "aaaa");
        assert_eq!(moved[0].before.first, at("2026-03-01T10:00:00Z"));
        assert_eq!(moved[0].before.last, at("2026-03-02T10:00:00Z"));
        assert_eq!(moved[0].now.value.commit, "bbbb");
        assert_eq!(moved[0].now.first, at("2026-03-19T17:43:00Z"));
        assert_eq!(known(&history), "aaaa", "a refused commit is never known");
    }
    assert_eq!(record("bbbb", true, "2026-03-21T08:00:00Z"), []);
    assert_eq!(known(&history), "bbbb");
    let back = record("aaaa", false, "2026-03-22T08:00:00Z");
    assert_eq!(back[0].before.value.commit, "bbbb");
    assert_eq!(known(&history), "bbbb");
    assert_eq!(record("aaaa", true, "2026-03-22T08:00:00Z"), []);
    assert_eq!(known(&history), "aaaa");
}

#[test]
fn the_same_commit_with_other_content_is_a_move() {
    let (_folder, history) = history();
    let now = at("2026-03-01T10:00:00Z");
    let with = |byte| {
        let mut sighting = sighting("aaaa", false);
        sighting.value.content = Some(ContentDigest::from_bytes([byte; 32]));
        sighting
    };
    assert_eq!(history.record(&[sighting("aaaa", false)], now).unwrap(), []);
    assert_eq!(history.record(&[with(1)], now).unwrap(), []);
    assert_eq!(history.record(&[with(2)], now).unwrap().len(), 1);
    assert_eq!(history.record(&[sighting("aaaa", false)], now).unwrap(), []);
    let content = history.read().unwrap().known(V1).unwrap().value.content;
    assert_eq!(content, Some(ContentDigest::from_bytes([1; 32])));
}

#[test]
fn a_line_that_a_crash_cut_is_cut_off_and_one_in_the_middle_is_told() {
    let (_folder, history) = history();
    let now = at("2026-03-01T10:00:00Z");
    history.record(&[sighting("aaaa", false)], now).unwrap();
    let whole = fs::read_to_string(history.path()).unwrap();
    for cut in [1, whole.len() / 2, whole.len() - 1] {
        fs::write(history.path(), format!("{whole}{}", &whole[..cut])).unwrap();
        assert_eq!(known(&history), "aaaa");
        let moved = history.record(&[sighting("bbbb", false)], now).unwrap();
        assert_eq!(moved.len(), 1);
        let text = fs::read_to_string(history.path()).unwrap();
        assert!(
            text.starts_with(&whole) && text.lines().count() == 2,
            "{text}"
        );
        fs::write(history.path(), &whole).unwrap();
    }
    fs::write(history.path(), format!("{whole}damage\n{whole}")).unwrap();
    for said in [
        history.read().unwrap_err().to_string(),
        history
            .record(&[sighting("aaaa", false)], now)
            .unwrap_err()
            .to_string(),
    ] {
        assert!(said.starts_with("line 2 of "), "{said}");
    }
}

#[test]
fn the_file_stays_small_and_forgets_nothing_when_it_is_written_anew() {
    let (_folder, history) = history();
    history
        .record(&[sighting("old1", false)], at("2026-01-01T00:00:00Z"))
        .unwrap();
    history
        .record(&[sighting("aaaa", true)], at("2026-01-02T00:00:00Z"))
        .unwrap();
    history
        .record(&[sighting("bbbb", false)], at("2026-01-03T00:00:00Z"))
        .unwrap();
    let again = at("2026-01-03T00:59:00Z");
    let before = fs::metadata(history.path()).unwrap().len();
    history.record(&[sighting("aaaa", true)], again).unwrap();
    assert!(fs::metadata(history.path()).unwrap().len() > before);
    let written = fs::metadata(history.path()).unwrap().len();
    history.record(&[sighting("aaaa", false)], again).unwrap();
    assert_eq!(fs::metadata(history.path()).unwrap().len(), written);

    // Days of sightings until the file is written anew.
    let line = fs::read_to_string(history.path()).unwrap();
    let line = line.lines().last().unwrap().to_owned() + "\n";
    let many = line.repeat((COMPACT_AT as usize).div_ceil(line.len()));
    let mut file = File::options().append(true).open(history.path()).unwrap();
    file.write_all(many.as_bytes()).unwrap();
    history
        .record(&[sighting("aaaa", false)], at("2026-02-01T00:00:00Z"))
        .unwrap();
    let text = fs::read_to_string(history.path()).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!(known(&history), "aaaa");
    let moved = history
        .record(&[sighting("bbbb", false)], at("2026-02-02T00:00:00Z"))
        .unwrap();
    assert_eq!(moved[0].now.first, at("2026-01-03T00:00:00Z"));
    assert_eq!(moved[0].before.first, at("2026-01-02T00:00:00Z"));
    assert_eq!(moved[0].before.last, at("2026-02-01T00:00:00Z"));
}

#[test]
fn of_two_first_uses_at_the_same_time_one_is_known_and_the_other_moved() {
    let (_folder, history) = history();
    let now = at("2026-03-01T10:00:00Z");
    let uses: Vec<_> = (0..8)
        .map(|at| {
            let (history, commit) = (history.clone(), format!("{at:040}"));
            std::thread::spawn(move || {
                history
                    .record(&[sighting(&commit, false)], now)
                    .unwrap()
                    .len()
            })
        })
        .collect();
    let moved: usize = uses.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(moved, 7);
}
