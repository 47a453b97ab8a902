//! `--clean`: tells kept demos to end, and removes what demos and tests that were killed have left.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::Lab;
use lb_tests::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::keeper;
use super::screen::Screen;

/// Where the directories of labs are.
const LABS: &str = "/tmp";
/// A kept demo takes down all it has built.
const END_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn run() -> Result<ExitCode> {
    let screen = Screen::new();
    let kept = kept()?;
    for pid in &kept {
        // It may have ended by itself meanwhile, which is as good.
        let _ = kill(*pid, Signal::SIGTERM);
        wait_until(&format!("the kept demo {pid} has ended"), END_LIMIT, || {
            ensure!(!keeps_a_demo(*pid), "it is still running");
            Ok(())
        })?;
        screen.line(&format!("ended the kept demo of process {pid}"))?;
    }
    let removed = Lab::sweep_leftovers().context("removing what killed demos have left")?;
    for path in &removed {
        screen.line(&format!("removed {}", path.display()))?;
    }
    if kept.is_empty() && removed.is_empty() {
        screen.line("there is nothing to clean up")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The processes that keep a demo.
fn kept() -> Result<Vec<Pid>> {
    let entries = std::fs::read_dir(LABS).with_context(|| format!("reading {LABS}"))?;
    let marks = entries.filter_map(|entry| Some(keeper::mark(&entry.ok()?.path())));
    Ok(marks.filter_map(|mark| keeper_of(&mark)).filter(|pid| keeps_a_demo(*pid)).collect())
}

/// Everybody may write to the directory of labs: only a mark that is ours counts.
fn keeper_of(mark: &Path) -> Option<Pid> {
    let ours = mark.symlink_metadata().is_ok_and(|found| found.is_file() && found.uid() == 0);
    let number: i32 = ours.then(|| std::fs::read_to_string(mark).ok())??.trim().parse().ok()?;
    (number > 1).then(|| Pid::from_raw(number))
}

/// The number may have come to mean another process since the mark was made.
fn keeps_a_demo(pid: Pid) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0).skip(1);
    words.next() == Some(b"demo") && words.next() == Some(b"--stage")
}
