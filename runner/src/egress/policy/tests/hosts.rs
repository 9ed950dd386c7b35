//! Names and ranges.

use proptest::prelude::*;

use super::super::{Cidr, HostPattern, Ports, normalise};

fn fits(pattern: &str, name: &str) -> bool {
    let pattern: HostPattern = pattern.parse().unwrap();
    normalise(name).is_some_and(|name| pattern.matches(&name))
}

#[test]
fn names_are_compared_label_by_label() {
    for (pattern, name) in [
        ("example.com", "example.com"),
        ("example.com", "EXAMPLE.com."),
        ("Example.COM.", "example.com"),
        ("*.example.com", "a.example.com"),
        ("**.example.com", "a.example.com"),
        ("**.example.com", "a.b.c.example.com"),
        ("eu-*.example.com", "eu-1.example.com"),
        ("*", "anything.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "BÜCHER.example"),
        ("_srv.example.com", "_srv.example.com"),
    ] {
        assert!(fits(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [
        ("example.com", "example.com.evil.test"),
        ("example.com", "evil-example.com"),
        ("example.com", "a.example.com"),
        ("example.com", "examp1e.com"),
        ("*.example.com", "example.com"),
        ("*.example.com", "a.b.example.com"),
        ("*.example.com", "a.example.com.evil.test"),
        ("**.example.com", "example.com"),
        ("**.example.com", "evilexample.com"),
        ("eu-*.example.com", "eu-1.evil.example.com"),
        ("eu-*.example.com", "xn--eu--1.example.com"),
        // Cyrillic і, full-width letters that IDNA maps are the plain ones.
        ("github.com", "g\u{456}thub.com"),
        ("*hub.com", "g\u{456}thub.com"),
    ] {
        assert!(!fits(pattern, name), "{pattern} {name}");
    }
    assert!(
        fits("github.com", "ｇithub.com"),
        "IDNA maps full width to plain letters"
    );
}

#[test]
fn what_is_no_name_is_none() {
    for name in [
        "",
        ".",
        "a..b",
        "127.0.0.1",
        "0x7f.1",
        "2130706433",
        "[::1]",
        "::1",
        "a b",
        "a/b",
        "a%2eb",
        "*.example.com",
        "a:443",
        "user@host",
        "a\0b",
    ] {
        assert_eq!(normalise(name), None, "{name}");
    }
    assert_eq!(normalise(&format!("{}.com", "a".repeat(64))), None);
    assert_eq!(
        normalise(&"a.".repeat(127)).map(|name| name.len()),
        Some(253)
    );
    assert_eq!(normalise(&"a.".repeat(128)), None);
}

#[test]
fn patterns_that_say_nothing_clear_are_refused() {
    for (text, part) in [
        ("https://example.com", "without scheme"),
        ("example.com:443", "without scheme"),
        ("example.com/x", "without scheme"),
        ("", "without scheme"),
        ("a..b", "without scheme"),
        ("a.**.com", "only at the beginning"),
        ("**a.com", "only at the beginning"),
        ("10.0.0.1", "cidr = \"10.0.0.1\""),
        ("::1", "cidr"),
        ("bü*.example", "without scheme"),
    ] {
        let said = text.parse::<HostPattern>().unwrap_err().to_string();
        assert!(said.contains(part), "{text}: {said}");
    }
}

#[test]
fn ranges_hold_what_they_say() {
    let holds = |range: &str, address: &str| {
        let range: Cidr = range.parse().unwrap();
        range.contains(address.parse().unwrap())
    };
    assert!(holds("10.0.0.0/8", "10.255.0.1"));
    assert!(
        holds("10.0.0.0/8", "::ffff:10.0.0.1"),
        "the IPv4 address itself"
    );
    assert!(holds("192.0.2.1", "192.0.2.1"));
    assert!(holds("2001:db8::/32", "2001:db8:ffff::1"));
    assert!(holds("0.0.0.0/0", "8.8.8.8") && holds("::/0", "2001:db8::1"));
    assert!(!holds("10.0.0.0/8", "11.0.0.1"));
    assert!(!holds("0.0.0.0/0", "2001:db8::1") && !holds("::/0", "8.8.8.8"));
    assert!(!holds("192.0.2.1/32", "192.0.2.0"));
    for (text, part) in [
        ("10.0.0.1/8", "the range is 10.0.0.0/8"),
        ("10.0.0.0/33", "no range"),
        ("10.0.0.0/+8", "no range"),
        ("10.0.0/8", "no range"),
        ("::ffff:10.0.0.1", "no range"),
        ("", "no range"),
    ] {
        let said = text.parse::<Cidr>().unwrap_err().to_string();
        assert!(said.contains(part), "{text}: {said}");
    }
    assert!(!"0.0.0.0/0".parse::<Cidr>().unwrap().names_its_addresses());
    assert!("127.0.0.0/8".parse::<Cidr>().unwrap().names_its_addresses());
}

#[test]
fn ports_are_numbers_and_ranges() {
    assert!("8000-8010".parse::<Ports>().unwrap().contain(8010));
    assert!(!"8000-8010".parse::<Ports>().unwrap().contain(8011));
    for text in ["0", "65536", "80-79", "", "-", "80-", "+80", "http"] {
        assert!(text.parse::<Ports>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_name_or_none_and_normalising_twice_changes_nothing(text in "\\PC{0,80}") {
        if let Some(name) = normalise(&text) {
            prop_assert!(name.len() <= 253 && name.is_ascii());
            let twice = normalise(&name);
            prop_assert_eq!(twice.as_deref(), Some(name.as_str()));
            let pattern = name.parse::<HostPattern>().unwrap();
            prop_assert!(pattern.matches(&name));
        }
    }

    #[test]
    fn a_pattern_with_a_suffix_means_only_names_with_it(name in "[a-z*]{1,6}(\\.[a-z]{1,6}){0,4}") {
        let below: HostPattern = "**.example.com".parse().unwrap();
        if below.matches(&name) {
            prop_assert!(name.ends_with(".example.com"));
        }
        let prefixed = format!("{name}.example.com");
        prop_assert!(below.matches(&prefixed));
    }

    #[test]
    fn any_text_is_a_pattern_or_an_error(text in "\\PC{0,60}") {
        let _ = text.parse::<HostPattern>();
        let _ = text.parse::<Cidr>();
    }
}
