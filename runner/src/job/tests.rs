//! Tests of whole jobs against a scripted sandbox.

mod actions;
mod background;
mod cancelling;
mod containers;
mod docker;
mod environment;
mod hostile;
mod matchers;
mod network;
mod order;

use crate::{
    expression::value::Object,
    sandbox::{
        ExecRequest,
        fake::{FakeSandbox, Files, Reply},
    },
    workflow::token::TemplateToken,
};

use super::{
    Cancellation, NodeVersion, Options, cancellation, execute,
    outcome::{Conclusion, JobOutcome},
    reporter::recording::Recording,
    request::{JobRequest, StepRequest, Variable},
};

/// The steps of a job to test, and what their scripts do.
struct Job {
    request: JobRequest,
    options: Options,
    sandbox: FakeSandbox,
    reporter: Recording,
    cancellation: Cancellation,
}

/// A step that runs `script`.
fn run(key: &str, script: &str) -> StepRequest {
    let context_name = if key.is_empty() { "__run" } else { key };
    StepRequest {
        id: format!("id-{script}"),
        name: context_name.to_owned(),
        context_name: context_name.to_owned(),
        condition: "success()".to_owned(),
        inputs: Some(strings(&[("script", script)])),
        ..StepRequest::default()
    }
}

/// A step with a condition.
fn run_if(condition: &str, script: &str) -> StepRequest {
    StepRequest {
        condition: condition.to_owned(),
        ..run("", script)
    }
}

fn strings(entries: &[(&str, &str)]) -> TemplateToken {
    let token = |(key, value): &(&str, &str)| ((*key).to_owned(), token(value));
    TemplateToken::mapping(entries.iter().map(token))
}

/// A string, or an expression if it is written as one.
fn token(text: &str) -> TemplateToken {
    match text
        .strip_prefix("${{")
        .and_then(|text| text.strip_suffix("}}"))
    {
        Some(expression) => TemplateToken::expression(expression),
        None => TemplateToken::string(text),
    }
}

impl Job {
    /// A job whose scripts do what `behave` says when they start.
    fn new(
        steps: Vec<StepRequest>,
        mut behave: impl FnMut(&str, &ExecRequest, &mut Files) -> Reply + Send + 'static,
    ) -> Self {
        let mut request = JobRequest {
            job_id: "job".to_owned(),
            job_display_name: "build".to_owned(),
            steps,
            ..JobRequest::default()
        };
        let github = Object::from_iter([("repository", "octo/hello")]);
        request.context_data.insert("github", github);
        let sandbox = FakeSandbox::new();
        sandbox.on_exec(move |request, files| {
            if request.argv[0] == "/bin/sh" && request.argv[2].contains("command -v") {
                let path = format!("/usr/bin/{}\n", request.argv[4]);
                return Some(Reply::stdout(path).then_exit(0));
            }
            let path = request.argv.last().expect("a script");
            let script = files.get(path).expect("the script is there").1.clone();
            let script = String::from_utf8(script).expect("text");
            Some(behave(&script, request, files))
        });
        Self {
            request,
            options: Options {
                node: [20, 24]
                    .map(|major| NodeVersion {
                        major,
                        path: format!("/opt/node/{major}"),
                    })
                    .into(),
                ..Options::default()
            },
            sandbox,
            reporter: Recording::default(),
            cancellation: cancellation().1,
        }
    }

    fn secret(&mut self, name: &str, value: &str) {
        let value = Variable::Secret(value.to_owned().into());
        self.request.variables.insert(name, value);
    }

    async fn execute(&self) -> JobOutcome {
        let cancellation = self.cancellation.clone();
        execute(
            &self.request,
            &self.options,
            &self.sandbox,
            &self.reporter,
            cancellation,
        )
        .await
    }

    /// The processes of scripts, without look-ups of programs.
    fn scripts(&self) -> Vec<ExecRequest> {
        let execs = self.sandbox.execs().into_iter();
        execs.filter(|exec| exec.argv[0] != "/bin/sh").collect()
    }
}

/// Writes into the environment file that `variable` of the process names.
fn write(request: &ExecRequest, files: &mut Files, variable: &str, content: &str) {
    let path = env(request, variable).unwrap_or_else(|| panic!("{variable} is set"));
    let file = files
        .get_mut(path)
        .unwrap_or_else(|| panic!("{path} is there"));
    file.1.extend_from_slice(content.as_bytes());
}

fn env<'a>(request: &'a ExecRequest, name: &str) -> Option<&'a str> {
    let found = request.env.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

/// `outcome/conclusion` of the steps, without the records around them.
fn results(outcome: &JobOutcome) -> Vec<String> {
    let steps = &outcome.steps[1..outcome.steps.len() - 1];
    let both = |step: &super::outcome::StepRecord| {
        format!("{}/{}", step.outcome.as_str(), step.conclusion.as_str())
    };
    steps.iter().map(both).collect()
}
