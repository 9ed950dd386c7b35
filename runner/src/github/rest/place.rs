//! Which GitHub, and which part of it: addresses and scopes.

use std::fmt;

use serde::Serialize;
use url::Url;

use crate::web::is_loopback;

/// The part of GitHub that runners are registered for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One repository.
    Repository {
        /// Its owner.
        owner: String,
        /// Its name.
        name: String,
    },
    /// All repositories of an organisation, as far as the runner group allows.
    Organization(String),
    /// All organisations of an enterprise, as far as the runner group allows.
    Enterprise(String),
}

/// The address of a GitHub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As people open it, without a slash at its end.
    pub web: String,
    /// Its REST API, without a slash at its end.
    pub api: String,
}

impl Place {
    /// The place behind a URL: github.com, a company's `ghe.com`, or an Enterprise Server.
    ///
    /// # Errors
    /// What is wrong with it, and how it looks when it is right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shape = "write the address as https://github.com, https://COMPANY.ghe.com or https://github.example.com";
        let url = Url::parse(text).map_err(|_| format!("`{text}` is no URL; {shape}"))?;
        let plain = url.scheme() == "http" && is_loopback(&url);
        if url.scheme() != "https" && !plain {
            return Err(format!("`{text}` is not https; {shape}"));
        }
        let bare = url.username().is_empty() && url.password().is_none();
        if !bare || url.query().is_some() || url.fragment().is_some() {
            return Err(format!("has more than a host; {shape}"));
        }
        if !matches!(url.path(), "" | "/") {
            return Err(format!(
                "`{text}` has a path; {shape}, and the repository or organization under its own key"
            ));
        }
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let web = url.as_str().trim_end_matches('/').to_owned();
        let api = match host.as_str() {
            "github.com" | "www.github.com" => "https://api.github.com".to_owned(),
            "api.github.com" => return Err(format!("`{text}` is the API's; {shape}")),
            company if company.ends_with(".ghe.com") => format!("https://api.{company}"),
            _ => format!("{web}/api/v3"),
        };
        Ok(Self { web, api })
    }

    /// The address of a scope, as people open it.
    #[must_use]
    pub fn of(&self, scope: &Scope) -> String {
        match scope {
            Scope::Repository { owner, name } => format!("{}/{owner}/{name}", self.web),
            Scope::Organization(name) => format!("{}/{name}", self.web),
            Scope::Enterprise(name) => format!("{}/enterprises/{name}", self.web),
        }
    }
}

impl Scope {
    /// A repository by `owner/name`.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn repository(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((owner, name)) if is_name(owner) && is_name(name) => Ok(Self::Repository {
                owner: owner.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(format!("`{text}` is no repository; write OWNER/NAME")),
        }
    }

    /// An organisation.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn organization(text: &str) -> Result<Self, String> {
        let good = is_name(text).then(|| Self::Organization(text.to_owned()));
        good.ok_or_else(|| format!("`{text}` is no name; write the one after the host in its URL"))
    }

    /// An enterprise.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn enterprise(text: &str) -> Result<Self, String> {
        let good = is_name(text).then(|| Self::Enterprise(text.to_owned()));
        good.ok_or_else(|| {
            format!("`{text}` is no name; write the one after /enterprises/ in its URL")
        })
    }

    /// The beginning of its paths in the API.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Repository { owner, name } => format!("/repos/{owner}/{name}"),
            Self::Organization(name) => format!("/orgs/{name}"),
            Self::Enterprise(name) => format!("/enterprises/{name}"),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository { owner, name } => write!(f, "repository {owner}/{name}"),
            Self::Organization(name) => write!(f, "organization {name}"),
            Self::Enterprise(name) => write!(f, "enterprise {name}"),
        }
    }
}

/// Whether a text can be the name of an owner or a repository.
fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !matches!(text, "" | "." | "..") && text.len() <= 100 && text.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_github_has_its_api() {
        for (web, api) in [
            ("https://github.com", "https://api.github.com"),
            ("https://www.github.com/", "https://api.github.com"),
            ("https://octo.ghe.com", "https://api.octo.ghe.com"),
            (
                "https://github.example.com/",
                "https://github.example.com/api/v3",
            ),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/api/v3"),
        ] {
            assert_eq!(Place::parse(web).unwrap().api, api);
        }
        for (wrong, part) in [
            ("github.com", "is no URL"),
            ("http://github.com", "not https"),
            ("https://me:pw@github.com", "more than a host"),
            ("https://github.com/octo", "under its own key"),
            ("https://api.github.com", "is the API's"),
        ] {
            let said = Place::parse(wrong).unwrap_err();
            assert!(said.contains(part), "{said}");
            assert!(!said.contains(":pw@"), "{said}");
        }
    }

    #[test]
    fn names_that_would_change_a_path_are_none() {
        assert_eq!(
            Scope::repository("octo/hello").unwrap().path(),
            "/repos/octo/hello"
        );
        for wrong in ["octo", "octo/", "octo/..", "octo/a/b", "octo/a?b", "/x"] {
            assert!(Scope::repository(wrong).is_err(), "{wrong}");
        }
        assert!(Scope::organization("a/b").is_err());
        assert!(Scope::enterprise("").is_err());
    }
}
