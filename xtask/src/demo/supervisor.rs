//! The process that the user has started. It starts the stage, passes signals on, and ends with the stage or, with
//! `--keep`, as soon as the stage says that it goes on alone. Should the stage be killed, it removes the lab.

use std::io::{ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lb_tests::lab::Lab;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cargo::agent_binary;
use crate::interrupt::Interrupt;

const STEP: Duration = Duration::from_millis(50);

pub(super) fn run(keep: bool) -> Result<ExitCode> {
    // The stage's standard input: it ends when this process does, and brings the word of a stage that stays.
    let (mut lifeline, far_end) = UnixStream::pair().context("making a pair of sockets")?;
    lifeline.set_read_timeout(Some(STEP)).context("setting a time-out")?;
    let mut command = Command::new(std::env::current_exe().context("finding this program's own place")?);
    command.args(["demo", "--stage"]).stdin(OwnedFd::from(far_end));
    if keep {
        command.arg("--keep");
    }
    if std::env::var_os("LB_AGENT").is_none() {
        command.env("LB_AGENT", agent_binary()?);
    }
    let interrupt = Interrupt::watch()?;
    let mut stage = command.spawn().context("starting the stage")?;
    // It holds the far end, whose other holder shall be the stage alone.
    drop(command);
    let pid = Pid::from_raw(stage.id().cast_signed());
    let mut told = false;
    loop {
        match lifeline.read(&mut [0]) {
            Ok(1..) => return Ok(ExitCode::SUCCESS),
            // The far end is closed: the stage has ended or is about to.
            Ok(0) => return stage.wait().context("waiting for the stage").and_then(ended),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("listening to the stage"),
        }
        if interrupt.requested() && !told {
            told = true;
            // Not reaped yet, so the number is the stage's; from a terminal it has heard of it already.
            kill(pid, Signal::SIGTERM).context("telling the stage to end")?;
        }
    }
}

fn ended(status: ExitStatus) -> Result<ExitCode> {
    match status.code() {
        Some(0) => Ok(ExitCode::SUCCESS),
        // It has said why, and cleared up.
        Some(1) => Ok(ExitCode::FAILURE),
        _ => {
            let removed = Lab::sweep_leftovers().context("removing what the stage has left")?;
            bail!("the demo was ended from outside ({status}); {} things that it left are removed", removed.len())
        }
    }
}
