//! Sandboxes for scenarios that look deeper than the command line does.

use std::future::Future;

use anyhow::{Context, Result};
use libtest_mimic::Failed;
use mayfly::{
    config::Installation,
    sandbox::{microvm::MicroVm, network::NetworkEnd, template::Template},
};
use mayfly_images::{progress::Progress, store::ImageStore};
use mayfly_vmm::config::MachineConfig;

use crate::{IMAGE, bench};

/// Size of the machines in these scenarios: small, so that twenty fit on any host.
pub const SIZE: MachineConfig = MachineConfig {
    vcpus: 1,
    memory_mib: 512,
};

/// A template and what is needed to restore it.
#[derive(Debug, Clone)]
pub struct Guests {
    installation: Installation,
    template: Template,
}

impl Guests {
    /// Opens the template, or makes it.
    ///
    /// # Errors
    /// When the image is not built or does not boot.
    pub async fn open(size: MachineConfig) -> Result<Self> {
        let installation = bench().installation();
        let image = ImageStore::open(&installation.state)?
            .get(IMAGE)
            .context("run tests/run.sh first")?;
        let template =
            Template::ensure(&installation, image, size, &mut Progress::new(&mut |_| ())).await?;
        Ok(Self {
            installation,
            template,
        })
    }

    /// Runs a scenario with a runtime and a template of [`SIZE`].
    ///
    /// # Errors
    /// Those of the scenario.
    pub fn with<F: Future<Output = Result<(), Failed>>>(
        scenario: impl FnOnce(Self) -> F,
    ) -> Result<(), Failed> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            scenario(Self::open(SIZE).await.map_err(|e| format!("{e:#}"))?).await
        })
    }

    /// A fresh sandbox.
    ///
    /// # Errors
    /// When it cannot be restored.
    pub async fn restore(&self) -> Result<MicroVm> {
        Ok(MicroVm::restore(&self.installation, &self.template).await?)
    }

    /// A fresh sandbox with a network, and the end of its link.
    ///
    /// # Errors
    /// When it cannot be restored.
    pub async fn restore_online(&self) -> Result<(MicroVm, NetworkEnd)> {
        Ok(MicroVm::restore_online(&self.installation, &self.template).await?)
    }

    /// The template.
    #[must_use]
    pub fn template(&self) -> &Template {
        &self.template
    }
}
