//! `mayfly image` as a user sees it: builds that repeat, fail and are killed, imports, removal.
//! No guest runs here, so KVM is not needed; Debian packages are.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Failed, Trial};
use mayfly_images::store::ImageStore;
use mayfly_tests::{
    Ended,
    archives::{Entry, docker_save, oci},
    bench, finish, processes,
};
use serde_json::Value;
use tempfile::TempDir;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The builds of one scenario would only slow down those of another.
    arguments.test_threads.get_or_insert(1);
    let trials = vec![
        Trial::test(
            "the_same_recipe_gives_the_same_image_and_another_recipe_another",
            same_inputs,
        ),
        Trial::test(
            "a_killed_build_leaves_nothing_and_the_next_one_works",
            killed_build,
        ),
        Trial::test(
            "archives_of_both_kinds_become_the_same_root",
            imported_archives,
        ),
        Trial::test(
            "a_changed_part_is_refused_and_built_again",
            changed_part_is_refused,
        ),
        Trial::test(
            "images_are_listed_inspected_and_removed",
            listed_and_removed,
        ),
        Trial::test(
            "what_cannot_be_built_is_named_and_leaves_nothing",
            bad_inputs,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A recipe with hardly more than the essential packages.
fn recipe(greeting: &str) -> String {
    format!(
        "version = 1\nname = \"tiny\"\n[debian]\nsuite = \"bookworm\"\npackages = [\"jq\"]\n\
         [kernel]\npackage = \"linux-image-cloud-amd64\"\ncommand-line = \"quiet\"\n\
         modules = [\"virtio_blk\", \"erofs\"]\n[disk]\nsize = \"1GiB\"\n\
         [[file]]\npath = \"/etc/greeting\"\ncontent = {greeting:?}\n\
         [[user]]\nname = \"runner\"\nuid = 1001\n"
    )
}

/// A state folder of its own and a folder for inputs.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        // An ordinary user's packages are unpacked below it under other user numbers.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(folder.path().join("tmp"))?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self, arguments: &[&str]) -> Command {
        let mut command = bench().mayfly([&["image"], arguments].concat());
        command
            .env("MAYFLY_STATE", self.path("state"))
            // A cache of its own: what another place has unpacked is not taken over.
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("TMPDIR", self.path("tmp"));
        command
    }

    fn json(&self, arguments: &[&str]) -> Result<Value, Failed> {
        let ended = finish(self.image(arguments)).expect_code(0);
        Ok(serde_json::from_str(&ended.stdout)?)
    }

    fn recipe(&self, name: &str, greeting: &str) -> Result<String, Failed> {
        let path = self.path(name);
        fs::write(&path, recipe(greeting))?;
        Ok(path.display().to_string())
    }

    /// Builds and gives the digest.
    fn build(&self, arguments: &[&str]) -> String {
        let ended = finish(self.image(&[&["build"], arguments].concat())).expect_code(0);
        digest(&ended)
    }

    /// Everything in the store but its names and lock.
    fn images(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("state/images")).into_iter();
        let names = entries.flatten().flatten().map(|entry| entry.file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name != "names" && name != "lock")
            .collect()
    }
}

fn digest(ended: &Ended) -> String {
    let line = ended.stdout.trim_end();
    let (_, digest) = line.rsplit_once(' ').unwrap_or_default();
    assert!(digest.starts_with("sha256:"), "{line}");
    digest.to_owned()
}

/// The image of [`recipe`], built once.
fn built() -> &'static (Place, String) {
    static BUILT: OnceLock<(Place, String)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let place = Place::new().expect("a temporary folder");
        let recipe = place.recipe("tiny.toml", "hello").expect("a file");
        let digest = place.build(&[&recipe]);
        (place, digest)
    })
}

fn same_inputs() -> Result<(), Failed> {
    let (place, first) = built();
    let again = place.recipe("tiny.toml", "hello")?;
    let ended = finish(place.image(&["build", &again])).expect_code(0);
    assert!(ended.stdout.contains("is up to date"), "{}", ended.stdout);
    assert_eq!(digest(&ended), *first);
    let other = place.recipe("other.toml", "bye")?;
    let other = place.build(&[&other, "--name", "other"]);
    assert_ne!(other, *first);
    let details = place.json(&["inspect", "tiny", "--json"])?;
    let packages = details["manifest"]["packages"].as_object();
    assert!(packages.is_some_and(|all| all.contains_key("jq") && all.contains_key("dpkg")));
    let root = image_directory(&details).join("root.erofs");
    assert!(dump(&root, "/home/runner").contains("Uid: 1001"));
    Ok(())
}

fn killed_build() -> Result<(), Failed> {
    let (_, elsewhere) = built();
    let place = Place::new()?;
    let recipe = place.recipe("tiny.toml", "hello")?;
    let (mounts, temporary) = (processes::mounts(), place.path("tmp"));
    let mut command = place.image(&["build", &recipe]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // Packages are being unpacked.
    wait_for("an unpacked root", || unpacked(&temporary));
    child.kill()?;
    child.wait()?;
    wait_for("an empty temporary folder", || {
        fs::read_dir(&temporary).is_ok_and(|mut entries| entries.next().is_none())
    });
    assert_eq!(processes::mounts(), mounts);
    assert_eq!(place.json(&["ls", "--json"])?, serde_json::json!([]));
    assert_eq!(place.build(&[&recipe]), *elsewhere);
    assert_eq!(place.images().len(), 1, "{:?}", place.images());
    Ok(())
}

fn unpacked(temporary: &Path) -> bool {
    let all = processes::tree(temporary);
    all.iter().any(|(path, _)| path.ends_with("/etc/passwd"))
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "there never was {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Two layers with all that makes layers hard.
fn layers() -> Result<Vec<Vec<Entry>>, Failed> {
    let busybox = fs::read("/bin/busybox")?;
    let passwd = b"root:x:0:0::/:/bin/sh\napp:x:70000:70001::/srv:/bin/sh\n";
    let lower = vec![
        Entry::directory("bin"),
        Entry::file("bin/busybox", &busybox, 0o755),
        Entry::symlink("bin/sh", "busybox"),
        Entry::hard_link("bin/box", "bin/busybox"),
        Entry::file("bin/su", b"setuid", 0o4755),
        Entry::file("etc/passwd", passwd, 0o644),
        Entry::directory("gone"),
        Entry::file("gone/file", b"old", 0o644),
        Entry::directory("opaque"),
        Entry::file("opaque/old", b"old", 0o644),
    ];
    let upper = vec![
        Entry::file(".wh.gone", b"", 0o644),
        Entry::file("opaque/.wh..wh..opq", b"", 0o644),
        Entry::file("opaque/new", b"new", 0o644),
        Entry::file("srv/data", b"data", 0o640)
            .owned(70_000, 70_001)
            .with_xattr("user.origin", b"the attribute of a layer"),
    ];
    Ok(vec![lower, upper])
}

fn image_directory(details: &Value) -> PathBuf {
    details["directory"].as_str().unwrap_or_default().into()
}

/// What dump.erofs says about a path.
fn dump(root: &Path, path: &str) -> String {
    let mut command = Command::new("dump.erofs");
    command.arg(format!("--path={path}")).arg(root);
    finish(command).expect_code(0).stdout
}

fn imported_archives() -> Result<(), Failed> {
    let place = Place::new()?;
    let (docker, layout) = (place.path("docker.tar"), place.path("oci.tar"));
    docker_save(&docker, &layers()?)?;
    oci(&layout, &layers()?)?;
    let mut roots = Vec::new();
    for (name, archive) in [("docker", docker), ("oci", layout)] {
        let archive = archive.display().to_string();
        place.build(&[name, "--from", &archive]);
        let details = place.json(&["inspect", name, "--json"])?;
        let config = &details["manifest"]["config"];
        assert_eq!(config["user"], "app");
        assert_eq!(config["env"]["GREETING"], "hello");
        assert_eq!(config["working_directory"], "/srv");
        roots.push(image_directory(&details).join("root.erofs"));
    }
    assert_eq!(fs::read(&roots[0])?, fs::read(&roots[1])?);
    check_root(&roots[0], &place.path("extracted"))
}

fn check_root(root: &Path, extracted: &Path) -> Result<(), Failed> {
    let mut fsck = Command::new("fsck.erofs");
    fsck.arg(format!("--extract={}", extracted.display()))
        .args(["--no-preserve-owner", "--preserve-perms"])
        .arg(root);
    let _ = finish(fsck).expect_code(0);
    let at = |path: &str| extracted.join(path);
    assert!(!at("gone").exists() && !at("opaque/old").exists());
    assert_eq!(fs::read(at("opaque/new"))?, b"new");
    assert_eq!(fs::read(at("bin/box"))?, fs::read("/bin/busybox")?);
    assert_eq!(fs::read_link(at("bin/sh"))?, Path::new("busybox"));
    assert_eq!(fs::metadata(at("bin/su"))?.mode() & 0o7777, 0o4755);
    assert!(dump(root, "/bin/busybox").contains("Links: 2"));
    let data = dump(root, "/srv/data");
    assert!(data.contains("Uid: 70000   Gid: 70001"), "{data}");
    assert!(data.contains("Access: 0640"), "{data}");
    assert!(!data.contains("Xattr size: 0\n"), "{data}");
    let value = b"the attribute of a layer";
    let bytes = fs::read(root)?;
    assert!(bytes.windows(value.len()).any(|window| window == value));
    Ok(())
}

fn changed_part_is_refused() -> Result<(), Failed> {
    let place = Place::new()?;
    let archive = place.path("image.tar");
    oci(&archive, &layers()?)?;
    let archive = archive.display().to_string();
    let digest = place.build(&["mine", "--from", &archive]);
    let store = ImageStore::open(&place.path("state"))?;
    for part in ["vmlinux", "initramfs", "root.erofs", "disk.ext4"] {
        let image = store.get("mine")?;
        let path = image.directory.join(part);
        let before = fs::metadata(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        let file = fs::File::options().read(true).write(true).open(&path)?;
        flip(&file)?;
        // Whoever hides a change sets the time back, too.
        file.set_modified(before.modified()?)?;
        let why = image.verify(&mut |_, _| ()).map_err(|why| why.to_string());
        let why = why.err().unwrap_or_default();
        assert!(why.contains(part) && why.contains("was changed"), "{why}");
        flip(&file)?;
        image.verify(&mut |_, _| ())?;
    }
    let root = store.get("mine")?.root();
    fs::File::options().write(true).open(&root)?.set_len(4096)?;
    assert_eq!(place.build(&["mine", "--from", &archive]), digest);
    store.get("mine")?.verify(&mut |_, _| ())?;
    Ok(())
}

/// Changes one bit of a file, or changes it back.
fn flip(file: &fs::File) -> Result<(), Failed> {
    const AT: u64 = 1100;
    let mut byte = [0];
    file.read_exact_at(&mut byte, AT)?;
    file.write_all_at(&[byte[0] ^ 1], AT)?;
    Ok(())
}

fn listed_and_removed() -> Result<(), Failed> {
    let place = Place::new()?;
    let archive = place.path("image.tar");
    docker_save(&archive, &layers()?)?;
    let digest = place.build(&["mine", "--from", &archive.display().to_string()]);
    let list = place.json(&["ls", "--json"])?;
    assert_eq!(list[0]["digest"], digest);
    assert_eq!(list[0]["names"], serde_json::json!(["mine"]));
    let details = place.json(&["inspect", &digest, "--json"])?;
    let parts = &details["manifest"]["parts"];
    for part in ["kernel", "initramfs", "root", "disk"] {
        assert!(parts[part]["digest"].is_string(), "{parts}");
    }
    let removed = place.json(&["rm", "mine", "--json"])?;
    assert_eq!(removed[0]["digest"], digest);
    assert_eq!(place.images(), Vec::<String>::new());
    let missing = finish(place.image(&["rm", "mine"])).expect_code(2);
    assert!(missing.stderr.contains("mine"), "{}", missing.stderr);
    Ok(())
}

fn bad_inputs() -> Result<(), Failed> {
    let place = Place::new()?;
    let wrong = place.path("wrong.toml");
    fs::write(
        &wrong,
        recipe("hello").replace("jq", "no-such-package-here"),
    )?;
    let ended = finish(place.image(&["build", &wrong.display().to_string()]));
    assert_ne!(ended.code, 0);
    assert!(
        ended.stderr.contains("no-such-package-here"),
        "{}",
        ended.stderr
    );
    let (archive, good) = (place.path("cut.tar"), place.path("good.tar"));
    oci(&good, &layers()?)?;
    let bytes = fs::read(&good)?;
    fs::write(&archive, &bytes[..bytes.len() / 2])?;
    let ended = finish(place.image(&["build", "x", "--from", &archive.display().to_string()]));
    assert_ne!(ended.code, 0);
    assert!(ended.stderr.contains("cut.tar"), "{}", ended.stderr);
    assert_eq!(place.images(), Vec::<String>::new());
    assert_eq!(fs::read_dir(place.path("tmp"))?.count(), 0);
    Ok(())
}
