//! What the executor is told besides the job request.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    action::bytes::{ActionSource, NoActions},
    egress::intercept::secrets::Placeholders,
};

use secrecy::{ExposeSecret, SecretString};

use super::layout::WORK;

/// Time that a cancelled job has to end by itself (`always()` steps included), as at GitHub.
const CANCEL_GRACE: Duration = Duration::from_secs(5 * 60);

/// The sandbox as the containers in it see it, as the recipe's `daemon.json` has it.
const GATEWAY: &str = "//172.17.0.1:";

/// Search path of programs in a sandbox.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A version of Node.js that the image says it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeVersion {
    /// Major version, as in `using: node24`.
    pub major: u32,
    /// Where its `bin/node` is.
    pub path: String,
}

/// Settings of the machine for one job.
#[derive(Clone)]
pub struct Options {
    /// Name of the runner (`runner.name`).
    pub runner_name: String,
    /// Folder in the sandbox below which all work is done.
    pub work: String,
    /// User of the steps in the sandbox; `None` is root.
    pub user: Option<String>,
    /// `timeout-minutes` of the job: it is cancelled after this time. GitHub sends a cancellation
    /// instead, so a job message needs none.
    pub timeout: Option<Duration>,
    /// Time that the job has after a cancellation before everything is killed.
    pub cancel_grace: Duration,
    /// Environment that the machine gives to every step; later layers win.
    pub environment: Vec<(String, String)>,
    /// Versions of Node.js in the sandbox.
    pub node: Vec<NodeVersion>,
    /// Where actions by reference are found.
    pub actions: Arc<dyn ActionSource>,
    /// What the image of the sandbox is called in messages.
    pub image: String,
    /// Archives of the host that stand for container images, by image reference.
    pub container_images: Vec<(String, PathBuf)>,
    /// The static program that starts what runs in containers (`mayfly-guest --launch`); without it
    /// their engine is told all that they are given.
    pub starter: Option<PathBuf>,
    /// Whether debug messages are logged, whatever the job says.
    pub debug: bool,
    /// What steps get in place of secrets that are bound to hosts.
    pub placeholders: Placeholders,
    /// Services for actions, where the machine has any.
    pub services: Option<Services>,
    /// Why there are none, where there should be.
    pub without_services: Option<String>,
}

/// How actions reach the caches and artifacts of their job.
#[derive(Debug, Clone)]
pub struct Services {
    /// Address in the sandbox, with a slash at its end.
    pub address: String,
    /// The token of this job.
    pub token: SecretString,
}

impl Services {
    /// Variables of an action's process. As at GitHub, `run:` steps have none of them.
    pub(super) fn environment(&self) -> [(String, String); 5] {
        [
            ("ACTIONS_RUNTIME_URL", self.address.as_str()),
            ("ACTIONS_RUNTIME_TOKEN", self.token.expose_secret()),
            ("ACTIONS_RESULTS_URL", &self.address),
            ("ACTIONS_CACHE_URL", &self.address),
            ("ACTIONS_CACHE_SERVICE_V2", "True"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    }

    /// The same in a container, which has a network of its own: there the sandbox is the gateway of
    /// the Docker engine.
    pub(super) fn container_environment(&self) -> [(String, String); 5] {
        self.environment()
            .map(|(name, value)| (name, value.replace("//127.0.0.1:", GATEWAY)))
    }
}

impl std::fmt::Debug for Options {
    /// Leaves out values of the environment: they may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.environment.iter().map(|(name, _)| name).collect();
        f.debug_struct("Options")
            .field("user", &self.user)
            .field("timeout", &self.timeout)
            .field("environment", &names)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Settings for steps that run as `user` (`None` is root).
    #[must_use]
    pub fn for_user(user: Option<&str>) -> Self {
        let name = user.unwrap_or("root");
        let home = match user {
            None | Some("root") => "/root".to_owned(),
            Some(user) => format!("/home/{user}"),
        };
        let environment = [
            ("PATH", PATH),
            ("HOME", &home),
            ("USER", name),
            ("LOGNAME", name),
            ("LANG", "C.UTF-8"),
        ];
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            runner_name: "mayfly".to_owned(),
            work: WORK.to_owned(),
            user: user.map(str::to_owned),
            timeout: None,
            cancel_grace: CANCEL_GRACE,
            environment: environment.map(own).into(),
            node: Vec::new(),
            actions: Arc::new(NoActions),
            image: "of this sandbox".to_owned(),
            container_images: Vec::new(),
            starter: None,
            debug: false,
            placeholders: Placeholders::default(),
            services: None,
            without_services: None,
        }
    }
}

impl Default for Options {
    /// Settings for steps that run as root.
    fn default() -> Self {
        Self::for_user(None)
    }
}
