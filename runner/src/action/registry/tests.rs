//! A registry on this machine.

use std::sync::{Arc, OnceLock};

use serde_json::json;

use super::*;
use crate::action::loopback::{Asked, Reply, Server};

/// The image of the platform of sandboxes.
const AMD: &str = r#"{"config": {"digest": "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"}}"#;

fn digest(text: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text)))
}

fn index() -> String {
    let entry = |os: &str, architecture: &str, variant: Option<&str>, text: &str| json!({"digest": digest(text), "platform": {"os": os, "architecture": architecture, "variant": variant}});
    json!({"schemaVersion": 2, "manifests": [
        entry("linux", "arm64", Some("v8"), "arm"),
        entry("linux", "amd64", None, AMD),
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
        path if path == format!("/v2/octo/tool/manifests/{}", digest(AMD)) => Reply::of(200, AMD),
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
    let registries = Registries::new(Credentials::default()).unwrap();
    let found = registries
        .resolve(&image(&server, "octo/tool:1"))
        .await
        .unwrap();
    assert_eq!(found.digest, digest(&index()));
    let platforms = [("linux/amd64", AMD), ("linux/arm64/v8", "arm")];
    let platforms = platforms.map(|(name, text)| (name.to_owned(), digest(text)));
    assert_eq!(found.platforms, platforms);
    assert_eq!(found.config, Some(format!("sha256:{}", "c".repeat(64))));
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
    let registries = Registries::new(Credentials::default()).unwrap();
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
    let registries = Registries::new(Credentials::default()).unwrap();
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
    let registries = Registries::new(Credentials::default()).unwrap();
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

/// A registry that shows an image to one user only, as GitHub's and Docker's do (by tokens), or itself.
#[tokio::test]
async fn a_private_image_is_shown_to_those_who_are_logged_in() {
    const LOGIN: &str = "Basic YWRhOnMzY3JldA==";
    for basic in [true, false] {
        let url = Arc::new(OnceLock::<String>::new());
        let realm = Arc::clone(&url);
        let server = Server::start(move |asked| {
            let given = asked.authorization.as_deref();
            let challenge = match basic {
                true => r#"Basic realm="x""#.to_owned(),
                false => format!(
                    r#"Bearer realm="{}/token",service="x""#,
                    realm.get().unwrap()
                ),
            };
            match (asked.path.starts_with("/token"), given) {
                (true, Some(LOGIN)) => Reply::of(200, r#"{"token": "t0ken"}"#),
                (true, _) => Reply::of(401, ""),
                (false, Some(LOGIN)) if basic => Reply::of(200, "{}"),
                (false, Some("Bearer t0ken")) => Reply::of(200, "{}"),
                (false, _) => Reply::of(401, "").with("WWW-Authenticate", challenge),
            }
        });
        url.set(server.url()).unwrap();
        let logins = format!(
            r#"{{"auths": {{"{}": {{"auth": "YWRhOnMzY3JldA=="}}}}}}"#,
            server.address
        );
        let logins = Credentials::parse(&logins, "test").unwrap();
        let image = image(&server, "octo/private:1");
        let found = Registries::new(logins).unwrap().resolve(&image).await;
        assert_eq!(found.unwrap().digest, digest("{}"));
        let nobody = Registries::new(Credentials::default()).unwrap();
        let error = nobody.resolve(&image).await.unwrap_err().to_string();
        assert!(
            error.contains("`docker login` or DOCKER_AUTH_CONFIG"),
            "{error}"
        );
    }
}
