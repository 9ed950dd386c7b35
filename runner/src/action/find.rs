//! The references of a file, read and with their places.

use std::ops::Range;

use super::dockerfile::{self, DockerfileError};
use super::image::{ImageError, ImageReference};
use super::reference::{Reference, ReferenceError};
use crate::workflow::LoadError;
use crate::workflow::references::{self, Mention, Role};
use crate::workflow::source::Source;

/// A reference in a file.
#[derive(Clone, Debug)]
pub struct Found {
    /// What stands there.
    pub text: String,
    /// What it refers to.
    pub target: Result<Target, ReferenceError>,
    /// 1-based line.
    pub line: u32,
    /// 1-based column, in characters.
    pub column: u32,
    /// The bytes to be rewritten, for `uses:` whose text stands in the file as it is.
    pub span: Option<Range<usize>>,
}

/// What a reference in a file refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An action, by `uses:` of a step, or an image.
    Use(Reference),
    /// A reusable workflow, by `uses:` of a job.
    Call(Reference),
    /// A Dockerfile of the action itself.
    Dockerfile(String),
}

/// The references of a workflow file.
///
/// # Errors
/// [`LoadError`] if the file is no YAML that GitHub would read.
pub fn in_workflow(source: &Source) -> Result<Vec<Found>, LoadError> {
    Ok(references::in_workflow(source)?
        .into_iter()
        .map(found)
        .collect())
}

/// The references of an action's manifest.
///
/// # Errors
/// [`LoadError`] if the file is no YAML that GitHub would read.
pub fn in_action(source: &Source) -> Result<Vec<Found>, LoadError> {
    Ok(references::in_action(source)?
        .into_iter()
        .map(found)
        .collect())
}

/// The images of a Dockerfile.
///
/// # Errors
/// [`DockerfileError`] where an image is not known before the build.
pub fn in_dockerfile(text: &str) -> Result<Vec<Found>, DockerfileError> {
    let found = |base: dockerfile::Base| Found {
        target: image(&base.image).map_err(ReferenceError::from),
        text: base.image,
        line: u32::try_from(base.line).unwrap_or(u32::MAX),
        column: 1,
        span: None,
    };
    Ok(dockerfile::bases(text)?.into_iter().map(found).collect())
}

fn found(mention: Mention) -> Found {
    let Mention {
        role,
        text,
        place,
        span,
    } = mention;
    Found {
        target: target(role, &text),
        line: place.line,
        column: place.column,
        span: span.filter(|_| matches!(role, Role::Step | Role::Call)),
        text,
    }
}

fn target(role: Role, text: &str) -> Result<Target, ReferenceError> {
    match role {
        Role::Step | Role::Call if text.contains("${{") => {
            Err(ReferenceError::Never(text.to_owned()))
        }
        Role::Step => Reference::parse(text).map(Target::Use),
        Role::Call => Reference::parse(text).map(Target::Call),
        Role::Container if text.contains("${{") => Err(ReferenceError::Expression(text.to_owned())),
        Role::Container => Ok(image(text.strip_prefix("docker://").unwrap_or(text))?),
        Role::ActionImage => match text.strip_prefix("docker://") {
            Some(name) => Ok(image(name)?),
            None => Ok(Target::Dockerfile(text.to_owned())),
        },
    }
}

fn image(text: &str) -> Result<Target, ImageError> {
    ImageReference::parse(text).map(|image| Target::Use(Reference::Image(image)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_s_references_are_read_with_their_places() {
        let text = "jobs:\n  a:\n    container: ${{ inputs.image }}\n    steps:\n      - uses: a/b@v1\n      - uses: a\n  \
                    b:\n    uses: ./.github/workflows/x.yml\n";
        let found = in_workflow(&Source::new("t.yml", text)).unwrap();
        let kinds: Vec<String> = found
            .iter()
            .map(|found| match &found.target {
                Ok(Target::Use(reference)) => format!("{} use {reference}", found.line),
                Ok(Target::Call(reference)) => format!("{} call {reference}", found.line),
                Ok(Target::Dockerfile(path)) => format!("{} file {path}", found.line),
                Err(error) => format!("{} {}", found.line, &error.to_string()[..20]),
            })
            .collect();
        let expected = [
            "3 `${{ inputs.image }}",
            "5 use a/b@v1",
            "6 `a` is not a referen",
            "8 call ./.github/workflows/x.yml",
        ];
        for (kind, expected) in kinds.iter().zip(expected) {
            assert!(expected.starts_with(kind) || kind == expected, "{kind}");
        }
        let image = in_action(&Source::new(
            "action.yml",
            "runs: {using: docker, image: docker://a:1}\n",
        ))
        .unwrap();
        assert!(matches!(
            &image[0].target,
            Ok(Target::Use(Reference::Image(_)))
        ));
        let file = in_action(&Source::new(
            "action.yml",
            "runs: {using: docker, image: x/Dockerfile}\n",
        ))
        .unwrap();
        assert_eq!(
            file[0].target,
            Ok(Target::Dockerfile("x/Dockerfile".to_owned()))
        );
        assert_eq!(in_dockerfile("FROM a:1\n").unwrap()[0].text, "a:1");
    }
}
