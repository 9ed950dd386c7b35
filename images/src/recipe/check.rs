//! What the types of a recipe cannot say: values that become package names, paths or arguments of
//! tools are checked before anything uses them.

use std::collections::BTreeSet;

use super::{FileRecipe, NodeRecipe, RECIPE_VERSION, Recipe, RecipeError, UserRecipe};
use crate::store::check_name;

/// Checks one value: `rule` or an error that names key and value.
struct Checker<'a> {
    origin: &'a str,
}

impl Checker<'_> {
    fn require(
        &self,
        rule: bool,
        key: impl Into<String>,
        value: &str,
        why: &'static str,
    ) -> Result<(), RecipeError> {
        if rule {
            return Ok(());
        }
        Err(RecipeError::Value {
            origin: self.origin.to_owned(),
            key: key.into(),
            value: value.chars().take(200).collect(),
            why,
        })
    }

    fn each(
        &self,
        key: &str,
        values: &[String],
        rule: impl Fn(&str) -> bool,
        why: &'static str,
    ) -> Result<(), RecipeError> {
        for (index, value) in values.iter().enumerate() {
            self.require(rule(value), format!("{key}[{index}]"), value, why)?;
        }
        Ok(())
    }
}

pub(super) fn check(recipe: &Recipe, origin: &str) -> Result<(), RecipeError> {
    let checker = Checker { origin };
    let version = recipe.version.to_string();
    checker.require(
        recipe.version == RECIPE_VERSION,
        "version",
        &version,
        "this Mayfly reads 1",
    )?;
    let why = "use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter";
    checker.require(check_name(&recipe.name).is_ok(), "name", &recipe.name, why)?;
    check_debian(&checker, recipe)?;
    check_kernel(&checker, recipe)?;
    let mut majors = BTreeSet::new();
    for (index, node) in recipe.node.iter().enumerate() {
        check_node(&checker, &format!("node[{index}]"), node, &mut majors)?;
    }
    let defaults = recipe.node.iter().filter(|node| node.default).count();
    let why = "at most one may be the default";
    checker.require(defaults <= 1, "node", &defaults.to_string(), why)?;
    for (index, user) in recipe.user.iter().enumerate() {
        check_user(&checker, &format!("user[{index}]"), user)?;
    }
    for (index, file) in recipe.file.iter().enumerate() {
        check_file(&checker, &format!("file[{index}]"), file)?;
    }
    if let Some(user) = &recipe.run.user {
        let known = user == "root" || recipe.user.iter().any(|added| added.name == *user);
        checker.require(
            known,
            "run.user",
            user,
            "name root or a user that the recipe adds",
        )?;
    }
    for (name, value) in &recipe.run.env {
        let rule = is_variable(name) && !value.contains(['\0', '\n']);
        checker.require(
            rule,
            format!("run.env.{name}"),
            value,
            "a variable is one plain line",
        )?;
    }
    Ok(())
}

fn check_debian(checker: &Checker<'_>, recipe: &Recipe) -> Result<(), RecipeError> {
    let debian = &recipe.debian;
    let why = "write the code name of a Debian release, such as bookworm";
    let suite = !debian.suite.is_empty() && debian.suite.bytes().all(is_word);
    checker.require(suite, "debian.suite", &debian.suite, why)?;
    let why = "write main, contrib, non-free or non-free-firmware";
    let rule = |name: &str| !name.is_empty() && name.bytes().all(is_word);
    checker.each("debian.components", &debian.components, rule, why)?;
    checker.each(
        "debian.packages",
        &debian.packages,
        is_package,
        "not a Debian package name",
    )?;
    let why = "an absolute path pattern without spaces or quotes";
    checker.each("debian.exclude", &debian.exclude, is_pattern, why)?;
    checker.each("debian.include", &debian.include, is_pattern, why)
}

fn check_kernel(checker: &Checker<'_>, recipe: &Recipe) -> Result<(), RecipeError> {
    let kernel = &recipe.kernel;
    let package = is_package(&kernel.package) && kernel.package.starts_with("linux-image-");
    checker.require(
        package,
        "kernel.package",
        &kernel.package,
        "name a linux-image-… package",
    )?;
    let line = kernel.command_line.len() <= 1024
        && kernel
            .command_line
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte));
    let why = "at most 1024 printable characters on one line";
    checker.require(line, "kernel.command-line", &kernel.command_line, why)?;
    checker.each(
        "kernel.modules",
        &kernel.modules,
        is_module,
        "not a kernel module name",
    )
}

fn check_node(
    checker: &Checker<'_>,
    key: &str,
    node: &NodeRecipe,
    majors: &mut BTreeSet<u32>,
) -> Result<(), RecipeError> {
    let major = node.major.to_string();
    let why = "each major stands once";
    checker.require(
        majors.insert(node.major),
        format!("{key}.major"),
        &major,
        why,
    )?;
    let rule = is_exact(&node.version) && node.version.starts_with(&format!("{major}."));
    let why = "write the exact version, of that major";
    checker.require(rule, format!("{key}.version"), &node.version, why)?;
    let why = "write the package's sha512 integrity";
    let rule = is_integrity(&node.integrity);
    checker.require(rule, format!("{key}.integrity"), &node.integrity, why)?;
    if let Some(npm) = &node.npm {
        let rule = is_exact(&npm.version);
        let exact = "write the exact version";
        checker.require(rule, format!("{key}.npm.version"), &npm.version, exact)?;
        let rule = is_integrity(&npm.integrity);
        checker.require(rule, format!("{key}.npm.integrity"), &npm.integrity, why)?;
    }
    Ok(())
}

fn check_user(checker: &Checker<'_>, key: &str, user: &UserRecipe) -> Result<(), RecipeError> {
    let name = is_user(&user.name);
    checker.require(name, format!("{key}.name"), &user.name, "not a user name")?;
    let rule = (1000..60_000).contains(&user.uid);
    let why = "choose a number from 1000 to 59999";
    checker.require(rule, format!("{key}.uid"), &user.uid.to_string(), why)?;
    checker.each(
        &format!("{key}.groups"),
        &user.groups,
        is_user,
        "not a group name",
    )
}

fn check_file(checker: &Checker<'_>, key: &str, file: &FileRecipe) -> Result<(), RecipeError> {
    let path = file.path.strip_prefix('/').is_some_and(|path| {
        path.split('/')
            .all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
    });
    let why = "write an absolute path without '.', '..' and '//'";
    checker.require(
        path && !file.path.contains('\0'),
        format!("{key}.path"),
        &file.path,
        why,
    )?;
    let mode = file.mode().is_some_and(|mode| mode <= 0o7777);
    checker.require(
        mode,
        format!("{key}.mode"),
        &file.mode,
        "write permissions in octal",
    )
}

impl FileRecipe {
    /// The permissions as a number; a recipe that was parsed always has them.
    pub(crate) fn mode(&self) -> Option<u32> {
        u32::from_str_radix(&self.mode, 8).ok()
    }
}

fn is_word(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')
}

fn is_package(name: &str) -> bool {
    name.len() >= 2
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'+' | b'.'))
}

fn is_pattern(pattern: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/*?._+-@".contains(&byte);
    pattern.starts_with('/') && pattern.bytes().all(plain)
}

fn is_module(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn is_user(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| is_word(byte) || byte == b'_')
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_exact(version: &str) -> bool {
    let parts: Vec<_> = version.split('.').collect();
    parts.len() == 3
        && parts
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

fn is_integrity(text: &str) -> bool {
    crate::node::Integrity::parse(text).is_some()
}
