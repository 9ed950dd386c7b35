//! The kernel and the initramfs of the emulated machine, made once and kept in a cache folder.
//!
//! Both come from Debian's `linux-image-cloud-amd64` package, fetched by `apt-get download`, which
//! needs no rights. A cache entry is written whole under another name and then renamed.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::cpio::Archive;

/// The package that always depends on Debian's newest kernel for virtual machines.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// Modules that init loads, each after those it depends on.
const MODULES: [&str; 6] = [
    "kvm-amd",
    "virtio_pci",
    "virtio_console",
    "virtiofs",
    "overlay",
    "virtio_net",
];
const INIT: &str = include_str!("init.sh");

/// Why there is no kernel for the emulated machine.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Neither `XDG_CACHE_HOME` nor `HOME` says where the cache is.
    #[error("no folder for the kernel of the emulated machine: set HOME or XDG_CACHE_HOME")]
    NoCache,
    /// A file or folder of the cache cannot be read or written.
    #[error("cannot {what} {path}: {cause}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        cause: std::io::Error,
    },
    /// A program that fetches or unpacks the kernel failed.
    #[error("{program} failed: {detail}; {next}")]
    Program {
        /// The command line.
        program: String,
        /// Its last words.
        detail: String,
        /// What to do.
        next: &'static str,
    },
    /// The package does not hold what it should.
    #[error("the kernel package in {path} has no {missing}; remove that folder and run again")]
    Incomplete {
        /// Unpacked package.
        path: PathBuf,
        /// Missing file or module.
        missing: String,
    },
}

/// What QEMU boots.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) vmlinuz: PathBuf,
    pub(super) initramfs: PathBuf,
}

/// Finds the kernel and initramfs in the cache, or makes them; `busybox` must be a static one.
///
/// `fresh` asks the package lists for a newer kernel even if the cache holds one.
pub(super) fn ensure(
    busybox: &Path,
    fresh: bool,
    say: &dyn Fn(&str),
) -> Result<Kernel, KernelError> {
    let cache = cache_folder()?;
    fs::create_dir_all(&cache).map_err(file_error("create", &cache))?;
    let package = match newest_package(&cache)? {
        Some(found) if !fresh => found,
        found => fetch_package(&cache, found.as_deref(), say)?,
    };
    let initramfs = ensure_initramfs(&cache, &package, busybox)?;
    if fresh {
        remove_others(&cache, &[&package, &initramfs])?;
    }
    Ok(Kernel {
        vmlinuz: package.join("vmlinuz"),
        initramfs,
    })
}

fn cache_folder() -> Result<PathBuf, KernelError> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base.ok_or(KernelError::NoCache)?.join("mayfly/softkvm"))
}

fn file_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl Fn(std::io::Error) -> KernelError + 'a {
    move |cause| KernelError::File {
        what,
        path: path.to_owned(),
        cause,
    }
}

/// The most recently made `kernel-*` folder, each of which is whole.
fn newest_package(cache: &Path) -> Result<Option<PathBuf>, KernelError> {
    let mut found = None;
    for entry in fs::read_dir(cache).map_err(file_error("list", cache))? {
        let entry = entry.map_err(file_error("list", cache))?;
        if !entry.file_name().to_string_lossy().starts_with("kernel-") {
            continue;
        }
        let made = entry.metadata().and_then(|data| data.modified());
        let made = made.map_err(file_error("inspect", cache))?;
        if found.as_ref().is_none_or(|(_, newest)| made > *newest) {
            found = Some((entry.path(), made));
        }
    }
    Ok(found.map(|(path, _)| path))
}

/// Removes what is left of older kernels and of older versions of this program.
fn remove_others(cache: &Path, keep: &[&Path]) -> Result<(), KernelError> {
    for entry in fs::read_dir(cache).map_err(file_error("list", cache))? {
        let path = entry.map_err(file_error("list", cache))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if keep.contains(&&*path) {
            continue;
        }
        if name.starts_with("kernel-") {
            fs::remove_dir_all(&path).map_err(file_error("remove", &path))?;
        } else if name.starts_with("initramfs-") {
            fs::remove_file(&path).map_err(file_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Downloads and unpacks the package; keeps `have` when the lists name no other one.
fn fetch_package(
    cache: &Path,
    have: Option<&Path>,
    say: &dyn Fn(&str),
) -> Result<PathBuf, KernelError> {
    let name = match (resolve_package(), have) {
        (Ok(name), _) => name,
        // A machine that has lost its package lists since still has the kernel.
        (Err(error), Some(have)) => {
            say(&format!("keeping the kernel at hand: {error}"));
            return Ok(have.to_owned());
        }
        (Err(error), None) => return Err(error),
    };
    let target = cache.join(format!("kernel-{name}"));
    if have == Some(&*target) {
        return Ok(target);
    }
    say(&format!("fetching {name} for the emulated machine, once"));
    let work = scratch(cache)?;
    run(
        Command::new("apt-get")
            .args(["-q", "download", &name])
            .current_dir(work.path()),
        "run `apt-get update` as root, and check that this machine reaches its Debian mirror",
    )?;
    let deb = find_file(work.path(), &|file| file.ends_with(".deb"))?;
    let unpacked = work.path().join("unpacked");
    run(
        Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked),
        "install the Debian package dpkg",
    )?;
    let whole = work.path().join("whole");
    fs::create_dir_all(whole.join("modules")).map_err(file_error("create", &whole))?;
    let vmlinuz = find_file(&unpacked.join("boot"), &|file| file.starts_with("vmlinuz-"))?;
    let image = fs::read(&vmlinuz).map_err(file_error("read", &vmlinuz))?;
    write_synced(&whole.join("vmlinuz"), &image)?;
    let mut load = String::new();
    for module in collect_modules(&unpacked)? {
        write_synced(&whole.join("modules").join(&module.name), &module.content)?;
        load.push_str(&module.name);
        load.push('\n');
    }
    write_synced(&whole.join("modules/load"), load.as_bytes())?;
    publish(&whole, &target)?;
    Ok(target)
}

/// Name of the package that holds the newest kernel.
fn resolve_package() -> Result<String, KernelError> {
    let next = "run `apt-get update` as root; this needs a Debian machine with package lists";
    let mut command = Command::new("apt-cache");
    command
        .args(["depends", "--no-recommends", "--no-suggests", META_PACKAGE])
        .env("LC_ALL", "C");
    let listing = run(&mut command, next)?;
    let package = listing
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-") && name.ends_with("amd64"));
    package
        .map(str::to_owned)
        .ok_or_else(|| KernelError::Program {
            program: format!("apt-cache depends {META_PACKAGE}"),
            detail: "it names no kernel".to_owned(),
            next,
        })
}

/// A kernel module as the initramfs carries it.
struct Module {
    name: String,
    content: Vec<u8>,
}

/// The modules of [`MODULES`] and all they depend on, in loading order.
fn collect_modules(unpacked: &Path) -> Result<Vec<Module>, KernelError> {
    let mut modules = Vec::new();
    let mut seen = HashSet::new();
    for wanted in MODULES {
        add_module(unpacked, wanted, &mut seen, &mut modules)?;
    }
    Ok(modules)
}

fn add_module(
    unpacked: &Path,
    wanted: &str,
    seen: &mut HashSet<String>,
    modules: &mut Vec<Module>,
) -> Result<(), KernelError> {
    let plain = wanted.replace('-', "_");
    if !seen.insert(plain.clone()) {
        return Ok(());
    }
    let is_it = |file: &str| {
        let stem = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko");
        stem.is_some_and(|stem| stem.replace('-', "_") == plain)
    };
    let path = find_file(unpacked, &is_it)?;
    let content = if path.extension().is_some_and(|ending| ending == "xz") {
        run_raw(
            Command::new("xz").arg("-dc").arg(&path),
            "install the Debian package xz-utils",
        )?
    } else {
        fs::read(&path).map_err(file_error("read", &path))?
    };
    for dependency in dependencies(&content) {
        add_module(unpacked, &dependency, seen, modules)?;
    }
    modules.push(Module {
        name: format!("{plain}.ko"),
        content,
    });
    Ok(())
}

/// What a module's `.modinfo` section says it depends on.
///
/// The section is a run of NUL-terminated `key=value` strings, so a search finds the key without
/// an ELF parser; the package comes from a signed archive and is not hostile.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Makes the initramfs for this kernel, init and busybox unless the cache holds it.
fn ensure_initramfs(cache: &Path, package: &Path, busybox: &Path) -> Result<PathBuf, KernelError> {
    let busybox_bytes = fs::read(busybox).map_err(file_error("read", busybox))?;
    let mut digest = Sha256::new();
    digest.update(package.as_os_str().as_encoded_bytes());
    digest.update(INIT);
    digest.update(&busybox_bytes);
    let target = cache.join(format!(
        "initramfs-{}.cpio",
        &hex::encode(digest.finalize())[..24]
    ));
    if target.exists() {
        return Ok(target);
    }
    let work = scratch(cache)?;
    let whole = work.path().join("whole");
    let archive = pack_initramfs(package, &busybox_bytes)?;
    write_synced(&whole, &archive)?;
    publish(&whole, &target)?;
    Ok(target)
}

fn pack_initramfs(package: &Path, busybox: &[u8]) -> Result<Vec<u8>, KernelError> {
    let modules = package.join("modules");
    let list = modules.join("load");
    let load = fs::read_to_string(&list).map_err(file_error("read", &list))?;
    let in_memory = file_error("pack", &modules);
    let mut archive = Archive::new(Vec::new());
    archive.folder("bin").map_err(&in_memory)?;
    archive
        .file("bin/busybox", 0o755, busybox)
        .map_err(&in_memory)?;
    archive
        .file("init", 0o755, INIT.as_bytes())
        .map_err(&in_memory)?;
    archive.folder("modules").map_err(&in_memory)?;
    archive
        .file("modules/load", 0o644, load.as_bytes())
        .map_err(&in_memory)?;
    for name in load.lines() {
        let path = modules.join(name);
        let content = fs::read(&path).map_err(file_error("read", &path))?;
        archive
            .file(&format!("modules/{name}"), 0o644, &content)
            .map_err(&in_memory)?;
    }
    archive.finish().map_err(&in_memory)
}

/// A folder in the cache that goes away with its owner.
fn scratch(cache: &Path) -> Result<TempDir, KernelError> {
    tempfile::Builder::new()
        .prefix("making-")
        .tempdir_in(cache)
        .map_err(file_error("fill", cache))
}

/// Writes a file that is on the disk before it gets its final name.
fn write_synced(path: &Path, content: &[u8]) -> Result<(), KernelError> {
    let write = || {
        let mut file = fs::File::create(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(file_error("write", path))
}

/// Gives `whole` its final name; when another process was faster, its result stays.
fn publish(whole: &Path, target: &Path) -> Result<(), KernelError> {
    match fs::rename(whole, target) {
        Err(_) if target.exists() => Ok(()),
        other => other.map_err(file_error("rename to", target)),
    }
}

/// The first file below `folder` whose name `is_it` accepts.
fn find_file(folder: &Path, is_it: &dyn Fn(&str) -> bool) -> Result<PathBuf, KernelError> {
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).map_err(file_error("list", &next))? {
            let entry = entry.map_err(file_error("list", &next))?;
            let kind = entry.file_type().map_err(file_error("list", &next))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if is_it(&entry.file_name().to_string_lossy()) {
                return Ok(entry.path());
            }
        }
    }
    let missing = "file that the emulated machine needs".to_owned();
    Err(KernelError::Incomplete {
        path: folder.to_owned(),
        missing,
    })
}

fn run(command: &mut Command, next: &'static str) -> Result<String, KernelError> {
    run_raw(command, next).map(|out| String::from_utf8_lossy(&out).into_owned())
}

fn run_raw(command: &mut Command, next: &'static str) -> Result<Vec<u8>, KernelError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |detail: String| KernelError::Program {
        program: program.clone(),
        detail,
        next,
    };
    let output = command
        .output()
        .map_err(|cause| failed(cause.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    Err(failed(format!("{} ({last})", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_from_the_modinfo_section() {
        let module = b"\x7fELF\0license=GPL\0depends=kvm,ccp\0retpoline=Y\0";
        assert_eq!(dependencies(module), ["kvm", "ccp"]);
        assert!(dependencies(b"\x7fELF\0depends=\0name=fuse\0").is_empty());
        assert!(dependencies(b"no modinfo here").is_empty());
    }

    #[test]
    fn modules_load_after_those_they_depend_on() {
        let package = tempfile::tempdir().unwrap();
        let write = |name: &str, depends: &str| {
            let content = format!("\x7fELF\0depends={depends}\0");
            fs::write(package.path().join(name), content).unwrap();
        };
        write("kvm-amd.ko", "kvm");
        write("kvm.ko", "irqbypass");
        write("irqbypass.ko", "");
        for name in [
            "virtio_pci.ko",
            "virtio_console.ko",
            "virtiofs.ko",
            "overlay.ko",
        ] {
            write(name, "");
        }
        write("virtio_net.ko", "virtio-ring");
        write("virtio_ring.ko", "");
        let names: Vec<String> = collect_modules(package.path())
            .unwrap()
            .into_iter()
            .map(|one| one.name)
            .collect();
        assert_eq!(names[..3], ["irqbypass.ko", "kvm.ko", "kvm_amd.ko"]);
        assert_eq!(
            names[names.len() - 2..],
            ["virtio_ring.ko", "virtio_net.ko"]
        );
    }

    #[test]
    fn a_package_without_a_needed_module_is_an_error_that_names_the_folder() {
        let package = tempfile::tempdir().unwrap();
        let error = collect_modules(package.path()).err().unwrap();
        assert!(
            error.to_string().contains(package.path().to_str().unwrap()),
            "{error}"
        );
    }
}
