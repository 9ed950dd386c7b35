//! Takes apart what surrounds a secret in forms, JSON and wrapped lines: percent-encoding is decoded,
//! escapes of JSON are, white space is left out.

/// The state between two bytes.
#[derive(Default)]
pub(super) struct Squeeze {
    /// What began: `%`, `%4`, `\`, `\u00`, ….
    held: [u8; 6],
    length: usize,
}

/// The bytes that one byte sets free: none, one, or those that turned out to be no escape.
pub(super) struct Freed {
    bytes: [u8; 6],
    range: std::ops::Range<usize>,
}

impl Iterator for Freed {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        loop {
            let byte = self.bytes[self.range.next()?];
            if !byte.is_ascii_whitespace() {
                return Some(byte);
            }
        }
    }
}

impl Freed {
    fn one(byte: u8) -> Self {
        Self {
            bytes: [byte, 0, 0, 0, 0, 0],
            range: 0..1,
        }
    }

    fn none() -> Self {
        Self {
            bytes: [0; 6],
            range: 0..0,
        }
    }
}

impl Squeeze {
    /// Takes the next byte.
    pub(super) fn next(&mut self, byte: u8) -> Freed {
        if self.length == 0 && byte != b'%' && byte != b'\\' {
            return Freed::one(byte);
        }
        self.held[self.length] = byte;
        self.length += 1;
        let held = &self.held[..self.length];
        match held {
            [b'%'] | [b'\\'] => Freed::none(),
            // A second beginning sets the first free.
            [b'%', b'%'] => {
                self.length = 1;
                Freed::one(b'%')
            }
            [b'%', digit] if digit.is_ascii_hexdigit() => Freed::none(),
            [b'%', high, low] if low.is_ascii_hexdigit() => {
                let byte = digits(&[*high, *low]);
                self.length = 0;
                Freed::one(byte)
            }
            [b'\\', b'n' | b'r' | b't'] => {
                self.length = 0;
                Freed::none()
            }
            [b'\\', b'u', rest @ ..] if rest.iter().all(u8::is_ascii_hexdigit) => {
                if rest.len() < 4 {
                    return Freed::none();
                }
                let byte = digits(rest);
                self.length = 0;
                Freed::one(byte)
            }
            [b'\\', escaped] => {
                let byte = *escaped;
                self.length = 0;
                Freed::one(byte)
            }
            _ => self.all(byte),
        }
    }

    /// It was no escape: all that was held is free, but a last byte that begins one.
    fn all(&mut self, last: u8) -> Freed {
        let begins = last == b'%' || last == b'\\';
        let free = self.length - usize::from(begins);
        let bytes = self.held;
        self.length = 0;
        if begins {
            self.held[0] = last;
            self.length = 1;
        }
        Freed {
            bytes,
            range: 0..free,
        }
    }
}

/// The number in hexadecimal digits, cut to its last eight bits: the values are bytes.
fn digits(digits: &[u8]) -> u8 {
    let value = |digit: &u8| char::from(*digit).to_digit(16).unwrap_or_default();
    let number = digits
        .iter()
        .fold(0, |number, digit| number << 4 | value(digit));
    (number & 0xff) as u8
}
