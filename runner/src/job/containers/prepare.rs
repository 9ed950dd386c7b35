//! The records "Pull …" and "Build …": images of actions that are known before the steps run.

use std::sync::Arc;

use crate::{
    action::manifest::{DockerImage, Runs},
    job::{
        actions::Action, executor::JobRun, outcome::Conclusion, process::Stop, reporter::Reporter,
        request::StepAction, shared::Shared,
    },
    sandbox::{Sandbox, SandboxError},
};

use super::WantedImage;

/// Most actions that are looked at for their images.
const MAX_LOOKS: usize = 10_000;

/// What is to be prepared, each once, in the order in which steps want it.
#[derive(Default)]
struct Images {
    pulls: Vec<String>,
    builds: Vec<Arc<Action>>,
    looks: usize,
}

impl Images {
    /// Looks at the action of a step, and at those that it uses. Actions of the workspace are known
    /// only when they run.
    fn look<S: Sandbox, R: Reporter>(&mut self, shared: &Shared<'_, S, R>, action: &StepAction) {
        self.looks += 1;
        if self.looks > MAX_LOOKS {
            return;
        }
        if let StepAction::ContainerRegistry { image } = action {
            return self.pull(image);
        }
        let Some(action) = shared.actions.known(action) else {
            return;
        };
        match &action.manifest.runs {
            Runs::Docker(docker) => match docker.image() {
                DockerImage::Registry(image) => self.pull(image),
                DockerImage::Dockerfile(_) => {
                    if self.builds.iter().all(|known| known.name != action.name) {
                        self.builds.push(action);
                    }
                }
            },
            Runs::Composite(steps) => {
                for step in steps {
                    self.look(shared, &step.request.action);
                }
            }
            Runs::Node(_) => {}
        }
    }

    fn pull(&mut self, image: &str) {
        if self.pulls.iter().all(|known| known != image) {
            self.pulls.push(image.to_owned());
        }
    }
}

impl<S: Sandbox, R: Reporter> JobRun<'_, S, R> {
    /// Pulls and builds what the steps will run.
    pub(in crate::job) async fn prepare_images(&mut self) -> Result<(), SandboxError> {
        let mut images = Images::default();
        for task in &self.tasks {
            images.look(self.shared, &task.step.action);
        }
        for image in &images.pulls {
            let wanted = WantedImage::registry(image);
            self.prepare_image(&format!("Pull {image}"), &wanted)
                .await?;
        }
        for action in &images.builds {
            if let Runs::Docker(docker) = &action.manifest.runs {
                let wanted = WantedImage::of(action, docker, "");
                self.prepare_image(&format!("Build {}", action.name), &wanted)
                    .await?;
            }
        }
        Ok(())
    }

    async fn prepare_image(
        &mut self,
        name: &str,
        wanted: &WantedImage<'_>,
    ) -> Result<(), SandboxError> {
        let shared = self.shared;
        let log = self.next_log();
        log.start(name).await;
        if shared.clock.is_cancelled() || self.context.status != Conclusion::Success {
            let skipped = Conclusion::Skipped;
            let record = log.finish(name, skipped, skipped).await;
            self.records.push(record);
            return Ok(());
        }
        let mut stop = Box::pin(async {
            shared.clock.cancelled().await;
            Stop::Cancelled
        });
        let layout = &self.context.layout;
        let result = shared.action_image(wanted, layout, &log, &mut stop).await;
        self.end_record(log, name, result.map(drop)).await
    }
}
