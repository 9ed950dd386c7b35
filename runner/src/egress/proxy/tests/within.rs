//! Requests within TLS, and secrets in streams as they are, against hosts on loopback.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::*;
use crate::egress::intercept::{
    secrets::Bindings,
    tests::lab::{Server, interceptor_and_server, provider},
};

const HOST: &str = "a.example.com";
const VALUE: &str = "ghs_R3alR3alR3alR3alR3alR3alR3alR3alR3al";

const POLICY: &str = r#"
mode = "enforce"
[[allow]]
host = "a.example.com"
method = "GET"
path = "/ok/**"
port = "1-65535"
[[allow]]
host = "b.example.com"
port = "1-65535"
[secrets.TOKEN]
hosts = "a.example.com"
"#;

struct Setting {
    lab: Lab,
    server: Server,
    /// Where the server for TLS listens, and one that echoes.
    tls: SocketAddr,
    plain: SocketAddr,
    placeholder: String,
}

async fn setting() -> Setting {
    let lab = Lab::new(POLICY);
    let binding = lab.egress.policy().secrets["TOKEN"].clone();
    let bindings = Bindings::new([("TOKEN".to_owned(), VALUE.into(), binding)]).unwrap();
    let placeholder = bindings.placeholders().apply(VALUE).into_owned();
    let (interceptor, server) = interceptor_and_server(bindings, HOST);
    lab.egress.intercept_with(interceptor);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = listener.local_addr().unwrap();
    let serving = server.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serving.clone().run(stream));
        }
    });
    Setting {
        plain: super::server().await,
        lab,
        server,
        tls,
        placeholder,
    }
}

impl Setting {
    /// What the guest hears to `request` within TLS.
    async fn within(&self, request: &str) -> String {
        let (guest, mut worker) = tokio::io::duplex(64 << 10);
        let mut roots = RootCertStore::empty();
        let authority = self.lab.egress.interceptor().unwrap().authority();
        roots.add(authority.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let request = request.to_owned();
        let guest = tokio::spawn(async move {
            let connector = TlsConnector::from(Arc::new(config));
            let name = ServerName::try_from(HOST).unwrap();
            let mut stream = connector.connect(name, guest).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        });
        let mut asked = self.lab.asked(self.tls, &[HOST]);
        let opened = self.lab.egress.open(&mut asked, &mut worker).await.unwrap();
        let Opened::Within { host, first } = opened else {
            panic!("the rule looks into TLS");
        };
        let answer = self
            .lab
            .egress
            .within(&mut asked, worker, host, first)
            .await;
        asked.end(answer);
        guest.await.unwrap()
    }
}

fn get(method: &str, path: &str, token: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    )
}

#[tokio::test]
async fn requests_within_tls_are_judged_one_by_one_and_written_down() {
    let setting = setting().await;
    let allowed = setting
        .within(&get("GET", "/ok/1?x=y", &setting.placeholder))
        .await;
    assert!(allowed.starts_with("HTTP/1.1 200"), "{allowed}");
    let denied = setting.within(&get("POST", "/ok/1", "x")).await;
    assert!(
        denied.starts_with("HTTP/1.1 403") && denied.contains("egress policy"),
        "{denied}"
    );
    let seen = setting.server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].headers["authorization"], format!("Bearer {VALUE}"));
    let lines = setting.lab.lines();
    let of = |method: &str| {
        lines
            .iter()
            .find(|line| line.method.as_deref() == Some(method))
            .unwrap()
    };
    assert_eq!(
        (of("GET").verdict, of("GET").path.as_deref()),
        (Verdict::Allow, Some("/ok/1"))
    );
    assert_eq!(
        (of("POST").verdict, of("POST").within),
        (Verdict::Deny, Some(1))
    );
    let connection = lines.iter().find(|line| line.within.is_none()).unwrap();
    assert!(
        connection.sent > 100 && connection.received > 100,
        "{connection:?}"
    );
    let said = format!("{lines:?}");
    assert!(
        said.contains("secret TOKEN put into a request") && !said.contains(VALUE),
        "{said}"
    );
}

#[tokio::test]
async fn a_placeholder_in_a_plain_stream_stops_it_and_names_the_step() {
    let setting = setting().await;
    let words = vec!["build".to_owned(), "Build it".to_owned()];
    let step = setting.lab.egress.step_begins(words.clone());
    let request = format!(
        "GET /{} HTTP/1.1\r\nHost: b.example.com\r\n\r\n",
        setting.placeholder
    );
    let (mut guest, mut worker) = tokio::io::duplex(64 << 10);
    guest.write_all(request.as_bytes()).await.unwrap();
    let mut asked = setting.lab.asked(setting.plain, &["b.example.com"]);
    let opened = setting.lab.egress.open(&mut asked, &mut worker).await;
    let answer = super::super::within::broken(&setting.lab.egress, &mut asked, opened.map(|_| ()));
    assert_eq!(asked.counts.relayed().sent, 0);
    asked.end(answer);
    setting.lab.egress.step_ends(step);
    let stopped = setting.lab.egress.take_stopped(&words);
    assert!(
        stopped[0].words.contains("the placeholder of secret TOKEN"),
        "{stopped:?}"
    );
    assert!(
        setting.lab.egress.take_stopped(&words).is_empty(),
        "each is told once"
    );
    let lines = setting.lab.lines();
    assert_eq!(lines[0].verdict, Verdict::Deny);
    // The control: without it the stream passes.
    let request = b"GET / HTTP/1.1\r\nHost: b.example.com\r\n\r\n";
    let asked = setting.lab.asked(setting.plain, &["b.example.com"]);
    let (got, verdict) = through(&setting.lab, asked, request).await;
    assert_eq!((got.len(), verdict), (request.len() + 1, Verdict::Allow));
}
