//! The problem matchers of one step: they look at its lines, and its commands change them.

use super::{
    GuestFiles, Match, Matcher, Matchers,
    config::{ConfigError, MAX_FILE, owners, read},
    list::TooMany,
    pattern::Line,
    place::Places,
};
use crate::{
    job::{
        commands::{Annotation, Level},
        containers::Paths,
        log::StepLog,
        reporter::Reporter,
    },
    sandbox::SandboxError,
};

/// Why a command did not change the matchers.
#[derive(Debug, thiserror::Error)]
pub(in crate::job) enum MatcherError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    TooMany(#[from] TooMany),
}

/// The matchers of a job as one step sees them.
pub(in crate::job) struct StepMatchers<'a> {
    shared: Matchers,
    places: Places<'a>,
    /// What of `shared` is in `active`.
    version: u64,
    /// Matchers with lower numbers are known: one that is not in `active` was given up.
    next: u64,
    active: Vec<(u64, Matcher)>,
}

impl<'a> StepMatchers<'a> {
    /// The matchers of a step whose files are in `guest`; `server` and `repository` tell the
    /// workflow's own checkout from others.
    pub(in crate::job) fn new(
        shared: &Matchers,
        guest: &'a dyn GuestFiles,
        workspace: &str,
        server: &str,
        repository: &str,
    ) -> Self {
        let mut matchers = Self {
            shared: shared.clone(),
            places: Places::new(guest, workspace, server, repository),
            version: 0,
            next: 0,
            active: Vec::new(),
        };
        matchers.update();
        // The newest comes first while a step runs; at its beginning the order is that of the job.
        matchers.active.reverse();
        matchers
    }

    /// What runs next calls the guest's paths like this.
    pub(in crate::job) fn set_paths(&mut self, paths: Paths) {
        self.places.set_paths(paths);
    }

    /// The same for a step that calls the guest's paths like this.
    pub(in crate::job) fn called(self, paths: &Paths) -> Self {
        let places = self.places.called(paths);
        Self { places, ..self }
    }

    /// Adds the matchers of a file; gives what to say about it in a debug log.
    pub(in crate::job) async fn add(&mut self, file: &str) -> Result<Option<String>, MatcherError> {
        let matchers = read(file, &self.file(file).await?)?;
        if matchers.is_empty() {
            return Ok(None);
        }
        let names: Vec<_> = matchers.iter().map(|m| format!("'{}'", m.owner)).collect();
        self.shared.add(matchers)?;
        self.update();
        Ok(Some(format!(
            "Added matchers: {}. Problem matchers scan action output for known warning or error \
             strings and report these inline.",
            names.join(", ")
        )))
    }

    /// Removes the matchers of a file.
    pub(in crate::job) async fn remove_file(
        &mut self,
        file: &str,
    ) -> Result<Option<String>, MatcherError> {
        let owners = owners(file, &self.file(file).await?)?;
        Ok(self.remove(&owners))
    }

    /// Removes matchers by their owners.
    pub(in crate::job) fn remove(&mut self, owners: &[String]) -> Option<String> {
        let removed = self.shared.remove(owners);
        self.update();
        let names: Vec<_> = removed.iter().map(|owner| format!("'{owner}'")).collect();
        (!names.is_empty()).then(|| format!("Removed matchers: {}", names.join(", ")))
    }

    /// Looks at a line of output; true if it was logged as part of a problem.
    pub(in crate::job) async fn take<R: Reporter>(
        &mut self,
        text: &str,
        log: &mut StepLog<'_, R>,
    ) -> bool {
        self.update();
        if self.active.is_empty() {
            return false;
        }
        let line = Line::new(text);
        let mut index = 0;
        while let Some((_, matcher)) = self.active.get_mut(index) {
            let found = match matcher.read(&line).await {
                Ok(found) => found,
                Err(error) => {
                    let (_, matcher) = self.active.remove(index);
                    let owner = &matcher.config.owner;
                    let message = format!("Removing issue matcher '{owner}'. Error: {error}");
                    log.warning(&message).await;
                    continue;
                }
            };
            if let Some(found) = found {
                self.reset_all_but(index);
                if let Some(annotation) = self.annotation(found, log).await {
                    log.annotate_as(annotation, text).await;
                    return true;
                }
            }
            index += 1;
        }
        false
    }

    /// Takes over what any step of the job changed, and keeps what is known of the others.
    fn update(&mut self) {
        let Some((entries, version)) = self.shared.changed_since(self.version) else {
            return;
        };
        self.version = version;
        let active = &mut self.active;
        active.retain(|(id, _)| entries.iter().any(|entry| entry.id == *id));
        let mut fresh: Vec<_> = entries.iter().filter(|e| e.id >= self.next).collect();
        fresh.sort_unstable_by_key(|entry| entry.id);
        for entry in fresh {
            self.next = entry.id + 1;
            let matcher = Matcher::new(entry.config.clone());
            self.active.insert(0, (entry.id, matcher));
        }
    }

    fn reset_all_but(&mut self, index: usize) {
        for (other, (_, matcher)) in self.active.iter_mut().enumerate() {
            if other != index {
                matcher.reset();
            }
        }
    }

    async fn file(&self, file: &str) -> Result<Vec<u8>, ConfigError> {
        let path = self.places.absolute(file);
        match self.places.read(&path, MAX_FILE).await {
            Ok(Some(content)) => Ok(content),
            Ok(None) => Err(ConfigError::Missing(path)),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// The annotation for a problem, if it has a message and a known severity.
    async fn annotation<R: Reporter>(
        &mut self,
        found: Match,
        log: &StepLog<'_, R>,
    ) -> Option<Annotation> {
        let message = found.message.unwrap_or_default();
        if message.trim().is_empty() {
            let text =
                "Skipping logging an issue for the matched line because the message is empty.";
            log.debug(text).await;
            return None;
        }
        let severity = found.severity.unwrap_or_default();
        let level = match severity.to_ascii_lowercase().as_str() {
            "" | "error" => Level::Error,
            "warning" => Level::Warning,
            "notice" => Level::Notice,
            _ => {
                let text = format!(
                    "Skipped logging an issue for the matched line because the severity \
                     '{severity}' is not supported."
                );
                log.debug(&text).await;
                return None;
            }
        };
        let mut annotation = Annotation::new(level, &message);
        annotation.line = number(found.line, "line", log).await;
        annotation.column = number(found.column, "column", log).await;
        let code = found.code.unwrap_or_default();
        annotation.code = (!code.trim().is_empty()).then(|| code.trim().to_owned());
        let file = found.file.unwrap_or_default();
        // Files are only looked for where the annotation is reported.
        if !file.trim().is_empty() && log.has_room(level) {
            let from_path = found.from_path.unwrap_or_default();
            match self.places.find(&file, &from_path).await {
                Ok(file) => annotation.file = Some(file),
                Err(why) => log.debug(&why).await,
            }
        }
        Some(annotation)
    }
}

fn unreadable(error: &SandboxError) -> ConfigError {
    ConfigError::Unreadable(error.to_string())
}

/// A number of digits only.
async fn number<R: Reporter>(
    text: Option<String>,
    what: &str,
    log: &StepLog<'_, R>,
) -> Option<u32> {
    let text = text.filter(|text| !text.is_empty())?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    if number.is_none() {
        log.debug(&format!("Unable to parse {what} number '{text}'"))
            .await;
    }
    number
}
