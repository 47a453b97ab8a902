//! What `--keep` leaves: the stage goes on without its terminal, with a little traffic, until it is told to end. A
//! file in the lab's directory names its process, so that `--clean` finds it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_tests::agent;
use nix::unistd::{dup2_stderr, dup2_stdout, setsid};

use super::screen::Screen;
use super::stage::Stage;
use super::traffic::{self, Traffic};
use crate::interrupt::Interrupt;

/// In a lab's directory: the number of the process that keeps it.
pub(super) const MARK: &str = "kept-by";
const LOG: &str = "keeper.log";
/// Enough to see counters move.
const RATE: f64 = 20.0;
const ROUND: Duration = Duration::from_secs(3_600);
const STEP: Duration = Duration::from_millis(100);

/// The connection to the supervisor, which is this process's standard input.
#[derive(Debug)]
pub(super) struct Lifeline {
    socket: UnixStream,
    alone: Arc<AtomicBool>,
}

impl Lifeline {
    /// From here on the end of the supervisor is the end of the demo.
    pub(super) fn watch(interrupt: &Interrupt) -> Result<Self> {
        let socket = std::io::stdin().as_fd().try_clone_to_owned().context("keeping the supervisor's socket")?;
        let socket = UnixStream::from(socket);
        let mut listening = socket.try_clone().context("keeping the supervisor's socket")?;
        let alone = Arc::new(AtomicBool::new(false));
        let (interrupt, stays) = (interrupt.clone(), Arc::clone(&alone));
        std::thread::spawn(move || {
            // The supervisor says nothing: whatever this returns, it has gone.
            let _ = listening.read(&mut [0]);
            if !stays.load(Ordering::Relaxed) {
                interrupt.request();
            }
        });
        Ok(Self { socket, alone })
    }

    /// Leaves the terminal and lets the supervisor go; what is printed from now on goes to `log`.
    fn leave(&self, log: &Path) -> Result<()> {
        let log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        setsid().context("leaving the terminal")?;
        dup2_stdout(&log).context("redirecting the output")?;
        dup2_stderr(&log).context("redirecting the output")?;
        std::env::set_current_dir("/").context("leaving the directory")?;
        self.alone.store(true, Ordering::Relaxed);
        (&self.socket).write_all(b"k").context("telling the supervisor")
    }
}

/// Says how to look at the demo, and goes on alone until somebody says that it is enough.
pub(super) fn stay(stage: &Stage<'_>, lifeline: &Lifeline, screen: &Screen) -> Result<()> {
    let (lab, interrupt) = (stage.lab, stage.interrupt);
    let mark = mark(lab.dir());
    std::fs::write(&mark, std::process::id().to_string()).with_context(|| format!("writing {}", mark.display()))?;
    let socket = stage.config().socket.display().to_string();
    screen.step("It goes on running", &format!("A client sends {RATE} requests per second to the VIP."))?;
    screen.note(&format!(
        "be a client    nsenter --net=/run/netns/{} curl -i {}",
        lab.client.name(),
        traffic::url()
    ))?;
    screen.note(&format!("ask the agent  {} --socket {socket} status", agent::binary()?.display()))?;
    screen.note(&format!("configuration  {}", stage.config_file().display()))?;
    screen.note("end it         scripts/demo --clean")?;
    lifeline.leave(&lab.dir().join(LOG))?;
    while !interrupt.requested() {
        let traffic = Traffic::start(lab, RATE, ROUND)?;
        while !interrupt.requested() && !traffic.is_finished() {
            std::thread::sleep(STEP);
        }
        traffic.cut()?;
    }
    Ok(())
}

pub(super) fn mark(lab_directory: &Path) -> PathBuf {
    lab_directory.join(MARK)
}
