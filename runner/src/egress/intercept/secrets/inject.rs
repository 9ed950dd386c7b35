//! Puts values into the head of a request, in the places that a rule names.

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    Uri,
    header::{AUTHORIZATION, Entry, HeaderMap, HeaderName, HeaderValue},
    http::request::Parts,
};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::{Bindings, Bound};
use crate::egress::policy::Inject;

/// What a value in a query must not have as it is.
const QUERY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b'<')
    .add(b'=')
    .add(b'>');

/// A value could not be put in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the value of secret {0} could not be put into the request")]
pub struct InjectError(String);

impl Bindings {
    /// Puts in the values of the secrets with the numbers `allowed`. Gives the names of those that are
    /// in the request now.
    ///
    /// # Errors
    /// [`InjectError`] when the request cannot hold a value.
    pub(in super::super) fn inject(
        &self,
        allowed: &[usize],
        parts: &mut Parts,
    ) -> Result<Vec<String>, InjectError> {
        let mut injected = Vec::new();
        for bound in allowed.iter().filter_map(|index| self.bound.get(*index)) {
            let Some(placeholder) = &bound.placeholder else {
                continue;
            };
            let put = Put { bound, placeholder };
            let mut is_in = false;
            if bound.binding.inject.is_empty() {
                is_in |= put.anywhere(parts)?;
            }
            for place in &bound.binding.inject {
                is_in |= put.at(place, parts)?;
            }
            if is_in {
                injected.push(bound.name.clone());
            }
        }
        Ok(injected)
    }
}

/// One secret on its way into one request. Each function says whether it is in.
struct Put<'a> {
    bound: &'a Bound,
    placeholder: &'a str,
}

impl Put<'_> {
    fn at(&self, place: &Inject, parts: &mut Parts) -> Result<bool, InjectError> {
        match place {
            Inject::Header { name, template } => {
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| self.failed())?;
                self.header(&mut parts.headers, &name, |value| {
                    self.filled(template, value)
                })
            }
            Inject::Basic { user } => self.header(&mut parts.headers, &AUTHORIZATION, |value| {
                self.basic(user, value)
            }),
            Inject::Query { name } => {
                self.query(parts, |key, value| key == name && value == self.placeholder)
            }
            Inject::Nowhere => Ok(false),
        }
    }

    /// Wherever the placeholder is in the head.
    fn anywhere(&self, parts: &mut Parts) -> Result<bool, InjectError> {
        let mut is_in = self.at(
            &Inject::Basic {
                user: "*".to_owned(),
            },
            parts,
        )?;
        let names: Vec<_> = parts.headers.keys().cloned().collect();
        for name in names {
            is_in |= self.header(&mut parts.headers, &name, |value| {
                let is_there = value.contains(self.placeholder);
                is_there.then(|| value.replace(self.placeholder, self.value()))
            })?;
        }
        is_in |= self.query(parts, |_, value| value == self.placeholder)?;
        Ok(is_in)
    }

    fn value(&self) -> &str {
        self.bound.value.expose_secret()
    }

    fn failed(&self) -> InjectError {
        InjectError(self.bound.name.clone())
    }

    /// Changes the values of one header with `change`.
    fn header(
        &self,
        headers: &mut HeaderMap,
        name: &HeaderName,
        change: impl Fn(&str) -> Option<String>,
    ) -> Result<bool, InjectError> {
        let mut is_in = false;
        let Entry::Occupied(mut entry) = headers.entry(name) else {
            return Ok(false);
        };
        for value in entry.iter_mut() {
            let Some(new) = value.to_str().ok().and_then(&change).map(Zeroizing::new) else {
                continue;
            };
            *value = HeaderValue::from_str(&new).map_err(|_| self.failed())?;
            value.set_sensitive(true);
            is_in = true;
        }
        Ok(is_in)
    }

    /// A header's value of the form of `template`; the case of what stands before does not matter.
    fn filled(&self, template: &str, header: &str) -> Option<String> {
        let (before, after) = template.split_once("{}")?;
        let (head, found) = header.split_at_checked(before.len())?;
        let is_it = head.eq_ignore_ascii_case(before)
            && found.strip_suffix(after) == Some(self.placeholder);
        is_it.then(|| format!("{head}{}{after}", self.value()))
    }

    fn basic(&self, wanted: &str, header: &str) -> Option<String> {
        let (scheme, encoded) = header.split_at_checked("basic ".len())?;
        if !scheme.eq_ignore_ascii_case("basic ") {
            return None;
        }
        let decoded = STANDARD.decode(encoded.trim()).ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (user, password) = decoded.split_once(':')?;
        let new = if password == self.placeholder && (wanted == "*" || wanted == user) {
            format!("{user}:{}", self.value())
        } else if user == self.placeholder && wanted == "*" {
            format!("{}:{password}", self.value())
        } else {
            return None;
        };
        let new = Zeroizing::new(new);
        Some(format!("{scheme}{}", STANDARD.encode(new.as_bytes())))
    }

    /// Changes the value of each parameter that `is_it`; both are decoded.
    fn query(
        &self,
        parts: &mut Parts,
        is_it: impl Fn(&str, &str) -> bool,
    ) -> Result<bool, InjectError> {
        let Some(query) = parts.uri.query() else {
            return Ok(false);
        };
        let text = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
        let mut is_in = false;
        let mut new = Zeroizing::new(format!("{}?", parts.uri.path()));
        for (index, pair) in query.split('&').enumerate() {
            if index > 0 {
                new.push('&');
            }
            match pair.split_once('=') {
                Some((key, value)) if is_it(&text(key), &text(value)) => {
                    is_in = true;
                    new.push_str(key);
                    new.push('=');
                    new.extend(utf8_percent_encode(self.value(), QUERY));
                }
                _ => new.push_str(pair),
            }
        }
        if is_in {
            let mut uri = parts.uri.clone().into_parts();
            uri.path_and_query = Some(new.parse().map_err(|_| self.failed())?);
            parts.uri = Uri::from_parts(uri).map_err(|_| self.failed())?;
        }
        Ok(is_in)
    }
}
