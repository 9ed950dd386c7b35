//! Words of a guest, or of a VMM that it may have taken over, on their way to a person's terminal.

/// Longest text of one line that is shown, in characters.
const MAX_LINE: usize = 2000;

/// One line: no control characters, no marks that turn the direction of text, and not a book.
pub(crate) fn line(text: &str) -> String {
    text.chars().take(MAX_LINE).map(shown).collect()
}

/// As [`line`], of several lines; line feeds and tabs stay, and the length is the caller's matter.
pub(crate) fn lines(text: &str) -> String {
    let keep = |c: char| {
        if matches!(c, '\n' | '\t') {
            c
        } else {
            shown(c)
        }
    };
    text.replace("\r\n", "\n").chars().map(keep).collect()
}

fn shown(c: char) -> char {
    match c {
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
        c if c.is_control() => ' ',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::{line, lines};

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        let hostile = "a\x1b]52;c;aGk=\x07b\u{9b}2Jc\r\nd\te\u{202e}f";
        assert_eq!(line(hostile), "a ]52;c;aGk= b 2Jc  d e f");
        assert_eq!(lines(hostile), "a ]52;c;aGk= b 2Jc\nd\te f");
        assert_eq!(line(&"x".repeat(5000)).len(), 2000);
    }
}
