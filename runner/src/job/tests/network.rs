//! Jobs whose sandbox has a network that the worker looks into.

use std::sync::Arc;

use super::*;
use crate::egress::{
    intercept::setup,
    policy::{Document, JobPlace},
    proxy::{Bounds, Egress},
    record::Record,
};

const VALUE: &str = "npm_0123456789abcdefghijklmnopqrstuvwxyz";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const POLICY: &str = "[secrets.NPM_TOKEN]\nhosts = \"registry.example.com\"\n";

/// A network under `policy`, as `mayfly run` makes it.
fn network(policy: &str) -> Egress {
    let document = Document::parse(policy, "policy.toml").unwrap();
    let mut policy = document.policy(&JobPlace::default());
    let secrets = [("NPM_TOKEN".to_owned(), VALUE.to_owned().into())];
    let interceptor = setup::for_job(&mut policy, &secrets, None, &[]).unwrap();
    let outside = Arc::new(|_| false);
    let egress = Egress::new(policy, Record::new(None, None), outside, Bounds::default());
    if let Some(interceptor) = interceptor {
        egress.intercept_with(interceptor);
    }
    egress
}

/// A job of two steps; the first sends a secret astray.
fn job(egress: &Egress) -> Job {
    let mut first = run("", "first");
    first.environment = Some(strings(&[("TOKEN", "${{ secrets.NPM_TOKEN }}")]));
    let network = egress.clone();
    let mut job = Job::new(vec![first, run("", "second")], move |script, _, _| {
        if script == "first" {
            network.stop_in_running_steps("the value of secret NPM_TOKEN was on its way");
        }
        Reply::exit(0)
    });
    job.secret("NPM_TOKEN", VALUE);
    job.sandbox.put(BUNDLE, "old\n");
    job.sandbox = job.sandbox.with_egress(egress.clone());
    job
}

#[tokio::test]
async fn steps_get_a_placeholder_and_whom_to_trust() {
    let egress = network(POLICY);
    let job = job(&egress);
    job.execute().await;
    let scripts = job.scripts();
    let token = env(&scripts[0], "TOKEN").unwrap();
    assert!(
        token.starts_with("npm_") && token.len() == VALUE.len() && token != VALUE,
        "{token}"
    );
    assert_eq!(env(&scripts[0], "GIT_SSL_CAINFO"), Some(BUNDLE));
    let bundle = String::from_utf8(job.sandbox.get(BUNDLE).unwrap()).unwrap();
    assert!(
        bundle.starts_with("old\n-----BEGIN CERTIFICATE-----"),
        "{bundle}"
    );
    assert!(!job.reporter.everything().contains(token));
}

#[tokio::test]
async fn a_step_that_sends_a_secret_astray_fails_in_enforce_and_is_warned_of_in_audit() {
    for (mode, first, level) in [
        ("enforce", "failure", "error"),
        ("audit", "success", "warning"),
    ] {
        let egress = network(&format!("mode = \"{mode}\"\n{POLICY}"));
        let job = job(&egress);
        let outcome = job.execute().await;
        assert!(
            results(&outcome)[0].starts_with(first),
            "{mode}: {:?}",
            results(&outcome)
        );
        let lines = job.reporter.lines(2).join("\n");
        let line = format!("##[{level}]the value of secret NPM_TOKEN was on its way");
        assert!(lines.contains(&line), "{lines}");
    }
}

#[tokio::test]
async fn a_policy_that_looks_into_nothing_changes_nothing() {
    let egress = network("mode = \"enforce\"");
    let job = job(&egress);
    job.execute().await;
    let scripts = job.scripts();
    assert_eq!(env(&scripts[0], "TOKEN"), Some(VALUE));
    assert_eq!(env(&scripts[0], "GIT_SSL_CAINFO"), None);
    assert_eq!(job.sandbox.get(BUNDLE).unwrap(), b"old\n");
}
