//! What a step wrote into its environment files takes effect.

use crate::sandbox::{Sandbox, SandboxError};

use super::{
    commands::Effect,
    env_files::{EnvFile, MAX_SUMMARY, pairs, paths, text},
    files::StepFiles,
    output::StepOutput,
    reporter::Reporter,
};

/// Lets what the step wrote into its files take effect, and removes them. With `others`, other steps
/// may run at the same time.
pub(super) async fn read_files<S: Sandbox, R: Reporter>(
    sandbox: &S,
    files: &StepFiles,
    others: bool,
    output: &mut StepOutput<'_, R>,
) -> Result<(), SandboxError> {
    let [path, env, summary, out, state] = EnvFile::ALL;
    let contents = tokio::join!(
        files.read(sandbox, path),
        files.read(sandbox, env),
        files.read(sandbox, summary),
        files.read(sandbox, out),
        files.read(sandbox, state),
    );
    let contents = [contents.0, contents.1, contents.2, contents.3, contents.4];
    for (file, content) in EnvFile::ALL.into_iter().zip(contents) {
        match content {
            Ok(Some(content)) if !content.is_empty() => take(file, &content, output).await,
            Ok(_) => {}
            Err(error @ SandboxError::Lost(_)) => return Err(error),
            Err(error) => refuse(file, &error.to_string(), output).await,
        }
    }
    match files.remove(sandbox, others).await {
        Err(error @ SandboxError::Lost(_)) => Err(error),
        Err(error) => {
            output.log.warning(&error.to_string()).await;
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Lets the content of an environment file take effect.
async fn take<R: Reporter>(file: EnvFile, content: &[u8], output: &mut StepOutput<'_, R>) {
    let error = match file {
        EnvFile::StepSummary => {
            output.log.summary(&text(content)).await;
            None
        }
        EnvFile::Path => {
            let (found, error) = paths(content);
            for directory in found {
                output.apply(Effect::Path(directory)).await;
            }
            error
        }
        EnvFile::Env | EnvFile::Output | EnvFile::State => {
            let (found, error) = pairs(content);
            for (name, value) in found {
                set(file, name, value, output).await;
            }
            error
        }
    };
    if let Some(error) = error {
        refuse(file, &error.to_string(), output).await;
    }
}

async fn set<R: Reporter>(
    file: EnvFile,
    name: String,
    value: String,
    output: &mut StepOutput<'_, R>,
) {
    if file == EnvFile::Env && name.eq_ignore_ascii_case("NODE_OPTIONS") {
        let message = "Can't store NODE_OPTIONS output parameter using '$GITHUB_ENV' command.";
        return output.log.error(message).await;
    }
    output
        .log
        .debug(&format!("{} {name} = {value}", file.variable()))
        .await;
    let effect = match file {
        EnvFile::Env => Effect::Env(name, value),
        EnvFile::Output => Effect::Output(name, value),
        _ => Effect::State(name, value),
    };
    output.apply(effect).await;
}

/// Fails the step for what an environment file holds; a summary is only left out.
async fn refuse<R: Reporter>(file: EnvFile, cause: &str, output: &mut StepOutput<'_, R>) {
    if file == EnvFile::StepSummary {
        let limit = MAX_SUMMARY >> 10;
        let message = format!(
            "$GITHUB_STEP_SUMMARY upload aborted, supports content up to a size of {limit}k: {cause}"
        );
        return output.log.error(&message).await;
    }
    let name = file.context_name();
    let message = format!("Unable to process file command '{name}' successfully.");
    output.log.error(&message).await;
    output.log.error(cause).await;
    output.changes.failed = true;
}
