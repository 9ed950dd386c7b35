//! `mayfly image`: building, listing, inspecting and removing images.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use mayfly_images::{
    build::BuildOptions,
    progress::Progress,
    recipe::{self, Recipe},
    store::{ImageStore, ImageSummary},
};

use super::{CommandResult, Exit, Failure, progress::Steps};
use crate::config::Installation;

/// Recipe from which an imported root takes its kernel, modules and disk.
const KERNEL_RECIPE: &str = "minimal";

/// Builds, lists, inspects and removes images.
#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Build an image from a recipe, or from an OCI or Docker archive.
    #[command(
        after_help = "Examples:\n  mayfly image build minimal\n  mayfly image build ./recipes/mine.toml\n  \
                            mayfly image build mine --from image.tar"
    )]
    Build(BuildArgs),
    /// List images.
    #[command(
        alias = "list",
        after_help = "Example:\n  mayfly image ls --json | jq '.[].digest'"
    )]
    Ls {
        /// Print one JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Show what an image is made of: parts, digests, package versions.
    #[command(
        after_help = "Example:\n  mayfly image inspect minimal --json | jq .manifest.packages.git"
    )]
    Inspect {
        /// Name of the image, or the beginning of its digest.
        image: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Remove images; one that a sandbox uses stays.
    #[command(alias = "remove", after_help = "Example:\n  mayfly image rm minimal")]
    Rm {
        /// Names of images, or the beginnings of their digests.
        #[arg(required = true)]
        images: Vec<String>,
        /// Print one JSON array of what was removed.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct BuildArgs {
    /// Name of a built-in recipe, path of a recipe file, or with --from the image's name.
    recipe: String,
    /// Take the root file system from an OCI or Docker archive.
    #[arg(long, value_name = "ARCHIVE")]
    from: Option<PathBuf>,
    /// Build even if an image of the same inputs is there.
    #[arg(long)]
    rebuild: bool,
    /// Name of the image; by default the recipe's.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Debian mirror; by default Debian's own.
    #[arg(long, value_name = "URL", env = "MAYFLY_DEBIAN_MIRROR")]
    mirror: Option<String>,
    /// The guest agent to put in; by default the one beside mayfly.
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
}

pub fn image(args: &ImageArgs) -> CommandResult {
    let installation = Installation::locate()?;
    let store = ImageStore::open(&installation.state)?;
    match &args.command {
        ImageCommand::Build(args) => build(args, &installation, &store),
        ImageCommand::Ls { json } => ls(&store, *json),
        ImageCommand::Inspect { image, json } => inspect(&store, image, *json),
        ImageCommand::Rm { images, json } => rm(&store, images, *json),
    }
}

fn build(args: &BuildArgs, installation: &Installation, store: &ImageStore) -> CommandResult {
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => installation.agent()?,
    };
    let options = BuildOptions {
        agent,
        program: std::env::current_exe()?,
        name: args.name.clone(),
        rebuild: args.rebuild,
        cache: Installation::cache()?,
        mirror: args.mirror.clone(),
    };
    let mut steps = Steps::new();
    let mut listener = |event| steps.show(event);
    let mut progress = Progress::new(&mut listener);
    let built = match &args.from {
        Some(archive) => {
            let name = args.name.as_ref().unwrap_or(&args.recipe);
            let recipe = Recipe::find(KERNEL_RECIPE)?;
            store.import(archive, name, &recipe, &options, &mut progress)?
        }
        None => {
            let recipe = Recipe::find(&args.recipe).map_err(Failure::usage)?;
            store.build(&recipe, &options, &mut progress)?
        }
    };
    steps.finish();
    drop(steps);
    let state = if built.cached {
        "is up to date"
    } else {
        "is ready"
    };
    println!(
        "image {} {state}: {}",
        built.image.label(),
        built.image.digest
    );
    Ok(Exit::Success)
}

fn ls(store: &ImageStore, json: bool) -> CommandResult {
    let images = store.list()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&images)?);
        return Ok(Exit::Success);
    }
    println!(
        "{:<16} {:<16} {:>10} {:>9} KERNEL",
        "NAME", "DIGEST", "SIZE", "PACKAGES"
    );
    for image in &images {
        print_summary(image);
    }
    if images.is_empty() {
        eprintln!(
            "no images yet; build one of: {}",
            recipe::names().join(", ")
        );
    }
    Ok(Exit::Success)
}

fn print_summary(image: &ImageSummary) {
    println!(
        "{:<16} {:<16} {:>6} MiB {:>9} {}",
        image.names.join(","),
        image.digest.short(),
        image.disk_bytes >> 20,
        image.packages,
        image.kernel
    );
}

fn inspect(store: &ImageStore, image: &str, json: bool) -> CommandResult {
    let details = store.inspect(image).map_err(Failure::usage)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&details)?);
        return Ok(Exit::Success);
    }
    println!("digest    {}", details.summary.digest);
    println!("names     {}", details.summary.names.join(", "));
    println!("directory {}", details.directory.display());
    println!(
        "kernel    {} {}",
        details.manifest.kernel.package, details.manifest.kernel.version
    );
    for part in details.manifest.parts.all() {
        println!(
            "part      {:<12} {:>12} bytes {}",
            part.file, part.size, part.digest
        );
    }
    for node in &details.manifest.node {
        println!("node      {} at {}", node.version, node.path);
    }
    for (package, version) in &details.manifest.packages {
        println!("package   {package} {version}");
    }
    Ok(Exit::Success)
}

fn rm(store: &ImageStore, images: &[String], json: bool) -> CommandResult {
    let removed = images
        .iter()
        .map(|image| store.remove(image).map_err(Failure::usage))
        .collect::<Result<Vec<_>, _>>()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&removed)?);
    } else {
        for image in &removed {
            println!("removed {} {}", image.names.join(","), image.digest);
        }
    }
    Ok(Exit::Success)
}
