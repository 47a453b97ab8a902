//! Traffic that somebody looks at: each second of it becomes a line on the screen, until it ends or something happens.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use lb_agent::load::{Report, Snapshot};

use super::screen::Screen;
use super::stage::Stage;
use super::traffic::Traffic;

/// How often the agent is asked whether something has happened.
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Watched<'screen> {
    traffic: Traffic,
    screen: &'screen Screen,
    /// Up to the last line.
    failed: u64,
}

impl<'screen> Watched<'screen> {
    pub(super) fn start(stage: &Stage<'_>, screen: &'screen Screen, rate: f64, duration: Duration) -> Result<Self> {
        Ok(Self { traffic: Traffic::start(stage.lab, rate, duration)?, screen, failed: 0 })
    }

    /// Watches until the agent says that the backend is in this state; returns when it did.
    pub(super) fn until_state(
        &mut self,
        stage: &Stage<'_>,
        backend: &str,
        state: &str,
        limit: Duration,
    ) -> Result<Instant> {
        let start = Instant::now();
        loop {
            let reached = stage.is_in_state(backend, state);
            let now = Instant::now();
            match reached {
                Ok(()) => return Ok(now),
                Err(reason) if now - start >= limit => {
                    bail!("{backend} was to be {state} within {limit:?}: {reason:#}")
                }
                Err(_) => self.look(stage, POLL)?,
            }
        }
    }

    /// Watches until the run is over.
    pub(super) fn until_end(mut self, stage: &Stage<'_>) -> Result<Report> {
        while !self.traffic.is_finished() {
            self.look(stage, POLL)?;
        }
        self.traffic.finish()
    }

    /// Ends the run now.
    pub(super) fn cut(self) -> Result<Report> {
        self.traffic.cut()
    }

    fn look(&mut self, stage: &Stage<'_>, within: Duration) -> Result<()> {
        stage.interrupt.check()?;
        match self.traffic.next(within) {
            Some(seen) => self.show(stage, &seen),
            None => Ok(()),
        }
    }

    fn show(&mut self, stage: &Stage<'_>, seen: &Snapshot) -> Result<()> {
        let failed = seen.errors - self.failed;
        self.failed = seen.errors;
        self.screen.second(seen, failed, &stage.service()?)
    }
}
