//! Text as the words of a command line.

/// Splits arguments as .NET does: blanks separate, double quotes hold together, a backslash
/// escapes a double quote and otherwise stands for itself.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<String> = None;
    let mut quoted = false;
    let mut backslashes = 0;
    for c in text.chars() {
        if c == '\\' {
            backslashes += 1;
            continue;
        }
        let escaped = c == '"' && backslashes % 2 == 1;
        let kept = if c == '"' {
            backslashes / 2
        } else {
            backslashes
        };
        if kept > 0 || escaped {
            current.get_or_insert_default().push_str(&"\\".repeat(kept));
        }
        backslashes = 0;
        match c {
            '"' if !escaped => {
                quoted = !quoted;
                current.get_or_insert_default();
            }
            ' ' | '\t' if !quoted => found.extend(current.take()),
            _ => current.get_or_insert_default().push(c),
        }
    }
    if backslashes > 0 {
        current
            .get_or_insert_default()
            .push_str(&"\\".repeat(backslashes));
    }
    found.extend(current);
    found
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn double_quotes_hold_words_together() {
        for (text, expected) in [
            ("", &[][..]),
            (" a\tb ", &["a", "b"]),
            ("--x \"a b\"c \"\"", &["--x", "a bc", ""]),
            ("'a b' \\\" c\\d", &["'a", "b'", "\"", "c\\d"]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }
}
