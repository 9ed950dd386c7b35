//! Runners: their just-in-time configuration, and the tokens that their key earns them.

use aws_lc_rs::signature::{
    KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value as Json, json};

use super::{Asked, FakeGitHub, Said, State};

/// The key of all runners of the fake: making one takes long.
pub(super) const KEY: &str = include_str!("../../../runner/src/github/key.json");

/// A registered runner.
#[derive(Debug)]
pub struct Runner {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Whether it has to sign with RSASSA-PSS.
    fips: bool,
    /// Its session, if it has one.
    pub session: Option<String>,
    /// Whether its one job was given to it.
    pub used: bool,
    /// Whether its one job is over: GitHub has removed it.
    pub finished: bool,
    /// Its labels.
    pub labels: Vec<String>,
}

impl FakeGitHub {
    /// Registers a runner just in time; returns `encoded_jit_config`.
    ///
    /// # Panics
    /// If there is one of this name.
    #[must_use]
    pub fn register(&self, name: &str) -> String {
        let registered = self
            .shared
            .lock()
            .register(name, vec!["sandbox".to_owned()]);
        registered.expect("a free name").1
    }

    /// Removes a runner, as an administrator may at any time.
    pub fn remove(&self, name: &str) {
        let mut state = self.shared.lock();
        state.runners.retain(|_, runner| runner.name != name);
    }
}

impl State {
    /// Registers a runner, unless there is one of this name; its number and its configuration.
    pub(super) fn register(&mut self, name: &str, labels: Vec<String>) -> Option<(u64, String)> {
        let same = |runner: &Runner| runner.name == name && !runner.finished;
        if self.runners.values().any(same) {
            return None;
        }
        let id = self.next();
        let client = format!("client-{id}");
        let fips = id.is_multiple_of(2);
        let base = self.base.clone();
        let runner = Runner {
            id,
            name: name.to_owned(),
            fips,
            session: None,
            used: false,
            finished: false,
            labels,
        };
        self.runners.insert(client.clone(), runner);
        let file = |json: Json| STANDARD.encode(json.to_string());
        let mut key: Json = serde_json::from_str(KEY).expect("our own file");
        let fields = key.as_object_mut().expect("our own file");
        fields.retain(|name, _| name != "pkcs8" && name != "comment");
        let files = json!({
            ".runner": file(json!({
                "AgentId": id.to_string(), "AgentName": name, "PoolId": "1", "PoolName": "Default",
                "DisableUpdate": "True", "Ephemeral": "True", "ServerUrl": base, "ServerUrlV2": base,
                "GitHubUrl": "", "WorkFolder": "_work", "UseV2Flow": "True",
            })),
            ".credentials": file(json!({
                "Scheme": "OAuth",
                "Data": {
                    "clientId": client, "authorizationUrl": format!("{base}token"),
                    "requireFipsCryptography": if fips { "True" } else { "False" },
                },
            })),
            ".credentials_rsaparams": file(key),
        });
        Some((id, STANDARD.encode(files.to_string())))
    }

    /// The token endpoint.
    pub(super) fn exchange(&mut self, asked: &Asked) -> Said {
        let form: Vec<(String, String)> =
            form_urlencoded::parse(&asked.body).into_owned().collect();
        let names: Vec<&str> = form.iter().map(|(name, _)| name.as_str()).collect();
        if names != ["grant_type", "client_assertion_type", "client_assertion"] {
            return self.violation(400, format!("token: the form has {names:?}"));
        }
        let claims = match self.verified(&form[2].1) {
            Ok(claims) => claims,
            Err(why) => return self.violation(400, format!("token: the assertion {why}")),
        };
        let client = claims["iss"].as_str().unwrap_or_default().to_owned();
        if !self.runners.contains_key(&client) {
            return (
                400,
                json!({"error": "invalid_client", "error_description": "no such client"}),
            );
        }
        let token = format!("runner-token-{}", self.next());
        self.tokens.insert(token.clone(), client);
        (
            200,
            json!({"access_token": token, "token_type": "bearer", "expires_in": 3600}),
        )
    }

    /// The claims of an assertion that its runner's key signed, and that is good now.
    fn verified(&mut self, assertion: &str) -> Result<Json, String> {
        let (signed, signature) = assertion.rsplit_once('.').ok_or("is no JWT")?;
        let (header, claims) = signed.split_once('.').ok_or("is no JWT")?;
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "is not base64url");
        let part = |text: &str| -> Result<Json, String> {
            serde_json::from_slice(&bytes(text)?).map_err(|_| "is not JSON".to_owned())
        };
        let (header, claims) = (part(header)?, part(claims)?);
        let client = claims["iss"].as_str().unwrap_or_default();
        let fips = self.runners.get(client).is_some_and(|runner| runner.fips);
        let (name, algorithm) = if fips {
            ("PS256", &RSA_PSS_2048_8192_SHA256)
        } else {
            ("RS256", &RSA_PKCS1_2048_8192_SHA256)
        };
        if self.runners.contains_key(client) && header != json!({"typ": "JWT", "alg": name}) {
            return Err(format!("has the header {header}"));
        }
        let key: Json = serde_json::from_str(KEY).map_err(|_| "has no key")?;
        let der = STANDARD.decode(key["pkcs8"].as_str().unwrap_or_default());
        let pair =
            RsaKeyPair::from_pkcs8(&der.map_err(|_| "has no key")?).map_err(|_| "has no key")?;
        let public = UnparsedPublicKey::new(algorithm, pair.public_key().as_ref());
        if self.runners.contains_key(client) {
            let good = public.verify(signed.as_bytes(), &bytes(signature)?);
            good.map_err(|_| "is not signed by the runner's key")?;
        }
        let (from, until) = (claims["nbf"].as_i64(), claims["exp"].as_i64());
        let life = until.zip(from).map(|(until, from)| until - from);
        if !life.is_some_and(|life| (1..=300).contains(&life)) {
            return Err(format!("is good for {life:?} s"));
        }
        if claims["aud"] != json!(format!("{}token", self.base)) || claims["sub"] != claims["iss"] {
            return Err("is addressed to or about somebody else".to_owned());
        }
        let id = claims["jti"].as_str().unwrap_or_default();
        if id.is_empty() || !self.assertions.insert(id.to_owned()) {
            return Err("was used before".to_owned());
        }
        Ok(claims)
    }

    /// The client of a runner's token.
    pub(super) fn client(&mut self, asked: &Asked) -> Result<String, Said> {
        let token = asked.bearer.as_deref().unwrap_or_default();
        match self.tokens.get(token) {
            Some(client) if self.runners.contains_key(client) => Ok(client.clone()),
            Some(_) => Err((
                404,
                json!({"source": "actions-broker-listener", "errorKind": "RunnerNotFound"}),
            )),
            None if token.starts_with("job-token-") => Err(self.violation(
                401,
                format!("{}: a job's token where a runner's belongs", asked.path),
            )),
            None => Err((401, json!({"errorMessage": "this token is not known"}))),
        }
    }

    /// Makes all tokens of runners void, as if they had ended.
    pub(super) fn void_tokens(&mut self) {
        self.tokens.clear();
    }
}

impl FakeGitHub {
    /// All tokens of runners end now.
    pub fn expire_tokens(&self) {
        self.shared.lock().void_tokens();
    }
}
