//! The end of reporting, which is not known while the job runs.

use std::{future::Future, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Sets the end.
#[derive(Debug)]
pub struct DeadlineSetter(watch::Sender<Option<Instant>>);

/// Knows the end once it is set.
#[derive(Debug, Clone)]
pub struct Deadline(watch::Receiver<Option<Instant>>);

/// A deadline that is not set yet.
#[must_use]
pub fn deadline() -> (DeadlineSetter, Deadline) {
    let (setter, deadline) = watch::channel(None);
    (DeadlineSetter(setter), Deadline(deadline))
}

impl DeadlineSetter {
    /// Everything ends in `limit`.
    pub fn set(&self, limit: Duration) {
        self.0.send_replace(Some(Instant::now() + limit));
    }
}

impl Deadline {
    /// Whether it is set, or nobody is left who could set it.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.borrow().is_some() || self.0.has_changed().is_err()
    }

    /// Returns when it is set, or its setter is gone.
    pub async fn set(&mut self) {
        // The setter is gone: then nobody waits for what is done here.
        let _ = self.0.wait_for(Option::is_some).await;
    }

    /// Runs something to its end; nothing if the deadline passes before.
    pub async fn before<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let passed = async {
            let end = self
                .0
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|end| *end);
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = passed => None,
            done = work => Some(done),
        }
    }
}
