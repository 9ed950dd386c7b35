//! Control characters in what a step prints: only colours pass, so that a step cannot move the
//! cursor, retitle the window, or write to the clipboard of the person who watches.

/// `text` without control characters; a tab stays.
pub(super) fn clean(text: &str) -> String {
    strip(text, false)
}

/// `text` with its colours, which end with it, and without other control characters.
pub(super) fn coloured(text: &str) -> String {
    let mut out = strip(text, true);
    if out.contains('\x1b') {
        out.push_str("\x1b[0m");
    }
    out
}

fn strip(text: &str, colours: bool) -> String {
    if !text.chars().any(|c| c.is_control() && c != '\t') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == '\x1b' {
            let (length, is_colour) = escape(rest);
            if colours && is_colour {
                out.push(c);
                out.push_str(&rest[..length]);
            }
            rest = &rest[length..];
        } else if !c.is_control() || c == '\t' {
            out.push(c);
        }
    }
    out
}

/// The length of an escape sequence without its first character, and whether it only colours.
fn escape(rest: &str) -> (usize, bool) {
    let bytes = rest.as_bytes();
    match bytes.first() {
        Some(b'[') => control_sequence(bytes),
        // Text for the terminal itself, up to BEL or ESC \.
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let end = rest.find(['\x07', '\x1b']).unwrap_or(rest.len());
            let closing = usize::from(rest[end..].starts_with('\x07'));
            (end + closing, false)
        }
        Some(0x20..=0x7e) => (1, false),
        _ => (0, false),
    }
}

/// `[`, parameters, and a letter: `m` is for colours.
fn control_sequence(bytes: &[u8]) -> (usize, bool) {
    let is_parameter = |byte: &&u8| (0x20..0x40).contains(*byte);
    let end = 1 + bytes[1..].iter().take_while(is_parameter).count();
    match bytes.get(end) {
        Some(letter @ 0x40..=0x7e) => {
            let plain = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b';' | b':');
            (end + 1, *letter == b'm' && bytes[1..end].iter().all(plain))
        }
        _ => (end, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_of_a_step_reach_the_terminal() {
        for (text, expected) in [
            ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m"),
            ("\x1b[38;5;1mx", "\x1b[38;5;1mx\x1b[0m"),
            ("a\x1b[2Jb\x1b[1;1Hc", "abc"),
            ("a\x1b]0;title\x07b", "ab"),
            ("a\x1b]52;c;aGk=\x1b\\b", "ab"),
            ("a\x1b[?25lb\x1bcd\x08\x07", "abd"),
            ("\u{9b}31mx", "31mx"),
            ("\x1b", ""),
            ("\x1b[", ""),
            ("tab\tstays", "tab\tstays"),
        ] {
            assert_eq!(coloured(text), expected, "{text:?}");
        }
        assert_eq!(clean("\x1b[31mred\x1b[0m"), "red");
    }

    proptest::proptest! {
        #[test]
        fn no_line_steers_the_terminal(text in "[\x1b\\[\\]0-9;mHJé\x07\u{9b}a-z\\\\]{0,30}") {
            let shown = coloured(&text);
            let mut rest = shown.as_str();
            while let Some(at) = rest.find('\x1b') {
                let (length, colours) = escape(&rest[at + 1..]);
                proptest::prop_assert!(colours, "{shown:?}");
                rest = &rest[at + 1 + length..];
            }
            let other = |c: char| c.is_control() && c != '\x1b' && c != '\t';
            proptest::prop_assert!(!shown.contains(other));
        }
    }
}
