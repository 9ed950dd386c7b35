//! Coercions and comparisons: the rules by which kinds of values meet.
//!
//! They are those of GitHub's runner; JavaScript's, but for strings, which ignore case, and for
//! arrays and objects, which never become primitives and equal themselves only.

use std::cmp::Ordering;
use std::sync::Arc;

use super::value::{Value, fold};

/// Whether `&&`, `||`, `!` and conditions take a value as true.
pub fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(value) => *value != 0.0 && !value.is_nan(),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// Whether a value is null, a bool, a number or a string.
pub fn is_primitive(value: &Value) -> bool {
    !matches!(value, Value::Array(_) | Value::Object(_))
}

/// A value as text, as in a mixed scalar (`x${{ value }}y`).
pub fn to_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => format_number(*value),
        Value::String(text) => text.to_string(),
        Value::Array(_) => "Array".to_owned(),
        Value::Object(_) => "Object".to_owned(),
    }
}

/// A value as a number; NaN if it is none.
pub fn to_number(value: &Value) -> f64 {
    match value {
        Value::Null => 0.0,
        Value::Bool(value) => f64::from(u8::from(*value)),
        Value::Number(value) => *value,
        Value::String(text) => parse_number(text),
        Value::Array(_) | Value::Object(_) => f64::NAN,
    }
}

/// Text as a number: empty is 0, decimal with exponent, `0x` and `0o`, else NaN.
///
/// Integers in base 16 and 8 are those of 32 bits, read as the runner reads them (`0xFFFFFFFF` is
/// -1); a longer one is no number.
pub fn parse_number(text: &str) -> f64 {
    let text = text.trim();
    if text.is_empty() {
        return 0.0;
    }
    if text == "-Infinity" {
        return f64::NEG_INFINITY;
    }
    if text.strip_prefix('+').unwrap_or(text) == "Infinity" {
        return f64::INFINITY;
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return integer(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return integer(digits, 8);
    }
    // Rust would also read "inf", "nan" and the like.
    let decimal = |c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | 'e' | 'E');
    if !text.chars().all(decimal) {
        return f64::NAN;
    }
    text.parse().unwrap_or(f64::NAN)
}

fn integer(digits: &str, radix: u32) -> f64 {
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return f64::NAN;
    }
    match u32::from_str_radix(digits, radix) {
        Ok(value) => f64::from(value.cast_signed()),
        Err(_) => f64::NAN,
    }
}

/// A number as .NET's format `G15` writes it: 15 significant digits, an exponent from 1E+15 and
/// for 1E-05 and below.
pub fn format_number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.14e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_end_matches('0');
    format!("{sign}{}", place_point(digits, exponent))
}

/// Digits with the decimal point after the first one moved by `exponent`.
fn place_point(digits: &str, exponent: i32) -> String {
    let count = digits.len() as i32;
    match exponent {
        -4..=-1 => format!("0.{}{digits}", "0".repeat((-exponent - 1) as usize)),
        0..15 if count <= exponent + 1 => {
            format!("{digits}{}", "0".repeat((exponent + 1 - count) as usize))
        }
        0..15 => {
            let (whole, fraction) = digits.split_at((exponent + 1) as usize);
            format!("{whole}.{fraction}")
        }
        _ => {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{first}{point}{rest}E{sign}{:02}", exponent.abs())
        }
    }
}

/// The `==` of the language.
pub fn equals(left: &Value, right: &Value) -> bool {
    let (left, right) = meet(left, right);
    match (&left, &right) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(l), Value::Bool(r)) => l == r,
        (Value::Number(l), Value::Number(r)) => l == r,
        (Value::String(l), Value::String(r)) => l == r || fold(l) == fold(r),
        (Value::Array(l), Value::Array(r)) => Arc::ptr_eq(l, r),
        (Value::Object(l), Value::Object(r)) => Arc::ptr_eq(l, r),
        _ => false,
    }
}

/// How two values are ordered by `<` and `>`; `None` if neither holds and they are not equal either.
pub fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    let (left, right) = meet(left, right);
    match (&left, &right) {
        (Value::Bool(l), Value::Bool(r)) => Some(l.cmp(r)),
        (Value::Number(l), Value::Number(r)) => l.partial_cmp(r),
        (Value::String(l), Value::String(r)) => Some(ordinal(l, r)),
        _ => equals(&left, &right).then_some(Ordering::Equal),
    }
}

/// Strings by their UTF-16 units, case ignored.
fn ordinal(left: &str, right: &str) -> Ordering {
    fold(left).encode_utf16().cmp(fold(right).encode_utf16())
}

/// Brings two values to one kind where the rules say so.
fn meet(left: &Value, right: &Value) -> (Value, Value) {
    let number = |value: &Value| Value::Number(to_number(value));
    match (left, right) {
        (Value::Null, Value::Null) | (Value::Bool(_), Value::Bool(_)) => {
            (left.clone(), right.clone())
        }
        (Value::Number(_), Value::String(_)) => (left.clone(), number(right)),
        (Value::String(_), Value::Number(_)) => (number(left), right.clone()),
        (Value::Null | Value::Bool(_), _) => meet(&number(left), right),
        (_, Value::Null | Value::Bool(_)) => meet(left, &number(right)),
        _ => (left.clone(), right.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_with_fifteen_digits() {
        let cases: &[(f64, &str)] = &[
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-2.0, "-2"),
            (0.5, "0.5"),
            (-0.5, "-0.5"),
            (120.0, "120"),
            (0.012, "0.012"),
            (123_456.789, "123456.789"),
            (0.845_512_408_225_570_1, "0.84551240822557"),
            (0.1 + 0.2, "0.3"),
            (1.0 / 3.0, "0.333333333333333"),
            (2.0 / 3.0, "0.666666666666667"),
            (999_999_999_999_999.0, "999999999999999"),
            (1e14, "100000000000000"),
            (1e15, "1E+15"),
            (1.5e15, "1.5E+15"),
            (1_234_567_890_123_456.0, "1.23456789012346E+15"),
            (9_999_999_999_999_999.0, "1E+16"),
            (1e21, "1E+21"),
            (1e100, "1E+100"),
            (-1e300, "-1E+300"),
            (f64::MAX, "1.79769313486232E+308"),
            (0.0001, "0.0001"),
            (0.000_12, "0.00012"),
            (0.000_01, "1E-05"),
            (0.000_001, "1E-06"),
            (1.25e-7, "1.25E-07"),
            (5e-324, "4.94065645841247E-324"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (value, text) in cases {
            assert_eq!(format_number(*value), *text, "{value:e}");
        }
    }

    #[test]
    fn text_becomes_a_number_only_where_the_whole_text_is_one() {
        let cases: &[(&str, f64)] = &[
            ("", 0.0),
            ("  ", 0.0),
            (" 12 ", 12.0),
            ("+5", 5.0),
            ("-5", -5.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("1E-2", 0.01),
            ("1e400", f64::INFINITY),
            ("0x1F", 31.0),
            ("0xffffffff", -1.0),
            ("0o17", 15.0),
            ("Infinity", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("+Infinity", f64::INFINITY),
        ];
        for (text, value) in cases {
            assert_eq!(parse_number(text), *value, "{text:?}");
        }
        let none = [
            "x",
            "1x",
            "1 2",
            "0x",
            "0xg",
            "0X1F",
            "0o8",
            "0b1",
            "1_000",
            "--1",
            "inf",
            "nan",
            "NaN",
            "infinity",
            "-INFINITY",
            "+-Infinity",
            "Infinityx",
            "0x1FFFFFFFF",
            "-0x1",
            "1e",
            "e1",
            ".",
            "1,000",
            "٣",
        ];
        for text in none {
            assert!(parse_number(text).is_nan(), "{text:?}");
        }
    }

    #[test]
    fn arrays_equal_only_themselves() {
        let one = Value::array(vec![]);
        assert!(equals(&one, &one.clone()));
        assert!(!equals(&one, &Value::array(vec![])));
        assert_eq!(compare(&one, &one.clone()), Some(Ordering::Equal));
        assert_eq!(compare(&one, &Value::array(vec![])), None);
    }
}
