//! What both sides see of certificates.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::lab::{Lab, Server, provider};
use crate::egress::intercept::{Authority, HandshakeError, InterceptError};

const HOST: &str = "api.example.com";

/// A client that looks at no certificate, as `curl -k`.
#[derive(Debug)]
struct Blind;

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

async fn blind(lab: &Lab, server: &Server) -> String {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Blind))
        .with_no_client_auth();
    let (guest, _) = lab.open(HOST, server);
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector
        .connect(ServerName::try_from(HOST).unwrap(), guest)
        .await;
    let mut stream = stream.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn what_is_wrong_with_the_servers_certificate_is_wrong_with_the_guests() {
    let lab = Lab::plain();
    for (server, wrong) in [
        (lab.expired(HOST), "Expired"),
        (lab.server("other.example.com", &[]), "NotValidForName"),
        (Lab::stranger(HOST), "UnknownIssuer"),
    ] {
        let error = lab.tls(HOST, &server, &[]).await.unwrap_err();
        let error = error.get_ref().unwrap().downcast_ref::<rustls::Error>();
        let said = format!("{error:?}");
        assert!(
            said.contains("InvalidCertificate") && said.contains(wrong),
            "{wrong}: {said}"
        );
        // Who looks away is told, and nothing of the request goes out.
        let answer = blind(&lab, &server).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert!(
            answer.contains("does not prove that it is this host"),
            "{answer}"
        );
        assert!(server.seen().is_empty());
    }
    let notes = lab.judge.notes().concat();
    assert!(
        notes.contains("the server of api.example.com does not prove"),
        "{notes}"
    );
}

#[tokio::test]
async fn the_protocol_is_the_one_that_the_server_chooses() {
    let lab = Lab::plain();
    for (server_speaks, guest_offers, chosen) in [
        (vec!["h2", "http/1.1"], vec!["h2", "http/1.1"], Some("h2")),
        (vec!["http/1.1"], vec!["h2", "http/1.1"], Some("http/1.1")),
        (vec![], vec!["h2", "http/1.1"], Some("http/1.1")),
        (vec!["h2", "http/1.1"], vec!["http/1.1"], Some("http/1.1")),
        (vec!["h2", "http/1.1"], vec![], None),
    ] {
        let server = lab.server(HOST, &server_speaks);
        let stream = lab.tls(HOST, &server, &guest_offers).await.unwrap();
        let seen = stream
            .get_ref()
            .1
            .alpn_protocol()
            .map(String::from_utf8_lossy);
        assert_eq!(
            seen.as_deref(),
            chosen,
            "{server_speaks:?} {guest_offers:?}"
        );
    }
    let server = lab.server(HOST, &["h2", "http/1.1"]);
    assert!(lab.tls(HOST, &server, &["mqtt"]).await.is_err());
}

#[tokio::test]
async fn a_hello_for_another_name_goes_nowhere() {
    let lab = Lab::plain();
    let server = lab.server(HOST, &[]);
    let (guest, task) = lab.open(HOST, &server);
    let connector = TlsConnector::from(Arc::new(lab.trust(&[])));
    let other = ServerName::try_from("evil.example.com").unwrap();
    assert!(connector.connect(other, guest).await.is_err());
    let error = task.await.unwrap().unwrap_err();
    let InterceptError::Handshake(HandshakeError::OtherName { asked, .. }) = &error else {
        panic!("{error}");
    };
    assert_eq!(asked, "evil.example.com");
}

#[tokio::test]
async fn what_is_no_tls_is_refused() {
    let lab = Lab::plain();
    let server = lab.server(HOST, &[]);
    let (mut guest, task) = lab.open(HOST, &server);
    guest.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
    let error = task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("exempt the host by a rule"), "{error}");
}

fn accepts(authority: &Authority, name: &str) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
    let leaf = authority.leaf(name).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let now = UnixTime::now();
    let verified =
        verifier
            .build()
            .unwrap()
            .verify_server_cert(&leaf.cert[0], &[], &name, &[], now);
    verified.map(|_| ())
}

#[test]
fn an_authority_for_some_domains_is_none_for_others() {
    let permitted = ["example.com".to_owned(), "192.0.2.1".to_owned()];
    let some = Authority::draw(Some(&permitted)).unwrap();
    for name in ["example.com", "api.example.com", "192.0.2.1"] {
        accepts(&some, name).unwrap();
    }
    for name in ["example.org", "badexample.com", "192.0.2.2", "2001:db8::1"] {
        assert!(accepts(&some, name).is_err(), "{name}");
    }
    let domains = Authority::draw(Some(&permitted[..1])).unwrap();
    assert!(accepts(&domains, "192.0.2.1").is_err());
    let all = Authority::draw(None).unwrap();
    for name in ["example.org", "192.0.2.2", "2001:db8::1"] {
        accepts(&all, name).unwrap();
    }
}

#[test]
fn two_sandboxes_trust_different_authorities() {
    let (a, b) = (
        Authority::draw(None).unwrap(),
        Authority::draw(None).unwrap(),
    );
    assert_ne!(a.pem(), b.pem());
    let mut roots = RootCertStore::empty();
    roots.add(a.der().clone()).unwrap();
    let leaf = b.leaf("example.com").unwrap();
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
    let name = ServerName::try_from("example.com").unwrap();
    let verified = verifier.build().unwrap().verify_server_cert(
        &leaf.cert[0],
        &[],
        &name,
        &[],
        UnixTime::now(),
    );
    assert!(verified.is_err());
    assert!(!format!("{a:?}").contains("BEGIN"));
}

#[test]
fn leaf_certificates_are_kept_in_bounds() {
    let authority = Authority::draw(None).unwrap();
    let first = authority.leaf("h0.example.com").unwrap();
    assert!(Arc::ptr_eq(
        &first,
        &authority.leaf("h0.example.com").unwrap()
    ));
    for number in 1..400 {
        authority.leaf(&format!("h{number}.example.com")).unwrap();
    }
    assert!(!Arc::ptr_eq(
        &first,
        &authority.leaf("h0.example.com").unwrap()
    ));
}
