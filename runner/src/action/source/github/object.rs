//! A commit object, put together from what GitHub's API tells of a commit.
//!
//! Of a signed commit the API tells the signed text. Of others it tells all but the time zones, which
//! are tried: what comes out hashes to the commit's id, or it is not the object.

use serde::Deserialize;

use crate::action::digest::CommitId;

/// What the API tells of a commit.
#[derive(Deserialize)]
pub(super) struct ApiCommit {
    message: String,
    tree: ApiId,
    parents: Vec<ApiId>,
    author: ApiPerson,
    committer: ApiPerson,
    #[serde(default)]
    verification: ApiVerification,
}

#[derive(Deserialize)]
struct ApiId {
    sha: String,
}

#[derive(Deserialize)]
struct ApiPerson {
    name: String,
    email: String,
    /// RFC 3339, without the zone that it was made in.
    date: String,
}

#[derive(Default, Deserialize)]
struct ApiVerification {
    signature: Option<String>,
    payload: Option<String>,
}

impl ApiCommit {
    /// The object with this id; nothing if what is known does not make it.
    pub(super) fn object(&self, id: CommitId) -> Option<Vec<u8>> {
        let right = |object: &Vec<u8>| CommitId::of_object(object) == id;
        match (&self.verification.payload, &self.verification.signature) {
            (Some(payload), Some(signature)) => signed(payload, signature).into_iter().find(right),
            _ => self.unsigned(right),
        }
    }

    fn unsigned(&self, right: impl Fn(&Vec<u8>) -> bool) -> Option<Vec<u8>> {
        let zones = zones();
        let same = zones.iter().map(|zone| (zone, zone));
        let pairs = zones
            .iter()
            .flat_map(|one| zones.iter().map(move |other| (one, other)));
        for (author, committer) in same.chain(pairs) {
            for end in ["", "\n"] {
                let object = self.text(author, committer, end);
                if right(&object) {
                    return Some(object);
                }
            }
        }
        None
    }

    fn text(&self, author: &str, committer: &str, end: &str) -> Vec<u8> {
        let mut text = format!("tree {}\n", self.tree.sha);
        for parent in &self.parents {
            text.push_str(&format!("parent {}\n", parent.sha));
        }
        for (role, person, zone) in [
            ("author", &self.author, author),
            ("committer", &self.committer, committer),
        ] {
            let ApiPerson { name, email, date } = person;
            // One that is no time makes no object that is the right one.
            let time: jiff::Timestamp = date.parse().unwrap_or_default();
            text.push_str(&format!(
                "{role} {name} <{email}> {} {zone}\n",
                time.as_second()
            ));
        }
        text.push_str(&format!("\n{}{end}", self.message));
        text.into_bytes()
    }
}

/// Signed texts with their signatures put back, where git puts them: behind the other headers.
fn signed(payload: &str, signature: &str) -> Vec<Vec<u8>> {
    let Some((head, body)) = payload.split_once("\n\n") else {
        return Vec::new();
    };
    let trimmed = signature.trim_end_matches('\n');
    let ends = [trimmed.to_owned(), format!("{trimmed}\n")];
    let object = |signature: String| {
        let lines = signature.replace('\n', "\n ");
        format!("{head}\ngpgsig {lines}\n\n{body}").into_bytes()
    };
    ends.into_iter().map(object).collect()
}

/// All offsets from UTC by quarters of an hour that are in use, the usual one first.
fn zones() -> Vec<String> {
    let zone = |quarters: i32| {
        let (sign, minutes) = (if quarters < 0 { '-' } else { '+' }, quarters.abs() * 15);
        format!("{sign}{:02}{:02}", minutes / 60, minutes % 60)
    };
    let mut zones: Vec<String> = (-48..=56).map(zone).collect();
    zones.sort_by_key(|zone| zone != "+0000");
    zones
}
