//! Makes an image: gathers its inputs, writes its parts, publishes it.

mod accounts;
mod agent;
mod debian;
mod error;
mod kept;
mod ordinary;
mod parts;
mod program;

use std::path::{Path, PathBuf};

pub use agent::AgentError;
pub use error::BuildError;

use crate::{
    archive::Archive,
    digest::Digest,
    kernel::KernelPackage,
    manifest::{
        BUILDER_REVISION, ImageConfig, Kernel, MANIFEST_VERSION, Manifest, NodeRuntime, Source,
    },
    node,
    progress::Progress,
    recipe::Recipe,
    store::{Image, ImageStore},
    tree::{Kind, Limits, Meta, Spool, Tree},
};
pub use crate::{disk::DiskError, kernel::KernelError, node::NodeError, tool::ToolError};

/// Where programs are looked for in an image that does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How large the files of an imported image may be together, in bytes.
const ARCHIVE_LIMIT: u64 = 32 << 30;

impl Recipe {
    /// What stands in the manifest of an image whose root is this recipe's.
    fn source(&self) -> Source {
        Source::Recipe {
            name: self.name.clone(),
        }
    }
}

/// What a build needs beside its recipe.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// The guest agent, a static executable.
    pub agent: PathBuf,
    /// The program that steps call as `mayfly`; an image that is imported gets none.
    pub program: PathBuf,
    /// Name of the image; the recipe's if not given.
    pub name: Option<String>,
    /// Build even if there is an image from the same inputs.
    pub rebuild: bool,
    /// Where downloads are kept for the next build, e.g. `~/.cache/mayfly`.
    pub cache: PathBuf,
    /// Debian mirror; Debian's own if not given.
    pub mirror: Option<String>,
}

/// What came of a build.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image.
    pub image: Image,
    /// Whether it was there already.
    pub cached: bool,
}

/// A root file system and what is known about it.
pub(crate) struct Root {
    pub(crate) tree: Tree,
    pub(crate) source: Source,
    pub(crate) config: ImageConfig,
    pub(crate) packages: std::collections::BTreeMap<String, String>,
    pub(crate) node: Vec<NodeRuntime>,
    pub(crate) program: Option<Digest>,
}

impl ImageStore {
    /// Builds the image of a recipe. If there is one from the same recipe and agent it is given
    /// back at once, unless a [rebuild](BuildOptions::rebuild) is wanted: that is how security
    /// updates of Debian's come in.
    ///
    /// # Errors
    /// [`BuildError`]; the store is then as it was.
    pub fn build(
        &self,
        recipe: &Recipe,
        options: &BuildOptions,
        progress: &mut Progress<'_>,
    ) -> Result<Built, BuildError> {
        let name = options.name.clone().unwrap_or_else(|| recipe.name.clone());
        crate::store::check_name(&name)?;
        let agent = agent::read(&options.agent)?;
        let program = read_program(&options.program)?;
        let own = (Digest::of(&agent), Some(Digest::of(&program)));
        if !options.rebuild
            && let Some(image) = self.cached(recipe, &recipe.source(), own, &name)?
        {
            return Ok(Built {
                image,
                cached: true,
            });
        }
        let work = Work::begin(self, recipe, options, agent, progress)?;
        work.finish(self, &name, progress, |work, progress| {
            work.debian_root(&program, progress)
        })
    }

    /// Makes an image whose root is that of an OCI or Docker archive; kernel, disk and their
    /// settings are the recipe's. `name` is what the image is called.
    ///
    /// # Errors
    /// [`BuildError`]; the store is then as it was.
    pub fn import(
        &self,
        archive: &Path,
        name: &str,
        recipe: &Recipe,
        options: &BuildOptions,
        progress: &mut Progress<'_>,
    ) -> Result<Built, BuildError> {
        crate::store::check_name(name)?;
        let agent = agent::read(&options.agent)?;
        progress.step(format!("Checking {}", archive.display()));
        let archive = Archive::open(archive)?;
        let own = (Digest::of(&agent), None);
        if !options.rebuild
            && let Some(image) = self.cached(recipe, &archive.source(), own, name)?
        {
            return Ok(Built {
                image,
                cached: true,
            });
        }
        let work = Work::begin(self, recipe, options, agent, progress)?;
        work.finish(self, name, progress, |work, progress| {
            work.archive_root(&archive, progress)
        })
    }

    /// An image from the same inputs, which from now on goes by `name`.
    fn cached(
        &self,
        recipe: &Recipe,
        source: &Source,
        (agent, program): (Digest, Option<Digest>),
        name: &str,
    ) -> Result<Option<Image>, BuildError> {
        let _lock = self.lock(&mut || ())?;
        let digest = recipe.digest();
        // An image that cannot be read is no reason not to build another one.
        let images = self.images().unwrap_or_default();
        let found = images.into_iter().find(|image| {
            let manifest = &image.manifest;
            manifest.builder == BUILDER_REVISION
                && manifest.recipe == digest
                && manifest.agent == agent
                && (manifest.program == program || manifest.program.is_none())
                && manifest.source == *source
        });
        let Some(mut image) = found else {
            return Ok(None);
        };
        if image.verify(&mut |_, _| ()).is_err() {
            // What is damaged is built again.
            return Ok(None);
        }
        if !image.names.iter().any(|other| other == name) {
            self.name(name, &image.digest)?;
            image = self.get(name)?;
        }
        Ok(Some(image))
    }
}

fn read_program(path: &Path) -> Result<Vec<u8>, BuildError> {
    program::read(path).map_err(|error| BuildError::Program {
        path: path.to_owned(),
        error,
    })
}

/// A build under way.
pub(crate) struct Work<'a> {
    recipe: &'a Recipe,
    options: &'a BuildOptions,
    agent: Vec<u8>,
    draft: crate::store::Draft,
    pub(crate) spool: Spool,
}

impl<'a> Work<'a> {
    /// Takes the store's lock and a private directory in it.
    pub(crate) fn begin(
        store: &ImageStore,
        recipe: &'a Recipe,
        options: &'a BuildOptions,
        agent: Vec<u8>,
        progress: &mut Progress<'_>,
    ) -> Result<Self, BuildError> {
        let draft = store.draft(&mut || progress.step("Waiting for another build to finish"))?;
        let directory = draft.directory().to_owned();
        let spool = Spool::new(&directory).map_err(|error| BuildError::Temporary {
            path: directory,
            error,
        })?;
        Ok(Self {
            recipe,
            options,
            agent,
            draft,
            spool,
        })
    }

    /// Latest time that a file may carry.
    pub(crate) fn epoch(&self) -> u64 {
        self.recipe.debian.source_date_epoch
    }

    /// Gets the kernel, makes the root, writes the parts and publishes the image.
    pub(crate) fn finish(
        mut self,
        store: &ImageStore,
        name: &str,
        progress: &mut Progress<'_>,
        root: impl FnOnce(&mut Self, &mut Progress<'_>) -> Result<Root, BuildError>,
    ) -> Result<Built, BuildError> {
        let root = root(&mut self, progress)?;
        progress.step("Fetching the guest kernel");
        let (kernel, tree) = self.kernel(progress)?;
        let order = kernel.package.modules.order(&self.recipe.kernel.modules)?;
        let mut modules = Vec::new();
        for (_, module) in &order {
            modules.push((module.file.clone(), module.read(&tree, &self.spool)?));
        }
        let parts = parts::write(
            &parts::Inputs {
                directory: self.draft.directory(),
                vmlinux: &kernel.package.vmlinux,
                agent: &self.agent,
                modules: &modules,
                root: &root.tree,
                spool: &self.spool,
                disk: self.recipe.disk.size.bytes(),
                epoch: self.epoch(),
            },
            progress,
        )?;
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            builder: BUILDER_REVISION,
            source: root.source,
            recipe: self.recipe.digest(),
            agent: Digest::of(&self.agent),
            program: root.program,
            kernel: Kernel {
                package: kernel.name,
                version: kernel.version,
                release: kernel.package.release,
                command_line: self.recipe.kernel.command_line.clone(),
                modules: order.into_iter().map(|(name, _)| name).collect(),
            },
            parts,
            config: root.config,
            packages: root.packages,
            node: root.node,
        };
        let image = store.publish(self.draft, &manifest, name)?;
        // The digests are known to be right: only the stamps are missing.
        image.stamp();
        Ok(Built {
            image,
            cached: false,
        })
    }

    /// The root that the recipe describes.
    fn debian_root(
        &mut self,
        program: &[u8],
        progress: &mut Progress<'_>,
    ) -> Result<Root, BuildError> {
        let epoch = self.epoch();
        let recipe = self.recipe;
        progress.step(format!(
            "Installing Debian {} packages",
            recipe.debian.suite
        ));
        let mut tree = debian::install(recipe, self.options, &mut self.spool, progress)?;
        debian::clean(&mut tree, &mut self.spool, epoch)?;
        let packages = debian::packages(&tree, &self.spool)?;
        let mut node = Vec::new();
        for runtime in &recipe.node {
            progress.step(format!("Adding Node.js {}", runtime.version));
            let cache = self.options.cache.join("npm");
            let spool = &mut self.spool;
            node.push(node::install(
                runtime, &cache, &mut tree, spool, epoch, progress,
            )?);
        }
        for user in &recipe.user {
            accounts::add(user, &mut tree, &mut self.spool, epoch)?;
        }
        for file in &recipe.file {
            let content = self.keep(file.content.as_bytes())?;
            let mode = file.mode().unwrap_or(0o644);
            tree.put(&file.path, content, Meta::root(mode, epoch))
                .map_err(|error| BuildError::Root(error.to_string()))?;
        }
        let mut env = recipe.run.env.clone();
        env.entry("PATH".to_owned())
            .or_insert_with(|| PATH.to_owned());
        let config = ImageConfig {
            user: recipe.run.user.clone(),
            working_directory: None,
            env,
        };
        let put = program::fits(program, &packages);
        if put {
            let content = self.keep(program)?;
            tree.put(program::PATH, content, Meta::root(0o755, epoch))
                .map_err(|error| BuildError::Root(error.to_string()))?;
        } else {
            progress.step("Leaving mayfly out: it needs a newer C library than the packages have");
        }
        Ok(Root {
            tree,
            source: recipe.source(),
            config,
            packages,
            node,
            program: put.then(|| Digest::of(program)),
        })
    }

    /// The root that an archive holds.
    fn archive_root(
        &mut self,
        archive: &Archive,
        progress: &mut Progress<'_>,
    ) -> Result<Root, BuildError> {
        let limits = Limits {
            bytes: ARCHIVE_LIMIT,
            ..Limits::default()
        };
        let epoch = self.epoch();
        let tree = archive.unpack(&limits, &mut self.spool, epoch, progress)?;
        let packages = debian::packages(&tree, &self.spool)?;
        let mut config = archive.image_config();
        config
            .env
            .entry("PATH".to_owned())
            .or_insert_with(|| PATH.to_owned());
        Ok(Root {
            tree,
            source: archive.source(),
            config,
            packages,
            node: Vec::new(),
            program: None,
        })
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<Kind, BuildError> {
        keep(&mut self.spool, bytes)
    }

    /// Downloads and unpacks the kernel package.
    fn kernel(&mut self, progress: &mut Progress<'_>) -> Result<(NamedKernel, Tree), BuildError> {
        let directory: &Path = self.draft.directory();
        let package = debian::fetch_kernel(
            self.recipe,
            self.options,
            directory,
            &mut self.spool,
            progress,
        )?;
        let read = KernelPackage::read(&package.tree, &self.spool)?;
        let kernel = NamedKernel {
            name: package.name,
            version: package.version,
            package: read,
        };
        Ok((kernel, package.tree))
    }
}

struct NamedKernel {
    name: String,
    version: String,
    package: KernelPackage,
}

/// Keeps a file's content.
fn keep(spool: &mut Spool, bytes: &[u8]) -> Result<Kind, BuildError> {
    spool
        .store(bytes)
        .map(Kind::File)
        .map_err(|error| BuildError::Root(error.to_string()))
}
