//! Answers of a worker, and attempts to pass something else for one.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;

const NONCE: &str = "0123456789abcdef-_";

fn sandbox(job: &str) -> Sandbox {
    Sandbox {
        sandbox: format!("uuid-of-{job}"),
        run: "7".to_owned(),
        job: job.to_owned(),
        repository: "octo/hello".to_owned(),
        image: ImageName {
            name: "minimal".to_owned(),
            digest: "sha256:aa".to_owned(),
        },
        pins: Pins {
            policy: PinPolicy::Require,
            ok: true,
            violations: BTreeMap::new(),
        },
        mayfly: "0.1.0".to_owned(),
    }
}

/// A host and its key, which can be read again.
fn key() -> (tempfile::TempDir, HostKey) {
    let folder = tempfile::tempdir().unwrap();
    let key = HostKey::in_folder(&folder.path().join("keys")).unwrap();
    (folder, key)
}

fn json(answer: &Answer) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap()
}

fn expected() -> Expected {
    Expected {
        nonce: Some(NONCE.to_owned()),
        job: Some("build".to_owned()),
        pins: true,
        ..Expected::default()
    }
}

#[test]
fn an_answer_is_believed_offline_with_the_public_key() {
    let (_folder, key) = key();
    let public = PublicKey::parse(&key.public().to_pem()).unwrap();
    let witness = Witness::new(key, sandbox("build"));
    let answer = witness.answer(NONCE).unwrap();
    let found = verify(&json(&answer), &public, &expected()).unwrap();
    assert_eq!(found.statement.sandbox, sandbox("build"));
    assert_eq!(found.statement.nonce, NONCE);
    let file = serde_json::to_value(witness.file()).unwrap();
    assert_eq!(file["socket"], "/run/mayfly/sandbox.sock");
    assert_eq!(
        (&file["job"], &file["pins"]["policy"]),
        (&"build".into(), &"require".into())
    );
}

/// All that a step could try that has no key.
#[test]
fn nothing_that_is_made_up_or_altered_is_believed() {
    let (folder, host) = key();
    let public = host.public();
    let witness = Witness::new(host, sandbox("build"));
    let honest = witness.answer(NONCE).unwrap();
    let refused = |answer: &Answer| verify(&json(answer), &public, &expected()).unwrap_err();

    // An answer to another question, and that of another job, which is signed as well.
    let other = witness.answer("another-nonce-0123").unwrap();
    assert!(matches!(
        refused(&other),
        Refused::Other { what: "nonce", .. }
    ));
    let same = HostKey::in_folder(&folder.path().join("keys")).unwrap();
    let deploy = Witness::new(same, sandbox("deploy"));
    let theirs = deploy.answer(NONCE).unwrap();
    assert!(matches!(
        refused(&theirs),
        Refused::Other { what: "job", .. }
    ));

    // Each field changed, the signature kept.
    let payload = String::from_utf8(STANDARD.decode(&honest.payload).unwrap()).unwrap();
    for (from, to) in [
        (NONCE, "fedcba9876543210-_"),
        ("\"build\"", "\"deploy\""),
        ("uuid-of-build", "uuid-of-other"),
        ("\"7\"", "\"8\""),
        ("octo/hello", "octo/other"),
        ("sha256:aa", "sha256:bb"),
        ("\"require\"", "\"audit\""),
        ("\"ok\":true", "\"ok\":false"),
        ("\"version\":1", "\"version\":2"),
    ] {
        let text = payload.replace(from, to);
        assert_ne!(text, payload, "{from}");
        let altered = Answer {
            payload: STANDARD.encode(text),
            ..honest.clone()
        };
        assert_eq!(refused(&altered), Refused::Signature, "{from}");
    }
    // Parts of two answers of this host.
    let mixed = Answer {
        signature: theirs.signature.clone(),
        ..honest.clone()
    };
    assert_eq!(refused(&mixed), Refused::Signature);

    // A key of the step's own, named as its own and as the host's.
    let (_own, own) = key();
    let forged = Witness::new(own, sandbox("build")).answer(NONCE).unwrap();
    assert!(matches!(refused(&forged), Refused::OtherKey { .. }));
    let named = Answer {
        key: honest.key.clone(),
        ..forged
    };
    assert_eq!(refused(&named), Refused::Signature);
    assert!(verify(&json(&honest), &public, &expected()).is_ok());
}

#[test]
fn what_is_no_answer_is_refused_and_violated_pins_are_told() {
    let (_folder, key) = key();
    let public = key.public();
    let mut bad = sandbox("build");
    bad.pins.ok = false;
    bad.pins.violations.insert("moved".to_owned(), 1);
    let witness = Witness::new(key, bad);
    let answer = json(&witness.answer(NONCE).unwrap());
    assert_eq!(verify(&answer, &public, &expected()), Err(Refused::Pins));
    let any = Expected::default();
    assert!(verify(&answer, &public, &any).is_ok());
    let long = vec![b' '; answer::MAX_BYTES + 1];
    let texts: [&[u8]; 4] = [
        b"",
        b"{}",
        br#"{"payload":"","signature":"","key":"","x":1}"#,
        &long,
    ];
    for text in texts {
        assert!(matches!(
            verify(text, &public, &any),
            Err(Refused::Shape(_))
        ));
    }
    for nonce in ["", "short", "with space 0123456", &"x".repeat(129)] {
        assert_eq!(witness.answer(nonce), Err(Refused::Nonce));
    }
}

#[test]
fn the_key_is_made_once_and_is_its_owner_s_alone() {
    let (folder, key) = key();
    let keys = folder.path().join("keys");
    let again = HostKey::in_folder(&keys).unwrap();
    assert_eq!(again.public(), key.public());
    let private = keys.join("sandbox.ed25519");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&keys), mode(&private)), (0o700, 0o600));
    let public = fs::read_to_string(keys.join("sandbox.pub")).unwrap();
    assert_eq!(PublicKey::parse(&public).unwrap(), key.public());
    assert!(!format!("{key:?}{again:?}").contains("sha256"));
    fs::set_permissions(&private, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(HostKey::in_folder(&keys), Err(KeyError::Open(_))));
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&private, "x").unwrap();
    assert!(matches!(
        HostKey::in_folder(&keys),
        Err(KeyError::Damaged(_))
    ));
    assert!(
        PublicKey::parse("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----").is_err()
    );
}

/// What docs/sandbox.md says of other programs.
#[test]
fn openssl_verifies_an_answer_too() {
    let (folder, key) = key();
    let public = folder.path().join("keys/sandbox.pub");
    let answer = Witness::new(key, sandbox("build")).answer(NONCE).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let payload = STANDARD.decode(&answer.payload).unwrap();
    for (payload, right) in [
        (payload.clone(), true),
        ([&payload[1..], b"x"].concat(), false),
    ] {
        let message = write(
            "message",
            &[b"mayfly-sandbox-v1\n", payload.as_slice()].concat(),
        );
        let signature = write("signature", &STANDARD.decode(&answer.signature).unwrap());
        let done = Command::new("openssl")
            .args(["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey"])
            .args([&public, std::path::Path::new("-in"), &message])
            .args([std::path::Path::new("-sigfile"), &signature])
            .output()
            .unwrap();
        assert_eq!(
            done.status.success(),
            right,
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}
