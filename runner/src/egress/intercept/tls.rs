//! Both handshakes of an intercepted connection: the server's first, so that the guest is offered what
//! the server speaks and sees what is wrong with the server's certificate.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    server::{Acceptor, NoServerSessionStorage},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector, client, server};

use super::{
    Target,
    ca::{Authority, CertifyError, Flaw},
};

/// How long one handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Sessions with servers that are remembered.
const SESSIONS: usize = 128;

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The application protocol that both sides speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1, or nothing was said.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Nothing or no TLS came from the guest in time.
    #[error(
        "the sandbox began no TLS that Mayfly can intercept: {0}; exempt the host by a rule if it must not be intercepted"
    )]
    Hello(#[source] io::Error),
    /// The name in the hello is not that of the connection.
    #[error("the sandbox asked for {asked} in a connection to {target}")]
    OtherName {
        /// What the hello says.
        asked: String,
        /// Where the connection goes.
        target: String,
    },
    /// The guest did not finish: it may not trust the sandbox's authority.
    #[error(
        "the sandbox did not finish the TLS handshake: {0}; a client that pins certificates needs a rule that exempts its host"
    )]
    Guest(#[source] io::Error),
    /// There is no certificate.
    #[error(transparent)]
    Certify(#[from] CertifyError),
    /// The settings are not possible.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
    /// No certificate of the system can be read.
    #[error("the host has no certificate authorities to trust; install its ca-certificates")]
    NoRoots,
}

/// What is wrong with the server, in words for the guest and the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UpstreamFailure {
    pub(super) words: String,
    /// How the guest's certificate has to be wrong too.
    pub(super) flaw: Option<Flaw>,
}

/// The guest's side while the server is asked.
pub(super) struct Asked<G> {
    start: StartHandshake<G>,
    offered: Option<Vec<Vec<u8>>>,
}

/// TLS settings of one sandbox.
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    client: ClientConfig,
}

impl Tls {
    /// Settings that trust the host's certificate authorities and `extra`.
    pub(super) fn new(extra: &[CertificateDer<'static>]) -> Result<Self, HandshakeError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(extra.iter().cloned());
        if roots.is_empty() {
            return Err(HandshakeError::NoRoots);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let mut client = client
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self { provider, client })
    }

    /// Reads what the guest says first.
    pub(super) async fn hello<G>(
        &self,
        guest: G,
        target: &Target,
    ) -> Result<Asked<G>, HandshakeError>
    where
        G: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = LazyConfigAcceptor::new(Acceptor::default(), guest);
        let start = limited(acceptor).await.map_err(HandshakeError::Hello)?;
        let hello = start.client_hello();
        if let Some(asked) = hello.server_name()
            && !asked.eq_ignore_ascii_case(target.name())
        {
            return Err(HandshakeError::OtherName {
                asked: asked.to_owned(),
                target: target.name().to_owned(),
            });
        }
        let offered = hello
            .alpn()
            .map(|names| names.map(<[u8]>::to_vec).collect());
        Ok(Asked { start, offered })
    }

    /// Connects to the server as the guest would, and checks that it is who it should be.
    pub(super) async fn connect<U>(
        &self,
        upstream: U,
        target: &Target,
        offered: Option<&[Vec<u8>]>,
    ) -> Result<(client::TlsStream<U>, Protocol), UpstreamFailure>
    where
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let spoken = |name: &&[u8]| match offered {
            Some(offered) => offered.iter().any(|other| other == name),
            None => *name == HTTP1,
        };
        let mut config = self.client.clone();
        config.alpn_protocols = [H2, HTTP1]
            .iter()
            .filter(|n| spoken(n))
            .map(|n| n.to_vec())
            .collect();
        let name = server_name(target).ok_or_else(|| UpstreamFailure {
            words: format!("{} is no name that a certificate can be for", target.name()),
            flaw: Some(Flaw::OtherName),
        })?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = limited(connector.connect(name, upstream)).await;
        let stream = stream.map_err(|cause| failure(target, &cause))?;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(H2) => Protocol::Http2,
            _ => Protocol::Http1,
        };
        Ok((stream, protocol))
    }

    fn server(
        &self,
        key: Arc<CertifiedKey>,
        alpn: &[&[u8]],
    ) -> Result<ServerConfig, HandshakeError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let mut config = builder
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        // A session of one host must not be taken up at another.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }
}

impl<G: AsyncRead + AsyncWrite + Unpin> Asked<G> {
    /// The application protocols that the guest offers.
    pub(super) fn offered(&self) -> Option<&[Vec<u8>]> {
        self.offered.as_deref()
    }

    /// Finishes the handshake with the protocol that the server chose.
    pub(super) async fn finish(
        self,
        tls: &Tls,
        authority: &Authority,
        target: &Target,
        protocol: Protocol,
    ) -> Result<server::TlsStream<G>, HandshakeError> {
        let alpn = match protocol {
            Protocol::Http1 => HTTP1,
            Protocol::Http2 => H2,
        };
        self.take(tls, authority.leaf(target.name())?, &[alpn])
            .await
    }

    /// Finishes it so that the guest sees what is wrong; one that looks away gets an answer in words.
    pub(super) async fn fail(
        self,
        tls: &Tls,
        authority: &Authority,
        target: &Target,
        flaw: Option<Flaw>,
    ) -> Result<(server::TlsStream<G>, Protocol), HandshakeError> {
        let key = match flaw {
            Some(flaw) => authority.flawed(target.name(), flaw)?,
            None => authority.leaf(target.name())?,
        };
        let stream = self.take(tls, key, &[HTTP1, H2]).await?;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(H2) => Protocol::Http2,
            _ => Protocol::Http1,
        };
        Ok((stream, protocol))
    }

    async fn take(
        self,
        tls: &Tls,
        key: Arc<CertifiedKey>,
        alpn: &[&[u8]],
    ) -> Result<server::TlsStream<G>, HandshakeError> {
        let config = tls.server(key, alpn)?;
        let accept = self.start.into_stream(Arc::new(config));
        limited(accept).await.map_err(HandshakeError::Guest)
    }
}

async fn limited<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("not done within {HANDSHAKE:?}"),
        )
    };
    timeout(HANDSHAKE, handshake).await.map_err(|_| late())?
}

fn server_name(target: &Target) -> Option<ServerName<'static>> {
    match target.name().parse::<IpAddr>() {
        Ok(address) => Some(ServerName::IpAddress(address.into())),
        Err(_) => ServerName::try_from(target.name().to_owned()).ok(),
    }
}

fn failure(target: &Target, cause: &io::Error) -> UpstreamFailure {
    let tls = cause.get_ref().and_then(|inner| inner.downcast_ref());
    let flaw = match tls {
        Some(rustls::Error::InvalidCertificate(error)) => Some(flaw(error)),
        Some(rustls::Error::NoCertificatesPresented) => Some(Flaw::UnknownIssuer),
        _ => None,
    };
    let what = match flaw {
        Some(_) => "does not prove that it is this host",
        None => "and Mayfly could not agree on TLS",
    };
    UpstreamFailure {
        words: format!("the server of {} {what}: {cause}", target.name()),
        flaw,
    }
}

fn flaw(error: &CertificateError) -> Flaw {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext,
    };
    match error {
        Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => Flaw::Expired,
        NotValidForName | NotValidForNameContext { .. } => Flaw::OtherName,
        _ => Flaw::UnknownIssuer,
    }
}
