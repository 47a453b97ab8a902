//! A process of the lab: in a process group of its own, so that a server goes with its workers; what it prints is
//! kept in two files; killed and reaped when dropped.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::wait::wait_until;

/// A process that has been started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    label: String,
    out: PathBuf,
    err: PathBuf,
    /// After this the process number may be somebody else's.
    reaped: bool,
}

/// A process that has ended, and what it printed.
#[derive(Debug)]
pub struct Finished {
    /// `wrk in lb-4711-cli`, for messages.
    pub label: String,
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Running {
    /// Starts the process in the namespace of the calling thread; its output goes to `LOG.out` and `LOG.err`.
    pub(super) fn start(mut command: Command, label: String, log: &Path) -> Result<Self> {
        let file = |ending: &str| -> Result<(PathBuf, File)> {
            let path = log.with_added_extension(ending);
            let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
            Ok((path, file))
        };
        let (out, out_file) = file("out")?;
        let (err, err_file) = file("err")?;
        command.stdin(Stdio::null()).stdout(out_file).stderr(err_file).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {label} ({command:?})"))?;
        Ok(Self { child, label, out, err, reaped: false })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn label(&self) -> &str {
        &self.label
    }

    /// Has not ended. The process is not reaped by asking, so its number cannot come to mean another one.
    pub fn is_running(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        matches!(waitid(Id::Pid(self.id()), flags), Ok(WaitStatus::StillAlive))
    }

    /// Sends a signal to the process alone, not to its workers.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.id(), signal).with_context(|| format!("sending {signal} to {}", self.label))
    }

    /// Sends a signal to the process and its workers.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        killpg(self.id(), signal).with_context(|| format!("sending {signal} to {} and its workers", self.label))
    }

    /// Kills the process and its workers at once, and reaps it.
    pub fn kill(mut self) {
        self.kill_and_reap();
    }

    /// Waits for the process to end by itself; kills it after `limit`, which is an error.
    pub fn finish(mut self, limit: Duration) -> Result<Finished> {
        let ended = wait_until(&format!("{} ends", self.label), limit, || {
            if self.is_running() { bail!("it is still running") } else { Ok(()) }
        });
        let status = self.kill_and_reap();
        ended.with_context(|| self.output())?;
        let status = status.ok_or_else(|| anyhow!("{} was reaped by somebody else", self.label))?;
        Ok(Finished { label: self.label.clone(), status, out: read(&self.out), err: read(&self.err) })
    }

    /// What it has printed so far, for messages.
    pub fn output(&self) -> String {
        format!("{} printed:\n{}{}", self.label, read(&self.out), read(&self.err))
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn kill_and_reap(&mut self) -> Option<ExitStatus> {
        // The leader is not reaped yet, so the group's number is still ours even if the leader has ended.
        let _ = killpg(self.id(), Signal::SIGKILL);
        self.reaped = true;
        self.child.wait().ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill_and_reap();
        }
    }
}

impl Finished {
    /// Requires exit status 0.
    pub fn success(self) -> Result<Self> {
        if self.status.success() { Ok(self) } else { bail!("{self}") }
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ended with {} and printed:\n{}{}", self.label, self.status, self.out, self.err)
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
