//! `mayfly pin`: `uses:` of workflow files rewritten to commit ids, looked up in a git mirror.
//!
//! Lock files are not written yet: a reference is pinned when it names a commit.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{CommandResult, Exit, Failure};
use crate::action::find::{self, Found, Target};
use crate::action::reference::{Reference, RepositoryReference};
use crate::action::rewrite::{Rewrite, rewrite};
use crate::action::source::{GitMirror, Refs};
use crate::printable;
use crate::workflow::source::{MAX_FILE_BYTES, Source};

/// Pins the actions that workflow files use themselves to commits.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mayfly pin --check\n  mayfly pin --write-sha --mirror /srv/git .github/workflows/ci.yml\n\n\
                        Exit codes: 0 all is pinned, 1 something is not, 2 a file or the command line is wrong,\n\
                        3 the mirror does not answer."
)]
pub struct PinArgs {
    /// Workflow files; without one, those in .github/workflows.
    paths: Vec<PathBuf>,
    /// Change nothing; fail on every reference that names no commit or digest.
    #[arg(
        long,
        required_unless_present = "write_sha",
        conflicts_with = "write_sha"
    )]
    check: bool,
    /// Rewrite `uses: owner/repo@v4` to `@<commit> # v4.3.1`, all else byte for byte.
    #[arg(long, requires = "mirror")]
    write_sha: bool,
    /// Folder or URL below which the repositories lie as `owner/repo`, with or without `.git`.
    #[arg(long, value_name = "DIR|URL")]
    mirror: Option<String>,
}

pub fn pin(args: &PinArgs) -> CommandResult {
    let files = files(&args.paths)?;
    match &args.mirror {
        Some(base) if args.write_sha => super::runtime()?.block_on(write(base, files)),
        _ => Ok(check(&files)),
    }
}

struct File {
    path: PathBuf,
    text: String,
    found: Vec<Found>,
}

fn files(paths: &[PathBuf]) -> Result<Vec<File>, Failure> {
    let mut paths = paths.to_vec();
    if paths.is_empty() {
        let workflow = |path: &PathBuf| {
            path.extension()
                .is_some_and(|extension| extension == "yml" || extension == "yaml")
        };
        let folder = Path::new(".github/workflows");
        let listed = std::fs::read_dir(folder).map_err(|error| {
            Failure::usage(anyhow::anyhow!(
                "cannot list {}: {error}; name workflow files",
                folder.display()
            ))
        })?;
        paths = listed
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(workflow)
            .collect();
        paths.sort();
    }
    paths.into_iter().map(file).collect()
}

fn file(path: PathBuf) -> Result<File, Failure> {
    let failed =
        |why: String| Failure::usage(anyhow::anyhow!("cannot read {}: {why}", path.display()));
    let length = std::fs::metadata(&path)
        .map_err(|error| failed(error.to_string()))?
        .len();
    if length > MAX_FILE_BYTES as u64 {
        return Err(failed(format!(
            "it is longer than the {MAX_FILE_BYTES} bytes a workflow may have"
        )));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
    let found = find::in_workflow(&Source::new(&path, text.as_str())).map_err(Failure::usage)?;
    Ok(File { path, text, found })
}

/// Why a reference is not pinned; nothing if it is, or belongs to the repository itself.
fn unpinned(found: &Found) -> Option<String> {
    match &found.target {
        Err(error) => Some(error.to_string()),
        Ok(Target::Use(reference) | Target::Call(reference)) => match reference {
            Reference::Repository(action) if action.commit().is_none() => Some(format!(
                "`{action}` names no commit; run `mayfly pin --write-sha`"
            )),
            Reference::Image(image) if image.digest.is_none() => Some(format!(
                "the image `{image}` has no digest; write `{image}@sha256:…`"
            )),
            _ => None,
        },
        Ok(Target::Dockerfile(_)) => None,
    }
}

fn check(files: &[File]) -> Exit {
    let mut exit = Exit::Success;
    for file in files {
        for found in &file.found {
            if let Some(why) = unpinned(found) {
                let (path, line, column) = (file.path.display(), found.line, found.column);
                println!(
                    "{}",
                    printable::line(&format!("{path}:{line}:{column}: {why}"))
                );
                exit = Exit::Failed;
            }
        }
    }
    exit
}

async fn write(base: &str, files: Vec<File>) -> CommandResult {
    let mirror = GitMirror::open(base).map_err(Failure::usage)?;
    let mut known: BTreeMap<String, Refs> = BTreeMap::new();
    let mut written = Vec::new();
    for file in &files {
        let mut rewrites = Vec::new();
        for found in &file.found {
            let (
                Ok(
                    Target::Use(Reference::Repository(action))
                    | Target::Call(Reference::Repository(action)),
                ),
                Some(span),
            ) = (&found.target, &found.span)
            else {
                continue;
            };
            if action.commit().is_some() {
                continue;
            }
            let (commit, version) = resolve(&mirror, &mut known, action).await?;
            println!(
                "{commit} {:<12} {}",
                printable::line(&version),
                printable::line(&action.to_string())
            );
            rewrites.push(Rewrite {
                span: span.clone(),
                commit,
                version,
            });
        }
        let new = rewrite(&file.path.display().to_string(), &file.text, &rewrites)
            .map_err(Failure::usage)?;
        if new != file.text {
            written.push((&file.path, new));
        }
    }
    // Nothing is written before all is known.
    for (path, new) in written {
        replace(path, &new)?;
    }
    let files = files
        .into_iter()
        .map(|old| file(old.path))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(check(&files))
}

/// The commit of a reference and the most exact name that it has.
async fn resolve(
    mirror: &GitMirror,
    known: &mut BTreeMap<String, Refs>,
    action: &RepositoryReference,
) -> Result<(String, String), Failure> {
    let key = action.repository.key();
    if !known.contains_key(&key) {
        known.insert(key.clone(), mirror.refs(&action.repository).await?);
    }
    let refs = known.get(&key);
    let commit = refs
        .and_then(|refs| refs.commit(&action.reference))
        .ok_or_else(|| {
            let (repository, reference) = (&action.repository, &action.reference);
            Failure::usage(anyhow::anyhow!(
                "{repository} has no tag or branch `{reference}`; is the mirror up to date?"
            ))
        })?;
    let best = refs
        .and_then(|refs| refs.best(commit))
        .unwrap_or(&action.reference);
    Ok((commit.to_owned(), best.to_owned()))
}

/// Puts a file's new text in its place whole, with the permissions that it had.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(std::fs::metadata(path)?.permissions())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn references_are_rewritten_from_a_mirror_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("octo/tool");
        std::fs::create_dir_all(&repository).unwrap();
        let git = |arguments: &[&str]| -> String {
            let output = Command::new("git")
                .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
                .args(arguments)
                .current_dir(&repository)
                .output()
                .unwrap();
            assert!(output.status.success());
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        git(&["init", "-q"]);
        git(&["commit", "-q", "--allow-empty", "-m", "x"]);
        git(&["tag", "v1"]);
        git(&["tag", "v1.2.3"]);
        let commit = git(&["rev-parse", "HEAD"]);
        let path = folder.path().join("ci.yml");
        let text =
            "jobs:\n  a:\n    steps:\n      - uses: octo/tool/sub@v1 # why\n      - uses: ./own\n";
        std::fs::write(&path, text).unwrap();
        let args = |write_sha: bool| PinArgs {
            paths: vec![path.clone()],
            check: !write_sha,
            write_sha,
            mirror: write_sha.then(|| folder.path().display().to_string()),
        };
        assert_eq!(pin(&args(false)).unwrap(), Exit::Failed);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(pin(&args(true)).unwrap(), Exit::Success);
        let expected = text.replace("@v1 #", &format!("@{commit} # v1.2.3 #"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(pin(&args(false)).unwrap(), Exit::Success);
        // A tag that is not there: nothing is written.
        let gone =
            "jobs:\n  a:\n    steps:\n      - uses: octo/tool@v1\n      - uses: octo/tool@v9\n";
        std::fs::write(&path, gone).unwrap();
        assert_eq!(pin(&args(true)).unwrap_err().exit, Exit::Usage);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), gone);
    }
}
