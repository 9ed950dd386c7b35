//! How many names may be asked for: enough for every build, too few to carry much away in them.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

/// Longest name. What hosts are really called is shorter; data in names make them long.
const LONGEST: usize = 160;
/// Longest label of hexadecimal digits or the like that real hosts have is shorter, too.
const LONGEST_LABEL: usize = 63;
/// Names below one domain.
const BELOW_ONE: usize = 1024;
/// Names in all.
const ALL: usize = 16_384;

/// Names that were asked for, as numbers drawn from them.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    asked: Mutex<Asked>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Asked {
    names: HashSet<u64>,
    below: HashMap<u64, usize>,
}

impl Bounds {
    /// Whether one may ask for `name`, in lower case and without its last dot.
    pub(super) fn admit(&self, name: &str) -> Result<(), String> {
        let label = name.split('.').map(str::len).max().unwrap_or(0);
        if name.len() > LONGEST || label > LONGEST_LABEL {
            return Err(format!(
                "names longer than {LONGEST} bytes are not asked for"
            ));
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.hasher.hash_one(name);
        if asked.names.contains(&number) {
            return Ok(());
        }
        if asked.names.len() >= ALL {
            return Err(format!("this sandbox asked for {ALL} names already"));
        }
        let domain = domain(name);
        let below = asked.below.entry(self.hasher.hash_one(domain)).or_default();
        if *below >= BELOW_ONE {
            return Err(format!(
                "this sandbox asked for {BELOW_ONE} names below {domain} already"
            ));
        }
        *below += 1;
        asked.names.insert(number);
        Ok(())
    }
}

/// The last two labels.
fn domain(name: &str) -> &str {
    let dots = name.rmatch_indices('.').nth(1);
    dots.map_or(name, |(at, _)| &name[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_in_names_comes_to_an_end() {
        let bounds = Bounds::default();
        for number in 0..BELOW_ONE {
            bounds.admit(&format!("{number}.tunnel.example")).unwrap();
        }
        let more = bounds.admit("more.tunnel.example").unwrap_err();
        assert!(more.contains("tunnel.example"), "{more}");
        // What was asked before, and other domains, may be.
        bounds.admit("7.tunnel.example").unwrap();
        bounds.admit("example.com").unwrap();
        assert!(
            bounds
                .admit(&format!("{}.example.com", "a".repeat(150)))
                .is_err()
        );
        for number in 0..2 * ALL {
            let _ = bounds.admit(&format!("a.{number}.example"));
        }
        assert_eq!(bounds.asked.lock().unwrap().names.len(), ALL);
        assert!(bounds.admit("new.example.org").is_err());
    }
}
