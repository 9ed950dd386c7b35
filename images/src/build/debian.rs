//! Debian packages: the root file system and the kernel, both by way of `mmdebstrap`.
//!
//! `mmdebstrap` resolves and verifies packages as apt does, also on hosts that run another release,
//! and needs root or user namespaces but changes nothing on the host. Its output is a tar stream.

use std::{collections::BTreeMap, io, path::Path};

use super::{BuildError, BuildOptions, keep, kept::Kept, ordinary};
use crate::{
    progress::Progress,
    recipe::Recipe,
    tool::{DPKG_DEB, MMDEBSTRAP},
    tree::{Content, Kind, Layer, LayerError, Limits, Meta, Spool, Tree},
};

/// Where the hook below leaves the kernel package.
const KERNEL: &str = "mayfly-kernel";

/// Downloads the kernel package into the (otherwise empty) root. `$1` is the root; the package
/// name has no character that a shell would interpret, as recipes are checked. A metapackage is
/// followed to the kernel it depends on.
fn kernel_hook(package: &str) -> String {
    format!(
        "set -eu; export APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\"; \
         mkdir \"$1/{KERNEL}\"; cd \"$1/{KERNEL}\"; name={package}; \
         next=$(apt-cache show --no-all-versions \"$name\" | \
         sed -n 's/^Depends: \\(linux-image-[^ ,]*\\).*/\\1/p' | head -n 1); \
         apt-get download --quiet -o APT::Sandbox::User=root \"${{next:-$name}}\" >&2"
    )
}

/// Installs the recipe's packages.
pub(super) fn install(
    recipe: &Recipe,
    options: &BuildOptions,
    spool: &mut Spool,
    progress: &mut Progress<'_>,
) -> Result<Tree, BuildError> {
    let debian = &recipe.debian;
    let mut arguments = vec!["--variant=minbase".to_owned()];
    arguments.push(format!("--include={}", debian.packages.join(",")));
    arguments.push("--aptopt=APT::Install-Recommends \"false\"".to_owned());
    // Whoever installs a package in a throw-away machine need not wait for its disk either.
    arguments.push("--dpkgopt=force-unsafe-io".to_owned());
    for pattern in &debian.exclude {
        arguments.push(format!("--dpkgopt=path-exclude={pattern}"));
    }
    for pattern in &debian.include {
        arguments.push(format!("--dpkgopt=path-include={pattern}"));
    }
    bootstrap(recipe, options, &arguments, spool, progress)
}

/// A package that is downloaded and unpacked, but installed nowhere.
pub(super) struct Unpacked {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) tree: Tree,
}

/// Downloads the recipe's kernel package and unpacks it.
pub(super) fn fetch_kernel(
    recipe: &Recipe,
    options: &BuildOptions,
    directory: &Path,
    spool: &mut Spool,
    progress: &mut Progress<'_>,
) -> Result<Unpacked, BuildError> {
    let hook = kernel_hook(&recipe.kernel.package);
    let arguments = [
        "--variant=custom".to_owned(),
        format!("--customize-hook={hook}"),
    ];
    let root = bootstrap(recipe, options, &arguments, spool, progress)?;
    let broken = |why: &dyn ToString| BuildError::KernelPackage(why.to_string());
    let package = root
        .find(KERNEL)
        .and_then(|id| root.children(id)?.values().next().copied())
        .ok_or_else(|| broken(&"apt downloaded nothing"))?;
    let Kind::File(content) = root.node(package).kind else {
        return Err(broken(&"apt downloaded no file"));
    };
    let file = tempfile::NamedTempFile::new_in(directory)
        .and_then(|mut file| {
            io::copy(&mut spool.reader(content), &mut file)?;
            Ok(file)
        })
        .map_err(|error| BuildError::Temporary {
            path: directory.to_owned(),
            error,
        })?;
    let mut fields = DPKG_DEB.command()?;
    fields
        .arg("--show")
        .arg("--showformat=${Package} ${Version}")
        .arg(file.path());
    let fields = String::from_utf8_lossy(&DPKG_DEB.output(fields)?).into_owned();
    let (name, version) = fields
        .split_once(' ')
        .ok_or_else(|| broken(&"it has no version"))?;
    let mut unpack = DPKG_DEB.command()?;
    unpack.arg("--fsys-tarfile").arg(file.path());
    let tree = DPKG_DEB
        .stream(unpack, progress, |stdout, done| {
            unpack_tar(stdout, spool, 0, done)
        })?
        .map_err(|error| broken(&error))?;
    Ok(Unpacked {
        name: name.to_owned(),
        version: version.to_owned(),
        tree,
    })
}

/// Runs `mmdebstrap` and reads the root that it writes.
fn bootstrap(
    recipe: &Recipe,
    options: &BuildOptions,
    arguments: &[String],
    spool: &mut Spool,
    progress: &mut Progress<'_>,
) -> Result<Tree, BuildError> {
    let debian = &recipe.debian;
    let epoch = debian.source_date_epoch;
    let (mode, mut command) = if rustix::process::geteuid().is_root() {
        // In this mode it mounts what packages expect where everybody sees it, and a build that is
        // killed would leave that behind.
        ("root", MMDEBSTRAP.command_with_own_mounts()?)
    } else {
        ordinary::check()?;
        ("unshare", MMDEBSTRAP.command()?)
    };
    command
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .args(["--format=tar", "--architectures=amd64"])
        .arg(format!("--mode={mode}"))
        .arg(format!("--components={}", debian.components.join(",")))
        .args(arguments)
        .args([&debian.suite, "-"]);
    if let Some(mirror) = &options.mirror {
        command.arg(mirror);
    }
    let all = command
        .get_args()
        .map(|word| word.to_string_lossy().into_owned());
    let mut all: Vec<String> = all.collect();
    all.push(epoch.to_string());
    let kept = Kept::new(&options.cache, &all);
    // One that is damaged is made anew.
    if let Some(file) = kept.open().filter(|_| !options.rebuild)
        && let Ok(tree) = unpack_tar(file, spool, epoch, &mut |_| ())
    {
        return Ok(tree);
    }
    let (tree, recorded) = MMDEBSTRAP
        .stream(command, progress, |stdout, done| {
            let mut recorder = kept.recorder(stdout);
            let tree = unpack_tar(&mut recorder, spool, epoch, done);
            tree.map(|tree| (tree, recorder.finish()))
        })?
        .map_err(|error| BuildError::Root(error.to_string()))?;
    if let Ok(Some(recorded)) = recorded {
        // Where it cannot be kept, the next build takes its time.
        let _ = kept.keep(recorded);
    }
    Ok(tree)
}

fn unpack_tar(
    stream: impl io::Read,
    spool: &mut Spool,
    epoch: u64,
    done: &mut dyn FnMut(u64),
) -> Result<Tree, LayerError> {
    let mut tree = Tree::new(epoch);
    let (mut bytes, mut entries) = (0, 0);
    let layer = Layer {
        tree: &mut tree,
        spool,
        limits: &Limits::default(),
        number: 0,
        epoch,
        latest: epoch,
        bytes: &mut bytes,
        entries: &mut entries,
    };
    layer.apply(stream, done)?;
    Ok(tree)
}

/// Removes what differs between builds or belongs to one machine, and prepares what the agent
/// expects to be there.
pub(super) fn clean(tree: &mut Tree, spool: &mut Spool, epoch: u64) -> Result<(), BuildError> {
    let failed = |error: crate::tree::TreeError| BuildError::Root(error.to_string());
    for directory in [
        "dev",
        "proc",
        "run",
        "sys",
        "tmp",
        "var/cache/apt",
        "var/log",
        "var/tmp",
    ] {
        empty(tree, directory);
    }
    for file in [
        "etc/hostname",
        "etc/resolv.conf",
        "var/cache/ldconfig/aux-cache",
        ".dockerenv",
    ] {
        tree.remove(file);
    }
    for (path, mode) in [
        ("dev", 0o755),
        ("proc", 0o555),
        ("sys", 0o555),
        ("run", 0o755),
    ] {
        let directory = Kind::Directory(BTreeMap::new());
        tree.put(path, directory, Meta::root(mode, epoch))
            .map_err(failed)?;
    }
    // The agent writes both anew in each sandbox.
    for path in ["etc/machine-id", "etc/resolv.conf"] {
        let content = keep(spool, b"")?;
        tree.put(path, content, Meta::root(0o644, epoch))
            .map_err(failed)?;
    }
    Ok(())
}

fn empty(tree: &mut Tree, path: &str) {
    let names: Vec<_> = tree
        .find(path)
        .and_then(|id| tree.children(id))
        .into_iter()
        .flatten()
        .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        .collect();
    for name in names {
        tree.remove(&format!("{path}/{name}"));
    }
}

/// Installed packages and their versions, from dpkg's own list; none if there is no such list.
pub(crate) fn packages(tree: &Tree, spool: &Spool) -> Result<BTreeMap<String, String>, BuildError> {
    let status = tree
        .find("var/lib/dpkg/status")
        .map(|id| &tree.node(id).kind);
    let Some(Kind::File(content)) = status else {
        return Ok(BTreeMap::new());
    };
    read_packages(*content, spool)
        .map_err(|error| BuildError::Root(format!("dpkg status: {error}")))
}

fn read_packages(content: Content, spool: &Spool) -> io::Result<BTreeMap<String, String>> {
    let text = String::from_utf8_lossy(&spool.read(content, 64 << 20)?).into_owned();
    let mut packages = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            paragraph
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        if let (Some(name), Some(version), Some("install ok installed")) =
            (field("Package"), field("Version"), field("Status"))
        {
            packages.insert(name.to_owned(), version.to_owned());
        }
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_are_listed() {
        let mut spool = Spool::new(&std::env::temp_dir()).unwrap();
        let status = "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                      Package: jq\nVersion: 1.6\nStatus: install ok installed\n";
        let content = spool.store(status.as_bytes()).unwrap();
        let packages = read_packages(content, &spool).unwrap();
        let list: Vec<_> = packages
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        assert_eq!(list, ["bash 5.2-1", "jq 1.6"]);
    }

    #[test]
    fn nothing_of_the_building_machine_stays() {
        let (mut tree, mut spool) = (Tree::new(0), Spool::new(&std::env::temp_dir()).unwrap());
        for path in [
            "etc/hostname",
            "dev/null",
            "tmp/x",
            "var/log/apt/term.log",
            "etc/motd",
        ] {
            tree.put(path, Kind::Fifo, Meta::root(0o644, 0)).unwrap();
        }
        tree.put("etc/machine-id", Kind::Fifo, Meta::root(0o644, 0))
            .unwrap();
        clean(&mut tree, &mut spool, 7).unwrap();
        for path in ["etc/hostname", "dev/null", "tmp/x", "var/log/apt"] {
            assert!(tree.find(path).is_none(), "{path}");
        }
        for path in ["dev", "proc", "sys", "run", "tmp", "etc/motd"] {
            assert!(tree.find(path).is_some(), "{path}");
        }
        let id = tree.find("etc/machine-id").unwrap();
        assert!(matches!(tree.node(id).kind, Kind::File(content) if content.length() == 0));
    }
}
