//! Where programs are in a sandbox, so that the log can say which shell runs.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::sandbox::{ExecEvent, ExecRequest, ExecStatus, Sandbox, SandboxError};

/// How long a look-up may take; an earlier step may have broken the sandbox's `/bin/sh`.
const LOOK_UP: Duration = Duration::from_secs(30);

/// Longest path of a program, in bytes.
const MAX_PATH: usize = 4096;

/// Prints the path of the first program that is installed.
const SCRIPT: &str = "for name; do command -v -- \"$name\" && exit 0; done; exit 127";

/// Look-ups already made in this job, by names and search path.
#[derive(Debug, Default)]
pub(in crate::job) struct Programs {
    known: Mutex<HashMap<(Vec<String>, String), String>>,
}

impl Programs {
    /// The path of the first of `names` that is installed; `None` if none is.
    ///
    /// A sandbox that cannot tell (it has no `/bin/sh`) gives the first name as it is.
    ///
    /// # Errors
    /// [`SandboxError::Lost`] when the sandbox is gone.
    pub(in crate::job) async fn find<S: Sandbox>(
        &self,
        sandbox: &S,
        names: &[String],
        request: ExecRequest,
    ) -> Result<Option<String>, SandboxError> {
        let path = request.env.iter().find(|(name, _)| name == "PATH");
        let key = (
            names.to_vec(),
            path.map(|(_, value)| value.clone()).unwrap_or_default(),
        );
        if let Some(found) = self.lock().get(&key) {
            return Ok(Some(found.clone()));
        }
        let look_up = look_up(sandbox, names, request);
        let found = match tokio::time::timeout(LOOK_UP, look_up).await {
            Ok(Err(error @ SandboxError::Lost(_))) => return Err(error),
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => names.first().cloned(),
        };
        if let Some(found) = &found {
            self.lock().insert(key, found.clone());
        }
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Vec<String>, String), String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look_up<S: Sandbox>(
    sandbox: &S,
    names: &[String],
    mut request: ExecRequest,
) -> Result<Option<String>, SandboxError> {
    let fixed = ["/bin/sh", "-c", SCRIPT, "sh"].map(str::to_owned);
    request.argv = fixed.into_iter().chain(names.iter().cloned()).collect();
    let mut exec = sandbox.exec(request).await?;
    let mut output = Vec::new();
    while let Some(event) = exec.events.recv().await {
        match event {
            ExecEvent::Stdout(bytes) if output.len() <= MAX_PATH => output.extend(bytes),
            ExecEvent::Stdout(_) | ExecEvent::Stderr(_) => {}
            ExecEvent::Exited(ExecStatus::Code(127)) => return Ok(None),
            ExecEvent::Exited(_) => {
                let text = String::from_utf8_lossy(&output);
                let path = text.trim_end();
                let usable = path.len() <= MAX_PATH && !path.is_empty() && !path.contains('\n');
                let path = if usable {
                    Some(path.to_owned())
                } else {
                    names.first().cloned()
                };
                return Ok(path);
            }
        }
    }
    Err(SandboxError::Lost(
        "the connection ended while a program was looked up".to_owned(),
    ))
}
