//! What verifying costs: a stored action against `sha256sum` of the same file, and 50 references of a
//! workflow from a warm store. Runs no guest.
//!
//! `cargo bench -p mayfly-tests --bench pins [-- --json]`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use mayfly::{
    action::{
        digest::ContentDigest,
        fetch::fetch,
        find,
        reference::RepositoryName,
        resolve::{Graph, KnownNumbers, Locks, Resolver, Root},
        source::{GitMirror, Upstream},
        store::ActionStore,
    },
    workflow::source::Source,
};
use mayfly_tests::{conditions::Host, git_server::git, measured, spread::Spread};
use serde::Serialize;

/// How often each figure is measured; the median is told.
const ROUNDS: usize = 9;
/// Size of the large action, and of its files.
const ACTION_MIB: usize = 128;
const FILE_KIB: usize = 512;
/// References of the workflow.
const REFERENCES: usize = 50;
/// Size of each action of the workflow: that of a bundled JavaScript action.
const SMALL_KIB: usize = 512;

#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    /// Size of the stored file, in bytes.
    bytes: u64,
    /// Reading the stored action whole and comparing it with its digest.
    verify_ms: Spread,
    /// `sha256sum` of the same file.
    sha256sum_ms: Spread,
    /// Both digests while an archive comes in: what filling the store costs, git included.
    fill_ms: Spread,
    verify_mb_per_s: f64,
    /// Times that `sha256sum` takes.
    verify_ratio: f64,
    /// References of the workflow, to the end and locked already, tags asked for.
    pin_ms: Spread,
    /// The same without asking where the tags stand.
    pin_unasked_ms: Spread,
}

fn main() -> ExitCode {
    measured::tell(measure(), print)
}

async fn measure() -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let git = folder.path().join("git");
    let mirror = || GitMirror::open(&git.display().to_string());
    let large = repository(&git, "octo/large", ACTION_MIB * 1024 / FILE_KIB)?;
    let name = RepositoryName::parse("octo/large").context("a name")?;
    let mut fills = Vec::new();
    let mut filled = None;
    for round in 0..3 {
        let store = ActionStore::at(folder.path().join(format!("fill-{round}")));
        let begun = Instant::now();
        let proven = fetch(&mirror()?, &store, &name, large.parse()?, None).await?;
        fills.push(begun.elapsed());
        filled = Some((store, proven.content));
    }
    let (store, content) = filled.context("a filled store")?;
    let path = folder.path().join("fill-2").join(content.hex() + ".tar");
    let (verify, sums) = verify(&store, content, &path)?;

    for number in 0..REFERENCES {
        repository(&git, &format!("octo/action-{number}"), SMALL_KIB / FILE_KIB)?;
    }
    let store = ActionStore::at(folder.path().join("actions"));
    let upstream: Arc<dyn Upstream> = Arc::new(mirror()?);
    let resolver = |upstream, locks| Resolver::new(upstream, store.clone(), locks);
    let graph = good(
        resolver(upstream, Locks::default())
            .resolve(workflow()?)
            .await,
    )?;
    let mut locks = Locks::default();
    locks.put(&graph, &KnownNumbers::new(), &Default::default());
    let (mut asked, mut unasked) = (Vec::new(), Vec::new());
    for round in 0..2 * ROUNDS {
        let ask = round % 2 == 0;
        let begun = Instant::now();
        // A mirror remembers what it listed, so each round opens its own, as each command does.
        let resolver = resolver(Arc::new(mirror()?), locks.clone()).ask(ask);
        let graph = good(resolver.resolve(workflow()?).await)?;
        let mut again = locks.clone();
        again.put(&graph, &KnownNumbers::new(), &Default::default());
        ensure!(again.companion == locks.companion, "the lock changed");
        if ask { &mut asked } else { &mut unasked }.push(begun.elapsed());
    }
    let bytes = fs::metadata(&path)?.len();
    let (verify, sums) = (Spread::of(verify), Spread::of(sums));
    Ok(Report {
        host: Host::here(),
        bytes,
        verify_mb_per_s: bytes as f64 / 1000.0 / verify.median,
        verify_ratio: verify.median / sums.median,
        verify_ms: verify,
        sha256sum_ms: sums,
        fill_ms: Spread::of(fills),
        pin_ms: Spread::of(asked),
        pin_unasked_ms: Spread::of(unasked),
    })
}

/// Times of verifying and of `sha256sum`, by turns, so that what else the machine does meets both.
fn verify(
    store: &ActionStore,
    content: ContentDigest,
    path: &Path,
) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut verify, mut sums) = (Vec::new(), Vec::new());
    // The first round brings the file into the page cache.
    for round in 0..=ROUNDS {
        let begun = Instant::now();
        store.verify(content)?;
        let verified = begun.elapsed();
        let begun = Instant::now();
        let output = Command::new("sha256sum").arg(path).output()?;
        let summed = begun.elapsed();
        ensure!(
            output.status.success(),
            "sha256sum ended with {}",
            output.status
        );
        if round > 0 {
            verify.push(verified);
            sums.push(summed);
        }
    }
    Ok((verify, sums))
}

fn good(graph: Graph) -> Result<Graph> {
    match graph.offenders.first() {
        None => Ok(graph),
        Some(offender) => bail!("{offender}"),
    }
}

/// A workflow that uses all small actions.
fn workflow() -> Result<Vec<Root>> {
    let steps = (0..REFERENCES).map(|number| format!("      - uses: octo/action-{number}@v1\n"));
    let text = format!("jobs:\n  a:\n    steps:\n{}", steps.collect::<String>());
    let file = ".github/workflows/ci.yml".to_owned();
    let found = find::in_workflow(&Source::new(&file, text))?;
    Ok(vec![Root { file, found }])
}

/// A repository with a manifest and files that do not compress, tagged v1; its commit.
fn repository(mirror: &Path, name: &str, files: usize) -> Result<String> {
    let folder: PathBuf = mirror.join(name);
    fs::create_dir_all(&folder)?;
    fs::write(
        folder.join("action.yml"),
        "runs: {using: node20, main: 0.js}\n",
    )?;
    let mut state = name
        .bytes()
        .fold(1_u64, |state, byte| state * 31 + u64::from(byte));
    for number in 0..files {
        let bytes = (0..FILE_KIB * 128).flat_map(|_| {
            // xorshift64: enough that nothing repeats.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        fs::write(
            folder.join(format!("{number}.js")),
            bytes.collect::<Vec<u8>>(),
        )?;
    }
    git(&folder, &["init", "-q"]);
    git(&folder, &["add", "."]);
    git(&folder, &["commit", "-q", "-m", "x"]);
    git(&folder, &["tag", "v1"]);
    Ok(git(&folder, &["rev-parse", "HEAD"]).trim().to_owned())
}

fn print(report: &Report) {
    println!("{}", report.host);
    println!(
        "action {} MiB in files of {FILE_KIB} KiB",
        report.bytes >> 20
    );
    let spread = |what: &str, spread: &Spread| println!("{what:<48} {spread}");
    spread("a stored action verified", &report.verify_ms);
    spread("sha256sum of the same file", &report.sha256sum_ms);
    println!("{:<48} {:>8.0} MB/s", "verified", report.verify_mb_per_s);
    println!(
        "{:<48} {:>8.2} x",
        "verified against sha256sum", report.verify_ratio
    );
    spread(
        "fetched from a mirror, both digests, stored",
        &report.fill_ms,
    );
    spread(
        "pin of 50 references, warm store, tags asked",
        &report.pin_ms,
    );
    spread("the same, tags not asked", &report.pin_unasked_ms);
}
