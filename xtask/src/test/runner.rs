//! One command: run in a process group of its own, read line by line, ended with all its children when it takes too
//! long or when somebody asks for the end.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, PipeReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::interrupt::Interrupt;

/// No single command takes as long, not even the first build on a slow machine: whoever is still running hangs.
const LIMIT: Duration = Duration::from_secs(25 * 60);
/// After SIGTERM comes SIGKILL.
const MERCY: Duration = Duration::from_secs(5);
/// A process that outlives its command may hold the pipe; what it says after this is not waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(50);
/// The end of the output is what is shown of a failure.
const KEPT_LINES: usize = 5_000;

/// A command that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    status: Option<ExitStatus>,
    lines: VecDeque<String>,
}

impl Ended {
    pub(super) fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// What it printed, and how it ended if nobody would guess.
    pub(super) fn output(&self) -> String {
        let mut text: String = self.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        match self.status {
            None => text.push_str(&format!("killed: it was still running after {LIMIT:?}")),
            Some(status) if status.code().is_none() => text.push_str(&format!("ended with {status}")),
            Some(_) => {}
        }
        text
    }
}

/// Runs the command to its end; every line of its output goes to `read`.
pub(super) fn run(
    mut command: Command,
    interrupt: &Interrupt,
    mut read: impl FnMut(&str) -> Result<()>,
) -> Result<Ended> {
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    let also = writer.try_clone().context("making a pipe")?;
    // Counts are read from the output, so it must not depend on who looks.
    command.env("CARGO_TERM_COLOR", "never").stdin(Stdio::null()).stdout(writer).stderr(also).process_group(0);
    let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    // It holds the pipe's other end.
    drop(command);
    let mut running = Running { child, reaped: false };
    let heard = listen(reader);
    let mut lines = VecDeque::new();
    let start = Instant::now();
    let mut silent_since: Option<Instant> = None;
    loop {
        match heard.recv_timeout(STEP) {
            Ok(line) => {
                read(&line)?;
                if lines.len() == KEPT_LINES {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if running.has_ended() => {
                if silent_since.get_or_insert_with(Instant::now).elapsed() > LAST_WORDS {
                    break;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        interrupt.check()?;
        if start.elapsed() > LIMIT {
            return Ok(Ended { status: None, lines });
        }
    }
    let status = running.end()?;
    Ok(Ended { status: Some(status), lines })
}

/// Ends the whole group when dropped.
struct Running {
    child: Child,
    /// After this the number of the process and its group may be somebody else's.
    reaped: bool,
}

impl Running {
    /// Does not reap it.
    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(self.group()), flags), Ok(WaitStatus::StillAlive))
    }

    /// Waits for the command; what it has left running in its group is killed.
    fn end(&mut self) -> Result<ExitStatus> {
        // An error if there is nobody to wait for, which the next wait says better.
        let _ = waitid(Id::Pid(self.group()), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let _ = killpg(self.group(), Signal::SIGKILL);
        self.reaped = true;
        self.child.wait().context("waiting for a command")
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        let _ = killpg(self.group(), Signal::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < MERCY && !self.has_ended() {
            std::thread::sleep(STEP);
        }
        let _ = killpg(self.group(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn listen(reader: PipeReader) -> Receiver<String> {
    let (heard, lines) = sync_channel(KEPT_LINES);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while let Ok(1..) = reader.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            if heard.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Ended {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut read = Vec::new();
        let ended = run(command, &Interrupt::never(), |line| {
            read.push(line.to_owned());
            Ok(())
        });
        let ended = ended.expect("a shell");
        assert!(ended.lines.iter().eq(read.iter()));
        ended
    }

    #[test]
    fn both_streams_are_read_and_the_status_is_kept() {
        let ended = shell("echo one; echo two >&2; exit 3");
        assert!(!ended.success());
        assert_eq!(ended.output(), "one\ntwo\n");
        assert!(shell("printf 'no end of line'").success());
    }

    #[test]
    fn a_command_that_is_killed_says_so() {
        assert!(shell("kill -9 $$").output().contains("signal: 9"));
    }

    #[test]
    fn what_outlives_its_command_does_not_hold_up_the_rest() {
        let start = Instant::now();
        assert!(shell("sleep 20 & echo started").success());
        assert!(start.elapsed() < Duration::from_secs(15));
        assert!(shell("sleep 20 & kill -9 $$").output().contains("signal: 9"));
    }
}
