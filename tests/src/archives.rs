//! Container archives as `docker save` and OCI tools write them, made from entries given here.

use std::{
    fs::{self, File},
    io,
    path::Path,
    process::Command,
};

use mayfly_images::digest::Digest;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// One entry of a layer.
#[derive(Debug, Clone)]
pub struct Entry {
    header: Header,
    path: String,
    /// Content of a file, target of a link.
    data: Vec<u8>,
    xattr: Option<(&'static str, &'static [u8])>,
}

impl Entry {
    fn new(kind: EntryType, path: &str, data: &[u8], mode: u32) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        Self {
            header,
            path: path.to_owned(),
            data: data.to_vec(),
            xattr: None,
        }
    }

    /// A file.
    #[must_use]
    pub fn file(path: &str, data: &[u8], mode: u32) -> Self {
        Self::new(EntryType::Regular, path, data, mode)
    }

    /// A directory that everybody may enter.
    #[must_use]
    pub fn directory(path: &str) -> Self {
        Self::new(EntryType::Directory, path, b"", 0o755)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(path: &str, target: &str) -> Self {
        Self::new(EntryType::Symlink, path, target.as_bytes(), 0o777)
    }

    /// A second name of a file.
    #[must_use]
    pub fn hard_link(path: &str, target: &str) -> Self {
        Self::new(EntryType::Link, path, target.as_bytes(), 0o644)
    }

    /// The same, owned by somebody else.
    #[must_use]
    pub fn owned(mut self, uid: u64, gid: u64) -> Self {
        self.header.set_uid(uid);
        self.header.set_gid(gid);
        self
    }

    /// The same with an extended attribute.
    #[must_use]
    pub fn with_xattr(mut self, key: &'static str, value: &'static [u8]) -> Self {
        self.xattr = Some((key, value));
        self
    }

    fn append(&self, layer: &mut Builder<Vec<u8>>) -> io::Result<()> {
        if let Some((key, value)) = self.xattr {
            let key = format!("SCHILY.xattr.{key}");
            layer.append_pax_extensions([(key.as_str(), value)])?;
        }
        let mut header = self.header.clone();
        if header.entry_type().is_file() || header.entry_type().is_dir() {
            header.set_size(self.data.len() as u64);
            return layer.append_data(&mut header, &self.path, &self.data[..]);
        }
        let target = String::from_utf8_lossy(&self.data).into_owned();
        layer.append_link(&mut header, &self.path, target)
    }
}

fn layer(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        entry.append(&mut builder)?;
    }
    builder.into_inner()
}

/// What the images of most tests are run with.
fn app() -> Value {
    json!({"User": "app", "Env": ["PATH=/bin", "GREETING=hello"], "WorkingDir": "/srv"})
}

fn config(layers: &[Vec<u8>], container: &Value) -> String {
    let ids: Vec<_> = layers
        .iter()
        .map(|bytes| Digest::of(bytes).to_string())
        .collect();
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": container,
        "rootfs": {"type": "layers", "diff_ids": ids},
    })
    .to_string()
}

fn pack(path: &Path, files: &[(String, Vec<u8>)]) -> io::Result<()> {
    let mut builder = Builder::new(File::create(path)?);
    for (name, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..])?;
    }
    builder.into_inner()?.sync_all()
}

/// Writes an archive as `docker save` did before version 25.
///
/// # Errors
/// The file cannot be written.
pub fn docker_save(path: &Path, layers: &[Vec<Entry>]) -> io::Result<()> {
    save(path, "test:1", &app(), layers)
}

/// Writes an archive of an image that is the static busybox of this machine under all its names, as
/// `docker save` did before version 25.
///
/// # Errors
/// There is no busybox (Debian package busybox-static), or the file cannot be written.
pub fn busybox(path: &Path) -> io::Result<()> {
    let program = "/bin/busybox";
    let content = fs::read(program)
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    let mut entries = vec![
        Entry::directory("bin"),
        Entry::file("bin/busybox", &content, 0o755),
        Entry::directory("etc"),
        Entry::file("etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644),
        Entry::directory("tmp"),
    ];
    let names = Command::new(program).arg("--list").output()?.stdout;
    let names = String::from_utf8_lossy(&names).into_owned();
    for name in names.lines().filter(|name| *name != "busybox") {
        entries.push(Entry::symlink(&format!("bin/{name}"), "busybox"));
    }
    let container = json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]});
    save(path, "mayfly/busybox:host", &container, &[entries])
}

fn save(path: &Path, tag: &str, container: &Value, layers: &[Vec<Entry>]) -> io::Result<()> {
    let layers = layers.iter().map(|entries| layer(entries));
    let layers = layers.collect::<io::Result<Vec<_>>>()?;
    let config = config(&layers, container);
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let names: Vec<_> = (0..layers.len())
        .map(|number| format!("{number}/layer.tar"))
        .collect();
    let list = json!([{"Config": config_name, "RepoTags": [tag], "Layers": names}]);
    let mut files: Vec<_> = names.into_iter().zip(layers).collect();
    files.push((config_name, config.into_bytes()));
    files.push(("manifest.json".to_owned(), list.to_string().into_bytes()));
    pack(path, &files)
}

/// Writes an archive of an OCI layout.
///
/// # Errors
/// The file cannot be written.
pub fn oci(path: &Path, layers: &[Vec<Entry>]) -> io::Result<()> {
    let layers = layers.iter().map(|entries| layer(entries));
    let layers = layers.collect::<io::Result<Vec<_>>>()?;
    let mut files = Vec::new();
    let mut blob = |kind: &str, bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        let media = format!("application/vnd.oci.image.{kind}");
        let descriptor = json!({
            "mediaType": media, "digest": digest.to_string(), "size": bytes.len(),
        });
        files.push((format!("blobs/sha256/{}", digest.hex()), bytes));
        descriptor
    };
    let config = blob("config.v1+json", config(&layers, &app()).into_bytes());
    let layers: Vec<_> = layers
        .into_iter()
        .map(|bytes| blob("layer.v1.tar", bytes))
        .collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    let manifest = blob("manifest.v1+json", manifest.to_string().into_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    files.push(("oci-layout".to_owned(), layout.to_vec()));
    pack(path, &files)
}
