//! Waits until services are healthy.

use std::{future::Future, time::Duration};

use tokio::time::sleep;

use crate::{
    job::{process::Stop, reporter::Reporter},
    sandbox::Sandbox,
};

use super::{Call, ContainerError, Docker};

/// A started service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) alias: String,
    pub(super) image: String,
    pub(super) id: String,
    pub(super) has_check: bool,
}

impl<S: Sandbox, R: Reporter> Docker<'_, '_, S, R> {
    /// Returns when all services are healthy or have no health check. One that is not healthy
    /// fails the job; what it said is in the log.
    pub(super) async fn wait_for(
        &self,
        services: &[Service],
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<(), ContainerError> {
        self.log
            .line("##[group]Waiting for all services to be ready")
            .await;
        let mut unhealthy = Vec::new();
        for service in services.iter().filter(|service| service.has_check) {
            if !self.is_healthy(service, stop).await? {
                unhealthy.push(service);
            }
        }
        self.log.line("##[endgroup]").await;
        for service in &unhealthy {
            let alias = &service.alias;
            self.log
                .line(&format!("##[group]Service container {alias} failed."))
                .await;
            let logs = Call::new(["logs", "--details", &service.id]);
            self.call(logs, stop).await?;
            self.log.line("##[endgroup]").await;
            let message = format!("Failed to initialize container {}", service.image);
            self.log.line(&format!("##[error]{message}")).await;
        }
        match unhealthy.is_empty() {
            true => Ok(()),
            false => Err(ContainerError::Unhealthy),
        }
    }

    async fn is_healthy(
        &self,
        service: &Service,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<bool, ContainerError> {
        let alias = &service.alias;
        for attempt in 0.. {
            let status = self.health(service, stop).await?;
            match status.as_str() {
                "healthy" => {
                    self.log.line(&format!("{alias} service is healthy.")).await;
                    return Ok(true);
                }
                "starting" => {}
                other => {
                    self.log.line(&format!("{alias} service is {other}.")).await;
                    return Ok(false);
                }
            }
            let pause = pause(attempt);
            let seconds = pause.as_secs();
            let message = format!(
                "{alias} service is starting, waiting {seconds} seconds before checking again."
            );
            self.log.line(&message).await;
            tokio::select! {
                () = sleep(pause) => {}
                why = &mut *stop => return Err(ContainerError::Stopped(why)),
            }
        }
        Ok(false)
    }

    /// The status of a service's health check. A container that ended is `exited`: nobody checks its
    /// health any more.
    async fn health(
        &self,
        service: &Service,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<String, ContainerError> {
        let format = "--format={{if .State.Running}}{{.State.Health.Status}}{{else}}\
                      {{.State.Status}}{{end}}";
        let inspect = Call::new(["inspect", format, &service.id]);
        let (status, _) = self.ask(inspect, stop).await?;
        Ok(status.to_ascii_lowercase())
    }
}

/// The pause after `attempt` questions: 2, 4, 8, 16 and then always 32 seconds.
fn pause(attempt: u32) -> Duration {
    Duration::from_secs(2 << attempt.min(4))
}

#[cfg(test)]
mod tests {
    use super::pause;

    #[test]
    fn pauses_grow_up_to_half_a_minute() {
        let pauses: Vec<_> = (0..7).map(|attempt| pause(attempt).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 32, 32]);
    }
}
