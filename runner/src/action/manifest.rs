//! An action's manifest: `action.yml` or `action.yaml`, bounded and checked like a workflow file.

use std::sync::Arc;

use crate::{
    action::{bytes::spell_out, reference::RepositoryReference},
    job::request::StepRequest,
    workflow::{
        LoadError, parse_action,
        source::{Place, Source},
        token::TemplateToken,
    },
};

/// Largest manifest, in bytes.
pub const MAX_MANIFEST: u64 = 1 << 20;

/// Names that a manifest may have, in the order in which they are looked for.
pub const MANIFEST_NAMES: [&str; 2] = ["action.yml", "action.yaml"];

/// When a stage runs that does not say.
const ALWAYS: &str = "always()";

/// What an action says of itself.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its inputs in the order of the file.
    pub inputs: Vec<Input>,
    /// The outputs that it maps, with their values.
    pub outputs: Vec<(String, TemplateToken)>,
    /// How it runs.
    pub runs: Runs,
}

/// An input of an action.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its value where the step gives none.
    pub default: Option<TemplateToken>,
    /// What to say to those who still use it.
    pub deprecation: Option<String>,
}

/// How an action runs.
#[derive(Clone, Debug)]
pub enum Runs {
    /// JavaScript.
    Node(NodeRuns),
    /// Steps.
    Composite(Vec<CompositeStep>),
    /// A container.
    Docker(DockerRuns),
}

/// Scripts of a JavaScript action, relative to its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRuns {
    /// Major version of Node.js that the action names.
    pub major: u32,
    /// The script.
    pub main: String,
    /// The script before the job's steps.
    pub pre: Option<String>,
    /// When that runs.
    pub pre_if: String,
    /// The script after the job's steps.
    pub post: Option<String>,
    /// When that runs.
    pub post_if: String,
}

/// A step of a composite action.
#[derive(Clone, Debug)]
pub struct CompositeStep {
    /// Where it begins in the manifest.
    pub place: Place,
    /// What it does.
    pub request: Arc<StepRequest>,
}

/// What a Docker action runs.
#[derive(Clone, Debug)]
pub struct DockerRuns {
    /// `Dockerfile`, the path of one, or `docker://image`.
    pub image: String,
    /// `entrypoint`.
    pub entrypoint: Option<String>,
    /// `args`.
    pub args: Option<TemplateToken>,
    /// `env`.
    pub env: Option<TemplateToken>,
    /// `pre-entrypoint`.
    pub pre: Option<String>,
    /// When that runs.
    pub pre_if: String,
    /// `post-entrypoint`.
    pub post: Option<String>,
    /// When that runs.
    pub post_if: String,
}

/// What the image of a Docker action is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DockerImage<'a> {
    /// `docker://…`: a reference, without that.
    Registry(&'a str),
    /// A file in the action's folder.
    Dockerfile(&'a str),
}

impl DockerRuns {
    /// What its image is.
    #[must_use]
    pub fn image(&self) -> DockerImage<'_> {
        let scheme = self.image.get(..9);
        match scheme.filter(|scheme| scheme.eq_ignore_ascii_case("docker://")) {
            Some(scheme) => DockerImage::Registry(&self.image[scheme.len()..]),
            None => DockerImage::Dockerfile(&self.image),
        }
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not well formed.
    #[error(transparent)]
    Rejected(#[from] LoadError),
    /// `using` is none of the known words.
    #[error(
        "{path}: 'using: {using}' is not supported, use 'docker', 'composite', 'node12', 'node16', \
         'node20' or 'node24' instead."
    )]
    Using {
        /// The manifest.
        path: String,
        /// The word.
        using: String,
    },
    /// The image of a Docker action is neither of the two that it can be.
    #[error("{path}: '{image}' should be either '[path]/Dockerfile' or 'docker://image[:tag]'.")]
    Image {
        /// The manifest.
        path: String,
        /// What it says.
        image: String,
    },
    /// A key that this kind of action needs.
    #[error("{path}: {what} is not provided; add `{key}:` under `runs:`")]
    Missing {
        /// The manifest.
        path: String,
        /// What is missing.
        what: &'static str,
        /// The key.
        key: &'static str,
    },
}

impl Manifest {
    /// Reads the text of a manifest; `path` is what messages call it.
    ///
    /// # Errors
    /// [`ManifestError`] names the place.
    pub fn parse(path: &str, text: &str) -> Result<Self, ManifestError> {
        let file = parse_action(Source::new(path, text))?;
        let entries = |key: &str| {
            let found = file.root.get(key).and_then(TemplateToken::as_mapping);
            found.unwrap_or_default().iter()
        };
        Ok(Self {
            inputs: entries("inputs").filter_map(input).collect(),
            outputs: entries("outputs").filter_map(output).collect(),
            runs: runs(path, &file.root, file.steps)?,
        })
    }

    /// What an action without a manifest is that has a `Dockerfile`.
    #[must_use]
    pub fn dockerfile() -> Self {
        Self::container("Dockerfile")
    }

    /// What a container is that is run as it is: no inputs of its own, no outputs mapped.
    #[must_use]
    pub fn container(image: &str) -> Self {
        Self {
            inputs: Vec::new(),
            outputs: Vec::new(),
            runs: Runs::Docker(DockerRuns {
                image: image.to_owned(),
                entrypoint: None,
                args: None,
                env: None,
                pre: None,
                pre_if: ALWAYS.to_owned(),
                post: None,
                post_if: ALWAYS.to_owned(),
            }),
        }
    }

    /// When its own `pre` runs, if it has one. A composite action has those of its steps.
    #[must_use]
    pub fn pre_if(&self) -> Option<&str> {
        match &self.runs {
            Runs::Node(node) => node.pre.as_ref().map(|_| node.pre_if.as_str()),
            Runs::Docker(docker) => docker.pre.as_ref().map(|_| docker.pre_if.as_str()),
            Runs::Composite(_) => None,
        }
    }

    /// When its own `post` runs, if it has one.
    #[must_use]
    pub fn post_if(&self) -> Option<&str> {
        match &self.runs {
            Runs::Node(node) => node.post.as_ref().map(|_| node.post_if.as_str()),
            Runs::Docker(docker) => docker.post.as_ref().map(|_| docker.post_if.as_str()),
            Runs::Composite(_) => None,
        }
    }

    /// Spells `$/path` out: it is of the repository that this action is of.
    pub fn belong_to(&mut self, parent: &RepositoryReference) {
        if let Runs::Composite(steps) = &mut self.runs {
            for step in steps {
                spell_out(&mut Arc::make_mut(&mut step.request).action, parent);
            }
        }
    }

    /// Its steps, if it is a composite action.
    #[must_use]
    pub fn steps(&self) -> &[CompositeStep] {
        match &self.runs {
            Runs::Composite(steps) => steps,
            Runs::Node(_) | Runs::Docker(_) => &[],
        }
    }
}

fn runs(
    path: &str,
    root: &TemplateToken,
    steps: Vec<(Place, StepRequest)>,
) -> Result<Runs, ManifestError> {
    let value = |key: &str| root.get("runs")?.get(key);
    let text = |key: &str| value(key)?.as_str().map(str::to_owned);
    let condition = |key: &str| text(key).unwrap_or_else(|| ALWAYS.to_owned());
    let missing = |what, key| {
        let path = path.to_owned();
        ManifestError::Missing { path, what, key }
    };
    let using = text("using").unwrap_or_default();
    match using.to_ascii_lowercase().as_str() {
        "node12" | "node16" | "node20" | "node24" => Ok(Runs::Node(NodeRuns {
            major: using[4..].parse().unwrap_or_default(),
            main: text("main").ok_or_else(|| missing("Entry javascript file", "main"))?,
            pre: text("pre"),
            pre_if: condition("pre-if"),
            post: text("post"),
            post_if: condition("post-if"),
        })),
        "composite" => {
            value("steps").ok_or_else(|| missing("A list of steps", "steps"))?;
            let steps = steps.into_iter().map(|(place, request)| CompositeStep {
                place,
                request: Arc::new(request),
            });
            Ok(Runs::Composite(steps.collect()))
        }
        "docker" => {
            let docker = DockerRuns {
                image: text("image").ok_or_else(|| missing("Image", "image"))?,
                entrypoint: text("entrypoint"),
                args: value("args").filter(|args| !args.is_null()).cloned(),
                env: value("env").filter(|env| !env.is_null()).cloned(),
                pre: text("pre-entrypoint"),
                pre_if: condition("pre-if"),
                post: text("post-entrypoint"),
                post_if: condition("post-if"),
            };
            if let DockerImage::Dockerfile(image) = docker.image()
                && !image.ends_with("Dockerfile")
                && !image.ends_with("dockerfile")
            {
                let (path, image) = (path.to_owned(), image.to_owned());
                return Err(ManifestError::Image { path, image });
            }
            Ok(Runs::Docker(docker))
        }
        _ => {
            let path = path.to_owned();
            Err(ManifestError::Using { path, using })
        }
    }
}

fn input((key, value): &(TemplateToken, TemplateToken)) -> Option<Input> {
    let deprecation = value.get("deprecationMessage");
    Some(Input {
        name: key.as_str()?.to_owned(),
        default: value.get("default").cloned(),
        deprecation: deprecation
            .and_then(TemplateToken::as_str)
            .map(str::to_owned),
    })
}

fn output((key, value): &(TemplateToken, TemplateToken)) -> Option<(String, TemplateToken)> {
    Some((key.as_str()?.to_owned(), value.get("value")?.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_javascript_action_is_read_with_its_inputs() {
        let text = "name: Greet\nauthor: Ada\ninputs:\n  who:\n    default: ${{ github.actor }}\n  \
                    old:\n    deprecationMessage: use who\nruns:\n  using: node20\n  main: index.js\n";
        let manifest = Manifest::parse("action.yml", text).unwrap();
        let names: Vec<_> = manifest.inputs.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["who", "old"]);
        assert!(
            manifest.inputs[0]
                .default
                .as_ref()
                .unwrap()
                .has_expression()
        );
        assert_eq!(manifest.inputs[1].deprecation.as_deref(), Some("use who"));
        let Runs::Node(node) = manifest.runs else {
            panic!("{:?}", manifest.runs)
        };
        assert_eq!((node.major, node.main.as_str()), (20, "index.js"));
        assert_eq!((node.pre, node.post_if.as_str()), (None, "always()"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, expected) in [
            (
                "runs:\n  using: node20\n",
                "Entry javascript file is not provided",
            ),
            ("runs:\n  using: perl\n", "'using: perl' is not supported"),
            ("runs:\n  using: node20\n  mian: x\n", "action.yml:3:3"),
            ("name: x\n", "an action needs the key `runs`"),
            (
                "inputs:\n  a:\n    default: ${{ secrets.X }}\nruns:\n  using: docker\n",
                "action.yml:3:",
            ),
            ("runs:\n  using: docker\n", "Image is not provided"),
            (
                "runs:\n  using: docker\n  image: alpine\n",
                "'alpine' should be either '[path]/Dockerfile' or 'docker://image[:tag]'.",
            ),
            (
                "runs:\n  using: composite\n",
                "A list of steps is not provided",
            ),
            (
                "runs:\n  using: composite\n  steps:\n    - run: x\n",
                "needs the key `shell`",
            ),
            (
                "runs:\n  using: composite\n  steps:\n    - run: ${{ secrets.X }}\n      shell: sh\n",
                "action.yml:4:",
            ),
            (
                "runs:\n  using: composite\n  steps:\n    - uses: nothing\n",
                "action.yml:4:13",
            ),
            (
                "runs:\n  using: composite\n  steps:\n    - uses: ./a\n      timeout-minutes: 3\n",
                "unknown key `timeout-minutes`",
            ),
            ("runs: [\n", "this is not YAML"),
        ] {
            let error = Manifest::parse("action.yml", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
