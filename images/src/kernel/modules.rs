//! Which modules go into the initramfs, and in which order they are loaded.

use std::collections::{BTreeMap, BTreeSet};

use super::{KernelError, content, modinfo, read};
use crate::tree::{Kind, NodeId, Spool, Tree};

/// The modules of a kernel package.
#[derive(Debug)]
pub(crate) struct Modules {
    /// By name, with `_` for `-` as the kernel has it.
    files: BTreeMap<String, Module>,
    /// Names of those that are part of the kernel itself.
    builtin: BTreeSet<String>,
}

/// One module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its file's name, e.g. `virtio-rng.ko`.
    pub(crate) file: String,
    /// Its file's node in the package.
    node: NodeId,
    depends: Vec<String>,
}

impl Module {
    /// Its content, from the package that it was found in.
    pub(crate) fn read(&self, tree: &Tree, spool: &Spool) -> Result<Vec<u8>, KernelError> {
        read(tree, spool, self.node, &self.file)
    }
}

impl Modules {
    /// Reads the directory of one kernel release.
    pub(super) fn read(tree: &Tree, spool: &Spool, directory: NodeId) -> Result<Self, KernelError> {
        let mut modules = Self {
            files: BTreeMap::new(),
            builtin: BTreeSet::new(),
        };
        let children = tree
            .children(directory)
            .ok_or(KernelError::Missing("lib/modules"))?;
        let builtin = children
            .get(&b"modules.builtin"[..])
            .ok_or(KernelError::Missing("lib/modules/…/modules.builtin"))?;
        let list = read(tree, spool, *builtin, "modules.builtin")?;
        for line in String::from_utf8_lossy(&list).lines() {
            let file = line.rsplit('/').next().unwrap_or(line);
            modules.builtin.insert(name(file.trim_end_matches(".ko")));
        }
        let mut directories = vec![directory];
        while let Some(directory) = directories.pop() {
            for (file, node) in tree.children(directory).into_iter().flatten() {
                match &tree.node(*node).kind {
                    Kind::Directory(_) => directories.push(*node),
                    Kind::File(_) => modules.add(tree, spool, file, *node)?,
                    _ => (),
                }
            }
        }
        Ok(modules)
    }

    fn add(
        &mut self,
        tree: &Tree,
        spool: &Spool,
        file: &[u8],
        node: NodeId,
    ) -> Result<(), KernelError> {
        let file = String::from_utf8_lossy(file).into_owned();
        let Some((stem, extension)) = file.split_once(".ko") else {
            return Ok(());
        };
        let broken = |why| KernelError::Module {
            name: file.clone(),
            why,
        };
        if !extension.is_empty() {
            return Err(broken(
                "is compressed; take a kernel whose modules are plain .ko files",
            ));
        }
        if content(tree, node).is_none() {
            return Ok(());
        }
        let info = modinfo::read(&read(tree, spool, node, &file)?).map_err(broken)?;
        let depends = info.depends.iter().map(|other| name(other)).collect();
        let module = Module {
            file: file.clone(),
            node,
            depends,
        };
        self.files.insert(name(stem), module);
        Ok(())
    }

    /// `wanted` in their order, each after what it depends on and none twice; what the kernel has
    /// built in is left out. Gives names and modules.
    pub(crate) fn order(&self, wanted: &[String]) -> Result<Vec<(String, Module)>, KernelError> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for module in wanted {
            self.visit(&name(module), "the recipe", &mut seen, &mut order)?;
        }
        Ok(order)
    }

    /// Depth-first; `seen` keeps a circle of dependencies from being followed round and round.
    fn visit(
        &self,
        module: &str,
        needed_by: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<(String, Module)>,
    ) -> Result<(), KernelError> {
        if self.builtin.contains(module) || !seen.insert(module.to_owned()) {
            return Ok(());
        }
        let found = self
            .files
            .get(module)
            .ok_or_else(|| KernelError::NoModule {
                name: module.to_owned(),
                needed_by: needed_by.to_owned(),
            })?;
        for other in &found.depends {
            self.visit(other, module, seen, order)?;
        }
        order.push((module.to_owned(), found.clone()));
        Ok(())
    }
}

/// The kernel's own spelling of a module's name.
fn name(text: &str) -> String {
    text.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::modinfo::tests::module, tree::Meta};

    fn modules(files: &[(&str, &str)], builtin: &str) -> Result<Modules, KernelError> {
        let (mut tree, mut spool) = (Tree::new(0), Spool::new(&std::env::temp_dir()).unwrap());
        let mut put = |path: &str, bytes: &[u8]| {
            let content = spool.store(bytes).unwrap();
            tree.put(path, Kind::File(content), Meta::root(0o644, 0))
                .unwrap();
        };
        put("m/modules.builtin", builtin.as_bytes());
        for (file, depends) in files {
            put(&format!("m/kernel/{file}"), &module(depends));
        }
        let directory = tree.find("m").unwrap();
        Modules::read(&tree, &spool, directory)
    }

    fn order(modules: &Modules, wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
        modules
            .order(&wanted)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn dependencies_come_first_once_and_in_the_order_of_the_recipe() {
        let files = [
            ("fs/a.ko", "b,d-e"),
            ("b.ko", "c"),
            ("c.ko", ""),
            ("d-e.ko", "c"),
            ("f.ko", ""),
        ];
        let modules = modules(&files, "kernel/g.ko\n").unwrap();
        assert_eq!(
            order(&modules, &["f", "a", "c"]),
            ["f", "c", "b", "d_e", "a"]
        );
        assert_eq!(order(&modules, &["d-e", "g"]), ["c", "d_e"]);
    }

    #[test]
    fn a_circle_ends() {
        let modules = modules(&[("a.ko", "b"), ("b.ko", "a")], "").unwrap();
        assert_eq!(order(&modules, &["a"]), ["b", "a"]);
    }

    #[test]
    fn a_module_that_is_not_there_is_named_with_who_needs_it() {
        let modules = modules(&[("a.ko", "b")], "").unwrap();
        let message = modules.order(&["a".to_owned()]).unwrap_err().to_string();
        assert!(message.contains("module b, which a needs"), "{message}");
        let message = modules.order(&["x".to_owned()]).unwrap_err().to_string();
        assert!(
            message.contains("module x, which the recipe needs"),
            "{message}"
        );
    }

    #[test]
    fn compressed_modules_are_refused() {
        let message = modules(&[("a.ko.xz", "")], "").unwrap_err().to_string();
        assert!(message.contains("a.ko.xz is compressed"), "{message}");
    }
}
