//! Step summaries for a person: kept until the run ends, then shown job by job.

use std::fmt::Write;

use super::escapes::clean;

/// Most bytes that are kept of all summaries of a run.
const MAX_BYTES: usize = 1 << 20;

/// The summaries of a run's jobs.
#[derive(Debug, Default)]
pub(super) struct Summaries {
    /// Identities of jobs, and the Markdown of their steps one after the other.
    jobs: Vec<(String, String)>,
    bytes: usize,
    cut: bool,
}

impl Summaries {
    /// Keeps what a step of this job wrote, as far as there is room.
    pub(super) fn add(&mut self, job: &str, markdown: &str) {
        let room = MAX_BYTES - self.bytes;
        let mut end = room.min(markdown.len());
        while !markdown.is_char_boundary(end) {
            end -= 1;
        }
        let kept = &markdown[..end];
        self.cut |= kept.len() < markdown.len();
        self.bytes += kept.len();
        let at = self.jobs.iter().position(|(known, _)| known == job);
        let at = at.unwrap_or_else(|| {
            self.jobs.push((job.to_owned(), String::new()));
            self.jobs.len() - 1
        });
        let text = &mut self.jobs[at].1;
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(kept);
    }

    /// All of them as text, each job's under a heading that `heading` makes of its identity.
    pub(super) fn text(&self, heading: impl Fn(&str) -> String) -> String {
        let mut out = String::new();
        for (job, markdown) in &self.jobs {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "\n{}", heading(job));
            for line in markdown.lines() {
                let _ = writeln!(out, "{}", clean(line));
            }
        }
        if self.cut {
            let _ = writeln!(
                out,
                "… the summaries are longer than {} KiB; --json tells all of them",
                MAX_BYTES >> 10
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_a_job_stand_together_and_steer_no_terminal() {
        let mut summaries = Summaries::default();
        summaries.add("a", "# One\n\n\x1b[2Jtext");
        summaries.add("b", "# Other");
        summaries.add("a", "# Two");
        let text = summaries.text(|job| format!("Summary of {job}"));
        assert_eq!(
            text,
            "\nSummary of a\n# One\n\ntext\n# Two\n\nSummary of b\n# Other\n"
        );
        assert_eq!(Summaries::default().text(str::to_owned), "");
    }

    #[test]
    fn more_than_the_limit_is_cut_between_characters_and_that_is_said() {
        let mut summaries = Summaries::default();
        for _ in 0..3 {
            summaries.add("a", &"é".repeat(400_000));
        }
        let text = summaries.text(str::to_owned);
        assert!(text.len() < MAX_BYTES + 200, "{}", text.len());
        assert!(text.ends_with("longer than 1024 KiB; --json tells all of them\n"));
    }
}
