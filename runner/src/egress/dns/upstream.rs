//! The host's resolver.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use thiserror::Error;
use tokio::time::timeout;

/// How long an answer may take in all; clients of the guest ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Why there is no resolver.
#[derive(Debug, Error)]
#[error("reading the host's resolver configuration (/etc/resolv.conf): {0}")]
pub struct ResolverError(#[source] NetError);

/// The host's resolver.
#[derive(Clone)]
pub struct Upstream {
    resolver: TokioResolver,
    patience: Duration,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").finish_non_exhaustive()
    }
}

/// What the resolver said.
#[derive(Debug)]
pub(super) enum Said {
    /// Records, in an order that a client can follow.
    Records(Vec<Record>),
    /// There are none, and for how long (a zone's SOA).
    None(ResponseCode, Option<Box<Record>>),
    /// It said nothing of use.
    Failed(String),
}

impl Upstream {
    /// The resolver that the host's `/etc/resolv.conf` names.
    ///
    /// # Errors
    /// [`ResolverError`] when it cannot be read.
    pub fn system() -> Result<Self, ResolverError> {
        let builder = TokioResolver::builder_tokio().map_err(ResolverError)?;
        let resolver = builder.with_options_of_the_gateway().build();
        Ok(Self {
            resolver: resolver.map_err(ResolverError)?,
            patience: PATIENCE,
        })
    }

    /// A resolver at an address of its own.
    ///
    /// # Errors
    /// [`ResolverError`] when it cannot be made.
    pub fn at(server: SocketAddr) -> Result<Self, ResolverError> {
        let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
        for connection in &mut name_server.connections {
            connection.port = server.port();
        }
        let config = ResolverConfig::from_name_servers(vec![name_server]);
        let provider = TokioRuntimeProvider::default();
        let builder = TokioResolver::builder_with_config(config, provider);
        let resolver = builder.with_options_of_the_gateway().build();
        Ok(Self {
            resolver: resolver.map_err(ResolverError)?,
            patience: PATIENCE,
        })
    }

    /// As `self`, with another limit of time.
    #[must_use]
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Asks. Nothing is tried below the host's search domains: names come whole.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Said {
        let mut whole = name.clone();
        whole.set_fqdn(true);
        match timeout(self.patience, self.resolver.lookup(whole, kind)).await {
            Ok(Ok(lookup)) => Said::Records(lookup.answers().to_vec()),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
                let soa = none.soa.map(|soa| Box::new(soa.into_record_of_rdata()));
                Said::None(none.response_code, soa)
            }
            Ok(Err(error)) => Said::Failed(error.to_string()),
            Err(_) => Said::Failed("the host's resolver did not answer in time".into()),
        }
    }
}

/// Settings of every resolver of a gateway.
trait Settings {
    fn with_options_of_the_gateway(self) -> Self;
}

impl Settings for hickory_resolver::ResolverBuilder<TokioRuntimeProvider> {
    fn with_options_of_the_gateway(mut self) -> Self {
        let options: &mut ResolverOpts = self.options_mut();
        options.timeout = ATTEMPT;
        options.attempts = 2;
        // The host's own table of names is not for sandboxes.
        options.use_hosts_file = ResolveHosts::Never;
        // Chains of names are passed on whole, so that clients see what they would.
        options.preserve_intermediates = true;
        options.edns0 = true;
        options.case_randomization = false;
        self
    }
}
