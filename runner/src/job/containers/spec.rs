//! What a job says about a container: `container` and each of `services`, evaluated.

use indexmap::IndexMap;
use secrecy::SecretString;

use crate::{
    expression::{
        coerce::to_text,
        value::{Object, Value},
    },
    job::{
        template::{Evaluator, TemplateError},
        words::words,
    },
    workflow::token::TemplateToken,
};

/// Most services of a job, and most ports and volumes of a container.
const MAX_ENTRIES: usize = 256;

/// A container to start.
#[derive(Default)]
pub(super) struct ContainerSpec {
    /// The key of a service: its name in the network. None for the job's container.
    pub(super) alias: Option<String>,
    /// The image reference.
    pub(super) image: String,
    /// Where the job names it, as messages begin with it.
    pub(super) place: String,
    /// Who the registry knows.
    pub(super) credentials: Option<Credentials>,
    pub(super) env: IndexMap<String, String>,
    pub(super) ports: Vec<String>,
    pub(super) volumes: Vec<String>,
    /// Further arguments of `docker create`.
    pub(super) options: Vec<String>,
    pub(super) entrypoint: Option<String>,
    pub(super) command: Vec<String>,
}

/// Name and password at a registry.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: SecretString,
}

/// Why what a job says about its containers cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::job) enum SpecError {
    /// It cannot be evaluated.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// It is not of the right form once it is evaluated.
    #[error("{place}`{key}` of the job: {why}")]
    Form {
        /// Where it stands, as messages begin with it.
        place: String,
        /// `container`, or `services.` and a name.
        key: String,
        /// What is wrong.
        why: String,
    },
}

/// The job's container; none if its image is empty.
pub(super) fn job_container(
    evaluator: &Evaluator<'_>,
    token: &TemplateToken,
) -> Result<Option<ContainerSpec>, SpecError> {
    let place = evaluator.place(token.at);
    let spec = read("container", evaluator.value(token)?);
    let mut spec = spec.map_err(|error| error.at(&place))?;
    if spec.entrypoint.is_some() || !spec.command.is_empty() {
        let why = "`entrypoint` and `command` are for services".to_owned();
        return Err(form("container", why).at(&place));
    }
    spec.place = image_place(evaluator, token);
    Ok(Some(spec).filter(|spec| !spec.image.is_empty()))
}

/// The services, in order, without those whose image is empty.
pub(super) fn services(
    evaluator: &Evaluator<'_>,
    token: &TemplateToken,
) -> Result<Vec<ContainerSpec>, SpecError> {
    let place = evaluator.place(token.at);
    let services = match evaluator.value(token)? {
        Value::Null => return Ok(Vec::new()),
        Value::Object(services) => services,
        other => return Err(form("services", unexpected(&other)).at(&place)),
    };
    if services.len() > MAX_ENTRIES {
        return Err(form("services", format!("more than {MAX_ENTRIES}")).at(&place));
    }
    let mut found = Vec::new();
    for (alias, value) in services.iter() {
        let key = format!("services.{alias}");
        let token = token.get(alias).unwrap_or(token);
        let place = evaluator.place(token.at);
        if !is_name(alias) {
            let why = "a name is made of letters, digits, `_` and `-`".to_owned();
            return Err(form(&key, why).at(&place));
        }
        let spec = read(&key, value.clone());
        let mut spec = spec.map_err(|error| error.at(&place))?;
        spec.place = image_place(evaluator, token);
        spec.alias = Some(alias.to_owned());
        if !spec.image.is_empty() {
            found.push(spec);
        }
    }
    Ok(found)
}

/// Where a container's image is named.
fn image_place(evaluator: &Evaluator<'_>, token: &TemplateToken) -> String {
    evaluator.place(token.get("image").unwrap_or(token).at)
}

fn is_name(alias: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !alias.is_empty() && !alias.starts_with('-') && alias.bytes().all(allowed)
}

fn read(key: &str, value: Value) -> Result<ContainerSpec, SpecError> {
    let mut spec = ContainerSpec::default();
    let object = match value {
        Value::Null => return Ok(spec),
        Value::Object(object) => object,
        Value::Array(_) => return Err(form(key, unexpected(&value))),
        scalar => {
            spec.image = image(key, &to_text(&scalar))?;
            return Ok(spec);
        }
    };
    for (name, value) in object.iter() {
        let place = format!("{key}.{name}");
        match name.to_ascii_lowercase().as_str() {
            "image" => spec.image = image(&place, &text(&place, value)?)?,
            "env" => spec.env = texts(&place, value)?,
            "ports" => spec.ports = list(&place, value)?,
            "volumes" => spec.volumes = list(&place, value)?,
            "options" => spec.options = words(&text(&place, value)?),
            "credentials" => spec.credentials = credentials(&place, value)?,
            "entrypoint" => {
                spec.entrypoint = Some(text(&place, value)?).filter(|text| !text.is_empty());
            }
            "command" => spec.command = words(&text(&place, value)?),
            _ => return Err(form(&place, "there is no such key".to_owned())),
        }
    }
    Ok(spec)
}

/// An image reference, which must not be taken for an option of the client.
pub(super) fn image(key: &str, text: &str) -> Result<String, SpecError> {
    let text = text.trim();
    let prefix = text
        .get(..9)
        .filter(|p| p.eq_ignore_ascii_case("docker://"));
    let name = &text[prefix.map_or(0, str::len)..];
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if name.starts_with('-') || name.contains(odd) || (prefix.is_some() && name.is_empty()) {
        return Err(form(key, format!("{text:?} is no image reference")));
    }
    Ok(name.to_owned())
}

fn credentials(key: &str, value: &Value) -> Result<Option<Credentials>, SpecError> {
    let object = match value {
        Value::Null => return Ok(None),
        Value::Object(object) => object,
        other => return Err(form(key, unexpected(other))),
    };
    let part = |name: &str| {
        let value = object.get(name).unwrap_or(&Value::Null);
        text(&format!("{key}.{name}"), value)
    };
    let (username, password) = (part("username")?, part("password")?);
    if username.is_empty() || password.is_empty() {
        return Ok(None);
    }
    Ok(Some(Credentials {
        username,
        password: password.into(),
    }))
}

fn text(key: &str, value: &Value) -> Result<String, SpecError> {
    match value {
        Value::Array(_) | Value::Object(_) => Err(form(key, unexpected(value))),
        scalar => Ok(to_text(scalar)),
    }
}

fn texts(key: &str, value: &Value) -> Result<IndexMap<String, String>, SpecError> {
    let empty = Object::new();
    let object = match value {
        Value::Null => &empty,
        Value::Object(object) => object,
        other => return Err(form(key, unexpected(other))),
    };
    let entry = |(name, value): (&str, &Value)| {
        let place = format!("{key}.{name}");
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(form(&place, "this is no name of a variable".to_owned()));
        }
        Ok((name.to_owned(), text(&place, value)?))
    };
    object.iter().map(entry).collect()
}

fn list(key: &str, value: &Value) -> Result<Vec<String>, SpecError> {
    let items = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(items) => items,
        other => return Err(form(key, unexpected(other))),
    };
    if items.len() > MAX_ENTRIES {
        return Err(form(key, format!("more than {MAX_ENTRIES}")));
    }
    let texts: Result<Vec<_>, _> = items.iter().map(|item| text(key, item)).collect();
    Ok(texts?.into_iter().filter(|text| !text.is_empty()).collect())
}

fn unexpected(value: &Value) -> String {
    format!("{} is not expected here", to_text(value))
}

fn form(key: &str, why: String) -> SpecError {
    let (place, key) = (String::new(), key.to_owned());
    SpecError::Form { place, key, why }
}

impl SpecError {
    /// The same with its place.
    fn at(mut self, found: &str) -> Self {
        if let Self::Form { place, .. } = &mut self {
            *place = found.to_owned();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::json::from_json;

    fn value(json: &str) -> Value {
        from_json(json).unwrap()
    }

    #[test]
    fn a_container_is_an_image_or_a_mapping() {
        let spec = read("container", value(r#""docker://alpine:3""#)).unwrap();
        assert_eq!(spec.image, "alpine:3");
        let spec = r#"{"image": "db", "env": {"A": 1, "B": null}, "ports": [80, "1:2/udp"],
            "volumes": ["/a:/b", ""], "options": "--health-cmd \"test -e /x\" --init",
            "credentials": {"username": "me", "password": "hush"},
            "entrypoint": "/bin/db", "command": "-p 1 'x'"}"#;
        let spec = read("services.db", value(spec)).unwrap();
        assert_eq!(spec.env["A"], "1");
        assert_eq!(spec.env["B"], "");
        assert_eq!(spec.ports, ["80", "1:2/udp"]);
        assert_eq!(spec.volumes, ["/a:/b"]);
        assert_eq!(spec.options, ["--health-cmd", "test -e /x", "--init"]);
        assert_eq!(spec.entrypoint.as_deref(), Some("/bin/db"));
        assert_eq!(spec.command, ["-p", "1", "'x'"]);
        let credentials = spec.credentials.unwrap();
        assert_eq!(credentials.username, "me");
        assert!(!format!("{credentials:?}").contains("hush"));
    }

    #[test]
    fn what_is_no_container_is_refused_with_its_place() {
        for (json, expected) in [
            (r#"["a"]"#, "`container` of the job: Array"),
            (
                r#"{"imag": "a"}"#,
                "`container.imag` of the job: there is no",
            ),
            (r#"{"image": "--privileged"}"#, "is no image reference"),
            (r#"{"image": "a b"}"#, "is no image reference"),
            (r#""docker://""#, "is no image reference"),
            (r#"{"env": {"A=B": "1"}}"#, "no name of a variable"),
            (
                r#"{"ports": "80"}"#,
                "`container.ports` of the job: 80 is not",
            ),
        ] {
            let error = read("container", value(json)).err().unwrap().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn names_of_services_are_names_in_a_network() {
        for (name, good) in [
            ("redis", true),
            ("a_b-1", true),
            ("-x", false),
            ("a b", false),
        ] {
            assert_eq!(is_name(name), good, "{name}");
        }
    }
}
