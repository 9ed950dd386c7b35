//! Takes the ELF kernel out of a bzImage, so that a boot need not decompress it.
//!
//! Sources: Linux `Documentation/arch/x86/boot.rst` (header), `lib/decompress_unlz4.c` (payload).

/// Largest kernel that is unpacked, in bytes.
const LIMIT: usize = 512 << 20;
/// How much one block of the LZ4 legacy frame holds, unpacked.
const LZ4_BLOCK: usize = 8 << 20;
/// First four bytes of an LZ4 legacy frame.
const LZ4_MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();

/// Other ways in which kernels are compressed, by their first bytes.
const OTHERS: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x89LZO", "lzo"),
    (b"\x5d\0\0", "lzma"),
];

/// The ELF file in a bzImage.
///
/// # Errors
/// What is wrong with the image, as the end of a sentence that begins with "the kernel image".
pub(super) fn extract(image: &[u8]) -> Result<Vec<u8>, String> {
    let kernel = unpack(payload(image)?)?;
    // ELF, 64 bit, little endian; machine 62 is x86-64.
    if kernel.get(..6) == Some(b"\x7fELF\x02\x01") && kernel.get(18..20) == Some(&[62, 0]) {
        Ok(kernel)
    } else {
        Err("does not hold an x86-64 ELF file".to_owned())
    }
}

/// The compressed kernel in a bzImage.
fn payload(image: &[u8]) -> Result<&[u8], String> {
    let short = || "is cut short".to_owned();
    if image.get(0x1fe..0x200) != Some(&[0x55, 0xaa]) || image.get(0x202..0x206) != Some(b"HdrS") {
        return Err("is no bzImage".to_owned());
    }
    let version = image.get(0x206..0x208).ok_or_else(short)?;
    if u16::from_le_bytes([version[0], version[1]]) < 0x208 {
        return Err("is older than boot protocol 2.08".to_owned());
    }
    let sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + number(image, 0x248).ok_or_else(short)?;
    let length = number(image, 0x24c).ok_or_else(short)?;
    start
        .checked_add(length)
        .and_then(|end| image.get(start..end))
        .ok_or_else(short)
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>, String> {
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| payload.starts_with(magic)) {
        return Err(format!(
            "is compressed with {name}; only LZ4, as in Debian, is understood"
        ));
    }
    let short = || "is cut short".to_owned();
    let mut rest = payload
        .strip_prefix(&LZ4_MAGIC)
        .ok_or("is compressed in an unknown way; only LZ4, as in Debian, is understood")?;
    let mut kernel = Vec::new();
    // The build appends the unpacked length.
    while rest.len() > 4 {
        let length = number(rest, 0).ok_or_else(short)?;
        rest = &rest[4..];
        if length == u32::from_le_bytes(LZ4_MAGIC) as usize {
            // Another frame begins.
            continue;
        }
        let block = rest.get(..length).ok_or_else(short)?;
        rest = &rest[length..];
        if kernel.len() + LZ4_BLOCK > LIMIT {
            return Err(format!("unpacks to more than {LIMIT} bytes"));
        }
        let start = kernel.len();
        kernel.resize(start + LZ4_BLOCK, 0);
        let written = lz4_flex::block::decompress_into(block, &mut kernel[start..])
            .map_err(|error| format!("has a broken LZ4 block: {error}"))?;
        kernel.truncate(start + written);
    }
    if number(rest, 0) == Some(kernel.len()) {
        Ok(kernel)
    } else {
        Err("does not unpack to the length it names".to_owned())
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(length: usize) -> Vec<u8> {
        let mut kernel: Vec<u8> = (0..length).map(|index| (index / 7) as u8).collect();
        kernel[..6].copy_from_slice(b"\x7fELF\x02\x01");
        kernel[18..20].copy_from_slice(&[62, 0]);
        kernel
    }

    fn lz4(kernel: &[u8]) -> Vec<u8> {
        let mut payload = LZ4_MAGIC.to_vec();
        for block in kernel.chunks(LZ4_BLOCK) {
            let block = lz4_flex::block::compress(block);
            payload.extend((block.len() as u32).to_le_bytes());
            payload.extend(block);
        }
        payload.extend((kernel.len() as u32).to_le_bytes());
        payload
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 100];
        image[0x1f1] = 2;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&100_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend(payload);
        image
    }

    #[test]
    fn a_kernel_of_several_blocks_comes_out_as_it_went_in() {
        let kernel = elf(2 * LZ4_BLOCK + 12_345);
        assert!(extract(&bzimage(&lz4(&kernel))).unwrap() == kernel);
    }

    #[test]
    fn another_compression_is_refused_by_name() {
        for (magic, name) in OTHERS {
            let payload = [magic, &[0; 64]].concat();
            let message = extract(&bzimage(&payload)).unwrap_err();
            assert!(message.contains(&format!("with {name};")), "{message}");
        }
    }

    #[test]
    fn every_cut_and_every_lie_about_a_length_is_refused() {
        let image = bzimage(&lz4(&elf(5000)));
        for end in 0..image.len() {
            assert!(extract(&image[..end]).is_err(), "{end}");
        }
        for field in [0x248, 0x24c, 3 * 512 + 104] {
            let mut image = image.clone();
            image[field..field + 4].copy_from_slice(&[0xff; 4]);
            assert!(extract(&image).is_err(), "{field}");
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let mut kernel = elf(5000);
        kernel[18] = 40;
        assert!(
            extract(&bzimage(&lz4(&kernel)))
                .unwrap_err()
                .contains("x86-64")
        );
        assert!(extract(b"hello").unwrap_err().contains("no bzImage"));
    }
}
