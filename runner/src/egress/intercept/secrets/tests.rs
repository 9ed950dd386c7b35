use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{Request, http::request::Parts};

use super::*;

const VALUE: &str = "npm_s3cretS3cretS3cretS3cretS3cretS3cr";

fn bindings(rule: &str) -> (Bindings, String) {
    let rule: SecretBinding = toml::from_str(rule).unwrap();
    let bindings = Bindings::new([("NPM_TOKEN".to_owned(), VALUE.into(), rule)]).unwrap();
    let placeholder = bindings.placeholders().apply(VALUE).into_owned();
    (bindings, placeholder)
}

fn sent(bindings: &Bindings, request: Request<()>) -> (Parts, Vec<String>) {
    let (mut parts, ()) = request.into_parts();
    let names = bindings.inject(&[0], &mut parts).unwrap();
    (parts, names)
}

const BEARER: &str = "hosts = ['registry.example.com']\ninject = 'header:Authorization: Bearer {}'";

#[test]
fn a_placeholder_has_the_form_of_its_secret_and_nothing_of_it() {
    for (value, prefix) in [
        (VALUE, "npm_"),
        (
            "github_pat_11AAAAAAA0abcdefghijklmnopqrstuvwxyz",
            "github_pat_",
        ),
        ("xoxb-0123456789-abcdefghijklmnopqrst", "xoxb-"),
        ("blue-horse-battery-staple-and-much-more", ""),
        ("correct-horse-battery-staple", ""),
        ("0123456789abcdef0123456789abcdef", ""),
        ("short-one", ""),
    ] {
        let drawn = placeholder::draw(value).unwrap();
        assert!(drawn.starts_with(prefix), "{value}: {drawn}");
        assert_ne!(drawn, placeholder::draw(value).unwrap());
        let rest = &drawn[prefix.len()..];
        assert!(
            rest.len() >= 24 && !drawn.contains(&value[prefix.len()..]),
            "{value}: {drawn}"
        );
        if value.len() >= prefix.len() + 32 {
            assert_eq!(drawn.len(), value.len());
        }
    }
    let hex = placeholder::draw("0123456789abcdef0123456789abcdef").unwrap();
    assert!(hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hex}");
}

#[test]
fn values_in_texts_become_placeholders() {
    let (bindings, placeholder) = bindings(BEARER);
    let npmrc = format!("//registry.example.com/:_authToken={VALUE}\n");
    let seen = bindings.placeholders().apply(&npmrc).into_owned();
    assert_eq!(
        seen,
        format!("//registry.example.com/:_authToken={placeholder}\n")
    );
    assert!(!format!("{bindings:?}{:?}", bindings.placeholders()).contains(&placeholder));
}

#[test]
fn the_value_is_put_into_the_header_named_and_into_no_other() {
    let (bindings, placeholder) = bindings(BEARER);
    let request = Request::get("https://registry.example.com/x")
        .header("authorization", format!("bearer {placeholder}"))
        .header("x-other", format!("Bearer {placeholder}"));
    let (parts, names) = sent(&bindings, request.body(()).unwrap());
    assert_eq!(parts.headers["authorization"], format!("bearer {VALUE}"));
    assert!(parts.headers["authorization"].is_sensitive());
    assert_eq!(parts.headers["x-other"], format!("Bearer {placeholder}"));
    assert_eq!(names, ["NPM_TOKEN"]);
    for other in [
        format!("token {placeholder}"),
        format!("Bearer {placeholder} "),
        placeholder.clone(),
    ] {
        let request = Request::get("/")
            .header("authorization", &other)
            .body(())
            .unwrap();
        let (parts, names) = sent(&bindings, request);
        assert!(
            names.is_empty() && parts.headers["authorization"] == other,
            "{other}"
        );
    }
}

#[test]
fn basic_takes_it_as_user_or_as_password() {
    let (bindings, placeholder) = bindings("hosts = ['github.com']\ninject = ['basic:*:{}']");
    for (sent_by, expected) in [
        (
            format!("x-access-token:{placeholder}"),
            format!("x-access-token:{VALUE}"),
        ),
        (
            format!("{placeholder}:x-oauth-basic"),
            format!("{VALUE}:x-oauth-basic"),
        ),
        (
            format!("user:{placeholder}x"),
            format!("user:{placeholder}x"),
        ),
    ] {
        let header = format!("basic {}", STANDARD.encode(&sent_by));
        let request = Request::get("/")
            .header("authorization", header)
            .body(())
            .unwrap();
        let (parts, _) = sent(&bindings, request);
        let header = parts.headers["authorization"].to_str().unwrap();
        let decoded = STANDARD
            .decode(header.strip_prefix("basic ").unwrap())
            .unwrap();
        assert_eq!(String::from_utf8(decoded).unwrap(), expected);
    }
    let request = Request::get("/")
        .header("authorization", "Basic !!")
        .body(())
        .unwrap();
    assert_eq!(
        sent(&bindings, request).0.headers["authorization"],
        "Basic !!"
    );
}

#[test]
fn a_query_takes_it_in_the_parameter_named() {
    let (bindings, placeholder) = bindings("hosts = ['a.example']\ninject = 'query:key={}'");
    let uri = format!("https://a.example/p?a=1&key={placeholder}&other={placeholder}");
    let (parts, _) = sent(&bindings, Request::get(uri).body(()).unwrap());
    let expected = format!("https://a.example/p?a=1&key={VALUE}&other={placeholder}");
    assert_eq!(parts.uri.to_string(), expected);
}

#[test]
fn without_a_place_it_is_put_in_wherever_its_placeholder_is() {
    let (bindings, placeholder) = bindings("hosts = ['a.example']");
    let request = Request::get(format!("https://a.example/p?k={placeholder}&n=1"))
        .header(
            "authorization",
            format!("Basic {}", STANDARD.encode(format!("u:{placeholder}"))),
        )
        .header("private-token", &placeholder)
        .header("cookie", format!("a=b; t={placeholder}"));
    let (parts, _) = sent(&bindings, request.body(()).unwrap());
    assert_eq!(parts.uri.query(), Some(format!("k={VALUE}&n=1").as_str()));
    assert_eq!(parts.headers["private-token"], VALUE);
    assert_eq!(parts.headers["cookie"], format!("a=b; t={VALUE}"));
    let basic = format!("Basic {}", STANDARD.encode(format!("u:{VALUE}")));
    assert_eq!(parts.headers["authorization"], basic);
}

#[test]
fn a_user_that_a_rule_names_is_the_only_one() {
    let (bindings, placeholder) =
        bindings("hosts = 'github.com'\ninject = 'basic:x-access-token:{}'");
    let header = format!("Basic {}", STANDARD.encode(format!("other:{placeholder}")));
    let request = Request::get("/")
        .header("authorization", &header)
        .body(())
        .unwrap();
    assert_eq!(sent(&bindings, request).0.headers["authorization"], header);
}

#[test]
fn a_jobs_token_goes_to_its_github_only() {
    let binding = SecretBinding::of_job_token("github.com", "api.github.com").unwrap();
    let bindings = Bindings::new([("GITHUB_TOKEN".to_owned(), VALUE.into(), binding)]).unwrap();
    let goes = |name: &str| !bindings.allowed(&Target::new(name, 443)).is_empty();
    for name in [
        "github.com",
        "api.github.com",
        "GHCR.io.",
        "npm.pkg.github.com",
    ] {
        assert!(goes(name), "{name}");
    }
    for name in [
        "gist.github.com",
        "github.com.evil.example",
        "xgithub.com",
        "raw.github.com",
        "192.0.2.1",
    ] {
        assert!(!goes(name), "{name}");
    }
}

#[test]
fn values_that_cannot_be_bound_are_refused_with_a_reason() {
    let bind = |value: &str, rule: &str| {
        Bindings::new([("S".to_owned(), value.into(), toml::from_str(rule).unwrap())]).unwrap_err()
    };
    assert!(matches!(bind("1234567", BEARER), BindError::Short(_)));
    assert!(matches!(
        bind("two lines\nof it", BEARER),
        BindError::Form(_)
    ));
    assert!(matches!(bind(VALUE, "hosts = []"), BindError::NoHosts(_)));
    assert!(!bind("1234567", BEARER).to_string().contains("1234567"));
}
