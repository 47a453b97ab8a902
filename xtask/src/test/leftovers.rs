//! What tests could leave on the machine: names of namespaces, pins, directories of labs. Looked at before and after.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where, and how the names there begin.
const PLACES: [(&str, &str); 3] = [("/run/netns", "lb-"), ("/sys/fs/bpf", "lb"), ("/tmp", "lb-")];

/// All that was there at one moment.
#[derive(Debug)]
pub(super) struct Leftovers(BTreeSet<PathBuf>);

impl Leftovers {
    /// What cannot be read, because there is none or for want of permission, has nothing of ours.
    pub(super) fn look() -> Self {
        let entries = PLACES.into_iter().flat_map(|(place, start)| {
            let entries = std::fs::read_dir(place).into_iter().flatten().filter_map(Result::ok);
            entries.filter(move |entry| entry.file_name().to_string_lossy().starts_with(start))
        });
        Self(entries.map(|entry| entry.path()).collect())
    }

    /// What is new, except what belongs to a process that is still there: somebody else's lab.
    pub(super) fn since(self, before: &Self) -> Vec<PathBuf> {
        self.0.into_iter().filter(|path| !before.0.contains(path) && !has_an_owner(path)).collect()
    }
}

/// The names of a lab carry the number of its process: `lb-4711-b1`.
fn has_an_owner(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let owner = name.strip_prefix("lb-").and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
    owner.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_and_nobodys_is_left_behind() {
        let mine = format!("/run/netns/lb-{}-b1", std::process::id());
        let set = |paths: &[&str]| Leftovers(paths.iter().map(PathBuf::from).collect());
        let before = set(&["/tmp/lb-old"]);
        let after = set(&["/tmp/lb-old", "/sys/fs/bpf/lb-rows", "/run/netns/lb-4194305-b1", &mine]);
        // No process has a number above 4,194,304.
        let expected = ["/run/netns/lb-4194305-b1", "/sys/fs/bpf/lb-rows"].map(PathBuf::from);
        assert_eq!(after.since(&before), expected);
    }
}
