//! What a kernel module says about itself: the `.modinfo` section of its ELF file.

/// What is of use here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ModInfo {
    /// Modules that must be loaded before.
    pub(super) depends: Vec<String>,
}

/// Reads the section.
///
/// # Errors
/// What is wrong with the file, as the end of a sentence that begins with its name.
pub(super) fn read(module: &[u8]) -> Result<ModInfo, &'static str> {
    if module.get(..5) != Some(b"\x7fELF\x02") {
        return Err("is no 64-bit ELF file");
    }
    let section = section(module, b".modinfo").ok_or("has no .modinfo section")?;
    let mut info = ModInfo::default();
    for record in section.split(|byte| *byte == 0) {
        if let Some(names) = record.strip_prefix(b"depends=") {
            let names = String::from_utf8_lossy(names);
            info.depends.extend(
                names
                    .split(',')
                    .filter(|n| !n.is_empty())
                    .map(str::to_owned),
            );
        }
    }
    Ok(info)
}

/// The bytes of a section. Offsets are those of the ELF-64 file and section headers.
fn section<'m>(module: &'m [u8], name: &[u8]) -> Option<&'m [u8]> {
    let table = usize::try_from(word(module, 0x28, 8)?).ok()?;
    let size = usize::try_from(word(module, 0x3a, 2)?).ok()?;
    let count = usize::try_from(word(module, 0x3c, 2)?).ok()?;
    let names = usize::try_from(word(module, 0x3e, 2)?).ok()?;
    let header = |index: usize| {
        let start = table.checked_add(index.checked_mul(size)?)?;
        module.get(start..start.checked_add(64)?)
    };
    let content = |header: &[u8]| {
        let start = usize::try_from(word(header, 0x18, 8)?).ok()?;
        let length = usize::try_from(word(header, 0x20, 8)?).ok()?;
        module.get(start..start.checked_add(length)?)
    };
    let strings = content(header(names)?)?;
    (0..count).filter_map(header).find_map(|header| {
        let start = usize::try_from(word(header, 0, 4)?).ok()?;
        let found = strings.get(start..)?.split(|byte| *byte == 0).next()?;
        if found == name { content(header) } else { None }
    })
}

/// A little-endian number of `length` bytes.
fn word(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The smallest ELF file that looks like a module with these dependencies.
    pub(in crate::kernel) fn module(depends: &str) -> Vec<u8> {
        let info = format!("license=GPL\0depends={depends}\0name=x\0");
        let strings = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0; 64];
        file[..5].copy_from_slice(b"\x7fELF\x02");
        let mut put = |bytes: &[u8]| {
            let start = file.len() as u64;
            file.extend_from_slice(bytes);
            (start, bytes.len() as u64)
        };
        let sections = [
            (0_u32, (0, 0)),
            (1, put(info.as_bytes())),
            (10, put(strings)),
        ];
        let table = file.len() as u64;
        for (name, (start, length)) in sections {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&start.to_le_bytes());
            header[0x20..0x28].copy_from_slice(&length.to_le_bytes());
            file.extend(header);
        }
        file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        file[0x3a..0x40].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        file
    }

    #[test]
    fn dependencies_are_read() {
        assert_eq!(read(&module("a,b_c")).unwrap().depends, ["a", "b_c"]);
        assert!(read(&module("")).unwrap().depends.is_empty());
    }

    #[test]
    fn a_broken_module_is_refused_whatever_is_broken() {
        let good = module("a,b");
        for end in 0..good.len() {
            let _ = read(&good[..end]);
        }
        for at in 0..64 {
            let mut bad = good.clone();
            bad[at] = 0xff;
            let _ = read(&bad);
        }
        assert!(read(&good[..40]).is_err());
        assert!(read(b"\xfd7zXZ").is_err());
    }
}
