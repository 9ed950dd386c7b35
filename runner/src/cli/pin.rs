//! `mayfly pin`: what workflows use, resolved to the end and written into lock files.
//!
//! The lock files are `.github/workflows/actions.lock`, GitHub's own, and `mayfly.lock` beside it.

mod annotate;
mod files;
mod report;
mod write;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::progress::Resolving;
use super::{CommandResult, Exit, Failure};
use crate::action::lockfile::PinKey;
use crate::action::registry::{Credentials, Registries};
use crate::action::resolve::{
    Graph, KnownNumbers, Locks, Offender, Resolver, Unknown, Update, Wrong, check,
};
use crate::action::source::{GITHUB_API, GitHub, GitMirror, NoUpstream, Upstream};
use crate::action::store::ActionStore;
use crate::checkout::Checkout;
use crate::config::{Installation, Settings};
use files::File;
use report::Report;

/// Pins what workflows use, followed to the end, in lock files.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mayfly pin                                 # lock what is new; what is locked stays\n  \
                        mayfly pin --update actions/checkout       # take what its tags stand for now\n  \
                        mayfly pin --write-sha ci.yml              # and write commit ids into the file\n  \
                        mayfly pin --check --format github         # in CI\n\n\
                        Exit codes: 0 all is pinned, 1 something is not, or is not what was locked, 2 a file or the\n\
                        command line is wrong, 3 the source does not answer or this machine cannot do it."
)]
pub struct PinArgs {
    /// Workflow files, or action.yml of this repository; without one, those in .github/workflows.
    paths: Vec<PathBuf>,
    /// Change nothing; fail on everything that is unpinned, stale, moved or cannot be verified.
    #[arg(long, conflicts_with_all = ["write_sha", "update"])]
    check: bool,
    /// With --check: look at the files and the lock files only. Whether tags moved is not asked.
    #[arg(long, requires = "check", conflicts_with = "mirror")]
    offline: bool,
    /// Write one JSON object, as --json prints it, into this file, too.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Resolve locked references anew: `owner/repo@ref`, `owner/repo` or an image; without one, all.
    #[arg(long, value_name = "REF", num_args = 0..)]
    update: Option<Vec<String>>,
    /// Rewrite `uses: owner/repo@v4` to `@<commit> # v4.3.1`, all else byte for byte.
    #[arg(long)]
    write_sha: bool,
    /// Folder or URL below which the repositories lie as `owner/repo`, with or without `.git`.
    #[arg(long, value_name = "DIR|URL")]
    mirror: Option<String>,
    /// Without a mirror: GitHub's API, github.com's or that of an Enterprise Server.
    #[arg(long, value_name = "URL", env = "GITHUB_API_URL", default_value = GITHUB_API)]
    api_url: String,
    /// File that holds a token for the API; without one, that of GITHUB_TOKEN, or none.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Print annotations and write a step summary.
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// How to print for another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// `::error file=…::` and `GITHUB_STEP_SUMMARY`.
    Github,
}

pub fn pin(args: &PinArgs) -> CommandResult {
    let store = ActionStore::at(Installation::locate()?.actions());
    let upstream = upstream(args)?;
    let folder = args.paths.first().map(|path| files::folder_of(path));
    let checkout = checkout(&folder.unwrap_or_else(|| ".".into()));
    let work = Work {
        args,
        upstream,
        registries: registries()?,
        store,
        checkout: checkout.map(Arc::new),
    };
    super::runtime()?.block_on(work.run())
}

/// The checkout that holds a folder; in a job whose `.git` was not copied, its workspace.
fn checkout(folder: &Path) -> Option<Checkout> {
    let found = Checkout::containing(folder).ok();
    found.or_else(|| {
        let workspace = std::env::var_os("GITHUB_WORKSPACE")?;
        let (workspace, folder) = (
            Path::new(&workspace).canonicalize().ok()?,
            folder.canonicalize(),
        );
        let inside = folder.ok()?.starts_with(&workspace);
        inside
            .then(|| Checkout::workspace(&workspace).ok())
            .flatten()
    })
}

/// Where repositories are looked up: in the mirror of the command line or of the configuration, else on
/// GitHub.
fn upstream(args: &PinArgs) -> Result<Arc<dyn Upstream>, Failure> {
    if args.offline {
        return Ok(Arc::new(NoUpstream));
    }
    let settings = Settings::load().map_err(Failure::usage)?;
    if let Some(base) = args.mirror.as_ref().or(settings.actions.mirror.as_ref()) {
        return Ok(Arc::new(GitMirror::open(base).map_err(Failure::usage)?));
    }
    let token = token(args.token_file.as_deref())?;
    let github = GitHub::open(&args.api_url, token).map_err(Failure::usage)?;
    Ok(Arc::new(github))
}

/// Registries, with the logins of this process's user.
pub(super) fn registries() -> Result<Registries, Failure> {
    let credentials = Credentials::load().map_err(Failure::usage)?;
    Ok(Registries::new(credentials).map_err(|why| anyhow::anyhow!(why))?)
}

/// The token for GitHub's API, from a file or the environment: never from the command line, which
/// everybody on the machine can read.
pub(super) fn token(file: Option<&Path>) -> Result<Option<SecretString>, Failure> {
    let text = match file {
        Some(path) => {
            let read = std::fs::read_to_string(path);
            Some(read.map_err(|error| {
                Failure::usage(anyhow::anyhow!(
                    "cannot read the token in {}: {error}",
                    path.display()
                ))
            })?)
        }
        None => std::env::var("GITHUB_TOKEN").ok(),
    };
    let text = text.map(Zeroizing::new);
    let token = text
        .as_deref()
        .map(|text| text.trim())
        .filter(|token| !token.is_empty());
    if token.is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Failure::usage(anyhow::anyhow!(
            "the token for GitHub's API has characters that no token has; look at its file or GITHUB_TOKEN"
        )));
    }
    Ok(token.map(SecretString::from))
}

struct Work<'a> {
    args: &'a PinArgs,
    upstream: Arc<dyn Upstream>,
    registries: Registries,
    store: ActionStore,
    checkout: Option<Arc<Checkout>>,
}

impl Work<'_> {
    async fn run(&self) -> CommandResult {
        let root = self
            .checkout
            .as_ref()
            .map(|checkout| checkout.root().to_owned());
        let files = files::read(&self.args.paths, root.as_deref())?;
        let locks = root
            .as_deref()
            .map(Locks::read)
            .transpose()
            .map_err(Failure::usage)?;
        let locks = locks.unwrap_or_default();
        let graph = self
            .resolver(locks.clone())
            .resolve(files::roots(&files))
            .await;
        let whole = self.args.paths.is_empty();
        if self.args.check {
            let offenders = check(&graph, &locks, whole);
            return self.tell(Report::new(graph, offenders, &locks), Vec::new());
        }
        let mut report = Report::new(graph, Vec::new(), &locks);
        report.offenders.clone_from(&report.graph.offenders);
        // Bytes that are not what they should be, or a source that does not answer: nothing is written.
        if exit(&report.offenders) != Exit::Success
            && report
                .offenders
                .iter()
                .any(|offender| matches!(offender.wrong, Wrong::Tampered | Wrong::Unreachable))
        {
            return self.tell(report, Vec::new());
        }
        let mut written = Vec::new();
        if self.args.write_sha {
            written.extend(self.write_sha(&files, &mut report).await?);
        }
        match &root {
            Some(root) => written.extend(self.lock(root, &mut report, locks, whole).await?),
            None if self.args.write_sha => {}
            None => {
                let why =
                    "lock files belong to a git checkout, and this is none; run the command in one";
                return Err(Failure::usage(anyhow::anyhow!(why)));
            }
        }
        self.tell(report, written)
    }

    fn resolver(&self, locks: Locks) -> Resolver {
        let update = match &self.args.update {
            None => Update::Nothing,
            Some(names) if names.is_empty() => Update::All,
            Some(names) => Update::Only(names.iter().map(|name| update_name(name)).collect()),
        };
        Resolver::new(Arc::clone(&self.upstream), self.store.clone(), locks)
            .in_checkout(self.checkout.clone())
            .registries(self.registries.clone())
            .offline(self.args.offline)
            .ask(!self.args.offline)
            .unknown(match self.args.offline {
                true => Unknown::Refuse,
                false => Unknown::Resolve,
            })
            .update(update)
            .on_progress(Resolving::new().into_callback())
    }

    /// Rewrites the files to commit ids, and resolves what they say then.
    async fn write_sha(
        &self,
        files: &[File],
        report: &mut Report,
    ) -> Result<Vec<PathBuf>, Failure> {
        let rewritten = write::rewritten(files, &report.graph)?;
        write::replace_all(&rewritten)?;
        let paths: Vec<PathBuf> = files.iter().map(|file| file.path.clone()).collect();
        let root = self
            .checkout
            .as_ref()
            .map(|checkout| checkout.root().to_owned());
        let files = files::read(&paths, root.as_deref())?;
        // All is known already, and where tags stand was asked: nothing is looked up again.
        let known = Locks::knowing(&report.graph);
        let resolver = Resolver::new(Arc::clone(&self.upstream), self.store.clone(), known);
        let resolver = resolver.in_checkout(self.checkout.clone()).ask(false);
        report.graph = resolver.resolve(files::roots(&files)).await;
        report.offenders.clone_from(&report.graph.offenders);
        Ok(rewritten.into_iter().map(|(path, _)| path).collect())
    }

    /// Writes the lock files, those that changed.
    async fn lock(
        &self,
        root: &Path,
        report: &mut Report,
        locks: Locks,
        whole: bool,
    ) -> Result<Vec<PathBuf>, Failure> {
        let known = locks.workflows().into_iter();
        let gone = known.filter(|path| match whole {
            true => !report.graph.roots.contains_key(path),
            false => !root.join(path).is_file(),
        });
        let gone: BTreeSet<String> = gone.collect();
        let numbers = self.numbers(&report.graph, &locks).await?;
        let mut new = locks.clone();
        report.notes = new.put(&report.graph, &numbers, &gone);
        report.removed = removed(&locks, &new);
        write::lock_files(root, &new)
    }

    /// GitHub's numbers of all repositories, where the source knows them or the lock has them.
    async fn numbers(&self, graph: &Graph, locks: &Locks) -> Result<KnownNumbers, Failure> {
        let mut known = locks.numbers();
        for entry in graph.entries.values() {
            let Some(pin) = entry.pin.as_ref().and_then(|pin| pin.action()) else {
                continue;
            };
            let key = pin.repository.key();
            if !known.contains_key(&key)
                && let Some(numbers) = self.upstream.numbers(&pin.repository).await?
            {
                known.insert(key, numbers);
            }
        }
        Ok(known)
    }

    fn tell(&self, mut report: Report, written: Vec<PathBuf>) -> CommandResult {
        report.written = written;
        if let Some(path) = &self.args.report {
            let text = serde_json::to_string_pretty(&report.json())?;
            write::replace(path, &text)?;
        }
        if self.args.json {
            println!("{}", serde_json::to_string_pretty(&report.json())?);
        } else if self.args.format == Some(Format::Github) {
            annotate::print(&report)?;
        } else {
            report.print();
        }
        Ok(exit(&report.offenders))
    }
}

/// What offenders mean for the caller: only where nothing but the source failed, it is that.
fn exit(offenders: &[Offender]) -> Exit {
    let unreachable = |offender: &Offender| offender.wrong == Wrong::Unreachable;
    match offenders {
        [] => Exit::Success,
        offenders if offenders.iter().all(unreachable) => Exit::Machine,
        _ => Exit::Failed,
    }
}

/// A name of `--update` as keys are spelled: repositories in lower case, images in full.
fn update_name(name: &str) -> String {
    let short = name.strip_prefix("docker://").unwrap_or(name);
    match PinKey::parse(name) {
        Some(key @ PinKey::Action(_)) => key.to_string(),
        _ => match crate::action::reference::RepositoryName::parse(name) {
            Some(repository) => repository.key(),
            None => crate::action::image::ImageReference::parse(short)
                .map_or_else(|_| name.to_owned(), |image| image.key()),
        },
    }
}

/// Entries that are in the lock no more.
fn removed(old: &Locks, new: &Locks) -> Vec<PinKey> {
    let keys = |locks: &Locks| -> BTreeSet<PinKey> {
        let own = locks.companion.iter().flat_map(|lock| lock.keys());
        let github = locks.actions.iter().flat_map(|lock| lock.dependencies());
        own.chain(github.map(PinKey::Action)).collect()
    };
    keys(old).difference(&keys(new)).cloned().collect()
}

#[cfg(test)]
mod tests;
