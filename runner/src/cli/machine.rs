//! Arguments that say which machine a sandbox is, and the sandboxes made from them.

use std::path::PathBuf;

use clap::Args;
use mayfly_images::{
    manifest::{NodeRuntime, Source},
    progress::Progress,
    store::ImageStore,
};
use mayfly_vmm::config::MachineConfig;

use super::{Failure, progress::Steps};
use crate::{
    attestation::{HostKey, ImageName, KeyError},
    config::{Installation, size::parse_mib},
    job::{NodeVersion, Options},
    sandbox::{
        microvm::{MicroVm, RestoreError},
        network::NetworkEnd,
        template::Template,
    },
};

/// Default memory of a sandbox in MiB: enough for a compiler, small enough for many.
const DEFAULT_MEMORY_MIB: u64 = 2048;
/// Most vCPUs of a sandbox, the limit of the VMM.
const MAX_CPUS: u8 = 32;

/// Image and size of a sandbox.
#[derive(Debug, Clone, Args)]
pub struct MachineArgs {
    /// Image of the sandbox, by name or by the beginning of its digest.
    #[arg(long, value_name = "NAME", default_value = "minimal")]
    image: String,
    /// vCPUs of the sandbox.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_CPUS)))]
    cpus: u8,
    /// Memory of the sandbox, like 2G or 512M.
    #[arg(long, value_name = "SIZE", value_parser = parse_mib, default_value_t = DEFAULT_MEMORY_MIB)]
    memory: u64,
}

/// Restores sandboxes of one template.
#[derive(Debug, Clone)]
pub struct Launcher {
    installation: Installation,
    template: Template,
}

impl MachineArgs {
    /// Opens or makes the template, with progress on stderr.
    pub async fn launcher(&self, installation: Installation) -> Result<Launcher, Failure> {
        let image = ImageStore::open(&installation.state)?.get(&self.image)?;
        let mut steps = Steps::new();
        let mut listener = |event| steps.show(event);
        let template = Template::ensure(
            &installation,
            image,
            self.size(),
            &mut Progress::new(&mut listener),
        )
        .await?;
        steps.finish();
        Ok(Launcher {
            installation,
            template,
        })
    }

    fn size(&self) -> MachineConfig {
        MachineConfig {
            vcpus: self.cpus,
            memory_mib: self.memory,
        }
    }
}

impl Launcher {
    /// Restores a sandbox that has proven its identity, and gives the worker's end of its network.
    pub async fn restore_online(&self) -> Result<(MicroVm, NetworkEnd), RestoreError> {
        MicroVm::restore_online(&self.installation, &self.template).await
    }

    /// The guest agent's static program. Where it is not there, whoever needs it says so.
    fn agent(&self) -> PathBuf {
        let agent = self.installation.agent();
        agent.unwrap_or_else(|_| PathBuf::from("mayfly-guest"))
    }

    /// What the image says of the jobs that run in it.
    pub fn job_options(&self) -> Options {
        let manifest = &self.template.image.manifest;
        let mut options = Options::for_user(manifest.config.user.as_deref());
        options.environment.extend(manifest.config.env.clone());
        let version = |node: &NodeRuntime| NodeVersion {
            major: node.major,
            path: node.path.clone(),
        };
        options.node = manifest.node.iter().map(version).collect();
        options.starter = Some(self.agent());
        if let Source::Recipe { name } = &manifest.source {
            options.image = format!("`{name}`");
        }
        options
    }

    /// The key of this host, by which sandboxes prove what they are.
    pub fn host_key(&self) -> Result<HostKey, KeyError> {
        HostKey::in_folder(&self.installation.keys())
    }

    /// The image of these sandboxes.
    pub fn image(&self) -> ImageName {
        let image = &self.template.image;
        ImageName {
            name: image.label(),
            digest: image.digest.to_string(),
        }
    }

    /// The template.
    pub fn template(&self) -> &Template {
        &self.template
    }
}
