//! The heart of the agent: decides which backends take new flows, and what the data plane, the probes and the log must
//! be told. A pure state machine: events in, effects out, time as an argument; the same events give the same effects.
//!
//! Each event changes facts ([`backend`], [`reload`], [`overrides`]). Then each service that was touched compares what
//! follows from the facts with what the data plane was last told ([`pool`]), and the difference is the effects
//! ([`effects`]). No event can therefore bring the two apart, in whatever order events come.

mod backend;
mod effects;
mod events;
mod ids;
mod lifecycle;
mod overrides;
mod pool;
mod reload;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use backend::Resolution;
use ids::Allocator;
use pool::Pool;

pub use backend::State;
pub use effects::{BackendEntry, Effect, ProbeTarget, ServiceEntry};
pub use events::{AdminAction, AdminCommand, AdminError, Adopted, AdoptedBackend, AdoptedService, Event};
pub use ids::{BackendId, ServiceId};
pub use lifecycle::Lifecycle;
pub use overrides::{Held, Holds, Override, Overrides};
pub use view::ServiceStatus;

use crate::model::config::MAX_WEIGHT;
use crate::model::pool::{BackendKey, NextHop, ProbeOutcome, ServiceAddress};
use crate::slots::{DEFAULT_SLOTS, Seed};

#[derive(Debug, Clone)]
pub struct Engine {
    seed: Seed,
    slot_count: u32,
    /// The latest time it was told: it never goes back.
    now: Duration,
    lifecycle: Lifecycle,
    service_ids: Allocator,
    backend_ids: Allocator,
    pools: BTreeMap<ServiceAddress, Pool>,
    /// Services of the configuration, by name.
    names: BTreeMap<String, ServiceAddress>,
    neighbours: BTreeMap<IpAddr, Neighbour>,
    /// Orders of an earlier agent, until the first configuration says whom they are about.
    saved: BTreeMap<(ServiceAddress, SocketAddr), Holds>,
    /// Numbers that were found in the maps and belong to no service; they are being forgotten.
    strays: BTreeSet<BackendId>,
    published_neighbours: Vec<IpAddr>,
    published_probes: Vec<ProbeTarget>,
    /// Services of which a fact has changed since they were last settled.
    touched: BTreeSet<ServiceAddress>,
    watch_changed: bool,
    overrides_changed: bool,
}

/// An address that backends have, and the services that care.
#[derive(Debug, Clone)]
struct Neighbour {
    services: BTreeSet<ServiceAddress>,
    resolution: Resolution,
}

impl Engine {
    /// `seed` shapes the slot tables and must stay what it was, like the numbers in `adopted`, across restarts.
    pub fn new(seed: Seed, adopted: Adopted) -> Self {
        Self::with_slot_count(seed, adopted, DEFAULT_SLOTS)
    }

    /// With another size of slot tables (a prime): every service's table has it for life, since another
    /// size would move almost every slot.
    pub fn with_slot_count(seed: Seed, adopted: Adopted, slot_count: u32) -> Self {
        let mut engine = Self {
            seed,
            slot_count,
            now: Duration::ZERO,
            lifecycle: Lifecycle::Created,
            service_ids: Allocator::new(ServiceId::MAX),
            backend_ids: Allocator::new(BackendId::MAX),
            pools: BTreeMap::new(),
            names: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            saved: BTreeMap::new(),
            strays: BTreeSet::new(),
            published_neighbours: Vec::new(),
            published_probes: Vec::new(),
            touched: BTreeSet::new(),
            watch_changed: false,
            overrides_changed: false,
        };
        engine.adopt(adopted);
        engine
    }

    /// Takes an earlier agent's orders back, before the first configuration.
    pub fn restore(&mut self, now: Duration, overrides: Overrides) {
        let at = |saved: Override| ((saved.service, saved.backend), saved.holds.believed().restored_at(now));
        self.saved = overrides.backends.into_iter().map(at).collect();
    }

    /// The orders in force, to be saved when [`Effect::OverridesChanged`] says so.
    pub fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        for (&service, pool) in &self.pools {
            for backend in pool.backends.values().filter(|backend| !backend.holds.is_empty()) {
                let holds = backend.holds.counted_from(self.now);
                overrides.backends.push(Override { service, backend: backend.address, holds });
            }
        }
        overrides
    }

    pub fn lifecycle(&self) -> Lifecycle {
        self.lifecycle
    }

    /// Whether something is known of every backend: it is up, down, or kept away by order.
    pub fn is_settled(&self) -> bool {
        let unknown = |state| matches!(state, State::Checking | State::Unresolved);
        let mut backends = self.pools.values().flat_map(|pool| pool.backends.values());
        backends.all(|backend| backend.standing.as_ref().is_some_and(|standing| !unknown(standing.state)))
    }

    /// Takes one event in. The effects are to be carried out in their order, before the next event.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        self.now = self.now.max(now);
        let mut effects = Vec::new();
        match event {
            Event::Attached => self.change_lifecycle(Lifecycle::Running, "attached", &mut effects),
            Event::Stopped => self.change_lifecycle(Lifecycle::Stopped, "stopped", &mut effects),
            Event::Failed { reason } => self.change_lifecycle(Lifecycle::Error, &reason, &mut effects),
            Event::Stop => self.stop(&mut effects),
            Event::Configured(config) if self.lifecycle.is_serving() || self.lifecycle == Lifecycle::Created => {
                self.configure(&config, &mut effects);
            }
            _ if !self.lifecycle.is_serving() => {}
            Event::Configured(_) => {}
            Event::Probe { key, outcome } => self.probe(&key, &outcome),
            Event::NextHop { address, resolution } => self.resolve(address, resolution),
            Event::FlowCounts(counts) => self.count_flows(&counts),
            Event::ForeignFlows(slots) => self.foreign_flows(&slots),
            Event::FlowsForgotten(id) => self.flows_forgotten(id, &mut effects),
            Event::Tick => self.touched.extend(self.pools.keys()),
        }
        self.settle(&mut effects);
        effects::in_safe_order(effects)
    }

    /// Carries an administrator's command out, or says why not and changes nothing.
    pub fn admin(&mut self, now: Duration, command: AdminCommand) -> Result<Vec<Effect>, AdminError> {
        self.now = self.now.max(now);
        if !self.lifecycle.is_serving() {
            return Err(AdminError::NotServing(self.lifecycle));
        }
        let AdminCommand { key, action } = command;
        let address = *self.names.get(&key.service).ok_or_else(|| AdminError::UnknownService(key.service.clone()))?;
        let backend = self.pools.get_mut(&address).and_then(|pool| {
            let backend = pool.names.get(&key.backend)?;
            pool.backends.get_mut(backend)
        });
        let backend = backend.ok_or(AdminError::UnknownBackend(key))?;
        let now = self.now;
        let until = |undo_after: Option<Duration>| match undo_after {
            Some(Duration::ZERO) => Err(AdminError::NoTime),
            after => Ok(after.map(|after| now.saturating_add(after))),
        };
        let before = backend.holds;
        match action {
            AdminAction::Drain { undo_after } => backend.holds.drain.set(true, until(undo_after)?),
            AdminAction::Undrain => backend.holds.drain.set(false, None),
            AdminAction::Disable { undo_after } => backend.holds.disable.set(true, until(undo_after)?),
            AdminAction::Enable => backend.holds.disable.set(false, None),
            AdminAction::SetWeight { weight, .. } if weight > MAX_WEIGHT => {
                return Err(AdminError::WeightTooLarge(weight));
            }
            AdminAction::SetWeight { weight, undo_after } => backend.set_weight(weight, until(undo_after)?),
        }
        self.overrides_changed |= backend.holds != before;
        self.touched.insert(address);
        let mut effects = Vec::new();
        self.settle(&mut effects);
        Ok(effects::in_safe_order(effects))
    }

    fn change_lifecycle(&mut self, to: Lifecycle, reason: &str, effects: &mut Vec<Effect>) {
        let from = self.lifecycle;
        if from.allows(to) {
            self.lifecycle = to;
            effects.push(Effect::Lifecycle { from, to, reason: reason.to_owned() });
        }
    }

    /// The data plane stays as it is, so that packets flow on while no agent is there; only the probes end.
    fn stop(&mut self, effects: &mut Vec<Effect>) {
        self.change_lifecycle(Lifecycle::Stopping, "asked to stop", effects);
        if !self.published_probes.is_empty() {
            self.published_probes.clear();
            effects.push(Effect::SetProbes(Vec::new()));
        }
    }

    fn probe(&mut self, key: &BackendKey, outcome: &ProbeOutcome) {
        let Some(address) = self.names.get(&key.service) else { return };
        let Some(pool) = self.pools.get_mut(address) else { return };
        let backend = pool.names.get(&key.backend).and_then(|backend| pool.backends.get_mut(backend));
        if backend.is_some_and(|backend| backend.probe(outcome)) {
            self.touched.insert(*address);
        }
    }

    fn resolve(&mut self, address: IpAddr, resolution: Result<NextHop, String>) {
        // Only what was asked for is remembered, which bounds it.
        let Some(neighbour) = self.neighbours.get_mut(&address) else { return };
        let resolution = Some(resolution);
        if neighbour.resolution != resolution {
            neighbour.resolution = resolution;
            self.touched.extend(&neighbour.services);
        }
    }

    fn count_flows(&mut self, counts: &BTreeMap<BackendId, u64>) {
        for (address, pool) in &mut self.pools {
            for backend in pool.backends.values_mut() {
                let (id, moves) = (backend.id, &pool.moves);
                let recorded = counts.get(&id).copied().unwrap_or(0);
                backend.count_flows(recorded, || moves.may_have_unrecorded(id.get()));
                if backend.removed {
                    self.touched.insert(*address);
                }
            }
        }
    }

    fn foreign_flows(&mut self, slots: &BTreeMap<ServiceId, BTreeSet<u32>>) {
        const NONE: &BTreeSet<u32> = &BTreeSet::new();
        for (address, pool) in &mut self.pools {
            if pool.swept(slots.get(&pool.id).unwrap_or(NONE)) {
                self.touched.insert(*address);
            }
        }
    }

    fn flows_forgotten(&mut self, id: BackendId, effects: &mut Vec<Effect>) {
        if self.strays.remove(&id) {
            self.backend_ids.release(id.get());
            effects.push(Effect::RemoveBackend(id));
            return;
        }
        for (address, pool) in &mut self.pools {
            if let Some(backend) = pool.backends.values_mut().find(|backend| backend.id == id) {
                backend.flows_forgotten();
                self.touched.insert(*address);
                return;
            }
        }
    }

    /// Brings the data plane's picture up to the facts.
    fn settle(&mut self, effects: &mut Vec<Effect>) {
        const UNASKED: &Resolution = &None;
        for address in std::mem::take(&mut self.touched) {
            let Some(pool) = self.pools.get_mut(&address) else { continue };
            let neighbours = &self.neighbours;
            let next_hop = |ip: IpAddr| neighbours.get(&ip).map_or(UNASKED, |neighbour| &neighbour.resolution);
            let settled = pool.settle(self.now, next_hop, effects);
            self.overrides_changed |= settled.overrides_changed;
            self.watch_changed |= settled.watch_changed;
            settled.freed.iter().for_each(|id| self.backend_ids.release(id.get()));
            if pool.is_gone() {
                effects.push(Effect::RemoveService(pool.id));
                self.service_ids.release(pool.id.get());
                self.pools.remove(&address);
            }
        }
        if std::mem::take(&mut self.watch_changed) {
            self.watch(effects);
        }
        if std::mem::take(&mut self.overrides_changed) {
            effects.push(Effect::OverridesChanged);
        }
    }

    /// Says which addresses are to be followed and probed, where that has changed.
    fn watch(&mut self, effects: &mut Vec<Effect>) {
        let mut known = std::mem::take(&mut self.neighbours);
        for (address, pool) in &self.pools {
            for backend in pool.backends.values() {
                let ip = backend.address.ip();
                let neighbour = self.neighbours.entry(ip).or_insert_with(|| Neighbour {
                    services: BTreeSet::new(),
                    resolution: known.remove(&ip).and_then(|neighbour| neighbour.resolution),
                });
                neighbour.services.insert(*address);
            }
        }
        let addresses: Vec<IpAddr> = self.neighbours.keys().copied().collect();
        if self.published_neighbours != addresses {
            self.published_neighbours.clone_from(&addresses);
            effects.push(Effect::SetNeighbours(addresses));
        }
        let mut pools: Vec<&Pool> = self.pools.values().filter(|pool| !pool.removed).collect();
        pools.sort_by_key(|pool| pool.position);
        let probes: Vec<ProbeTarget> = pools.into_iter().flat_map(Pool::probes).collect();
        if self.published_probes != probes {
            self.published_probes.clone_from(&probes);
            effects.push(Effect::SetProbes(probes));
        }
    }
}
