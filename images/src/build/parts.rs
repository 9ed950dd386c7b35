//! Writes the four files of an image and takes their digests on the way.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::BuildError;
use crate::{
    digest::{Hash, Hashing},
    disk, erofs, initramfs,
    manifest::{Part, Parts},
    progress::Progress,
    store::FILES,
    tree::{Spool, Tree},
};

/// What the files are made from.
pub(super) struct Inputs<'a> {
    pub(super) directory: &'a Path,
    pub(super) vmlinux: &'a [u8],
    pub(super) agent: &'a [u8],
    pub(super) modules: &'a [(String, Vec<u8>)],
    pub(super) root: &'a Tree,
    pub(super) spool: &'a Spool,
    /// Size of the writable disk in bytes.
    pub(super) disk: u64,
    pub(super) epoch: u64,
}

/// Writes all four.
pub(super) fn write(inputs: &Inputs<'_>, progress: &mut Progress<'_>) -> Result<Parts, BuildError> {
    let [kernel, initramfs, root, disk] = FILES;
    progress.step("Writing kernel and initramfs");
    let kernel = part(inputs.directory, kernel, |mut out| {
        out.write_all(inputs.vmlinux)?;
        Ok(out)
    })?;
    let initramfs = part(inputs.directory, initramfs, |out| {
        initramfs::write(inputs.agent, inputs.modules, out)
    })?;
    progress.step("Writing the root file system");
    let root = part(inputs.directory, root, |mut out| {
        erofs::write(
            inputs.root,
            inputs.spool,
            inputs.epoch,
            &mut out,
            &mut |bytes, total| {
                progress.done(bytes, Some(total));
            },
        )
        .map_err(io::Error::other)?;
        Ok(out)
    })?;
    progress.step("Writing the empty disk");
    let disk = write_disk(inputs, disk)?;
    Ok(Parts {
        kernel,
        initramfs,
        root,
        disk,
    })
}

type Out = Hashing<BufWriter<File>>;

/// Writes one file through a hasher.
fn part(
    directory: &Path,
    name: &str,
    content: impl FnOnce(Out) -> io::Result<Out>,
) -> Result<Part, BuildError> {
    let path = directory.join(name);
    let written = File::create_new(&path).and_then(|file| {
        let out = Hashing::new(BufWriter::with_capacity(1 << 20, file));
        let (mut out, digest, size) = content(out)?.finish();
        out.flush()?;
        Ok(Part {
            file: name.to_owned(),
            size,
            hash: Hash::Plain,
            digest,
        })
    });
    written.map_err(|error| BuildError::Write { path, error })
}

fn write_disk(inputs: &Inputs<'_>, name: &str) -> Result<Part, BuildError> {
    let path: PathBuf = inputs.directory.join(name);
    disk::write(&path, inputs.disk, inputs.epoch)?;
    let hash = Hash::Chunked;
    let digest = File::open(&path)
        .and_then(|file| hash.file(&file, &mut |_| ()))
        .map_err(|error| BuildError::Write { path, error })?;
    Ok(Part {
        file: name.to_owned(),
        size: inputs.disk,
        hash,
        digest,
    })
}
