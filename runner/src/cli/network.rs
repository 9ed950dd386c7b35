//! Sandboxes with a network: restored, and their flows served by policy.

use std::{io, path::PathBuf, sync::Arc};

use secrecy::SecretString;
use url::Url;

use super::{
    Failure,
    egress::{EgressArgs, line},
    machine::Launcher,
};
use crate::{
    config::{Installation, Settings},
    egress::{
        dns::{ResolverError, Upstream},
        guard,
        intercept::setup::{self, GitHubHosts, SetupError},
        online::Online,
        policy::{Document, JobPlace},
        proxy::{Bounds, Egress},
        record::{self, Record, RecordError, RecordFile, Tell},
    },
    job::request::{JobRequest, Variable},
    sandbox::microvm::{MicroVm, RestoreError},
};

/// Makes the networks of a command's sandboxes.
#[derive(Clone)]
pub struct Networks {
    document: Arc<Document>,
    /// Where records go.
    folder: PathBuf,
    /// A name server of its own, if the configuration has one.
    resolver: Option<std::net::SocketAddr>,
    tell: Option<Tell>,
}

impl std::fmt::Debug for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Networks")
            .field("policy", &self.document.origin)
            .finish_non_exhaustive()
    }
}

/// Why there is no sandbox with a network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No sandbox.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// No record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// No way to look names up.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// A secret cannot be bound, or TLS not be looked into.
    #[error(transparent)]
    Interception(#[from] SetupError),
    /// No stack.
    #[error("starting the sandbox's network: {0}")]
    Stack(#[source] io::Error),
}

impl Networks {
    /// The networks that arguments and configuration ask for.
    ///
    /// # Errors
    /// The policy or the configuration is wrong: exit code 2.
    pub fn new(
        args: &EgressArgs,
        installation: &Installation,
        tell: Option<Tell>,
    ) -> Result<Self, Failure> {
        let settings = Settings::load().map_err(Failure::usage)?;
        Ok(Self {
            document: Arc::new(args.document()?),
            folder: record::folder(&installation.state),
            resolver: settings.egress.resolver,
            tell,
        })
    }

    /// What holds, in one line.
    pub fn line(&self) -> String {
        line(&self.document)
    }

    /// Restores a sandbox and serves its network, under the policy for the job at `place`, whose
    /// secrets are those of `request`.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing of the sandbox is left then.
    pub async fn restore(
        &self,
        launcher: &Launcher,
        place: &JobPlace,
        request: Option<&JobRequest>,
    ) -> Result<MicroVm, NetworkError> {
        let upstream = match self.resolver {
            Some(server) => Upstream::at(server)?,
            None => Upstream::system()?,
        };
        let name = if place.job.is_empty() {
            "exec"
        } else {
            &place.job
        };
        let file = RecordFile::create(&self.folder, name)?;
        let record = Record::new(Some(file), self.tell.clone());
        let host_side = Arc::new(guard::is_host_side);
        let mut policy = self.document.policy(place);
        let (secrets, github) = request.map_or_else(Default::default, secrets);
        let interceptor = setup::for_job(&mut policy, &secrets, github.as_ref(), &[])?;
        let egress = Egress::new(policy, record, host_side, Bounds::default());
        if let Some(interceptor) = interceptor {
            egress.intercept_with(interceptor);
        }
        let (mut sandbox, end) = launcher.restore_online().await?;
        let online = Online::start(end.socket, end.addresses, egress, upstream);
        sandbox.goes_online(online.map_err(NetworkError::Stack)?);
        Ok(sandbox)
    }
}

/// The place of a job, by which sections of a policy are found.
pub fn place(request: &JobRequest) -> JobPlace {
    let github = request.context_data.get("github");
    let github = github.and_then(|github| github.as_object());
    let text = |key: &str| {
        let value = github.and_then(|github| github.get(key)?.as_str());
        value.filter(|text| !text.is_empty())
    };
    let repository = text("repository");
    // `owner/name/.github/workflows/ci.yml@refs/heads/main`
    let reference = text("workflow_ref").unwrap_or_default();
    let path = reference.split('@').next().unwrap_or_default();
    let path = repository.map_or(path, |own| path.strip_prefix(own).unwrap_or(path));
    JobPlace {
        workflow: path.trim_start_matches('/').to_owned(),
        job: request.job_key().to_owned(),
        repository: repository.map(str::to_owned),
    }
}

/// A job's secrets by name, its own token as `GITHUB_TOKEN`, and its GitHub.
fn secrets(request: &JobRequest) -> (Vec<(String, SecretString)>, Option<GitHubHosts>) {
    let mut secrets = Vec::new();
    for (name, variable) in request.variables.iter() {
        if let Variable::Secret(value) = variable {
            secrets.push((name.to_owned(), value.clone()));
        }
    }
    let is_token = |(name, _): &(String, SecretString)| name.eq_ignore_ascii_case("GITHUB_TOKEN");
    if !secrets.iter().any(is_token)
        && let Some(token) = request.variables.get("system.github.token")
    {
        secrets.push(("GITHUB_TOKEN".to_owned(), token.expose().to_owned().into()));
    }
    let github = request.context_data.get("github");
    let host = |key: &str| {
        let url = github?.as_object()?.get(key)?.as_str()?;
        Some(Url::parse(url).ok()?.host_str()?.to_owned())
    };
    let hosts = host("server_url").zip(host("api_url"));
    (
        secrets,
        hosts.map(|(server, api)| GitHubHosts { server, api }),
    )
}
