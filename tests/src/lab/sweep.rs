//! What a lab that was killed leaves behind, and how it goes: names under /run/netns, processes inside, pins and
//! scratch directories. All of it carries the number of the process that made it; only a dead one's is removed.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace::{NAMES, remove_name};

pub(super) const PINS: &str = "/sys/fs/bpf";
pub(super) const SCRATCH: &str = "/tmp";

/// The start of every name that a lab of this process uses.
pub(super) fn prefix(pid: u32) -> String {
    format!("lb-{pid}-")
}

/// Removes what labs of processes that no longer exist have left, and returns what it removed.
pub(super) fn leftovers() -> Result<Vec<PathBuf>> {
    let names = owned_by_the_dead(Path::new(NAMES))?;
    let inodes = names.iter().filter_map(|name| Some(name.metadata().ok()?.ino())).collect();
    kill_inside(&inodes)?;
    names.iter().for_each(|name| remove_name(name));
    let mut removed = names;
    for place in [PINS, SCRATCH] {
        for path in owned_by_the_dead(Path::new(place))? {
            std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
            removed.push(path);
        }
    }
    Ok(removed)
}

/// Entries of the directory that belong to a lab of the given process.
pub(super) fn owned_by(place: &Path, pid: u32) -> Result<Vec<PathBuf>> {
    owned(place, |owner| owner == pid)
}

fn owned_by_the_dead(place: &Path) -> Result<Vec<PathBuf>> {
    owned(place, |owner| !Path::new("/proc").join(owner.to_string()).exists())
}

fn owned(place: &Path, wanted: impl Fn(u32) -> bool) -> Result<Vec<PathBuf>> {
    if !place.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(place).with_context(|| format!("reading {}", place.display()))?;
    let me = nix::unistd::geteuid().as_raw();
    // In a directory that everybody may write to, a name proves nothing unless it is our user's.
    let ours = entries.filter_map(Result::ok).filter(|entry| entry.metadata().is_ok_and(|found| found.uid() == me));
    Ok(ours
        .map(|entry| entry.path())
        .filter(|path| path.file_name().and_then(|name| owner(name.to_str()?)).is_some_and(&wanted))
        .collect())
}

/// `lb-4711-b1` -> 4711.
fn owner(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix("lb-")?.split_once('-')?;
    (!rest.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then(|| pid.parse().ok())?
}

/// Processes that live in one of the namespaces, this one excepted: its threads go in and out.
pub(super) fn processes_inside(namespaces: &BTreeSet<u64>) -> Result<Vec<u32>> {
    let entries = std::fs::read_dir("/proc").context("reading /proc")?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let inside = |pid: &u32| {
        let namespace = std::fs::metadata(format!("/proc/{pid}/ns/net"));
        // It may have ended meanwhile; a zombie has no namespace any more.
        namespace.is_ok_and(|found| namespaces.contains(&found.ino()))
    };
    Ok(numbers.filter(|pid| *pid != std::process::id()).filter(inside).collect())
}

pub(super) fn kill_inside(namespaces: &BTreeSet<u64>) -> Result<()> {
    for pid in processes_inside(namespaces)? {
        // It may have ended meanwhile, which is as good.
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_an_owner() {
        let cases = [
            ("lb-4711-b1", Some(4711)),
            ("lb-4711-1-scratch", Some(4711)),
            ("lb-4711-", None),
            ("lb-4711", None),
            ("lb-+47-b1", None),
            ("lb--b1", None),
            ("lb-agent-x", None),
            ("lbb4711-b1", None),
            ("lb-99999999999-b1", None),
        ];
        for (name, expected) in cases {
            assert_eq!(owner(name), expected, "{name}");
        }
    }
}
