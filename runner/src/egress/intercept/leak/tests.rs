use std::sync::Arc;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use proptest::prelude::*;

use super::{Scanner, Watch, Watched, What};

const VALUE: &str = "ghs_9aK/x+Q2~rT7uV1wZ4bC6dE8fG0hJ3kL5mN";
const PLACEHOLDER: &str = "ghs_PPPPqqqqRRRRssssTTTTuuuuVVVVwwwwXXX";

fn scanner(allowed: &[usize]) -> Scanner {
    let secret = Watched {
        name: "NPM_TOKEN",
        value: VALUE,
        placeholder: Some(PLACEHOLDER),
    };
    Arc::new(Watch::new(&[secret]).unwrap()).scanner(&allowed.into())
}

/// The number of the byte that is not let out, in chunks of `chunk` bytes.
fn stopped(text: &[u8], chunk: usize) -> Option<usize> {
    let mut scanner = scanner(&[]);
    let mut sent = 0;
    for part in text.chunks(chunk) {
        if scanner.scan(part).is_err() {
            return Some(sent);
        }
        sent += part.len();
    }
    None
}

fn wrapped(text: &str, width: usize) -> String {
    let lines = text.as_bytes().chunks(width);
    let lines: Vec<_> = lines
        .map(|l| String::from_utf8(l.to_vec()).unwrap())
        .collect();
    lines.join("\n")
}

fn every_form() -> Vec<(&'static str, String)> {
    let percent: String = VALUE.bytes().map(|b| format!("%{b:02x}")).collect();
    let unicode: String = VALUE.bytes().map(|b| format!("\\u{b:04x}")).collect();
    let mut forms = vec![
        ("plain", VALUE.to_owned()),
        ("hex", hex::encode(VALUE)),
        ("HEX", hex::encode_upper(VALUE)),
        ("hex in lines", wrapped(&hex::encode(VALUE), 30)),
        ("all percent", percent),
        (
            "form",
            VALUE
                .replace('/', "%2F")
                .replace('+', "%2B")
                .replace('~', "%7E"),
        ),
        ("JSON", VALUE.replace('/', "\\/")),
        ("JSON, all of it", unicode),
        ("a placeholder", PLACEHOLDER.to_owned()),
        (
            "a placeholder in base64",
            STANDARD.encode(format!("x:{PLACEHOLDER}")),
        ),
    ];
    for before in ["", "u", "us", "user:"] {
        let text = format!("{before}{VALUE}, and more");
        forms.push(("base64", STANDARD.encode(&text)));
        forms.push(("base64 for addresses", URL_SAFE.encode(&text)));
        forms.push(("base64 in lines", wrapped(&STANDARD.encode(&text), 19)));
        forms.push(("base64 twice", STANDARD.encode(STANDARD.encode(&text))));
        let escaped = wrapped(&STANDARD.encode(&text), 19).replace('\n', "\\n");
        forms.push(("base64 in JSON", format!("{{\"x\": \"{escaped}\"}}")));
    }
    forms
}

#[test]
fn a_secret_is_stopped_in_every_form_before_its_last_byte_leaves() {
    for (form, text) in every_form() {
        let around = format!("some bytes before {text} and behind");
        let end = around.len() - " and behind".len();
        for chunk in [1, 2, 3, 7, 64, 4096] {
            let sent = stopped(around.as_bytes(), chunk);
            let sent = sent.unwrap_or_else(|| panic!("{form} by {chunk}: {text}"));
            assert!(sent < end, "{form} by {chunk}: {sent} of {end} bytes left");
        }
    }
}

#[test]
fn a_third_of_a_long_secret_never_leaves() {
    let sent = stopped(VALUE.as_bytes(), 1).unwrap();
    assert!(sent <= VALUE.len() - VALUE.len() / 3, "{sent}");
}

#[test]
fn what_was_found_is_named_and_not_shown() {
    let leak = scanner(&[]).scan(PLACEHOLDER.as_bytes()).unwrap_err();
    assert_eq!((leak.what, leak.form), (What::Placeholder, "plain"));
    assert_eq!(leak.secret, "NPM_TOKEN");
    let said = scanner(&[]).scan(VALUE.as_bytes()).unwrap_err().to_string();
    assert!(
        said.contains("NPM_TOKEN") && !said.contains("ghs_"),
        "{said}"
    );
}

#[test]
fn where_a_secret_is_bound_it_passes() {
    for (_, text) in every_form() {
        scanner(&[0]).scan(text.as_bytes()).unwrap();
    }
}

#[test]
fn lines_of_a_key_are_found_alone_and_its_frame_is_not() {
    let key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49\nshort\n-----END PRIVATE KEY-----\n";
    let secret = Watched {
        name: "KEY",
        value: key,
        placeholder: None,
    };
    let watch = Arc::new(Watch::new(&[secret]).unwrap());
    let found = |text: &str| watch.scanner(&[].into()).scan(text.as_bytes()).is_err();
    assert!(found("x MIGHAgEAMBMGByqGSM49AgEGCCqGSM49 y"));
    assert!(!found("-----BEGIN PRIVATE KEY-----") && !found("short"));
}

#[test]
fn short_values_are_not_searched_for() {
    let secret = Watched {
        name: "S",
        value: "1234567",
        placeholder: None,
    };
    assert!(Watch::new(&[secret]).unwrap().is_empty());
}

proptest! {
    #[test]
    fn chunks_make_no_difference_and_innocent_bytes_pass(
        before in proptest::collection::vec(any::<u8>(), 0..200),
        cuts in proptest::collection::vec(1usize..50, 1..20),
        form in 0usize..30,
    ) {
        let forms = every_form();
        let (_, text) = &forms[form % forms.len()];
        let mut rest: &[u8] = &before;
        let mut scanner = scanner(&[]);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (part, after) = rest.split_at((*cut).min(rest.len()));
            prop_assert!(scanner.scan(part).is_ok());
            rest = after;
        }
        // Whatever came before: half an escape, for instance.
        let mut found = false;
        for part in format!("....{text}").as_bytes().chunks(cuts[0]) {
            found |= scanner.scan(part).is_err();
        }
        prop_assert!(found);
    }
}
