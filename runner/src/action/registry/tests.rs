//! A registry on this machine.

use std::sync::OnceLock;

use serde_json::json;

use super::*;
use crate::action::loopback::{Asked, Reply, Server};

fn digest(text: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text)))
}

fn index() -> String {
    let entry = |os: &str, architecture: &str, variant: Option<&str>, text: &str| json!({"digest": digest(text), "platform": {"os": os, "architecture": architecture, "variant": variant}});
    json!({"schemaVersion": 2, "manifests": [
        entry("linux", "arm64", Some("v8"), "arm"),
        entry("linux", "amd64", None, "amd"),
        entry("unknown", "unknown", None, "said"),
    ]})
    .to_string()
}

fn image(server: &Server, rest: &str) -> ImageReference {
    ImageReference::parse(&format!("{}/{rest}", server.address)).unwrap()
}

fn manifests(asked: &Asked) -> Reply {
    assert!(
        asked
            .accept
            .as_ref()
            .unwrap()
            .contains("image.index.v1+json")
    );
    match asked.path.as_str() {
        "/v2/octo/tool/manifests/1" | "/v2/octo/tool/manifests/latest" => {
            Reply::of(200, index()).with("Docker-Content-Digest", digest(&index()))
        }
        "/v2/octo/one/manifests/1" => Reply::of(200, r#"{"config": {}, "layers": []}"#),
        "/v2/octo/lie/manifests/1" => {
            Reply::of(200, index()).with("Docker-Content-Digest", digest("other"))
        }
        "/v2/octo/long/manifests/1" => Reply::of(200, "x".repeat(MAX_MANIFEST + 1)),
        "/v2/octo/many/manifests/1" => Reply::of(429, "").with("Retry-After", "7"),
        "/v2/octo/odd/manifests/1" => Reply::of(200, "<html>"),
        _ => Reply::of(404, "{}"),
    }
}

#[tokio::test]
async fn a_tag_is_resolved_to_digests_that_are_computed_here() {
    let server = Server::start(manifests);
    let registries = Registries::new().unwrap();
    let found = registries
        .resolve(&image(&server, "octo/tool:1"))
        .await
        .unwrap();
    assert_eq!(found.digest, digest(&index()));
    let platforms = [("linux/amd64", "amd"), ("linux/arm64/v8", "arm")];
    let platforms = platforms.map(|(name, text)| (name.to_owned(), digest(text)));
    assert_eq!(found.platforms, platforms);
    let one = registries
        .resolve(&image(&server, "octo/one:1"))
        .await
        .unwrap();
    assert_eq!(
        (one.digest, one.platforms.len()),
        (digest(r#"{"config": {}, "layers": []}"#), 0)
    );
    for (name, expected) in [
        ("octo/lie:1", "and said that it is"),
        ("octo/long:1", "longer than"),
        ("octo/many:1", "after 7 seconds"),
        ("octo/odd:1", "not as documented"),
        ("octo/none:1", "shows no image"),
    ] {
        let error = registries
            .resolve(&image(&server, name))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn whether_a_tag_moved_is_asked_without_its_manifest() {
    let server = Server::start(manifests);
    let registries = Registries::new().unwrap();
    assert_eq!(
        registries
            .digest(&image(&server, "octo/tool"))
            .await
            .unwrap(),
        digest(&index())
    );
    let methods: Vec<_> = server
        .asked()
        .into_iter()
        .map(|asked| asked.method)
        .collect();
    assert_eq!(methods, ["HEAD"]);
    // A registry that does not tell it: the manifest does.
    let one = registries
        .digest(&image(&server, "octo/one:1"))
        .await
        .unwrap();
    assert_eq!(one, digest(r#"{"config": {}, "layers": []}"#));
}

#[tokio::test]
async fn a_token_is_fetched_where_the_registry_says_and_sent_to_the_registry() {
    static TOKENS: OnceLock<String> = OnceLock::new();
    let tokens = Server::start(|asked| match asked.path.as_str() {
        "/token?service=reg+istry&scope=repository%3Aocto%2Ftool%3Apull" => {
            Reply::of(200, r#"{"token": "t0"}"#)
        }
        _ => Reply::of(403, ""),
    });
    TOKENS.set(tokens.url()).unwrap();
    let server = Server::start(|asked| {
        if asked.authorization.as_deref() == Some("Bearer t0") {
            return manifests(asked);
        }
        let realm = format!("{}/token", TOKENS.get().unwrap());
        let scope = asked
            .path
            .trim_start_matches("/v2/")
            .split("/manifests")
            .next()
            .unwrap();
        let challenge = format!(
            "Bearer realm=\"{realm}\",service=\"reg istry\",scope=\"repository:{scope}:pull\""
        );
        Reply::of(401, "").with("WWW-Authenticate", challenge)
    });
    let registries = Registries::new().unwrap();
    let found = registries
        .resolve(&image(&server, "octo/tool:1"))
        .await
        .unwrap();
    assert_eq!(found.digest, digest(&index()));
    let error = registries
        .resolve(&image(&server, "octo/other:1"))
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Missing { .. }), "{error}");

    let evil = Server::start(|_| {
        Reply::of(401, "").with(
            "WWW-Authenticate",
            "Bearer realm=\"http://example.org/token\"",
        )
    });
    let error = registries
        .resolve(&image(&evil, "octo/tool:1"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("not asked by https"), "{error}");
}

#[test]
fn only_a_registry_of_this_machine_is_asked_without_tls() {
    let registries = Registries::new().unwrap();
    for (name, expected) in [
        (
            "alpine:3",
            "https://registry-1.docker.io/v2/library/alpine/manifests/3",
        ),
        ("ghcr.io/o/i", "https://ghcr.io/v2/o/i/manifests/latest"),
        (
            "localhost:5000/i:1",
            "http://localhost:5000/v2/i/manifests/1",
        ),
        (
            "127.0.0.1.example.org:80/i:1",
            "https://127.0.0.1.example.org:80/v2/i/manifests/1",
        ),
    ] {
        let image = ImageReference::parse(name).unwrap();
        assert_eq!(registries.question(&image).unwrap().url.as_str(), expected);
    }
}
