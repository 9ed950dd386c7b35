//! Hostile bytes at the agent's side: arbitrary, mutated and cut streams must end in an answer or an
//! error, soon, and never in a panic or in a file outside the root. `PROPTEST_CASES` makes a longer
//! hunt of each test.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use proptest::prelude::*;

use super::{Context, Root, serve_connection, unpack};
use crate::wire::{
    Answer, Decoder, Frame, FrameKind, PROTOCOL_VERSION, Request, RequestAssembler, decode_answer,
    encode, encode_request, hello,
};

/// A change to a stream.
#[derive(Debug, Clone)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, prop::sample::Index),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let index = any::<prop::sample::Index>;
    let mutation = prop_oneof![
        6 => (index(), 1..=255_u8).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        1 => index().prop_map(Mutation::Cut),
        2 => (index(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        1 => (index(), index()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
    ];
    prop::collection::vec(mutation, 0..6)
}

fn mutate(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match mutation {
            Mutation::Flip(at, bits) => bytes[at.index(length)] ^= bits,
            Mutation::Cut(at) => bytes.truncate(at.index(length)),
            Mutation::Insert(at, more) => {
                let at = at.index(length);
                bytes.splice(at..at, more.iter().copied());
            }
            Mutation::Repeat(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let piece = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.extend(piece);
            }
        }
    }
    bytes
}

/// What an agent with `root` answers to `bytes`; panics if it takes too long.
fn answers(root: &Path, bytes: Vec<u8>) -> Vec<Frame> {
    let context = Context {
        root: Root::open(root).expect("opens"),
        steps: None,
        forward: None,
    };
    let (agent, mut worker) = UnixStream::pair().expect("pair");
    worker
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("timeout");
    // Its result is of no interest: it returns, or the read below runs into the timeout.
    let serving = std::thread::spawn(move || drop(serve_connection(agent.into(), &context)));
    let mut sender = worker.try_clone().expect("clone");
    let sending = std::thread::spawn(move || {
        // The agent may close before it has read everything.
        let _ = sender.write_all(&bytes);
        let _ = sender.shutdown(Shutdown::Write);
    });
    let mut answered = Vec::new();
    match worker.read_to_end(&mut answered) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the agent hangs"),
        _ => {}
    }
    drop(worker);
    sending.join().expect("sends");
    serving.join().expect("the agent does not panic");
    frames(&answered)
}

/// The agent's own stream must always be right, except that it may be cut by a reset.
fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame().expect("the agent speaks its protocol") {
        if frame.kind == FrameKind::Answer {
            decode_answer(&frame.payload).expect("the agent's answers can be read");
        }
        frames.push(frame);
    }
    frames
}

fn stream(request: &Request, content: &[u8]) -> Vec<u8> {
    let mut bytes = hello().to_vec();
    bytes.extend(encode_request(request).expect("in bounds"));
    for piece in content.chunks(700) {
        bytes.extend(encode(FrameKind::Data, piece));
    }
    bytes.extend(encode(FrameKind::End, b""));
    bytes
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    let path = || prop_oneof!["/[a-c]{1,3}(/[a-c.]{1,3}){0,3}", Just("/".to_owned())];
    prop_oneof![
        Just(stream(&Request::Ping, b"")),
        Just(stream(&Request::Accept, &[7; 900])),
        path().prop_map(|path| stream(&Request::Remove { path }, b"")),
        path().prop_map(|path| stream(&Request::CopyOut { path }, b"")),
        path().prop_map(|path| stream(&Request::ReadFile { path, limit: 500 }, b"")),
        path().prop_map(|path| {
            let owner = None;
            let request = Request::WriteFile {
                path,
                mode: 0o644,
                owner,
            };
            stream(&request, &[7; 900])
        }),
        path().prop_map(|directory| {
            let owner = None;
            stream(&Request::CopyIn { directory, owner }, &sample_archive())
        }),
    ]
}

/// An archive with every kind of entry that is unpacked.
fn sample_archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, path: &str, link: Option<&str>, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        match link {
            Some(link) => builder.append_link(&mut header, path, link),
            None => builder.append_data(&mut header, path, content),
        }
        .expect("appends");
    };
    add(tar::EntryType::Directory, "d/", None, b"");
    add(tar::EntryType::Regular, "d/f", None, &[1; 700]);
    add(tar::EntryType::Regular, &"long/".repeat(40), None, b"x");
    add(tar::EntryType::Symlink, "s", Some("../outside"), b"");
    add(tar::EntryType::Link, "h", Some("d/f"), b"");
    add(tar::EntryType::Regular, "s", None, b"y");
    builder.into_inner().expect("finishes")
}

/// Sums of tar headers made right again, so that mutations reach what is behind the check.
fn with_checksums(mut archive: Vec<u8>) -> Vec<u8> {
    for block in archive.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    archive
}

/// A root beside a file that must stay as it is.
fn root_with_neighbour() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::write(folder.path().join("outside"), "good").expect("neighbour");
    let root = folder.path().join("root");
    fs::create_dir(&root).expect("root");
    (folder, root)
}

fn assert_neighbour_untouched(folder: &Path) {
    let names = fs::read_dir(folder).expect("lists").count();
    assert_eq!(names, 2, "something was made beside the root");
    let meta = fs::symlink_metadata(folder.join("outside")).expect("still there");
    assert_eq!(
        std::os::unix::fs::MetadataExt::nlink(&meta),
        1,
        "it was linked"
    );
    assert_eq!(fs::read(folder.join("outside")).expect("reads"), b"good");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_give_frames_or_an_error_whatever_the_cuts(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        greeted in any::<bool>(),
        piece in 1..600_usize,
    ) {
        let mut stream = if greeted { hello().to_vec() } else { Vec::new() };
        stream.extend(&bytes);
        let run = |piece: usize| {
            let mut decoder = Decoder::new();
            let mut assembler = RequestAssembler::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(piece) {
                decoder.push(piece);
                loop {
                    match decoder.next_frame() {
                        Ok(Some(frame)) => {
                            let _ = assembler.take(frame.kind, &frame.payload);
                            seen.push(frame);
                        }
                        Ok(None) => break,
                        Err(error) => return (seen, Some(error)),
                    }
                }
            }
            (seen, None)
        };
        prop_assert_eq!(run(piece), run(stream.len().max(1)));
    }

    #[test]
    fn a_mutated_request_is_answered_or_dropped(
        stream in requests(),
        mutations in mutations(),
    ) {
        let (folder, root) = root_with_neighbour();
        answers(&root, mutate(stream, &mutations));
        assert_neighbour_untouched(folder.path());
    }

    #[test]
    fn arbitrary_bytes_do_not_hang_or_crash_the_agent(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        greeted in any::<bool>(),
    ) {
        let (folder, root) = root_with_neighbour();
        let mut stream = if greeted { hello().to_vec() } else { Vec::new() };
        stream.extend(&bytes);
        answers(&root, stream);
        assert_neighbour_untouched(folder.path());
    }

    #[test]
    fn a_mutated_archive_stays_inside_its_directory(
        mutations in mutations(),
        repair in any::<bool>(),
    ) {
        let (folder, _root) = root_with_neighbour();
        let archive = mutate(sample_archive(), &mutations);
        let archive = if repair { with_checksums(archive) } else { archive };
        let opened = Root::open(folder.path()).expect("opens");
        let _ = unpack(&opened, "/root", None, &archive[..]);
        assert_neighbour_untouched(folder.path());
    }
}

#[test]
fn the_sample_archive_is_unpacked_whole_so_that_its_mutants_get_far() {
    let (folder, root) = root_with_neighbour();
    let request = Request::CopyIn {
        directory: "/t".into(),
        owner: None,
    };
    let answered = answers(&root, stream(&request, &with_checksums(sample_archive())));
    let [answer] = &answered[..] else {
        panic!("{answered:?}")
    };
    let answer = decode_answer(&answer.payload).expect("answer");
    assert_eq!(answer, Answer::Done);
    assert_eq!(fs::read(root.join("t/h")).expect("linked").len(), 700);
    assert_neighbour_untouched(folder.path());
}

#[test]
fn a_peer_of_another_version_is_told_so() {
    let (_folder, root) = root_with_neighbour();
    let mut stream = stream(&Request::Ping, b"");
    stream[4] = 9;
    let answered = answers(&root, stream);
    let why = match decode_answer(&answered[0].payload).expect("answer") {
        Answer::Refused { why } => why,
        answer => panic!("{answer:?}"),
    };
    assert!(
        why.contains("version 9") && why.contains(&format!("version {PROTOCOL_VERSION}")),
        "{why}"
    );
}
