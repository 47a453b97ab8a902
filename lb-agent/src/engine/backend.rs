//! One backend: the facts about it (health, next hop, orders, flows) and the state that follows from them.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::effects::BackendEntry;
use super::ids::BackendId;
use super::overrides::Holds;
use crate::health::{HealthState, Verdict};
use crate::model::config::{self, Forward, HealthKind};
use crate::model::pool::{NextHop, ProbeOutcome};

/// What is shown. Where several hold, the one that stands first here is shown; all of them but `Up` keep new flows away
/// (but for a panic). What has left the configuration is draining, whatever else it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Put out of service by an administrator: no new flows, no probes.
    Disabled,
    /// No new flows; those that are there go on. By order, or because it left the configuration.
    Draining,
    /// It is not known how to reach it.
    Unresolved,
    /// Not probed enough to know.
    Checking,
    Down,
    Up,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Draining => "draining",
            Self::Unresolved => "unresolved",
            Self::Checking => "checking",
            Self::Down => "down",
            Self::Up => "up",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// None: not asked, or not answered yet.
pub(super) type Resolution = Option<Result<NextHop, String>>;

/// What the resolution is worth to a service that forwards this way.
pub(super) fn usable(resolution: &Resolution, forward: Forward) -> Cow<'_, Resolution> {
    let unfit = |reason| Cow::Owned(Some(Err(reason)));
    match (forward, resolution) {
        (Forward::Dsr, Some(Ok(NextHop { gateway: Some(gateway), .. }))) => unfit(format!(
            "it is behind the gateway {gateway}, which would send packets to the VIP back here; `dsr` needs it on a link of \
             this host, `ipip` and `gue` do not"
        )),
        (Forward::Ipip | Forward::Gue | Forward::Snat, Some(Ok(NextHop { source: None, .. }))) => {
            unfit("this host has no address of its own for packets that way".to_owned())
        }
        _ => Cow::Borrowed(resolution),
    }
}

/// The state that was last told, why, and since when.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) state: State,
    pub(super) reason: String,
    pub(super) since: Duration,
}

/// A drain that has begun.
#[derive(Debug, Clone, Copy)]
struct Drain {
    deadline: Duration,
    /// The last sweep since it began found no flow.
    empty: bool,
    /// [`super::Effect::ForgetFlows`] was asked for.
    forgotten: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) id: BackendId,
    pub(super) address: SocketAddr,
    pub(super) name: String,
    /// Its place in the configuration.
    pub(super) position: usize,
    configured_weight: u16,
    /// No longer in the configuration: it goes as soon as its flows have.
    pub(super) removed: bool,
    pub(super) holds: Holds,
    /// None: the service has no health check, so it counts as up.
    verdict: Option<Verdict>,
    verdict_reason: String,
    /// Rise and fall, as the configuration says.
    thresholds: (u32, u32),
    pub(super) last_probe: Option<Duration>,
    pub(super) flows: u64,
    /// Slots that name it, as the data plane was last told.
    pub(super) slots: u32,
    drain: Option<Drain>,
    /// Answers to [`super::Effect::ForgetFlows`] that are still to come.
    forgets_pending: u32,
    pub(super) standing: Option<Standing>,
    /// What the data plane was last told.
    pub(super) published: Option<BackendEntry>,
}

impl Backend {
    fn with(id: BackendId, address: SocketAddr, verdict: Verdict, verdict_reason: &str) -> Self {
        Self {
            id,
            address,
            name: address.to_string(),
            position: usize::MAX,
            configured_weight: 0,
            removed: false,
            holds: Holds::default(),
            verdict: Some(verdict),
            verdict_reason: verdict_reason.to_owned(),
            thresholds: (1, 1),
            last_probe: None,
            flows: 0,
            slots: 0,
            drain: None,
            forgets_pending: 0,
            standing: None,
            published: None,
        }
    }

    pub(super) fn new(id: BackendId, address: SocketAddr) -> Self {
        Self::with(id, address, Verdict::new(1, 1), WAITING)
    }

    /// A backend from the maps of an earlier agent. The right thresholds come with the configuration.
    pub(super) fn adopted(id: BackendId, address: SocketAddr, healthy: bool) -> Self {
        let reason = if healthy { "up before the agent restarted" } else { "out before the agent restarted" };
        Self::with(id, address, Verdict::known(1, 1, healthy), reason)
    }

    /// Takes its part of the configuration. What probes and administrators have said of it stays.
    pub(super) fn configure(&mut self, position: usize, backend: &config::Backend, health: &config::Health) {
        self.position = position;
        self.name.clone_from(&backend.name);
        self.configured_weight = backend.weight;
        if std::mem::take(&mut self.removed) {
            self.drain = None;
        }
        if health.kind == HealthKind::None {
            self.verdict = None;
            "no health check is configured".clone_into(&mut self.verdict_reason);
            return;
        }
        // Until now it counted as up without a check; it is not taken out because a check was added.
        let verdict = self.verdict.get_or_insert_with(|| Verdict::known(health.rise, health.fall, true));
        verdict.set_thresholds(health.rise, health.fall);
        self.thresholds = (health.rise, health.fall);
    }

    /// Takes an earlier agent's orders back. Where they are why the maps say that it takes no flows, the maps say
    /// nothing about its health.
    pub(super) fn restore(&mut self, holds: Holds) {
        self.holds = holds;
        if !self.is_enabled() {
            self.forget_verdict();
        }
    }

    /// It has left the configuration.
    pub(super) fn remove(&mut self) {
        if !std::mem::replace(&mut self.removed, true) {
            // An order to drain may have begun earlier; this is another drain, with its own deadline.
            self.drain = None;
        }
    }

    /// Takes a probe in; says whether its verdict changed.
    pub(super) fn probe(&mut self, outcome: &ProbeOutcome) -> bool {
        if self.removed || self.holds.disable.value() {
            return false;
        }
        let Some(verdict) = &mut self.verdict else { return false };
        if let ProbeOutcome::Success { latency, .. } = outcome {
            self.last_probe = Some(*latency);
        }
        let Some(transition) = verdict.observe(outcome) else { return false };
        self.verdict_reason = transition.reason;
        true
    }

    /// Recorded flows, and whether there may be others.
    pub(super) fn count_flows(&mut self, flows: u64, may_have_more: impl FnOnce() -> bool) {
        self.flows = flows;
        if let Some(drain) = &mut self.drain {
            drain.empty = flows == 0 && !may_have_more();
        }
    }

    pub(super) fn flows_forgotten(&mut self) {
        self.forgets_pending = self.forgets_pending.saturating_sub(1);
    }

    /// Lets time pass: begins and ends the drain. Says whether the flows are to be forgotten now.
    pub(super) fn advance(&mut self, now: Duration, drain_timeout: Duration) -> bool {
        if self.holds.disable.value() {
            self.forget_verdict();
        }
        if !self.removed && !self.holds.drain.value() {
            self.drain = None;
            return false;
        }
        let deadline = now.saturating_add(drain_timeout);
        let drain = self.drain.get_or_insert(Drain { deadline, empty: false, forgotten: false });
        // One that leaves need not wait for the deadline; one that is drained by order may get flows back by another.
        let due = (self.removed && drain.empty) || drain.deadline <= now;
        if drain.forgotten || !due {
            return false;
        }
        drain.forgotten = true;
        self.forgets_pending += 1;
        true
    }

    /// Without probes the verdict grows stale: whoever is enabled again is checked again.
    fn forget_verdict(&mut self) {
        if let Some(verdict) = &mut self.verdict
            && (verdict.state() != HealthState::Checking || verdict.consecutive_failures() > 0)
        {
            *verdict = Verdict::new(self.thresholds.0, self.thresholds.1);
            WAITING.clone_into(&mut self.verdict_reason);
            self.last_probe = None;
        }
    }

    /// It has left the configuration, and no flow names its number any more.
    pub(super) fn is_gone(&self) -> bool {
        self.removed && self.forgets_pending == 0 && self.drain.is_some_and(|drain| drain.forgotten)
    }

    pub(super) fn weight(&self) -> u16 {
        self.holds.weight.value().unwrap_or(self.configured_weight)
    }

    pub(super) fn set_weight(&mut self, weight: u16, until: Option<Duration>) {
        let order = (until.is_some() || weight != self.configured_weight).then_some(weight);
        self.holds.weight.set(order, until);
    }

    /// Whether it is meant to take new flows, if it can.
    pub(super) fn is_enabled(&self) -> bool {
        !self.removed && !self.holds.disable.value() && !self.holds.drain.value() && self.weight() > 0
    }

    /// Known not to work, as opposed to not known yet.
    pub(super) fn is_failing(&self, next_hop: &Resolution) -> bool {
        self.health() == HealthState::Down || matches!(next_hop, Some(Err(_)))
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.health() == HealthState::Up
    }

    pub(super) fn is_probed(&self) -> bool {
        self.verdict.is_some() && !self.removed && !self.holds.disable.value()
    }

    fn health(&self) -> HealthState {
        self.verdict.as_ref().map_or(HealthState::Up, Verdict::state)
    }

    pub(super) fn state(&self, next_hop: &Resolution) -> (State, String) {
        if self.removed {
            return (State::Draining, "removed from the configuration".to_owned());
        }
        if self.holds.disable.value() {
            return (State::Disabled, "disabled by an administrator".to_owned());
        }
        if self.holds.drain.value() {
            return (State::Draining, "drained by an administrator".to_owned());
        }
        match next_hop {
            None => return (State::Unresolved, "waiting for the next hop".to_owned()),
            Some(Err(reason)) => return (State::Unresolved, format!("no next hop: {reason}")),
            Some(Ok(_)) => {}
        }
        let state = match self.health() {
            HealthState::Checking => State::Checking,
            HealthState::Down => State::Down,
            HealthState::Up => State::Up,
        };
        (state, self.verdict_reason.clone())
    }
}

const WAITING: &str = "waiting for the first probe";
