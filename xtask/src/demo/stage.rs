//! The process in which the demo happens: builds the lab, has the story told in it, and takes everything down again,
//! however the story ends.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_agent::model::view;
use lb_tests::agent::{self, Agent, service_of};
use lb_tests::config::{Config, Health, Service};
use lb_tests::lab::process::{Finished, Running};
use lb_tests::lab::{Lab, Options};
use lb_tests::programs::HTTP_PORT;
use lb_tests::serial::{self, Serial};
use nix::sys::signal::Signal;

use super::keeper::{self, Lifeline};
use super::screen::Screen;
use super::{program, story};
use crate::interrupt::Interrupt;

/// How long each backend takes to answer; there are as many backends.
pub(super) const DELAYS: [Duration; 3] =
    [Duration::from_millis(2), Duration::from_millis(5), Duration::from_millis(20)];
const SERVICE: &str = "web";
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);
/// Until servers listen and backends are up, on a machine that does something else too.
const PATIENCE: Duration = Duration::from_secs(20);
/// A program goes some time after its last pin: when no packet can be in it any more.
const PROGRAMS_GONE_LIMIT: Duration = Duration::from_secs(5);
/// Of the agent's log, if the demo fails.
const LOG_LINES: usize = 30;

pub(super) fn run(keep: bool) -> Result<ExitCode> {
    // As long as there is nothing to take down, a signal may simply end this process.
    let mut serial = Some(wait_for_other_labs()?);
    let interrupt = Interrupt::watch()?;
    let lifeline = Lifeline::watch(&interrupt)?;
    Lab::sweep_leftovers().context("removing what a killed demo has left")?;
    let screen = Screen::new();
    let backends = u16::try_from(DELAYS.len()).context("as many backends as there are delays")?;
    let lab = Lab::build(Options { backends, ..Options::default() }).context("building the lab")?;
    let mut programs = Vec::new();
    let played = play(&lab, &screen, &interrupt, &mut programs, || {
        keep.then(|| {
            // Others may use labs beside one that is kept.
            serial = None;
            &lifeline
        })
    });
    if let Err(error) = &played {
        anstream::eprintln!("\n\x1b[1;31mfailed:\x1b[0m {error:#}");
        if !interrupt.requested() {
            show_log(&lab);
        }
    }
    let clean = lab.assert_clean().and_then(|()| program::wait_until_gone(&programs, PROGRAMS_GONE_LIMIT));
    clean.context("something is left behind (scripts/demo --clean removes what it can)")?;
    screen.line("\nAll of it is removed again: namespaces, programs, pins, processes, files.")?;
    drop(serial);
    Ok(if played.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// From the start of the servers to the removal of the data plane. Who keeps the demo is asked for when it is over.
fn play<'kept>(
    lab: &Lab,
    screen: &Screen,
    interrupt: &Interrupt,
    programs: &mut Vec<u32>,
    keep: impl FnOnce() -> Option<&'kept Lifeline>,
) -> Result<()> {
    story::introduce(lab, screen)?;
    let mut stage = Stage::set(lab, interrupt)?;
    programs.extend(stage.status()?.attachments.iter().map(|one| one.program_id));
    story::tell(&mut stage, screen)?;
    if let Some(lifeline) = keep() {
        keeper::stay(&stage, lifeline, screen)?;
    }
    stage.strike()
}

/// The servers and the balancer, playing.
#[derive(Debug)]
pub(super) struct Stage<'lab> {
    pub(super) lab: &'lab Lab,
    pub(super) interrupt: &'lab Interrupt,
    agent: Agent<'lab>,
    /// By number, from 0; none while one is killed.
    servers: Vec<Option<Running>>,
}

impl<'lab> Stage<'lab> {
    fn set(lab: &'lab Lab, interrupt: &'lab Interrupt) -> Result<Self> {
        let mut service = Service::web(lab);
        service.health = Health { interval: CHECK_INTERVAL, timeout: CHECK_TIMEOUT, ..Health::of_kind("http") };
        SERVICE.clone_into(&mut service.name);
        let servers = (0..lab.backends.len()).map(|number| start_server(lab, number).map(Some));
        let servers = servers.collect::<Result<Vec<_>>>()?;
        for (server, backend) in servers.iter().flatten().zip(&lab.backends) {
            let listens = || {
                ensure!(server.is_running(), "{}", server.output());
                backend.namespace.listens(HTTP_PORT)
            };
            interrupt.wait_until(&format!("{} listens", server.label()), PATIENCE, listens)?;
        }
        let agent = Agent::start(lab, Config::for_lab(lab, vec![service]))?;
        let stage = Self { lab, interrupt, agent, servers };
        for backend in &lab.backends {
            stage.wait_for_state(&backend.name, "up", PATIENCE)?;
        }
        Ok(stage)
    }

    pub(super) fn health(&self) -> &Health {
        &self.agent.config().services[0].health
    }

    pub(super) fn config(&self) -> &Config {
        self.agent.config()
    }

    pub(super) fn config_file(&self) -> &Path {
        self.agent.file()
    }

    pub(super) fn status(&self) -> Result<view::Status> {
        self.agent.poll_status()
    }

    /// What the agent shows of the demo's service.
    pub(super) fn service(&self) -> Result<view::Service> {
        service_of(&self.status()?, SERVICE).cloned()
    }

    /// An error that says what it is instead, if it is not.
    pub(super) fn is_in_state(&self, backend: &str, state: &str) -> Result<()> {
        let found = self.agent.backend(SERVICE, backend)?;
        ensure!(found.state == state, "{backend} is {} ({})", found.state, found.reason);
        Ok(())
    }

    fn wait_for_state(&self, backend: &str, state: &str, limit: Duration) -> Result<()> {
        let attempt = || self.is_in_state(backend, state);
        self.interrupt.wait_until(&format!("{backend} is {state}"), limit, attempt)
    }

    /// SIGKILL; returns the moment before it.
    pub(super) fn kill(&mut self, number: usize) -> Result<Instant> {
        let server = self.servers[number].take().context("the server runs")?;
        let before = Instant::now();
        server.kill();
        Ok(before)
    }

    /// Starts a server that was killed; returns the moment before it.
    pub(super) fn revive(&mut self, number: usize) -> Result<Instant> {
        let before = Instant::now();
        self.servers[number] = Some(start_server(self.lab, number)?);
        Ok(before)
    }

    /// Ends the agent as an operator would, and removes what it leaves in the kernel.
    pub(super) fn strike(mut self) -> Result<()> {
        self.agent.stop(Signal::SIGTERM).and_then(Finished::success).context("stopping the agent")?;
        self.agent.unload().and_then(Finished::success).context("unloading the data plane")?;
        Ok(())
    }
}

fn start_server(lab: &Lab, number: usize) -> Result<Running> {
    let backend = &lab.backends[number];
    let mut command = Command::new(agent::binary()?);
    command
        .args(["demo-backend", "--name", &backend.name, "--listen", &format!("0.0.0.0:{HTTP_PORT}")])
        .args(["--delay", &format!("{}ms", DELAYS[number].as_millis())]);
    backend.namespace.spawn(command)
}

/// Two labs would disturb each other's timing.
fn wait_for_other_labs() -> Result<Serial> {
    const A_MOMENT: Duration = Duration::from_secs(1);
    let done = Arc::new(AtomicBool::new(false));
    let acquired = Arc::clone(&done);
    std::thread::spawn(move || {
        std::thread::sleep(A_MOMENT);
        if !acquired.load(Ordering::Relaxed) {
            anstream::eprintln!("waiting for a test run or another demo to end");
        }
    });
    let serial = serial::acquire();
    done.store(true, Ordering::Relaxed);
    serial
}

/// The end of what the agent has printed.
fn show_log(lab: &Lab) {
    // The agent is the first process in its namespace; later ones are questions to it.
    let start = format!("{}-000-", lab.balancer.name());
    let Ok(entries) = std::fs::read_dir(lab.dir()) else { return };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let log = paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "err"))
        .find(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&start)));
    let Some(text) = log.and_then(|log| std::fs::read_to_string(log).ok()) else { return };
    let lines: Vec<_> = text.lines().collect();
    anstream::eprintln!("the end of the agent's log:");
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        anstream::eprintln!("  {line}");
    }
}
