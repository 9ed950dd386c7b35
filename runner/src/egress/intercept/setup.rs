//! Interception as the policy of one job asks for it: whose TLS is looked into, which secrets are bound.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use secrecy::SecretString;

use super::{
    Authority, CertifyError, HandshakeError, Interceptor,
    secrets::{BindError, Bindings},
};
use crate::egress::policy::{LookedInto, Policy, SecretBinding};

/// The name of a job's own token among the secrets.
const JOB_TOKEN: &str = "GITHUB_TOKEN";

/// The GitHub that a job is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitHubHosts {
    /// Its host, as `github.com`.
    pub server: String,
    /// That of its API, as `api.github.com`.
    pub api: String,
}

/// Why a job's connections cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A secret cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// There is no authority.
    #[error(transparent)]
    Certify(#[from] CertifyError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] HandshakeError),
}

/// Interception for a job under `policy` that has these secrets by name; `None` if the policy looks into
/// nothing. The job's own token is bound to its GitHub then, unless the policy binds it itself: `policy` is
/// told.
///
/// # Errors
/// [`SetupError`].
pub fn for_job(
    policy: &mut Policy,
    secrets: &[(String, SecretString)],
    github: Option<&GitHubHosts>,
    roots: &[CertificateDer<'static>],
) -> Result<Option<Interceptor>, SetupError> {
    if policy.looked_into() == LookedInto::Nothing {
        return Ok(None);
    }
    let find = |name: &str| {
        let found = secrets
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    };
    let binds_token = policy
        .secrets
        .keys()
        .any(|name| name.eq_ignore_ascii_case(JOB_TOKEN));
    if !binds_token
        && find(JOB_TOKEN).is_some()
        && let Some(github) = github
        // A GitHub whose host is an address has no certificate for a name either.
        && let Ok(binding) = SecretBinding::of_job_token(&github.server, &github.api)
    {
        policy.secrets.insert(JOB_TOKEN.to_owned(), binding);
    }
    let bound = policy.secrets.iter().filter_map(|(name, binding)| {
        // A secret that the job does not have goes nowhere.
        Some((name.clone(), find(name)?, binding.clone()))
    });
    let bindings = Bindings::new(bound)?;
    let authority = match policy.looked_into() {
        LookedInto::Domains(domains) => Authority::draw(Some(&domains))?,
        LookedInto::Nothing | LookedInto::Everything => Authority::draw(None)?,
    };
    Ok(Some(Interceptor::new(
        authority,
        roots,
        Arc::new(bindings),
    )?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{
        intercept::Target,
        policy::{Document, JobPlace},
    };

    fn set_up(policy: &str, secrets: &[(&str, &str)]) -> (Option<Interceptor>, Policy) {
        let document = Document::parse(policy, "policy.toml").unwrap();
        let mut policy = document.policy(&JobPlace::default());
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned().into());
        let secrets: Vec<_> = secrets.iter().map(own).collect();
        let github = GitHubHosts {
            server: "github.com".to_owned(),
            api: "api.github.com".to_owned(),
        };
        (
            for_job(&mut policy, &secrets, Some(&github), &[]).unwrap(),
            policy,
        )
    }

    const TOKEN: &str = "ghs_0123456789012345678901234567890123456789";

    #[test]
    fn a_policy_that_looks_into_nothing_costs_nothing() {
        let (interceptor, policy) = set_up(
            "mode = \"enforce\"\npreset = \"github\"",
            &[("github_token", TOKEN)],
        );
        assert!(interceptor.is_none() && policy.secrets.is_empty());
    }

    #[test]
    fn the_jobs_token_is_bound_where_anything_is_looked_into() {
        let rule = "[[allow]]\nhost = \"a.example.com\"\nmethod = \"GET\"";
        let (interceptor, policy) = set_up(rule, &[("github_token", TOKEN)]);
        let interceptor = interceptor.unwrap();
        let bindings = interceptor.bindings();
        assert!(bindings.placeholders().apply(TOKEN).starts_with("ghs_"));
        assert_ne!(bindings.placeholders().apply(TOKEN), TOKEN);
        assert!(
            !bindings
                .allowed(&Target::new("api.github.com", 443))
                .is_empty()
        );
        assert!(
            bindings
                .allowed(&Target::new("a.example.com", 443))
                .is_empty()
        );
        assert!(policy.binds_a_secret_to("api.github.com"));
        let own = format!("{rule}\n[secrets.GITHUB_TOKEN]\nhosts = \"api.github.com\"");
        let (interceptor, _) = set_up(&own, &[("GITHUB_TOKEN", TOKEN)]);
        let interceptor = interceptor.unwrap();
        assert!(
            interceptor
                .bindings()
                .allowed(&Target::new("github.com", 443))
                .is_empty()
        );
    }

    #[test]
    fn the_authority_is_one_for_what_is_looked_into_alone() {
        let policy = |text: &str| {
            Document::parse(text, "p.toml")
                .unwrap()
                .policy(&JobPlace::default())
        };
        let of = |text: &str| policy(text).looked_into();
        let domains =
            |names: &[&str]| LookedInto::Domains(names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(
            of("[[allow]]\nhost = \"a.example.com\""),
            LookedInto::Nothing
        );
        assert_eq!(
            of("[[allow]]\nhost = \"a.example.com\"\nintercept = true"),
            domains(&["a.example.com"])
        );
        assert_eq!(
            of("[[deny]]\nhost = [\"**.b.example\", \"eu-*.c.example\"]\nmethod = \"POST\""),
            domains(&["b.example", "c.example"])
        );
        assert_eq!(
            of("[secrets.T]\nhosts = \"r.example\""),
            domains(&["r.example"])
        );
        assert_eq!(
            of("[[allow]]\nhost = \"*\"\nintercept = true"),
            LookedInto::Everything
        );
        assert_eq!(
            of("[[deny]]\nhost = \"*\"\npath = \"/x\""),
            LookedInto::Everything
        );
        assert_eq!(
            of("[steps.scan]\n[[steps.scan.allow]]\nhost = \"d.example\"\nmethod = \"GET\""),
            domains(&["d.example"])
        );
    }
}
