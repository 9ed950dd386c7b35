//! Images: pulled, loaded from archives that the person gave, or built.

use std::{future::Future, time::Duration};

use secrecy::SecretString;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    job::{files::bounded, process::Stop, reporter::Reporter},
    sandbox::Sandbox,
};

use super::{Call, ContainerError, Docker, client::Input, spec::Credentials};

/// How often a pull is tried.
const PULLS: u32 = 3;

/// Pause before a further try of a pull.
const PAUSE: Duration = Duration::from_secs(3);

/// Registries that take the job's token.
const TOKEN_REGISTRIES: [&str; 2] = ["ghcr.io", "containers.pkg.github.com"];

impl<S: Sandbox, R: Reporter> Docker<'_, '_, S, R> {
    /// Makes an image available: from its archive if there is one, else from its registry. Gives
    /// the name under which it can be used. `place` is where the job names it.
    pub(super) async fn provide(
        &self,
        image: &str,
        place: &str,
        credentials: Option<&Credentials>,
        temp: &str,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<String, ContainerError> {
        if let Some(name) = self.load(image, stop).await? {
            return Ok(name);
        }
        let image = &self.options.actions.image(image)?;
        let code = match credentials {
            None => self.pull(image, None, stop).await?,
            Some(credentials) => {
                let config = format!("{temp}/.docker_{}", Uuid::new_v4());
                let pulled = async {
                    self.login(image, credentials, &config, stop).await?;
                    self.pull(image, Some(&config), stop).await
                };
                let pulled = pulled.await;
                // Whatever came of it, the login does not stay.
                let remove = self.sandbox.remove(&config);
                bounded("removing the login at a registry", remove).await?;
                pulled?
            }
        };
        if code == 0 {
            return Ok(image.to_owned());
        }
        let (place, image) = (place.to_owned(), image.to_owned());
        Err(ContainerError::Pull { place, image, code })
    }

    /// Loads the archive that stands for `image`, if there is one, and gives the image's name.
    pub(super) async fn load(
        &self,
        image: &str,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<Option<String>, ContainerError> {
        let wanted = normal(image);
        let known = self.loaded().get(&wanted).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let mut archives = self.options.container_images.iter();
        let Some((_, path)) = archives.find(|(name, _)| normal(name) == wanted) else {
            return Ok(None);
        };
        if let Err(error) = std::fs::File::open(path) {
            let (image, path) = (image.to_owned(), path.clone());
            return Err(ContainerError::Archive { image, path, error });
        }
        let load = Call {
            input: Some(Input::File(path.clone())),
            ..Call::new(["load"])
        };
        let loaded = self.call(load, stop).await?.expect("load")?;
        let name = loaded_name(&loaded.output).ok_or(ContainerError::Answer("load"))?;
        let name = if image.contains('@') || normal(name) == wanted {
            name.to_owned()
        } else {
            let tag = Call::new(["tag", name, image]);
            self.call(tag, stop).await?.expect("tag")?;
            image.to_owned()
        };
        self.loaded().insert(wanted, name.clone());
        Ok(Some(name))
    }

    /// The name of an image that was loaded from an archive.
    pub(super) fn loaded_as(&self, image: &str) -> Option<String> {
        self.loaded().get(&normal(image)).cloned()
    }

    /// Pulls an image, trying again; gives the exit code of the last try.
    async fn pull(
        &self,
        image: &str,
        config: Option<&str>,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<i32, ContainerError> {
        let login = config.map(|config| ["--config", config]);
        let arguments: Vec<_> = login.into_iter().flatten().chain(["pull", image]).collect();
        let mut tries = 1;
        loop {
            let pulled = self.call(Call::new(&arguments), stop).await?;
            if pulled.code == 0 || tries == PULLS {
                return Ok(pulled.code);
            }
            tries += 1;
            let message = format!(
                "##[warning]Docker pull failed with exit code {}, back off {} seconds before retry.",
                pulled.code,
                PAUSE.as_secs()
            );
            self.log.line(&message).await;
            tokio::select! {
                () = sleep(PAUSE) => {}
                why = &mut *stop => return Err(ContainerError::Stopped(why)),
            }
        }
    }

    /// Logs in at the image's registry; the folder `config` remembers it.
    async fn login(
        &self,
        image: &str,
        credentials: &Credentials,
        config: &str,
        stop: &mut (impl Future<Output = Stop> + Unpin),
    ) -> Result<(), ContainerError> {
        let mut arguments = vec!["--config", config, "login"];
        arguments.extend(registry(image));
        arguments.extend(["-u", &credentials.username, "--password-stdin"]);
        let call = Call {
            input: Some(Input::Secret(credentials.password.clone())),
            ..Call::new(arguments)
        };
        self.call(call, stop).await?.expect("login").map(drop)
    }
}

/// What a registry that knows GitHub's tokens is told where the job gives no credentials.
pub(super) fn token_credentials(image: &str, actor: &str, token: &str) -> Option<Credentials> {
    let known = registry(image).is_some_and(|registry| {
        let mut known = TOKEN_REGISTRIES.iter();
        known.any(|known| known.eq_ignore_ascii_case(registry))
    });
    (known && !actor.is_empty() && !token.is_empty()).then(|| Credentials {
        username: actor.to_owned(),
        password: SecretString::from(token.to_owned()),
    })
}

/// The registry of a reference; none is Docker Hub.
fn registry(image: &str) -> Option<&str> {
    let (first, _) = image.split_once('/')?;
    let is_host = first.contains(['.', ':']) || first == "localhost";
    is_host.then_some(first)
}

/// A reference in the form in which equal ones are equal.
fn normal(image: &str) -> String {
    let mut name = image;
    for prefix in ["docker.io/", "index.docker.io/"] {
        name = name.strip_prefix(prefix).unwrap_or(name);
    }
    name = name.strip_prefix("library/").unwrap_or(name);
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

/// What `docker load` says that it loaded.
fn loaded_name(output: &str) -> Option<&str> {
    let mut lines = output.lines();
    lines.find_map(|line| {
        let name = line.strip_prefix("Loaded image: ");
        name.or_else(|| line.strip_prefix("Loaded image ID: "))
            .map(str::trim)
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn references_to_one_image_are_equal() {
        for (one, other) in [
            ("alpine", "alpine:latest"),
            ("docker.io/library/alpine:3", "alpine:3"),
            ("index.docker.io/me/x", "me/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
        ] {
            assert_eq!(normal(one), normal(other));
        }
        assert_ne!(normal("alpine:3"), normal("alpine"));
        assert_eq!(normal("x@sha256:00"), "x@sha256:00");
    }

    #[test]
    fn the_registry_is_the_first_part_if_it_is_a_host() {
        for (image, expected) in [
            ("alpine", None),
            ("me/x", None),
            ("ghcr.io/me/x:1", Some("ghcr.io")),
            ("localhost/x", Some("localhost")),
            ("localhost:5000/x", Some("localhost:5000")),
        ] {
            assert_eq!(registry(image), expected, "{image}");
        }
    }

    #[test]
    fn githubs_registries_are_told_the_jobs_token() {
        let found = token_credentials("GHCR.io/me/x", "ada", "t0ken").unwrap();
        assert_eq!(found.username, "ada");
        assert_eq!(found.password.expose_secret(), "t0ken");
        assert!(token_credentials("ghcr.io/me/x", "ada", "").is_none());
        assert!(token_credentials("alpine", "ada", "t0ken").is_none());
    }

    #[test]
    fn what_was_loaded_has_a_name_or_an_id() {
        assert_eq!(loaded_name("x\nLoaded image: base:1\n"), Some("base:1"));
        let id = loaded_name("Loaded image ID: sha256:12\n");
        assert_eq!(id, Some("sha256:12"));
        assert_eq!(loaded_name("nothing"), None);
    }
}
