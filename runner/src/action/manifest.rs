//! An action's manifest: `action.yml` or `action.yaml`, bounded and checked like a workflow file.

use crate::workflow::{LoadError, parse_action, source::Source, token::TemplateToken};

/// What an action says of itself.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its inputs in the order of the file.
    pub inputs: Vec<Input>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runs {
    /// JavaScript.
    Node {
        /// Major version of Node.js that the action names.
        major: u32,
        /// The script, relative to the action's folder.
        main: String,
        /// Whether there is a script for before or after the job's steps.
        stages: bool,
    },
    /// Steps.
    Composite,
    /// A container.
    Docker,
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
    /// A JavaScript action without a script.
    #[error("{0}: Entry javascript file is not provided; add `main:` under `runs:`")]
    NoMain(String),
}

impl Manifest {
    /// Reads the text of a manifest; `path` is what messages call it.
    ///
    /// # Errors
    /// [`ManifestError`] names the place.
    pub fn parse(path: &str, text: &str) -> Result<Self, ManifestError> {
        let root = parse_action(Source::new(path, text))?;
        let inputs = root.get("inputs").and_then(TemplateToken::as_mapping);
        let inputs = inputs.unwrap_or_default().iter().filter_map(input);
        let text = |key: &str| root.get("runs")?.get(key)?.as_str();
        let using = text("using").unwrap_or_default();
        let runs = match using.to_ascii_lowercase().as_str() {
            "node12" | "node16" | "node20" | "node24" => Runs::Node {
                major: using[4..].parse().unwrap_or_default(),
                main: text("main")
                    .ok_or_else(|| ManifestError::NoMain(path.to_owned()))?
                    .to_owned(),
                stages: text("pre").is_some() || text("post").is_some(),
            },
            "composite" => Runs::Composite,
            "docker" => Runs::Docker,
            _ => {
                let (path, using) = (path.to_owned(), using.to_owned());
                return Err(ManifestError::Using { path, using });
            }
        };
        Ok(Self {
            inputs: inputs.collect(),
            runs,
        })
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
        let runs = Runs::Node {
            major: 20,
            main: "index.js".to_owned(),
            stages: false,
        };
        assert_eq!(manifest.runs, runs);
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
            ("runs: [\n", "this is not YAML"),
        ] {
            let error = Manifest::parse("action.yml", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
