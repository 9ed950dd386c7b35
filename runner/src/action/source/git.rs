//! A mirror of git repositories, by file or HTTP, asked with the `git` program.
//!
//! Git runs with nothing of the user's: no configuration, hooks, credentials or prompts, three protocols,
//! and a time limit. Objects land in a bare repository of its own and are never checked out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fs, io};

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::process::{Child, ChildStdout, Command};

use super::{Answer, Archive, Commit, Named, Refs, SourceError, Upstream};
use crate::action::archive::Layout;
use crate::action::digest::CommitId;
use crate::action::reference::{RepositoryName, is_commit_id};
use crate::action::tree::{Listing, Submodules};

/// Longest time that one git command may take.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Most bytes that a listing or one file may have.
const MAX_OUTPUT: u64 = 16 * 1024 * 1024;
/// Settings that git takes instead of the user's and the machine's. A mirror on this machine may belong
/// to another user: nothing of its configuration is run.
const SETTINGS: &str = "[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n[protocol]\n\tallow = never\n\
                        [protocol \"file\"]\n\tallow = always\n[protocol \"http\"]\n\tallow = always\n\
                        [protocol \"https\"]\n\tallow = always\n[credential]\n\thelper =\n[safe]\n\tdirectory = *\n\
                        [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[http]\n\tlowSpeedLimit = 1000\n\
                        \tlowSpeedTime = 30\n";
/// Attributes that win over those of the commit: an archive holds every file as the tree does.
const ATTRIBUTES: &str =
    "* -export-ignore -export-subst -text !eol -ident -filter !working-tree-encoding\n";

/// A folder or URL below which `owner/repo` lie, with or without `.git`.
#[derive(Debug)]
pub struct GitMirror {
    base: String,
    /// Where it is on this machine, if it is.
    folder: Option<PathBuf>,
    /// Git's home: its settings, and the repositories fetched.
    home: TempDir,
    /// Listings: a repository is the same from the first question to the last.
    known: Mutex<HashMap<String, Arc<Refs>>>,
}

/// A commit with its files, fetched.
#[derive(Debug)]
pub struct Fetched<'a> {
    mirror: &'a GitMirror,
    repository: String,
    commit: String,
    folder: TempDir,
}

impl GitMirror {
    /// A mirror by its folder or URL.
    ///
    /// # Errors
    /// [`SourceError::Mirror`] for what is neither.
    pub fn open(base: &str) -> Result<Self, SourceError> {
        let wrong = || SourceError::Mirror(base.to_owned());
        let folder = match base.split_once("://") {
            Some(("http" | "https", rest)) => {
                let host = rest.split('/').next().unwrap_or_default();
                if host.is_empty() || host.contains('@') {
                    return Err(wrong());
                }
                None
            }
            Some(("file", path)) => Some(PathBuf::from(path)),
            Some(_) => return Err(wrong()),
            None => Some(PathBuf::from(base)),
        };
        let folder = folder
            .map(|folder| folder.canonicalize().map_err(|_| wrong()))
            .transpose()?;
        let home = TempDir::with_prefix("mayfly-git-")?;
        fs::write(home.path().join("config"), SETTINGS)?;
        let base = base.trim_end_matches('/').to_owned();
        let known = Mutex::default();
        Ok(Self {
            base,
            folder,
            home,
            known,
        })
    }

    /// The mirror as it was named.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.base
    }

    /// The tags and branches of a repository.
    ///
    /// # Errors
    /// [`SourceError`] if the repository is not there or git fails.
    pub async fn refs(&self, repository: &RepositoryName) -> Result<Refs, SourceError> {
        let mut error = None;
        for url in self.urls(repository) {
            let arguments = [
                "ls-remote",
                "--quiet",
                "--",
                &url,
                "refs/tags/*",
                "refs/heads/*",
            ];
            match self.git(repository, self.home.path(), &arguments).await {
                Ok(listing) => return Ok(refs(&String::from_utf8_lossy(&listing))),
                Err(failed) => error = error.or(Some(failed)),
            }
        }
        Err(error.unwrap_or_else(|| self.failed(repository, "it is not there")))
    }

    /// Fetches a commit, which a tag or branch of the repository must hold.
    ///
    /// # Errors
    /// [`SourceError::Foreign`] if none does.
    pub async fn fetch(
        &self,
        repository: &RepositoryName,
        refs: &Refs,
        commit: &str,
    ) -> Result<Fetched<'_>, SourceError> {
        let named = || (repository.to_string(), commit.to_owned());
        let foreign = || {
            let (repository, commit) = named();
            SourceError::Foreign { repository, commit }
        };
        if !is_commit_id(commit) {
            return Err(foreign());
        }
        let folder = TempDir::new_in(self.home.path())?;
        let init = ["init", "--quiet", "--bare", "--template=", "."];
        self.git(repository, folder.path(), &init).await?;
        fs::create_dir_all(folder.path().join("info"))?;
        fs::write(folder.path().join("info/attributes"), ATTRIBUTES)?;
        match refs.tip(commit) {
            Some(tip) => {
                let spec = format!("+{tip}:refs/mayfly/pin");
                self.fetch_specs(repository, folder.path(), &["--depth=1"], &[&spec])
                    .await?;
                let arguments = [
                    "rev-parse",
                    "--verify",
                    "--quiet",
                    "refs/mayfly/pin^{commit}",
                ];
                let found = self.git(repository, folder.path(), &arguments).await?;
                if found.trim_ascii_end() != commit.as_bytes() {
                    let (repository, commit) = named();
                    return Err(SourceError::Raced { repository, commit });
                }
            }
            None => {
                let specs = ["+refs/tags/*:refs/tags/*", "+refs/heads/*:refs/heads/*"];
                self.fetch_specs(repository, folder.path(), &[], &specs)
                    .await?;
                let arguments = ["for-each-ref", "--count=1", "--contains", commit];
                let holding = self.git(repository, folder.path(), &arguments).await;
                if holding.map_err(|_| foreign())?.is_empty() {
                    return Err(foreign());
                }
            }
        }
        let (repository, commit) = named();
        Ok(Fetched {
            mirror: self,
            repository,
            commit,
            folder,
        })
    }

    async fn fetch_specs(
        &self,
        repository: &RepositoryName,
        folder: &Path,
        options: &[&str],
        specs: &[&str],
    ) -> Result<(), SourceError> {
        let mut error = None;
        for url in self.urls(repository) {
            let fixed = [
                "fetch",
                "--quiet",
                "--no-tags",
                "--no-recurse-submodules",
                "--no-write-fetch-head",
            ];
            let mut arguments = fixed.to_vec();
            arguments.extend(options);
            arguments.extend(["--", &url]);
            arguments.extend(specs);
            match self.git(repository, folder, &arguments).await {
                Ok(_) => return Ok(()),
                Err(failed) => error = error.or(Some(failed)),
            }
        }
        Err(error.unwrap_or_else(|| self.failed(repository, "it is not there")))
    }

    /// Where a repository may be: with and without `.git`, and in small letters, which GitHub does not tell
    /// apart from others.
    fn urls(&self, repository: &RepositoryName) -> Vec<String> {
        let mut names = vec![format!("{repository}.git"), repository.to_string()];
        let key = repository.key();
        if !names.contains(&key) {
            names.extend([format!("{key}.git"), key]);
        }
        match &self.folder {
            None => {
                let names = names.iter();
                names.map(|name| format!("{}/{name}", self.base)).collect()
            }
            Some(folder) => {
                let there = names
                    .iter()
                    .map(|name| folder.join(name))
                    .filter(|path| path.is_dir());
                there
                    .map(|path| format!("file://{}", path.display()))
                    .collect()
            }
        }
    }

    fn failed(&self, repository: &RepositoryName, why: &str) -> SourceError {
        let (repository, from) = (repository.to_string(), self.base.clone());
        SourceError::Git {
            repository,
            from,
            why: why.to_owned(),
        }
    }

    /// A git that knows nothing of the user.
    fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .args(arguments)
            .current_dir(folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", self.home.path().join("config"))
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "file:http:https")
            // Never the repository of a folder above.
            .env("GIT_CEILING_DIRECTORIES", folder.parent().unwrap_or(folder))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// The listing of a repository, asked for once.
    async fn listing(&self, repository: &RepositoryName) -> Result<Arc<Refs>, SourceError> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = repository.key();
        if let Some(refs) = known().get(&key) {
            return Ok(Arc::clone(refs));
        }
        let refs = Arc::new(self.refs(repository).await?);
        Ok(Arc::clone(known().entry(key).or_insert(refs)))
    }

    /// Runs git and gives what it printed.
    async fn git(
        &self,
        repository: &RepositoryName,
        folder: &Path,
        arguments: &[&str],
    ) -> Result<Vec<u8>, SourceError> {
        let mut child = self.command(folder, arguments).spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let all = async {
            let (output, said) = tokio::join!(read(stdout, MAX_OUTPUT), read(stderr, 64 * 1024));
            Ok::<_, io::Error>((output?, said?, child.wait().await?))
        };
        let Ok(result) = tokio::time::timeout(TIME_LIMIT, all).await else {
            let why = format!("git took more than {} seconds", TIME_LIMIT.as_secs());
            return Err(self.failed(repository, &why));
        };
        let (output, said, status) = result?;
        if output.len() as u64 > MAX_OUTPUT {
            return Err(self.failed(repository, "git printed more than is allowed"));
        }
        if !status.success() {
            let said = String::from_utf8_lossy(&said);
            let why = said.lines().last().unwrap_or("git failed without a word");
            return Err(self.failed(repository, &crate::printable::line(why)));
        }
        Ok(output)
    }
}

impl Upstream for GitMirror {
    fn name(&self) -> &str {
        &self.base
    }

    fn find<'a>(
        &'a self,
        repository: &'a RepositoryName,
        reference: &'a str,
    ) -> Answer<'a, Option<Named>> {
        Box::pin(async move {
            let refs = self.listing(repository).await?;
            // A tag could have the name of a commit; what looks like one means it.
            let commit = match is_commit_id(reference) {
                true => Some(reference.to_ascii_lowercase()),
                false => refs.commit(reference).map(str::to_owned),
            };
            let Some(commit) = commit else {
                return Ok(None);
            };
            let version = refs.best(&commit).unwrap_or(reference).to_owned();
            let found = commit.parse().ok();
            Ok(found.map(|commit| Named { commit, version }))
        })
    }

    fn fetch<'a>(
        &'a self,
        repository: &'a RepositoryName,
        commit: CommitId,
    ) -> Answer<'a, Box<dyn Commit + 'a>> {
        Box::pin(async move {
            let refs = self.listing(repository).await?;
            let fetched = self.fetch(repository, &refs, &commit.hex()).await?;
            Ok(Box::new(fetched) as Box<dyn Commit + 'a>)
        })
    }
}

impl Commit for Fetched<'_> {
    fn object(&self) -> Answer<'_, Vec<u8>> {
        Box::pin(self.object())
    }

    fn archive(&self) -> Answer<'_, Archive> {
        Box::pin(async move {
            let arguments = ["archive", "--format=tar", &self.commit];
            let mut command = self.mirror.command(self.folder.path(), &arguments);
            let mut child = command.stderr(Stdio::null()).spawn()?;
            let output = child
                .stdout
                .take()
                .ok_or_else(|| io::Error::other("git has no output"))?;
            let stream = Box::new(Packing {
                output,
                _child: child,
            });
            let layout = Layout::Bare;
            Ok(Archive { stream, layout })
        })
    }

    fn submodules(&self) -> Answer<'_, Submodules> {
        Box::pin(async move {
            let arguments = ["ls-tree", "-r", "-z", "--full-tree", &self.commit];
            Ok(submodules(&self.run(&arguments).await?))
        })
    }

    fn listing(&self) -> Answer<'_, Option<Listing>> {
        Box::pin(async move {
            let arguments = ["ls-tree", "-r", "-z", "--full-tree", &self.commit];
            Ok(Listing::parse(&self.run(&arguments).await?))
        })
    }
}

/// The output of `git archive`, which ends without the end of an archive if git fails.
struct Packing {
    output: ChildStdout,
    /// Ended with the stream.
    _child: Child,
}

impl AsyncRead for Packing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(context, buffer)
    }
}

/// The commits in a listing of `git ls-tree -r -z`.
fn submodules(listing: &[u8]) -> Submodules {
    let entry = |entry: &[u8]| {
        let entry = entry.strip_prefix(b"160000 commit ")?;
        let (id, path) = (entry.get(..40)?, entry.get(41..)?);
        let commit = std::str::from_utf8(id).ok()?.parse().ok()?;
        Some((path.to_vec(), commit))
    };
    listing.split(|&byte| byte == 0).filter_map(entry).collect()
}

impl Fetched<'_> {
    /// The commit.
    #[must_use]
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The commit object: its hash is the commit's id, and it begins with the id of the tree.
    ///
    /// # Errors
    /// [`SourceError`] if git fails.
    pub async fn object(&self) -> Result<Vec<u8>, SourceError> {
        self.run(&["cat-file", "commit", &self.commit]).await
    }

    /// A file of the commit; nothing if there is none of this name.
    ///
    /// # Errors
    /// [`SourceError`] if git fails, or the file is longer than 16 MiB.
    pub async fn file(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let entry = self
            .run(&["ls-tree", "-z", "--full-tree", &self.commit, "--", path])
            .await?;
        let text = String::from_utf8_lossy(&entry).into_owned();
        let mut words = text
            .split(['\t', '\0'])
            .next()
            .unwrap_or_default()
            .split(' ')
            .skip(1);
        match (words.next(), words.next()) {
            (Some("blob"), Some(id)) => self.run(&["cat-file", "blob", id]).await.map(Some),
            _ => Ok(None),
        }
    }

    async fn run(&self, arguments: &[&str]) -> Result<Vec<u8>, SourceError> {
        let name = RepositoryName::parse(&self.repository).unwrap_or(RepositoryName {
            owner: String::new(),
            name: self.repository.clone(),
        });
        self.mirror.git(&name, self.folder.path(), arguments).await
    }
}

/// Reads up to a number of bytes and one, and goes on to read the rest for nobody.
async fn read(from: Option<impl AsyncRead + Unpin>, most: u64) -> io::Result<Vec<u8>> {
    let Some(mut from) = from else {
        return Ok(Vec::new());
    };
    let mut bytes = Vec::new();
    (&mut from).take(most + 1).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    Ok(bytes)
}

/// Reads the listing of `git ls-remote`; `^{}` is the commit of an annotated tag.
fn refs(listing: &str) -> Refs {
    let mut refs = Refs::default();
    for (commit, name) in listing.lines().filter_map(|line| line.split_once('\t')) {
        if !is_commit_id(commit) {
            continue;
        }
        if let Some(branch) = name.strip_prefix("refs/heads/") {
            refs.branches.insert(branch.to_owned(), commit.to_owned());
        } else if let Some(tag) = name.strip_prefix("refs/tags/") {
            // The commit stands behind the tag's own line and takes its place.
            let tag = tag.strip_suffix("^{}").unwrap_or(tag);
            refs.tags.insert(tag.to_owned(), commit.to_owned());
        }
    }
    refs
}
