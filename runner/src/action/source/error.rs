//! Why a source of truth did not answer.

use std::io;

/// Why a source did not answer.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No source was named.
    #[error(
        "it is not in the store, and there is no source to get it from; use `--mirror DIR|URL`, or \
         `[actions] mirror` in the configuration"
    )]
    None,
    /// The mirror's name is none.
    #[error(
        "`{0}` is no mirror; give a folder, or a URL that begins with https://, http:// or file:// and holds no password"
    )]
    Mirror(String),
    /// Git could not be started, or its folder not be made.
    #[error(
        "git cannot be run: {0}; is the package git installed, and is there room in the temporary folder?"
    )]
    Run(#[from] io::Error),
    /// Git failed.
    #[error("{repository} cannot be read from {from}: {why}; check the mirror and the name")]
    Git {
        /// The repository.
        repository: String,
        /// The mirror.
        from: String,
        /// What git said.
        why: String,
    },
    /// The URL of an API is none.
    #[error(
        "`{0}` is no API of GitHub; give a URL that begins with https:// and holds no password"
    )]
    Api(String),
    /// The repository is not there, as far as the token can see.
    #[error(
        "{from} shows no repository {repository}: its name is wrong, or it is private and the token may not \
         read it"
    )]
    Missing {
        /// The repository.
        repository: String,
        /// The API.
        from: String,
    },
    /// GitHub did not answer, or not as it should.
    #[error("{repository} cannot be read from {from}: {why}")]
    GitHub {
        /// The repository.
        repository: String,
        /// The API.
        from: String,
        /// What happened, and what to do.
        why: String,
    },
    /// What GitHub tells of a commit does not make its object.
    #[error(
        "the API does not tell all of the commit {commit} of {repository}, so nothing proves its files; \
         `--mirror https://github.com` fetches the commit itself"
    )]
    Unproven {
        /// The repository.
        repository: String,
        /// The commit.
        commit: String,
    },
    /// A commit is named, and another one is given.
    #[error(
        "{repository}@{commit} names a commit, and GitHub gives {found} for it; nothing of it is used"
    )]
    Other {
        /// The repository.
        repository: String,
        /// The commit that is named.
        commit: String,
        /// The one that is given.
        found: String,
    },
    /// A commit is in no tag and no branch of the repository.
    #[error(
        "no tag or branch of {repository} holds the commit {commit}: it may come from a fork; take a commit of a release"
    )]
    Foreign {
        /// The repository.
        repository: String,
        /// The commit.
        commit: String,
    },
    /// A tag or branch moved while it was fetched.
    #[error("{repository} changed while {commit} was fetched; run the command again")]
    Raced {
        /// The repository.
        repository: String,
        /// The commit.
        commit: String,
    },
}
