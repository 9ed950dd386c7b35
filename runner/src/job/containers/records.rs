//! The records of a job that are about its containers: "Initialize containers", "Stop containers".

use std::{future::Future, pin::Pin};

use crate::{
    job::{
        executor::JobRun,
        log::StepLog,
        outcome::Conclusion,
        process::Stop,
        reporter::{Origin, Reporter},
    },
    sandbox::{Sandbox, SandboxError},
};

use super::{
    ContainerError, Plan, spec,
    start::{Job, Told},
};

const INITIALIZE: &str = "Initialize containers";
const STOP: &str = "Stop containers";

impl ContainerError {
    /// The loss of the sandbox, if it is that.
    pub(in crate::job) fn lost(self) -> Result<SandboxError, Self> {
        match self {
            Self::Sandbox(error @ SandboxError::Lost(_)) => Ok(error),
            other => Err(other),
        }
    }
}

impl<'a, S: Sandbox, R: Reporter> JobRun<'a, S, R> {
    /// Evaluates what the job says about containers, and looks whether the sandbox has Docker if
    /// it wants any.
    pub(in crate::job) async fn plan_containers(&self) -> Result<(), ContainerError> {
        let shared = self.shared;
        let plan = self.read_plan()?;
        if plan.is_empty() {
            return Ok(());
        }
        shared.containers.plan.get_or_init(|| plan);
        let engine = &shared.containers.engine;
        let found = engine.client(shared.sandbox, shared.options, &shared.programs);
        found.await.map(drop)
    }

    fn read_plan(&self) -> Result<Plan, ContainerError> {
        let request = self.shared.request;
        let evaluator = self.context.evaluator(&self.context.env);
        let mut plan = Plan::default();
        if let Some(token) = &request.job_container {
            plan.job = spec::job_container(&evaluator, token)?;
        }
        if let Some(token) = &request.job_service_containers {
            plan.services = spec::services(&evaluator, token)?;
        }
        Ok(plan)
    }

    /// The record "Initialize containers", if the job has any; whether the sandbox was lost.
    pub(in crate::job) async fn start_containers(&mut self) -> Result<(), SandboxError> {
        let shared = self.shared;
        if shared.containers.plan.get().is_none() {
            return Ok(());
        }
        let log = self.next_log();
        log.start(INITIALIZE).await;
        if shared.clock.is_cancelled() {
            let skipped = Conclusion::Skipped;
            let record = log.finish(INITIALIZE, skipped, skipped).await;
            self.records.push(record);
            return Ok(());
        }
        self.containers_begun = true;
        let mut stop: Pin<Box<dyn Future<Output = Stop> + Send>> = Box::pin(async {
            shared.clock.cancelled().await;
            Stop::Cancelled
        });
        let mut told = Told::default();
        let started = async {
            let job = Job {
                containers: &shared.containers,
                layout: &self.context.layout,
                actor: self.context.github("actor"),
                token: self.context.github("token"),
                starter: shared.starter_mount().await?,
            };
            let docker = shared.docker(&log, &mut stop).await?;
            docker.start(&job, &mut told, &mut stop).await
        };
        let started = started.await;
        self.context.set_job("container", told.container);
        self.context.set_job("services", told.services);
        self.end_record(log, INITIALIZE, started).await
    }

    /// The record "Stop containers", if the job's containers were begun.
    pub(in crate::job) async fn stop_containers(&mut self) -> Result<(), SandboxError> {
        let shared = self.shared;
        if !self.containers_begun {
            return Ok(());
        }
        let log = self.next_log();
        let to_come = Some(0);
        let origin = Origin {
            to_come,
            ..Origin::default()
        };
        log.start_as(STOP, origin).await;
        let mut stop: Pin<Box<dyn Future<Output = Stop> + Send>> = Box::pin(async {
            shared.clock.grace_over().await;
            Stop::GraceOver
        });
        let removed = async {
            let docker = shared.docker(&log, &mut stop).await?;
            docker.remove(&shared.containers, &mut stop).await
        };
        let removed = removed.await;
        self.end_record(log, STOP, removed).await
    }

    pub(super) fn next_log(&mut self) -> StepLog<'a, R> {
        let number = self.number();
        self.shared.log(number, &self.context.layout.workspace)
    }

    /// Ends a record, and enters how it ended into the job.
    pub(super) async fn end_record(
        &mut self,
        mut log: StepLog<'_, R>,
        name: &str,
        result: Result<(), ContainerError>,
    ) -> Result<(), SandboxError> {
        let (conclusion, lost) = match result {
            Ok(()) => (Conclusion::Success, None),
            Err(error) => {
                log.error(&error.to_string()).await;
                let conclusion = match error {
                    ContainerError::Stopped(_) => Conclusion::Cancelled,
                    _ => Conclusion::Failure,
                };
                (conclusion, error.lost().ok())
            }
        };
        let record = log.finish(name, conclusion, conclusion).await;
        self.records.push(record);
        if self.context.status == Conclusion::Success {
            self.context.status = conclusion;
        }
        lost.map_or(Ok(()), Err)
    }
}
