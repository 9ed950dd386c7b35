//! Who the supervisor is at GitHub, from the files that the configuration names.

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    config::{CredentialFiles, GitHubConfig, SecretFileError, read_secret},
    github::rest::{AppKey, AppKeyError, Rest, RestError, Who},
};

/// Why the credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read, or others can read it.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file holds no key.
    #[error("{file}: {cause}")]
    Key {
        /// The file.
        file: String,
        /// What is wrong.
        #[source]
        cause: AppKeyError,
    },
    /// The file holds no token.
    #[error("{0} is not one line of text without spaces; write the token alone into it")]
    Token(String),
    /// The client cannot be set up.
    #[error(transparent)]
    Client(#[from] RestError),
}

/// Reads the credentials.
///
/// # Errors
/// [`CredentialError`] names the file, and nothing of its content.
pub fn read(files: &CredentialFiles) -> Result<Who, CredentialError> {
    match files {
        CredentialFiles::App {
            id,
            installation,
            key,
        } => {
            let pem = read_secret(key)?;
            let file = key.display().to_string();
            Ok(Who::App {
                id: id.clone(),
                installation: *installation,
                key: AppKey::read(&pem).map_err(|cause| CredentialError::Key { file, cause })?,
            })
        }
        CredentialFiles::Token(path) => {
            let bytes = read_secret(path)?;
            let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
            let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
            let token = good.then(|| Zeroizing::new(text.to_owned()));
            let token = token.ok_or_else(|| CredentialError::Token(path.display().to_string()))?;
            Ok(Who::Token(SecretString::from(token.as_str())))
        }
    }
}

/// GitHub's API with these credentials.
///
/// # Errors
/// [`CredentialError`].
pub fn client(config: &GitHubConfig) -> Result<Rest, CredentialError> {
    let who = read(&config.credentials)?;
    let agent = user_agent();
    Ok(Rest::new(
        config.place.clone(),
        config.scope.clone(),
        who,
        &agent,
    )?)
}

/// What the supervisor calls itself.
#[must_use]
pub fn user_agent() -> String {
    format!("mayfly/{}", env!("CARGO_PKG_VERSION"))
}
