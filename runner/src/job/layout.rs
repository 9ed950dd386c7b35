//! Where the things of a job are in its sandbox.

/// Root of all work in a sandbox, unless options say otherwise.
pub const WORK: &str = "/home/runner/work";

/// Paths of one job in its sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The root of all that follows.
    pub work: String,
    /// `RUNNER_WORKSPACE`: the folder around the workspace.
    pub repository: String,
    /// `GITHUB_WORKSPACE`: the checkout.
    pub workspace: String,
    /// `RUNNER_TEMP`.
    pub temp: String,
    /// `RUNNER_TOOL_CACHE`.
    pub tool_cache: String,
}

impl Layout {
    /// The paths below `work` for a job of `repository` (`owner/name`).
    #[must_use]
    pub fn new(work: &str, repository: &str) -> Self {
        let name = repository.rsplit('/').next().unwrap_or_default();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let usable = !matches!(name, "" | "." | "..") && name.chars().all(allowed);
        let name = if usable { name } else { "repository" };
        Self {
            work: work.to_owned(),
            repository: format!("{work}/{name}"),
            workspace: format!("{work}/{name}/{name}"),
            temp: format!("{work}/_temp"),
            tool_cache: format!("{work}/_tool"),
        }
    }

    /// The folder of the file with the event's payload.
    #[must_use]
    pub fn github_workflow(&self) -> String {
        format!("{}/_github_workflow", self.temp)
    }

    /// The file with the event's payload (`GITHUB_EVENT_PATH`).
    #[must_use]
    pub fn event_path(&self) -> String {
        format!("{}/event.json", self.github_workflow())
    }

    /// The home folder of what runs in containers.
    #[must_use]
    pub fn github_home(&self) -> String {
        format!("{}/_github_home", self.temp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_named_twice_after_the_repository() {
        let layout = Layout::new(WORK, "octo/hello.world");
        assert_eq!(layout.repository, "/home/runner/work/hello.world");
        assert_eq!(
            layout.workspace,
            "/home/runner/work/hello.world/hello.world"
        );
    }

    #[test]
    fn a_name_that_is_no_folder_is_replaced() {
        for name in ["", "octo/", "octo/..", "octo/a b", "x/\u{0}"] {
            assert_eq!(
                Layout::new(WORK, name).repository,
                "/home/runner/work/repository"
            );
        }
    }
}
