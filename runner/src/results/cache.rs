//! Cache entries of a repository on disk: immutable, written whole, evicted by size and by age.
//!
//! An entry is `<digest of scope, version and key>.blob` and `.json` beside it; it is there when the
//! latter is. Nothing that a guest says is part of a path. The time of the blob is its last use.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest key, in characters, as at GitHub.
const MAX_KEY: usize = 512;
/// Longest version, in bytes; the packages send 64.
const MAX_VERSION: usize = 256;
/// Most entries of a repository.
const MAX_ENTRIES: usize = 10_000;
/// Largest description of an entry, in bytes.
const MAX_DESCRIPTION: u64 = 16 << 10;

/// How much a repository may keep, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// Bytes of all entries.
    pub size: u64,
    /// An entry that nobody used for this time goes.
    pub unused: Duration,
}

impl Default for CacheLimits {
    /// GitHub's: 10 GiB, 7 days.
    fn default() -> Self {
        Self {
            size: 10 << 30,
            unused: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// What an entry is found by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryName {
    /// The reference (`refs/heads/main`) whose runs made it.
    pub scope: String,
    /// Digest of paths and compression, made by the package.
    pub version: String,
    /// The key that the workflow chose.
    pub key: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Description {
    #[serde(flatten)]
    name: EntryName,
    size: u64,
    sha256: String,
    /// Nanoseconds since the epoch.
    created: u128,
}

/// An entry that was found.
#[derive(Debug)]
pub struct Found {
    /// Its name.
    pub name: EntryName,
    /// Its content, checked.
    pub content: File,
    /// Length of the content.
    pub size: u64,
}

/// Why an entry was not kept or found.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The key is none.
    #[error("the cache key must have 1 to {MAX_KEY} characters and no comma or control character")]
    Key,
    /// The version is none.
    #[error("the cache version must have 1 to {MAX_VERSION} bytes of printable ASCII")]
    Version,
    /// There is such an entry.
    #[error("cache entry with the same key, version, and scope already exists")]
    Exists,
    /// Larger than all entries may be.
    #[error("a cache of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The disk.
    #[error("{0}: {1}; is the disk full?")]
    Io(PathBuf, #[source] io::Error),
}

/// The entries of one repository.
#[derive(Debug, Clone)]
pub struct RepositoryCache {
    folder: PathBuf,
    limits: CacheLimits,
}

/// Checks a key and a version.
///
/// # Errors
/// [`CacheError::Key`] or [`CacheError::Version`].
pub fn check(key: &str, version: &str) -> Result<(), CacheError> {
    if key.is_empty()
        || key.chars().count() > MAX_KEY
        || key.contains(|c: char| c == ',' || c.is_control())
    {
        return Err(CacheError::Key);
    }
    let printable = version.bytes().all(|byte| byte.is_ascii_graphic());
    if version.is_empty() || version.len() > MAX_VERSION || !printable {
        return Err(CacheError::Version);
    }
    Ok(())
}

impl RepositoryCache {
    /// The entries of `repository` below `folder`, made when the first one is kept.
    #[must_use]
    pub fn new(folder: &Path, repository: &str, limits: CacheLimits) -> Self {
        Self {
            folder: folder.join(hex::encode(Sha256::digest(repository))),
            limits,
        }
    }

    /// Whether there is an entry of exactly this name.
    #[must_use]
    pub fn has(&self, name: &EntryName) -> bool {
        self.description(&stem(name)).is_some()
    }

    /// Keeps what `write` writes as a new entry, whole or not at all, and evicts older ones.
    ///
    /// # Errors
    /// [`CacheError`]; nothing of the entry is there then.
    pub fn keep(
        &self,
        name: EntryName,
        size: u64,
        content: &mut dyn io::Read,
    ) -> Result<(), CacheError> {
        check(&name.key, &name.version)?;
        let limit = self.limits.size;
        if size > limit {
            return Err(CacheError::TooLarge { size, limit });
        }
        let _lock = self.lock()?;
        if self.has(&name) {
            return Err(CacheError::Exists);
        }
        let stem = stem(&name);
        let failed = |error| self.failed(error);
        let mut blob = tempfile::NamedTempFile::new_in(&self.folder).map_err(failed)?;
        let sha256 = copy(content, blob.as_file_mut(), size).map_err(failed)?;
        let created = since_epoch(SystemTime::now()).as_nanos();
        let description = Description {
            name,
            size,
            sha256,
            created,
        };
        let json = serde_json::to_vec(&description).map_err(|error| failed(error.into()))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(failed)?;
        file.write_all(&json)
            .and_then(|()| file.as_file().sync_all())
            .map_err(failed)?;
        blob.persist(self.path(&stem, "blob"))
            .map_err(|error| failed(error.error))?;
        file.persist(self.path(&stem, "json"))
            .map_err(|error| failed(error.error))?;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        self.evict(SystemTime::now());
        Ok(())
    }

    /// The entry for `key`, or else for one of `restore_keys`: in each scope in turn the very key,
    /// then the newest that begins with it. One whose content is not what was kept is removed.
    #[must_use]
    pub fn find(
        &self,
        scopes: &[String],
        version: &str,
        key: &str,
        restore_keys: &[String],
    ) -> Option<Found> {
        let mut entries = self.entries();
        entries.retain(|entry| entry.name.version == version);
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.created));
        loop {
            let at = scopes.iter().find_map(|scope| {
                let within = |matches: &dyn Fn(&str) -> bool| {
                    let mut all = entries.iter();
                    all.position(|entry| entry.name.scope == *scope && matches(&entry.name.key))
                };
                let prefix = |wanted: &str| {
                    within(&|key| key == wanted).or_else(|| within(&|key| key.starts_with(wanted)))
                };
                prefix(key).or_else(|| restore_keys.iter().find_map(|wanted| prefix(wanted)))
            })?;
            let entry = entries.remove(at);
            if let Some(found) = self.open(entry) {
                return Some(found);
            }
        }
    }

    /// Opens an entry, checks its content and notes its use.
    fn open(&self, entry: Description) -> Option<Found> {
        let stem = stem(&entry.name);
        let mut content = File::open(self.path(&stem, "blob")).ok()?;
        match copy(&mut content, &mut io::sink(), entry.size) {
            Ok(sha256) if sha256 == entry.sha256 => {
                // Only its place in the order of eviction depends on it.
                let _ = content.set_modified(SystemTime::now());
                Some(Found {
                    name: entry.name,
                    content,
                    size: entry.size,
                })
            }
            _ => {
                tracing::warn!(
                    key = entry.name.key,
                    "a cache entry was damaged and is removed"
                );
                self.remove(&stem);
                None
            }
        }
    }

    /// Removes entries that nobody used for too long, then those least recently used until all fit;
    /// and what a command that was killed left behind.
    fn evict(&self, now: SystemTime) {
        let mut entries: Vec<_> = self
            .entries()
            .into_iter()
            .map(|e| (stem(&e.name), e.size))
            .collect();
        let used = |stem: &str| {
            let blob = fs::metadata(self.path(stem, "blob"));
            blob.and_then(|blob| blob.modified())
                .unwrap_or(SystemTime::UNIX_EPOCH)
        };
        entries.sort_by_key(|(stem, _)| std::cmp::Reverse(used(stem)));
        let (mut size, mut count) = (0_u64, 0);
        for (stem, length) in &entries {
            let idle = now.duration_since(used(stem)).unwrap_or_default();
            size = size.saturating_add(*length);
            count += 1;
            if idle > self.limits.unused || size > self.limits.size || count > MAX_ENTRIES {
                size -= length;
                self.remove(stem);
            }
        }
    }

    fn remove(&self, stem: &str) {
        // The description first: an entry without one is not there.
        for kind in ["json", "blob"] {
            let _ = fs::remove_file(self.path(stem, kind));
        }
    }

    fn entries(&self) -> Vec<Description> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        names
            .filter_map(|name| self.description(name.strip_suffix(".json")?))
            .take(2 * MAX_ENTRIES)
            .collect()
    }

    fn description(&self, named: &str) -> Option<Description> {
        let file = File::open(self.path(named, "json")).ok()?;
        let read = serde_json::from_reader(io::Read::take(file, MAX_DESCRIPTION));
        read.ok()
            .filter(|found: &Description| stem(&found.name) == named)
    }

    fn lock(&self) -> Result<File, CacheError> {
        let failed = |error| self.failed(error);
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(failed)?;
        let file = File::create(self.folder.join("lock")).map_err(failed)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        Ok(file)
    }

    fn path(&self, stem: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{stem}.{kind}"))
    }

    fn failed(&self, error: io::Error) -> CacheError {
        CacheError::Io(self.folder.clone(), error)
    }
}

/// Copies exactly `size` bytes and gives their digest; the copy is on the disk then.
fn copy(from: &mut dyn io::Read, to: &mut dyn Sink, size: u64) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut piece = vec![0; 256 << 10];
    let mut left = size;
    loop {
        let read = from.read(&mut piece)?;
        left = match left.checked_sub(read as u64) {
            Some(left) if read > 0 => left,
            Some(0) => break,
            _ => return Err(io::Error::other("the content has another length")),
        };
        digest.update(&piece[..read]);
        to.write_all(&piece[..read])?;
    }
    to.settle()?;
    Ok(hex::encode(digest.finalize()))
}

/// Where a copy goes.
trait Sink: Write {
    fn settle(&mut self) -> io::Result<()>;
}

impl Sink for File {
    fn settle(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Sink for io::Sink {
    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stem(name: &EntryName) -> String {
    let mut digest = Sha256::new();
    for part in [&name.scope, &name.version, &name.key] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    hex::encode(digest.finalize())
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(size: u64) -> (tempfile::TempDir, RepositoryCache) {
        let folder = tempfile::tempdir().unwrap();
        let limits = CacheLimits {
            size,
            ..CacheLimits::default()
        };
        let cache = RepositoryCache::new(folder.path(), "octo/hello", limits);
        (folder, cache)
    }

    fn name(scope: &str, key: &str) -> EntryName {
        EntryName {
            scope: scope.into(),
            version: "v".into(),
            key: key.into(),
        }
    }

    fn keep(cache: &RepositoryCache, scope: &str, key: &str) -> Result<(), CacheError> {
        let content = format!("{scope} {key}");
        cache.keep(
            name(scope, key),
            content.len() as u64,
            &mut content.as_bytes(),
        )
    }

    fn found(cache: &RepositoryCache, scopes: &[&str], key: &str, more: &[&str]) -> Option<String> {
        let own = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let found = cache.find(&own(scopes), "v", key, &own(more))?;
        Some(format!("{} {}", found.name.scope, found.name.key))
    }

    #[test]
    fn the_very_key_wins_then_the_newest_prefix_then_restore_keys_scope_by_scope() {
        let (_folder, cache) = cache(1 << 20);
        for (scope, key) in [
            ("main", "npm-1"),
            ("main", "npm-2"),
            ("pr", "go-1"),
            ("main", "npm-1x"),
        ] {
            keep(&cache, scope, key).unwrap();
        }
        let scopes = ["pr", "main"];
        assert_eq!(
            found(&cache, &scopes, "npm-1", &[]).as_deref(),
            Some("main npm-1")
        );
        assert_eq!(
            found(&cache, &scopes, "npm-", &[]).as_deref(),
            Some("main npm-1x")
        );
        assert_eq!(
            found(&cache, &scopes, "x", &["y", "npm-2"]).as_deref(),
            Some("main npm-2")
        );
        // What the own scope has by a restore key comes before the very key of another scope.
        assert_eq!(
            found(&cache, &scopes, "npm-1", &["go-"]).as_deref(),
            Some("pr go-1")
        );
        assert_eq!(found(&cache, &["pr"], "npm-1", &[]), None);
        assert!(
            cache
                .find(&["main".into()], "other", "npm-1", &[])
                .is_none()
        );
        let other = RepositoryCache::new(_folder.path(), "octo/other", CacheLimits::default());
        assert_eq!(found(&other, &scopes, "npm-1", &[]), None);
    }

    #[test]
    fn an_entry_never_changes_and_a_damaged_one_is_removed() {
        let (_folder, cache) = cache(1 << 20);
        keep(&cache, "main", "k").unwrap();
        assert!(matches!(keep(&cache, "main", "k"), Err(CacheError::Exists)));
        let blob = cache.path(&stem(&name("main", "k")), "blob");
        fs::write(&blob, "main X").unwrap();
        assert_eq!(found(&cache, &["main"], "k", &[]), None);
        assert!(!blob.exists());
        keep(&cache, "main", "k").unwrap();
    }

    #[test]
    fn content_of_another_length_than_announced_is_not_kept() {
        let (_folder, cache) = cache(1 << 20);
        for size in [3, 5] {
            let kept = cache.keep(name("main", "k"), size, &mut &b"four"[..]);
            assert!(matches!(kept, Err(CacheError::Io(..))));
        }
        assert_eq!(found(&cache, &["main"], "k", &[]), None);
        let files = fs::read_dir(&cache.folder).unwrap().count();
        assert_eq!(files, 1, "only the lock is left");
    }

    #[test]
    fn the_least_recently_used_goes_when_the_size_is_over_and_the_unused_with_time() {
        let (_folder, cache) = cache(14);
        keep(&cache, "main", "a").unwrap();
        keep(&cache, "main", "b").unwrap();
        let age = |key: &str, seconds| {
            let blob = cache.path(&stem(&name("main", key)), "blob");
            let past = SystemTime::now() - Duration::from_secs(seconds);
            File::open(blob).unwrap().set_modified(past).unwrap();
        };
        age("a", 50);
        age("b", 40);
        // Its use makes `a` younger than `b`.
        assert!(found(&cache, &["main"], "a", &[]).is_some());
        keep(&cache, "main", "c").unwrap();
        assert_eq!(found(&cache, &["main"], "b", &[]), None);
        age("a", 8 * 24 * 3600);
        cache.evict(SystemTime::now());
        assert_eq!(found(&cache, &["main"], "a", &[]), None);
        assert!(found(&cache, &["main"], "c", &[]).is_some());
        assert!(matches!(
            keep(&cache, "main", "much too large"),
            Err(CacheError::TooLarge { .. })
        ));
    }

    #[test]
    fn keys_and_versions_that_are_none_are_refused() {
        for key in ["", "a,b", "a\nb", &"x".repeat(513)] {
            assert!(matches!(check(key, "v"), Err(CacheError::Key)), "{key}");
        }
        for version in ["", "a b", &"x".repeat(257)] {
            assert!(
                matches!(check("k", version), Err(CacheError::Version)),
                "{version}"
            );
        }
        assert!(
            check("../../etc/passwd", "../v").is_ok(),
            "no path is made of them"
        );
    }
}
