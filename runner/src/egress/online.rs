//! A sandbox's network while it runs: stack, name server and policy behind one link.

use std::{io, os::fd::OwnedFd, sync::Arc};

use tokio::task::AbortHandle;

use super::{
    dns::{Gateway, Names, Upstream},
    proxy::Egress,
    stack::{Addresses, Limits, Stack, StackConfig},
};

/// A running network. Dropped, all its connections end.
#[derive(Debug)]
pub struct Online {
    egress: Egress,
    stack: Stack,
    task: AbortHandle,
}

impl Online {
    /// Starts the network behind the worker's end of a link, as tasks of the current runtime.
    ///
    /// # Errors
    /// The link cannot be watched.
    pub fn start(
        socket: OwnedFd,
        addresses: Addresses,
        egress: Egress,
        upstream: Upstream,
    ) -> io::Result<Self> {
        let names = Arc::new(Names::default());
        let config = StackConfig {
            addresses,
            limits: Limits::default(),
            names: Arc::clone(&names),
        };
        let (stack, incoming) = Stack::start(socket, config)?;
        let asked = egress.clone();
        let may = Arc::new(move |name: &str| asked.may_resolve(name));
        let gateway = Arc::new(Gateway::new(upstream, names, may));
        let serving = egress.clone().serve(incoming, addresses, gateway);
        Ok(Self {
            egress,
            stack,
            task: tokio::spawn(serving).abort_handle(),
        })
    }

    /// Policy and record.
    #[must_use]
    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    /// The stack, with its counters.
    #[must_use]
    pub fn stack(&self) -> &Stack {
        &self.stack
    }
}

impl Drop for Online {
    fn drop(&mut self) {
        self.task.abort();
    }
}
