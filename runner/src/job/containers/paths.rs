//! Paths of the sandbox as a container sees them, and back.

/// Folders that a container sees under another name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::job) struct Paths {
    /// Outside and inside; the first that fits decides.
    folders: Vec<(String, String)>,
}

impl Paths {
    /// Adds a folder; it is looked at before those that were added earlier.
    pub(in crate::job) fn add(&mut self, outside: &str, inside: &str) {
        let folder = (outside.to_owned(), inside.to_owned());
        self.folders.insert(0, folder);
    }

    /// What `text` is in the container: another path if it is one of these folders or below one,
    /// else itself. Only a text that is a path as a whole is changed, as at GitHub.
    pub(in crate::job) fn inside(&self, text: &str) -> String {
        let folders = self.folders.iter();
        renamed(folders.map(|(outside, inside)| (outside, inside)), text)
    }

    /// What a path of the container is in the sandbox, if it is of these folders.
    pub(in crate::job) fn outside(&self, text: &str) -> String {
        let folders = self.folders.iter();
        renamed(folders.map(|(outside, inside)| (inside, outside)), text)
    }
}

fn renamed<'a>(folders: impl Iterator<Item = (&'a String, &'a String)>, text: &str) -> String {
    for (from, to) in folders {
        match text.strip_prefix(from.as_str()) {
            Some("") => return to.clone(),
            Some(rest) if rest.starts_with('/') => return format!("{to}{rest}"),
            _ => {}
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_below_a_folder_is_told_as_the_container_sees_it() {
        let mut paths = Paths::default();
        paths.add("/work", "/__w");
        paths.add("/work/_temp/_github_home", "/github/home");
        for (outside, inside) in [
            ("/work", "/__w"),
            ("/work/hello/hello", "/__w/hello/hello"),
            ("/work/_temp/_github_home/.x", "/github/home/.x"),
            ("/workshop", "/workshop"),
            ("see /work", "see /work"),
            ("", ""),
        ] {
            assert_eq!(paths.inside(outside), inside);
            assert_eq!(paths.outside(inside), outside);
        }
    }
}
