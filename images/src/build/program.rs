//! Mayfly's own program in an image: what a step of a job calls as `mayfly`.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// Where it is in an image.
pub(super) const PATH: &str = "usr/local/bin/mayfly";
/// Largest program that is taken, in bytes.
const LIMIT: u64 = 256 << 20;
/// Debian's package of the GNU C library.
const LIBC: &str = "libc6";

/// Reads the program.
///
/// # Errors
/// It cannot be read, or is too long.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LIMIT {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

/// Whether it can start in a root with these packages: with a C library that is as new as it needs.
pub(super) fn fits(program: &[u8], packages: &BTreeMap<String, String>) -> bool {
    let Some(there) = packages.get(LIBC).and_then(|version| numbers(version)) else {
        return false;
    };
    needed(program).is_none_or(|needed| needed <= there)
}

/// The newest version of the C library that a program names.
fn needed(program: &[u8]) -> Option<(u32, u32)> {
    const NAME: &[u8] = b"GLIBC_";
    let at = |at: usize| {
        let rest = &program[at + NAME.len()..];
        let end = rest.iter().position(|byte| *byte == 0)?;
        numbers(std::str::from_utf8(&rest[..end]).ok()?)
    };
    let found = program.windows(NAME.len()).enumerate();
    let found = found.filter(|(_, part)| *part == NAME);
    found.filter_map(|(start, _)| at(start)).max()
}

/// The first two numbers of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let (major, rest) = version.split_once('.')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_put_where_its_c_library_is_new_enough() {
        let packages = |version: &str| BTreeMap::from([(LIBC.to_owned(), version.to_owned())]);
        let program = b"\x7fELF GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_PRIVATE\0GLIBC_2.9\0";
        assert_eq!(needed(program), Some((2, 34)));
        for (version, expected) in [
            ("2.36-9+deb12u13", true),
            ("2.34-1", true),
            ("2.31-13", false),
        ] {
            assert_eq!(fits(program, &packages(version)), expected, "{version}");
        }
        assert!(!fits(program, &BTreeMap::new()));
        assert!(fits(b"static", &packages("2.31-13")));
    }
}
