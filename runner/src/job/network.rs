//! What a network that the worker looks into changes for the steps of a job: placeholders in place of bound
//! secrets, whom they trust, and what becomes of a step that sent a secret astray.

use crate::{
    egress::{intercept::trust, policy::Mode},
    sandbox::Sandbox,
};

use super::{Options, outcome::Conclusion, output::StepOutput, reporter::Reporter, shared::Shared};

/// `options` for a sandbox whose TLS the worker ends, and what went wrong.
pub(super) async fn looked_into<S: Sandbox>(
    options: &Options,
    sandbox: &S,
) -> (Options, Result<(), String>) {
    let mut own = options.clone();
    let Some(interceptor) = sandbox.egress().and_then(|egress| egress.interceptor()) else {
        return (own, Ok(()));
    };
    own.placeholders = interceptor.bindings().placeholders();
    match trust::install(sandbox, interceptor.authority()).await {
        Ok(mut variables) => {
            // What the operator sets wins.
            variables.append(&mut own.environment);
            own.environment = variables;
            (own, Ok(()))
        }
        Err(error) => {
            let why = format!("the sandbox cannot be told whom to trust: {error}");
            (own, Err(why))
        }
    }
}

impl<S: Sandbox, R: Reporter> Shared<'_, S, R> {
    /// Tells of secrets that the step known by `words` sent where they must not go: with `enforce` it fails.
    pub(super) async fn sent_astray(
        &self,
        words: &[String],
        conclusion: Conclusion,
        output: &mut StepOutput<'_, R>,
    ) -> Conclusion {
        let Some(egress) = self.sandbox.egress() else {
            return conclusion;
        };
        let stopped = egress.take_stopped(words);
        let fails = egress.policy().mode(&[words.to_vec()]) == Mode::Enforce;
        for stopped in &stopped {
            if fails {
                output.log.error(&stopped.words).await;
            } else {
                output.log.warning(&stopped.words).await;
            }
        }
        if fails && !stopped.is_empty() && conclusion == Conclusion::Success {
            return Conclusion::Failure;
        }
        conclusion
    }
}
