//! Sizes as people write them: `2G`, `512MiB`, `1024`.

/// Parses a memory size into MiB; a bare number is MiB.
///
/// # Errors
/// What is wrong with the text, and how a size looks.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size like 2G or 512M"))?;
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1024,
        other => return Err(format!("`{other}` is not a unit; write M or G, as in 512M")),
    };
    let mib = number
        .checked_mul(factor)
        .ok_or_else(|| format!("`{text}` is too large"))?;
    if !(128..=1 << 20).contains(&mib) {
        return Err(format!(
            "{mib} MiB is out of range; a sandbox has 128M to 1024G"
        ));
    }
    Ok(mib)
}

#[cfg(test)]
mod tests {
    use super::parse_mib;

    #[test]
    fn units_are_binary_and_a_bare_number_is_mib() {
        assert_eq!(parse_mib("2G"), Ok(2048));
        assert_eq!(parse_mib("512MiB"), Ok(512));
        assert_eq!(parse_mib("1024"), Ok(1024));
    }

    #[test]
    fn nonsense_and_sizes_out_of_range_are_refused_with_the_reason() {
        for (text, needle) in [
            ("", "not a size"),
            ("12T", "not a unit"),
            ("64", "out of range"),
        ] {
            assert!(parse_mib(text).unwrap_err().contains(needle), "{text}");
        }
        assert!(
            parse_mib("99999999999999999999")
                .unwrap_err()
                .contains("not a size")
        );
        assert!(
            parse_mib("18446744073709551615G")
                .unwrap_err()
                .contains("too large")
        );
    }
}
