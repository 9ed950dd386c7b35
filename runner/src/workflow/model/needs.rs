//! `needs`: every needed job is there, and no jobs wait for each other.

use std::collections::{HashMap, HashSet};

use super::super::check::MAX_FINDINGS;
use super::super::diagnostic::nearest;
use super::super::token::TemplateToken;
use super::{Builder, Job, place_of};

impl Builder<'_> {
    pub(super) fn needs(&mut self, job: &TemplateToken) -> Vec<String> {
        let Some(needs) = job.get("needs") else {
            return Vec::new();
        };
        let items = needs.as_sequence().unwrap_or(std::slice::from_ref(needs));
        let mut names: Vec<String> = Vec::new();
        for name in items.iter().filter_map(TemplateToken::as_str) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }

    /// Every needed job exists, and no jobs wait for each other.
    pub(super) fn check_needs(&mut self, jobs: &[Job], root: &TemplateToken) {
        // A job that could not be read is still a job that may be needed.
        let entries = root
            .get("jobs")
            .and_then(TemplateToken::as_mapping)
            .unwrap_or_default();
        let ids: Vec<&str> = entries.iter().filter_map(|(key, _)| key.as_str()).collect();
        let known: HashSet<&str> = ids.iter().copied().collect();
        for (key, job) in entries {
            let Some(needs) = job.get("needs") else {
                continue;
            };
            let id = key.as_str().unwrap_or_default();
            for need in needs.as_sequence().unwrap_or(std::slice::from_ref(needs)) {
                let Some(name) = need.as_str() else { continue };
                if known.contains(name) || self.findings.len() >= 2 * MAX_FINDINGS {
                    continue;
                }
                let help = match nearest(name, ids.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "name a job of this file, by its key".to_owned(),
                };
                let message =
                    format!("the job `{id}` needs `{name}`, which is no job of this file");
                self.error(place_of(need), message, help);
            }
        }
        for cycle in cycles(jobs) {
            let names: Vec<_> = cycle.iter().map(|job| job.id.as_str()).collect();
            let message = match names.as_slice() {
                [own] => format!("the job `{own}` needs itself"),
                names => {
                    format!(
                        "jobs wait for each other: {} -> {}",
                        names.join(" -> "),
                        names[0]
                    )
                }
            };
            let help = "take one of these out of the other's `needs`";
            self.error(cycle[0].place, message, help);
        }
    }
}

/// Each circle of jobs that need each other, found once.
fn cycles(jobs: &[Job]) -> Vec<Vec<&Job>> {
    let by_id: HashMap<&str, &Job> = jobs.iter().map(|job| (job.id.as_str(), job)).collect();
    let mut found = Vec::new();
    // Where a job is on the way at hand; `None` once all behind it was looked at.
    let mut seen: HashMap<&str, Option<usize>> = HashMap::new();
    for start in jobs {
        let mut way: Vec<(&Job, usize)> = Vec::new();
        let mut entered = Some(start).filter(|job| !seen.contains_key(job.id.as_str()));
        loop {
            if let Some(job) = entered.take() {
                seen.insert(&job.id, Some(way.len()));
                way.push((job, 0));
            }
            let Some((job, next)) = way.last_mut() else {
                break;
            };
            let Some(need) = job.needs.get(*next) else {
                seen.insert(&job.id, None);
                way.pop();
                continue;
            };
            *next += 1;
            let Some(&needed) = by_id.get(need.as_str()) else {
                continue;
            };
            match seen.get(needed.id.as_str()) {
                None => entered = Some(needed),
                Some(None) => {}
                Some(Some(at)) => found.push(way[*at..].iter().map(|(job, _)| *job).collect()),
            }
        }
    }
    found
}
