//! Roots that `mmdebstrap` made, kept for some days: an image that is built again because Mayfly itself
//! changed need not install the same packages again.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tempfile::NamedTempFile;

use crate::digest::Digest;

/// How long one is used: security updates come in after that, or with `--rebuild` at once.
const AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The place of one root, by all that decides what it is.
pub(super) struct Kept {
    folder: PathBuf,
    path: PathBuf,
}

impl Kept {
    /// The place of the root that a command with these arguments makes.
    pub(super) fn new(cache: &Path, arguments: &[String]) -> Self {
        let folder = cache.join("debian");
        let name = Digest::of(arguments.join("\0").as_bytes()).to_string();
        let path = folder.join(name.replace(':', "-") + ".tar");
        Self { folder, path }
    }

    /// The root, if it is there and not too old. What cannot be used is made anew.
    pub(super) fn open(&self) -> Option<File> {
        let made = fs::metadata(&self.path).ok()?.modified().ok()?;
        let age = SystemTime::now().duration_since(made).unwrap_or_default();
        let file = File::open(&self.path);
        file.ok().filter(|_| age < AGE)
    }

    /// A reader that writes down what it reads, as long as there is room for it.
    pub(super) fn recorder<R: Read>(&self, input: R) -> Recorder<R> {
        let make = || {
            fs::create_dir_all(&self.folder)?;
            NamedTempFile::new_in(&self.folder)
        };
        let file = make().ok();
        Recorder { input, file }
    }

    /// Puts what was written down in its place, and takes away what is too old.
    pub(super) fn keep(&self, file: NamedTempFile) -> io::Result<()> {
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let made = entry.metadata().and_then(|found| found.modified());
            let age = made.map(|made| SystemTime::now().duration_since(made).unwrap_or_default());
            if age.is_ok_and(|age| age >= AGE) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// See [`Kept::recorder`].
pub(super) struct Recorder<R> {
    input: R,
    file: Option<NamedTempFile>,
}

impl<R: Read> Recorder<R> {
    /// Reads to the end, and gives what was written down, if all of it was.
    pub(super) fn finish(mut self) -> io::Result<Option<NamedTempFile>> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.file)
    }
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        let written = self
            .file
            .as_mut()
            .map(|file| file.write_all(&buffer[..read]));
        // A cache that cannot be written is no reason not to build.
        if written.is_some_and(|written| written.is_err()) {
            self.file = None;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> [String; 1] {
        [text.to_owned()]
    }

    #[test]
    fn what_was_read_is_kept_for_the_same_arguments_and_some_days() {
        let cache = tempfile::tempdir().unwrap();
        let kept = Kept::new(cache.path(), &arguments("one"));
        assert!(kept.open().is_none());
        let mut recorder = kept.recorder(&b"a long root"[..]);
        recorder.read_exact(&mut [0; 4]).unwrap();
        kept.keep(recorder.finish().unwrap().unwrap()).unwrap();
        let mut text = String::new();
        kept.open().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "a long root");
        assert!(Kept::new(cache.path(), &arguments("two")).open().is_none());
        let old = SystemTime::now() - AGE;
        kept.open().unwrap().set_modified(old).unwrap();
        assert!(kept.open().is_none());
        let other = Kept::new(cache.path(), &arguments("two"));
        let recorder = other.recorder(&b"x"[..]);
        other.keep(recorder.finish().unwrap().unwrap()).unwrap();
        assert!(!kept.path.exists() && other.path.exists());
    }
}
