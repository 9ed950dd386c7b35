//! What a step's process is told of GitHub's services, as the job message names them.

use secrecy::ExposeSecret;

use super::{
    Options,
    request::{Endpoint, JobRequest, Variable},
};

/// Where any step gets a token that proves who it is, if the job may have one (`id-token: write`).
pub(super) fn identity(request: &JobRequest) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if let Some(connection) = request.system_connection()
        && let Some(url) = connection.get("GenerateIdTokenUrl")
    {
        add(&mut found, "ACTIONS_ID_TOKEN_REQUEST_URL", url);
        add_token(&mut found, "ACTIONS_ID_TOKEN_REQUEST_TOKEN", connection);
    }
    found
}

/// Where actions find caches, artifacts and the rest, unless this machine has services of its own. As
/// at GitHub, `run:` steps are not told.
pub(super) fn for_actions(request: &JobRequest, options: &Options) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let connection = request.system_connection();
    let Some(connection) = connection.filter(|_| options.services.is_none()) else {
        return found;
    };
    let url = connection.get("PipelinesServiceUrl");
    add(
        &mut found,
        "ACTIONS_RUNTIME_URL",
        url.unwrap_or(&connection.url),
    );
    add_token(&mut found, "ACTIONS_RUNTIME_TOKEN", connection);
    for (name, key) in [
        ("ACTIONS_CACHE_URL", "CacheServerUrl"),
        ("ACTIONS_RESULTS_URL", "ResultsServiceUrl"),
    ] {
        if let Some(url) = connection.get(key) {
            add(&mut found, name, url);
        }
    }
    if request.variables.is_true("actions_uses_cache_service_v2") {
        add(&mut found, "ACTIONS_CACHE_SERVICE_V2", "True");
    }
    if let Some(id) = request.variables.get("system.orchestrationId") {
        add(&mut found, "ACTIONS_ORCHESTRATION_ID", Variable::expose(id));
    }
    found
}

fn add(found: &mut Vec<(String, String)>, name: &str, value: &str) {
    if !value.is_empty() {
        found.push((name.to_owned(), value.to_owned()));
    }
}

fn add_token(found: &mut Vec<(String, String)>, name: &str, connection: &Endpoint) {
    if let Some(token) = &connection.access_token {
        add(found, name, token.expose_secret());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &[(String, String)]) -> Vec<String> {
        let pair = |(name, value): &(String, String)| format!("{name}={value}");
        found.iter().map(pair).collect()
    }

    #[test]
    fn addresses_and_tokens_are_those_of_the_job_message() {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let mut request = JobRequest {
            endpoints: vec![Endpoint {
                name: "SystemVssConnection".to_owned(),
                url: "https://run/".to_owned(),
                access_token: Some("t0ken".to_owned().into()),
                data: [
                    ("ResultsServiceUrl", "https://results/"),
                    ("GenerateIdTokenUrl", ""),
                ]
                .map(own)
                .into(),
            }],
            ..JobRequest::default()
        };
        let options = Options::default();
        assert!(identity(&request).is_empty());
        let expected = [
            "ACTIONS_RUNTIME_URL=https://run/",
            "ACTIONS_RUNTIME_TOKEN=t0ken",
            "ACTIONS_RESULTS_URL=https://results/",
        ];
        assert_eq!(names(&for_actions(&request, &options)), expected);
        let data = [
            ("PipelinesServiceUrl", "https://pipelines/"),
            ("CacheServerUrl", "https://cache/"),
            ("GenerateIdTokenUrl", "https://id/"),
        ];
        request.endpoints[0].data = data.map(own).into();
        for (name, value) in [
            ("actions_uses_cache_service_v2", "True"),
            ("system.orchestrationId", "o1"),
        ] {
            let value = Variable::Plain(value.to_owned());
            request.variables.insert(name, value);
        }
        let expected = [
            "ACTIONS_RUNTIME_URL=https://pipelines/",
            "ACTIONS_RUNTIME_TOKEN=t0ken",
            "ACTIONS_CACHE_URL=https://cache/",
            "ACTIONS_CACHE_SERVICE_V2=True",
            "ACTIONS_ORCHESTRATION_ID=o1",
        ];
        assert_eq!(names(&for_actions(&request, &options)), expected);
        let expected = [
            "ACTIONS_ID_TOKEN_REQUEST_URL=https://id/",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN=t0ken",
        ];
        assert_eq!(names(&identity(&request)), expected);
    }
}
