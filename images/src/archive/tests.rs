//! Archives made here, honest and hostile, and what comes of them.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

use super::*;
use crate::tree::Node;

/// One entry of a layer.
struct Entry {
    path: &'static str,
    kind: EntryType,
    /// Content of a file, target of a link.
    data: &'static str,
    pax: Vec<(&'static str, &'static [u8])>,
}

fn file(path: &'static str, data: &'static str) -> Entry {
    Entry {
        path,
        kind: EntryType::Regular,
        data,
        pax: Vec::new(),
    }
}

fn other(kind: EntryType, path: &'static str, data: &'static str) -> Entry {
    Entry {
        path,
        kind,
        data,
        pax: Vec::new(),
    }
}

fn directory(path: &'static str) -> Entry {
    other(EntryType::Directory, path, "")
}

/// A layer as an uncompressed tar stream. Paths are written as they are, however hostile.
fn layer(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        if !entry.pax.is_empty() {
            builder
                .append_pax_extensions(entry.pax.iter().copied())
                .unwrap();
        }
        let is_file = entry.kind == EntryType::Regular;
        let data = if is_file { entry.data } else { "" };
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        if !is_file {
            header.as_mut_bytes()[157..157 + entry.data.len()]
                .copy_from_slice(entry.data.as_bytes());
        }
        header.set_entry_type(entry.kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o640);
        header.set_uid(5);
        header.set_gid(6);
        header.set_mtime(1_800_000_000);
        header.set_device_major(10).unwrap();
        header.set_device_minor(229).unwrap();
        header.set_cksum();
        builder.append(&header, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// How a layer is stored.
type Packer = fn(&[u8]) -> Vec<u8>;

/// The files of an archive under construction.
#[derive(Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    fn put(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.0.insert(name.to_owned(), bytes.into());
    }

    /// Adds a blob and gives its descriptor.
    fn blob(&mut self, media_type: &str, bytes: impl Into<Vec<u8>>) -> String {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let size = bytes.len();
        self.put(&format!("blobs/sha256/{}", digest.hex()), bytes);
        format!(r#""mediaType":"{media_type}","digest":"{digest}","size":{size}"#)
    }

    fn pack(&self) -> NamedTempFile {
        let mut builder = Builder::new(NamedTempFile::new().unwrap());
        for (name, bytes) in &self.0 {
            let mut header = Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            builder.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const AMD64: &str = r#""platform":{"os":"linux","architecture":"amd64"}"#;

/// An image configuration for layers with these uncompressed contents.
fn config(plain: &[Vec<u8>]) -> String {
    let ids: Vec<_> = plain
        .iter()
        .map(|bytes| format!("{:?}", Digest::of(bytes).to_string()))
        .collect();
    let run = r#"{"User":"app","Env":["PATH=/x:/y","EMPTY=","A=b=c"],"WorkingDir":"/srv"}"#;
    format!(
        r#"{{"architecture":"amd64","os":"linux","config":{run},
            "rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    )
}

/// An OCI layout of these layers, each stored as `pack` makes it.
fn oci(plain: &[Vec<u8>], pack: impl Fn(&[u8]) -> Vec<u8>) -> Files {
    let mut files = Files::default();
    let config = files.blob("application/vnd.oci.image.config.v1+json", config(plain));
    let layers: Vec<_> = plain
        .iter()
        .map(|bytes| format!("{{{}}}", files.blob("layer", pack(bytes))))
        .collect();
    let manifest = format!(
        r#"{{"config":{{{config}}},"layers":[{}]}}"#,
        layers.join(",")
    );
    let manifest = files.blob(MANIFEST, manifest);
    files.put("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    files.put(
        "index.json",
        format!(r#"{{"manifests":[{{{manifest},{AMD64}}}]}}"#),
    );
    files
}

struct Unpacked {
    tree: Tree,
    spool: Spool,
}

impl Unpacked {
    fn text(&self, path: &str) -> Option<String> {
        let Kind::File(content) = self.node(path)?.kind else {
            return None;
        };
        Some(String::from_utf8(self.spool.read(content, 1 << 20).unwrap()).unwrap())
    }

    fn node(&self, path: &str) -> Option<&Node> {
        self.tree.find(path).map(|id| self.tree.node(id))
    }
}

fn unpack_with(files: &Files, limits: &Limits) -> Result<Unpacked, ArchiveError> {
    let archive = Archive::open(files.pack().path())?;
    let mut spool = Spool::new(&std::env::temp_dir()).unwrap();
    let tree = archive.unpack(limits, &mut spool, 7, &mut Progress::new(&mut |_| ()))?;
    Ok(Unpacked { tree, spool })
}

fn unpack(layers: &[Vec<Entry>]) -> Result<Unpacked, ArchiveError> {
    let plain: Vec<_> = layers.iter().map(|entries| layer(entries)).collect();
    unpack_with(&oci(&plain, <[u8]>::to_vec), &Limits::default())
}

fn refused(entries: Vec<Entry>) -> String {
    unpack(&[entries])
        .err()
        .expect("the layer is refused")
        .to_string()
}

#[test]
fn a_whiteout_hides_what_lower_layers_hold_and_nothing_else() {
    let image = unpack(&[
        vec![
            directory("d"),
            file("d/a", "old"),
            file("d/b", "old"),
            file("keep", "k"),
        ],
        vec![
            file("d/.wh.a", ""),
            file("d/c", "new"),
            file(".wh.gone", ""),
        ],
        vec![file("d/b", "new"), file("d/.wh.b", "")],
    ])
    .unwrap();
    assert_eq!(image.text("d/a"), None);
    assert_eq!(
        image.text("d/b").as_deref(),
        Some("new"),
        "whiteouts are for lower layers only"
    );
    assert_eq!(image.text("d/c").as_deref(), Some("new"));
    assert_eq!(image.text("keep").as_deref(), Some("k"));
    assert!(
        image
            .tree
            .children(image.tree.find("d").unwrap())
            .unwrap()
            .len()
            == 2
    );
}

#[test]
fn an_opaque_directory_hides_its_lower_content_whenever_the_mark_comes() {
    for mark_first in [true, false] {
        let mut upper = vec![directory("d"), file("d/new", "n"), file("d/sub/new", "n")];
        upper.insert(if mark_first { 1 } else { 3 }, file("d/.wh..wh..opq", ""));
        let lower = vec![
            directory("d/sub"),
            file("d/sub/old", "o"),
            file("d/old", "o"),
        ];
        let image = unpack(&[lower, upper]).unwrap();
        assert_eq!(image.text("d/old"), None);
        assert_eq!(image.text("d/sub/old"), None);
        assert_eq!(image.text("d/new").as_deref(), Some("n"));
        assert_eq!(image.text("d/sub/new").as_deref(), Some("n"));
    }
}

#[test]
fn a_directory_that_is_removed_and_made_again_is_empty() {
    let image = unpack(&[
        vec![file("d/old", "o")],
        vec![directory("d"), file(".wh.d", ""), file("d/new", "n")],
    ])
    .unwrap();
    assert_eq!(image.text("d/old"), None);
    assert_eq!(image.text("d/new").as_deref(), Some("n"));
}

#[test]
fn a_file_and_a_directory_take_each_others_place() {
    let image = unpack(&[
        vec![
            file("a", "file"),
            file("b/x", "in b"),
            directory("c"),
            file("c/x", "in c"),
        ],
        vec![
            directory("a"),
            file("a/y", "in a"),
            file("b", "file"),
            directory("c"),
        ],
    ])
    .unwrap();
    assert_eq!(image.text("a/y").as_deref(), Some("in a"));
    assert_eq!(image.text("b").as_deref(), Some("file"));
    assert_eq!(
        image.text("c/x").as_deref(),
        Some("in c"),
        "a directory keeps its content"
    );
}

#[test]
fn owners_modes_times_links_devices_and_attributes_arrive() {
    let mut capable = file("ping", "x");
    capable.pax = vec![
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\n\n\0"),
        ("SCHILY.xattr.security.selinux", b"label"),
        ("uid", b"70000"),
        ("mtime", b"1700000000.5"),
    ];
    let image = unpack(&[vec![
        capable,
        other(EntryType::Link, "pong", "ping"),
        other(EntryType::Symlink, "link", "ping"),
        other(EntryType::Char, "dev/fuse", ""),
        other(EntryType::Fifo, "fifo", ""),
    ]])
    .unwrap();
    let ping = image.node("ping").unwrap();
    assert_eq!(
        (ping.meta.mode, ping.meta.uid, ping.meta.gid),
        (0o640, 70_000, 6)
    );
    assert_eq!(ping.meta.mtime, 1_700_000_000);
    assert_eq!(ping.meta.xattrs.len(), 1);
    assert_eq!(
        ping.meta.xattrs[&b"security.capability"[..]],
        b"\x01\0\0\x02\0\n\n\0"
    );
    assert_eq!(image.tree.find("ping"), image.tree.find("pong"));
    assert_eq!(image.node("link").unwrap().kind, ping.kind);
    let device = Kind::Device {
        block: false,
        major: 10,
        minor: 229,
    };
    assert_eq!(image.node("dev/fuse").unwrap().kind, device);
    assert_eq!(image.node("fifo").unwrap().meta.mtime, 1_800_000_000);
}

#[test]
fn every_compression_gives_the_same_root_and_the_same_source() {
    let plain = [layer(&[file("a", "A")]), layer(&[file("b", "B")])];
    let packers: [Packer; 3] = [<[u8]>::to_vec, gzip, zstd];
    let sources: Vec<_> = packers
        .iter()
        .map(|pack| {
            let files = oci(&plain, pack);
            let image = unpack_with(&files, &Limits::default()).unwrap();
            assert_eq!(image.text("b").as_deref(), Some("B"));
            Archive::open(files.pack().path()).unwrap().source()
        })
        .collect();
    assert_eq!(sources[0], sources[1]);
    assert_eq!(sources[0], sources[2]);
    let message = unpack_with(&oci(&plain, |_| b"BZh9".to_vec()), &Limits::default());
    assert!(message.err().unwrap().to_string().contains("with bzip2"));
}

#[test]
fn the_configuration_becomes_defaults_of_processes() {
    let archive = Archive::open(oci(&[], <[u8]>::to_vec).pack().path()).unwrap();
    let config = archive.image_config();
    assert_eq!(config.user.as_deref(), Some("app"));
    assert_eq!(config.working_directory.as_deref(), Some("/srv"));
    let env: Vec<_> = config
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(env, ["A=b=c", "EMPTY=", "PATH=/x:/y"]);
}

#[test]
fn docker_save_is_understood_with_its_links_between_equal_layers() {
    let plain = layer(&[file("a", "A")]);
    let config = config(&[plain.clone(), plain.clone()]);
    let id = Digest::of(config.as_bytes());
    let mut files = Files::default();
    files.put("1/layer.tar", plain);
    files.put(&format!("{}.json", id.hex()), config);
    let list = format!(
        r#"[{{"Config":"{}.json","Layers":["1/layer.tar","2/layer.tar"]}}]"#,
        id.hex()
    );
    files.put("manifest.json", list);
    let packed = files.pack();
    // Behind what is there, in front of the end mark.
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    builder
        .append_link(&mut header, "2/layer.tar", "../1/layer.tar")
        .unwrap();
    let link = builder.into_inner().unwrap();
    let bytes = std::fs::read(packed.path()).unwrap();
    std::fs::write(packed.path(), [&link[..512], &bytes].concat()).unwrap();
    let archive = Archive::open(packed.path()).unwrap();
    assert_eq!(archive.layers.len(), 2);
    assert!(matches!(archive.source(), Source::Archive { config, .. } if config == id));
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in ["../x", "/etc/x", "a/../../x", "..", "a/.."] {
        let message = refused(vec![file(path, "x")]);
        assert!(
            message.contains("'..'") || message.contains("absolute"),
            "{message}"
        );
    }
    for target in ["../x", "/etc/passwd"] {
        let message = refused(vec![other(EntryType::Link, "a", target)]);
        assert!(
            message.contains("'..'") || message.contains("absolute"),
            "{message}"
        );
    }
    assert!(refused(vec![other(EntryType::Link, "a", "b")]).contains("not there to be linked"));
    assert!(refused(vec![directory("d"), other(EntryType::Link, "a", "d")]).contains("directory"));
    let mut long = file("x", "");
    let name: &'static str = "n".repeat(300).leak();
    long.pax = vec![("path", name.as_bytes())];
    assert!(refused(vec![long]).contains("longer than 255"));
}

#[test]
fn links_on_the_way_stay_inside_the_tree() {
    let image = unpack(&[vec![
        directory("etc"),
        other(EntryType::Symlink, "abs", "/etc"),
        other(EntryType::Symlink, "up", "../../../../etc"),
        file("abs/one", "1"),
        file("up/two", "2"),
    ]])
    .unwrap();
    assert_eq!(image.text("etc/one").as_deref(), Some("1"));
    assert_eq!(image.text("etc/two").as_deref(), Some("2"));
    let circle = vec![
        other(EntryType::Symlink, "a", "b"),
        other(EntryType::Symlink, "b", "a"),
        file("a/x", ""),
    ];
    assert!(refused(circle).contains("too many symbolic links"));
    let nowhere = vec![other(EntryType::Symlink, "a", "/missing"), file("a/x", "")];
    assert!(refused(nowhere).contains("no directory"));
    assert!(refused(vec![file("a", ""), file("a/x", "")]).contains("no directory"));
}

#[test]
fn a_tree_made_deep_by_links_is_refused_before_it_can_exhaust_the_stack() {
    let deep: &'static str = "d/".repeat(40).leak();
    let mut entries = Vec::new();
    for round in 0..10 {
        let link: &'static str = format!("l{round}").leak();
        let below = if round == 0 {
            String::new()
        } else {
            format!("l{}/", round - 1)
        };
        entries.push(directory(format!("{below}{deep}").leak()));
        entries.push(other(
            EntryType::Symlink,
            link,
            format!("{below}{deep}").leak(),
        ));
    }
    assert!(refused(entries).contains("256 directories deep"));
}

#[test]
fn what_no_root_holds_is_refused_by_name() {
    let mut sparse = file("s", "x");
    sparse.pax = vec![("GNU.sparse.major", b"1")];
    assert!(refused(vec![sparse]).contains("--sparse"));
    assert!(refused(vec![other(EntryType::GNUSparse, "s", "")]).contains("--sparse"));
    assert!(refused(vec![other(EntryType::new(b'Z'), "z", "")]).contains("of a kind"));
    assert!(refused(vec![other(EntryType::Symlink, "l", "")]).contains("broken symbolic link"));
    assert!(
        unpack(&[vec![], vec![file("d/.wh...", "")]])
            .err()
            .unwrap()
            .to_string()
            .contains("whiteout of nothing")
    );
}

#[test]
fn limits_hold_across_layers() {
    let plain = [
        layer(&[file("a", "12345"), file("b", "1")]),
        layer(&[file("c", "12345")]),
    ];
    let files = oci(&plain, gzip);
    let message = |limits| unpack_with(&files, &limits).err().unwrap().to_string();
    let text = message(Limits {
        entries: 2,
        ..Limits::default()
    });
    assert!(
        text.contains("layer 2") && text.contains("entry number 2"),
        "{text}"
    );
    let text = message(Limits {
        bytes: 10,
        ..Limits::default()
    });
    assert!(text.contains("more than 10 bytes"), "{text}");
    let mut entry = file("a", "");
    let value: &'static [u8] = vec![b'x'; 2 << 20].leak();
    entry.pax = vec![("comment", value)];
    assert!(refused(vec![entry]).contains("longer than a megabyte"));
}

#[test]
fn a_bomb_is_cut_off_at_the_limit() {
    let mut bomb = layer(&[file("a", "x")]);
    bomb.resize(20 << 20, 0);
    let limits = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    let error = unpack_with(&oci(&[bomb], gzip), &limits)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("unpacks to more than 1048576 bytes"),
        "{error}"
    );
}

#[test]
fn a_changed_blob_is_refused_with_both_digests() {
    let plain = [layer(&[file("a", "A")])];
    let honest = oci(&plain, gzip);
    let blobs: Vec<_> = honest
        .0
        .keys()
        .filter(|name| name.starts_with("blobs/"))
        .cloned()
        .collect();
    assert_eq!(blobs.len(), 3);
    for name in blobs {
        let mut files = oci(&plain, gzip);
        let blob = files.0.get_mut(&name).unwrap();
        let middle = blob.len() / 2;
        blob[middle] ^= 1;
        let message = unpack_with(&files, &Limits::default())
            .err()
            .unwrap()
            .to_string();
        assert!(
            message.contains(&name) && message.contains("expected sha256:"),
            "{message}"
        );
    }
}

#[test]
fn a_layer_that_is_not_what_the_configuration_names_is_refused() {
    let (honest, other) = (layer(&[file("a", "A")]), layer(&[file("a", "B")]));
    let error = unpack_with(&oci(&[honest], |_| other.clone()), &Limits::default()).err();
    assert!(
        matches!(error, Some(ArchiveError::Digest { .. })),
        "{error:?}"
    );
}

/// An OCI layout whose index holds `manifests`.
fn with_index(manifests: &str) -> Result<Unpacked, ArchiveError> {
    let mut files = oci(&[layer(&[file("a", "A")])], gzip);
    files.put("index.json", format!(r#"{{"manifests":[{manifests}]}}"#));
    unpack_with(&files, &Limits::default())
}

#[test]
fn the_image_for_this_machine_is_chosen_also_from_an_inner_index() {
    let mut files = oci(&[layer(&[file("a", "A")])], gzip);
    let index = String::from_utf8(files.0["index.json"].clone()).unwrap();
    let digest = Digest::of(b"x");
    let arm =
        format!(r#"{{"digest":"{digest}","platform":{{"os":"linux","architecture":"arm64"}}}}"#);
    let both = index.replace(r#"[{"#, &format!("[{arm},{{"));
    let inner = files.blob("application/vnd.oci.image.index.v1+json", both);
    files.put("index.json", format!(r#"{{"manifests":[{{{inner}}}]}}"#));
    assert_eq!(
        unpack_with(&files, &Limits::default())
            .unwrap()
            .text("a")
            .as_deref(),
        Some("A")
    );
    let message = with_index(&arm).err().unwrap().to_string();
    assert!(message.contains("linux/arm64"), "{message}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let one = format!(r#"{{"digest":"{}"}}"#, Digest::of(b"x"));
    let message = |manifests: &str| with_index(manifests).err().unwrap().to_string();
    assert!(message(&one).contains("does not hold it"));
    assert!(message(&format!("{one},{one}")).contains("2 images"));
    assert!(message(r#"{"digest":"sha256:../../etc/passwd"}"#).contains("is no digest"));
    let empty = Files::default();
    assert!(matches!(
        unpack_with(&empty, &Limits::default()),
        Err(ArchiveError::NoImage)
    ));
    let mut files = oci(&[], gzip);
    for bytes in files.0.values_mut() {
        *bytes = String::from_utf8_lossy(bytes)
            .replace("amd64", "s390x")
            .into_bytes();
    }
    let error = unpack_with(&files, &Limits::default()).err().unwrap();
    assert!(matches!(error, ArchiveError::NoPlatform { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_damage_to_an_archive_makes_the_reader_panic(
        at in 0..12_000_usize, value: u8, cut in prop::option::of(0..12_000_usize),
    ) {
        let plain = [layer(&[directory("d"), file("d/a", "A"), other(EntryType::Link, "b", "d/a")])];
        let packed = oci(&plain, <[u8]>::to_vec).pack();
        let mut bytes = std::fs::read(packed.path()).unwrap();
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(cut.unwrap_or(usize::MAX).min(bytes.len()));
        std::fs::write(packed.path(), bytes).unwrap();
        if let Ok(archive) = Archive::open(packed.path()) {
            let mut spool = Spool::new(&std::env::temp_dir()).unwrap();
            let mut silent = |_| ();
            let progress = &mut Progress::new(&mut silent);
            let _ = archive.unpack(&Limits::default(), &mut spool, 7, progress);
        }
    }

    #[test]
    fn no_damage_to_a_layer_makes_the_reader_panic_or_leave_a_tree_that_cannot_be_written(
        damage in prop::collection::vec((0..6_000_usize, any::<u8>()), 1..6), fix: bool,
    ) {
        let mut capable = file("d/a", "A");
        capable.pax = vec![("SCHILY.xattr.user.x", b"1"), ("path", b"d/long")];
        let mut bytes = layer(&[directory("d"), capable, other(EntryType::Symlink, "l", "d")]);
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if fix {
            // Right checksums let damage in headers through to where it matters.
            for header in bytes.chunks_mut(512).filter(|block| block.len() == 512) {
                if header[257..262] == *b"ustar" {
                    let mut copy = Header::new_gnu();
                    copy.as_mut_bytes().copy_from_slice(header);
                    copy.set_cksum();
                    header.copy_from_slice(copy.as_bytes());
                }
            }
        }
        if let Ok(image) = unpack_with(&oci(&[bytes], <[u8]>::to_vec), &Limits::default()) {
            crate::erofs::write(&image.tree, &image.spool, 7, &mut Vec::new(), &mut |_, _| ())
                .unwrap();
        }
    }
}
