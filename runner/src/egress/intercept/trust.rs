//! The certificate of a sandbox's authority in the places where programs look for whom to trust. Only the
//! public certificate goes in.

mod java;

use std::time::SystemTime;

use futures_util::future::try_join_all;

use super::Authority;
use crate::sandbox::{Sandbox, SandboxError};

/// Where it stands alone.
const ALONE: &str = "/usr/local/share/ca-certificates/mayfly-sandbox.crt";
/// Bundles of the whole system: Debian and Alpine, Red Hat, SUSE, OpenSSL.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Java's, as Debian keeps it.
const JAVA: &str = "/etc/ssl/certs/java/cacerts";
/// Largest bundle that is read.
const MAX_BUNDLE: u64 = 4 << 20;
/// OpenSSL's hash of the authority's name; it looks certificates up by it. The name is always the same.
const HASH: &str = "9a12fcf5";

/// Variables for programs that take one more certificate.
const MORE: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];
/// Variables for programs that take a whole bundle.
const WHOLE: [&str; 10] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "BUNDLE_SSL_CA_CERT",
    "NIX_SSL_CERT_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
];

/// Has the sandbox trust `authority`; gives the variables that its steps need.
///
/// # Errors
/// [`SandboxError`] when a file cannot be read or written.
pub async fn install<S: Sandbox>(
    sandbox: &S,
    authority: &Authority,
) -> Result<Vec<(String, String)>, SandboxError> {
    let paths = BUNDLES.into_iter().chain([JAVA]);
    let read = paths.map(|path| async move {
        let content = sandbox.read_file(path, MAX_BUNDLE).await?;
        Ok::<_, SandboxError>((path, content))
    });
    let found = try_join_all(read).await?;
    let bundle = found
        .iter()
        .find(|(path, content)| content.is_some() && *path != JAVA);
    let bundle = bundle.map(|(path, _)| *path);
    let pem = authority.pem();
    let mut files = vec![
        (ALONE.to_owned(), pem.as_bytes().to_vec()),
        (format!("/etc/ssl/certs/{HASH}.0"), pem.as_bytes().to_vec()),
    ];
    for (path, content) in found {
        let Some(content) = content else { continue };
        let with = if path == JAVA {
            java::with(&content, authority.der(), SystemTime::now())
        } else {
            Some(appended(content, pem))
        };
        files.extend(with.map(|content| (path.to_owned(), content)));
    }
    let write = files
        .iter()
        .map(|(path, content)| sandbox.write_file(path, 0o644, content));
    try_join_all(write).await?;
    Ok(variables(bundle))
}

fn appended(mut bundle: Vec<u8>, pem: &str) -> Vec<u8> {
    if !bundle.ends_with(b"\n") && !bundle.is_empty() {
        bundle.push(b'\n');
    }
    bundle.extend_from_slice(pem.as_bytes());
    bundle
}

fn variables(bundle: Option<&str>) -> Vec<(String, String)> {
    let more = MORE
        .iter()
        .map(|name| ((*name).to_owned(), ALONE.to_owned()));
    // A variable that names a file that is not there would have a program trust nobody.
    let whole = bundle.into_iter().flat_map(|bundle| {
        WHOLE
            .iter()
            .map(move |name| ((*name).to_owned(), bundle.to_owned()))
    });
    more.chain(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::fake::FakeSandbox;

    #[tokio::test]
    async fn every_store_that_is_there_trusts_the_authority_and_no_other_is_made() {
        let sandbox = FakeSandbox::new();
        let old = b"-----BEGIN CERTIFICATE-----\nold\n-----END CERTIFICATE-----".to_vec();
        sandbox.put(BUNDLES[0], old);
        sandbox.put(JAVA, java::tests::empty());
        let authority = Authority::draw(None).unwrap();
        let variables = install(&sandbox, &authority).await.unwrap();
        let bundle = String::from_utf8(sandbox.get(BUNDLES[0]).unwrap()).unwrap();
        assert!(bundle.starts_with(
            "-----BEGIN CERTIFICATE-----\nold\n-----END CERTIFICATE-----\n-----BEGIN"
        ));
        assert!(bundle.ends_with(authority.pem()) && !bundle.contains("PRIVATE"));
        assert_eq!(sandbox.get(ALONE).unwrap(), authority.pem().as_bytes());
        assert!(sandbox.get(&format!("/etc/ssl/certs/{HASH}.0")).is_some());
        assert!(sandbox.get(JAVA).unwrap().len() > java::tests::empty().len());
        for path in &BUNDLES[1..] {
            assert!(sandbox.get(path).is_none(), "{path} was made");
        }
        let value = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, v)| v.as_str())
        };
        assert_eq!(value("NODE_EXTRA_CA_CERTS"), Some(ALONE));
        assert_eq!(value("GIT_SSL_CAINFO"), Some(BUNDLES[0]));
    }

    /// OpenSSL's own word, where there is one.
    #[test]
    fn the_authority_is_found_by_the_hash_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, Authority::draw(None).unwrap().pem()).unwrap();
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["x509", "-noout", "-hash", "-in"]).arg(&path);
        let Ok(output) = openssl.output() else {
            eprintln!("not checked: there is no openssl");
            return;
        };
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), HASH);
    }

    #[tokio::test]
    async fn without_a_bundle_no_variable_names_one() {
        let sandbox = FakeSandbox::new();
        let variables = install(&sandbox, &Authority::draw(None).unwrap())
            .await
            .unwrap();
        let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, MORE);
    }
}
