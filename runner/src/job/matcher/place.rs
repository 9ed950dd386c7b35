//! The file that a problem is about: found in the guest, named as the repository names it.

use std::{collections::HashMap, future::Future, pin::Pin};

use crate::{
    job::{containers::Paths, files::bounded},
    sandbox::{Sandbox, SandboxError},
};

/// Largest `.git/config` that is read, in bytes.
const MAX_CONFIG: u64 = 256 << 10;

/// Folders above a file in which a repository is looked for.
const MAX_DEPTH: usize = 50;

/// Folders that are remembered.
const MAX_KNOWN: usize = 100;

type Content<'a> = Pin<Box<dyn Future<Output = Result<Option<Vec<u8>>, SandboxError>> + Send + 'a>>;

/// Files in the guest, for those who need not know its kind.
pub(in crate::job) trait GuestFiles: Send + Sync {
    /// The content of a file of at most `limit` bytes; `None` if there is none.
    fn content<'a>(&'a self, path: &'a str, limit: u64) -> Content<'a>;
}

impl<S: Sandbox> GuestFiles for S {
    fn content<'a>(&'a self, path: &'a str, limit: u64) -> Content<'a> {
        let read = self.read_file(path, limit);
        Box::pin(bounded("reading a file of a problem matcher", read))
    }
}

/// Finds files of problems.
pub(super) struct Places<'a> {
    guest: &'a dyn GuestFiles,
    workspace: String,
    /// What the guest's paths are called where the step runs.
    paths: Paths,
    /// Lines of `.git/config` by which the workflow's own repository is known.
    origins: [String; 2],
    /// For each folder, the repository around it, if it is the workflow's own.
    known: HashMap<String, Option<String>>,
}

impl<'a> Places<'a> {
    /// Files of a job of `repository` (`owner/name`) at `server`.
    pub(super) fn new(
        guest: &'a dyn GuestFiles,
        workspace: &str,
        server: &str,
        repository: &str,
    ) -> Self {
        let server = if server.is_empty() {
            "https://github.com"
        } else {
            server
        };
        let host = server.split_once("://").map_or(server, |(_, rest)| rest);
        let host = host.split(['/', ':']).next().unwrap_or_default();
        Self {
            guest,
            workspace: workspace.to_owned(),
            paths: Paths::default(),
            origins: [
                format!("url = {server}/{repository}"),
                format!("url = git@{host}:{repository}.git"),
            ],
            known: HashMap::new(),
        }
    }

    /// What runs next calls the guest's paths like this.
    pub(super) fn set_paths(&mut self, paths: Paths) {
        self.paths = paths;
    }

    /// The same for steps that call the guest's paths like this.
    pub(super) fn called(self, paths: &Paths) -> Self {
        let paths = paths.clone();
        Self { paths, ..self }
    }

    /// The path of a matcher's file in the guest.
    pub(super) fn absolute(&self, path: &str) -> String {
        self.paths.outside(&join(&self.workspace, path))
    }

    /// Reads a file of at most `limit` bytes.
    pub(super) async fn read(
        &self,
        path: &str,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, SandboxError> {
        self.guest.content(path, limit).await
    }

    /// The name in the repository of `file`, which may be relative to the folder of `from_path`;
    /// else why it has none.
    pub(super) async fn find(&mut self, file: &str, from_path: &str) -> Result<String, String> {
        let mut path = file.to_owned();
        if let Some((folder, _)) = from_path.rsplit_once('/') {
            path = join(folder, &path);
        }
        let path = self.paths.outside(&normal(&join(&self.workspace, &path)));
        if !self.exists(&path).await {
            return Err(format!("Dropping file value '{path}'. Path does not exist"));
        }
        let inside = |root: &str| {
            path.strip_prefix(root)?
                .strip_prefix('/')
                .map(str::to_owned)
        };
        let root = self.repository(&path).await;
        root.as_deref().and_then(inside).ok_or_else(|| {
            format!("Dropping file value '{path}'. Path is not under the workflow repo.")
        })
    }

    async fn exists(&self, path: &str) -> bool {
        let content = self.guest.content(path, 0).await;
        matches!(content, Ok(Some(_)) | Err(SandboxError::TooLarge { .. }))
    }

    /// The folder of the workflow's own repository in which `path` is. A checkout without `.git`,
    /// as it is copied into sandboxes, is known by being the workspace.
    async fn repository(&mut self, path: &str) -> Option<String> {
        let mut folder = parent(path)?.to_owned();
        let mut passed = Vec::new();
        let mut found = None;
        for _ in 0..MAX_DEPTH {
            if let Some(known) = self.known.get(&folder) {
                found = known.clone();
                break;
            }
            passed.push(folder.clone());
            let config = format!("{folder}/.git/config");
            match self.guest.content(&config, MAX_CONFIG).await {
                Ok(Some(content)) => {
                    let own = self.is_own(&String::from_utf8_lossy(&content));
                    found = own.then_some(folder);
                    break;
                }
                Ok(None) | Err(SandboxError::Refused { .. }) if folder == self.workspace => {
                    found = Some(folder);
                    break;
                }
                Ok(None) | Err(SandboxError::Refused { .. }) => match parent(&folder) {
                    Some(above) => folder = above.to_owned(),
                    None => break,
                },
                Err(_) => break,
            }
        }
        if self.known.len() > MAX_KNOWN {
            self.known.clear();
        }
        let all = passed.into_iter().map(|folder| (folder, found.clone()));
        self.known.extend(all);
        found
    }

    fn is_own(&self, config: &str) -> bool {
        let own = |line: &str| self.origins.iter().any(|o| o.eq_ignore_ascii_case(line));
        config.lines().any(|line| own(line.trim()))
    }
}

fn parent(path: &str) -> Option<&str> {
    let (folder, _) = path.rsplit_once('/')?;
    (!folder.is_empty()).then_some(folder)
}

/// `path` below `folder`, or as it is if it is absolute.
fn join(folder: &str, path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{folder}/{path}")
    }
}

/// An absolute path without `.`, `..` and double slashes.
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::fake::FakeSandbox;

    const WORKSPACE: &str = "/w/hello/hello";

    async fn guest(files: &[(&str, &str)]) -> FakeSandbox {
        let sandbox = FakeSandbox::new();
        for (path, content) in files {
            sandbox
                .write_file(path, 0o644, content.as_bytes())
                .await
                .unwrap();
        }
        sandbox
    }

    #[tokio::test]
    async fn a_file_is_named_relative_to_the_workspace_where_it_exists() {
        let guest = guest(&[
            ("/w/hello/hello/src/a.c", "x"),
            ("/w/hello/hello/empty", ""),
            ("/etc/passwd", "x"),
        ])
        .await;
        let mut places = Places::new(&guest, WORKSPACE, "", "octo/hello");
        for (file, from_path, expected) in [
            ("src/a.c", "", Some("src/a.c")),
            ("./src/../src//a.c", "", Some("src/a.c")),
            ("/w/hello/hello/src/a.c", "", Some("src/a.c")),
            ("a.c", "/w/hello/hello/src/p.proj", Some("src/a.c")),
            ("a.c", "src/p.proj", Some("src/a.c")),
            ("empty", "p.proj", Some("empty")),
            ("a.c", "", None),
            ("/etc/passwd", "", None),
            ("../../../etc/passwd", "", None),
        ] {
            let found = places.find(file, from_path).await;
            assert_eq!(found.ok().as_deref(), expected, "{file} {from_path}");
        }
    }

    #[tokio::test]
    async fn a_repository_is_the_workflows_own_or_its_files_have_no_name() {
        let guest = guest(&[
            (
                "/w/hello/hello/own/.git/config",
                "[remote \"origin\"]\n\turl = https://GitHub.com/octo/hello\n",
            ),
            ("/w/hello/hello/own/src/a.c", "x"),
            (
                "/w/hello/hello/other/.git/config",
                "\turl = https://github.com/octo/else\n",
            ),
            ("/w/hello/hello/other/a.c", "x"),
            (
                "/srv/ssh/.git/config",
                " url = git@github.com:octo/hello.git",
            ),
            ("/srv/ssh/b.c", "x"),
        ])
        .await;
        let mut places = Places::new(&guest, WORKSPACE, "https://github.com", "octo/hello");
        for _ in 0..2 {
            assert_eq!(places.find("own/src/a.c", "").await.unwrap(), "src/a.c");
            assert_eq!(places.find("/srv/ssh/b.c", "").await.unwrap(), "b.c");
            let dropped = places.find("other/a.c", "").await.unwrap_err();
            assert_eq!(
                dropped,
                "Dropping file value '/w/hello/hello/other/a.c'. Path is not under the workflow repo."
            );
        }
        let missing = places.find("no.c", "").await.unwrap_err();
        assert_eq!(
            missing,
            "Dropping file value '/w/hello/hello/no.c'. Path does not exist"
        );
    }
}
