//! A service and its backends: who takes new flows, and what the data plane must be told so that it is so.
//!
//! # Who takes new flows
//! A backend that is enabled (not drained or disabled, weight above 0), whose next hop is known and whose health
//! is up. Flows that are there stay where they are, whatever a probe says: a false alarm breaks nobody.
//!
//! Panic: when, of the enabled backends, the share that is not known to fail is below the service's threshold, the
//! probes are likelier wrong than the backends, and all enabled ones with a known next hop take flows.
//! A backend that is not known yet counts as not failing, so that neither a start nor a reload that adds backends
//! is a panic. Orders stand in a panic as always, and a pool without an enabled backend has none to
//! panic about: it takes no flows.
//!
//! # What leaves
//! A backend that has left the configuration stays in the maps without new flows until a sweep finds none of its
//! flows, or the drain time-out has passed; then its flows are forgotten, and only when the data plane has confirmed
//! that is it removed, and its number free. An agent that dies on the way finds it in the maps and goes on. A service
//! that has left does the same with all its backends. Its VIP stays, with an empty table, until the last has
//! gone: what is open goes on, what is new is dropped and not handed to a host that does not expect it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::backend::{Backend, Resolution, Standing, State, usable};
use super::effects::{BackendEntry, Effect, ProbeTarget, ServiceEntry};
use super::events::AdoptedService;
use super::ids::{BackendId, ServiceId};
use crate::model::config::{Affinity, Forward, Health, Protocol, Scheduler, Service, Tracking};
use crate::model::pool::{BackendKey, ServiceAddress};
use crate::slots::{Moves, NONE, Rule, Seed, Table, rotation};

/// A flow of a slot that has moved counts as ended after this silence: the time-outs of IPVS (ip_vs_proto_tcp.c, ip_vs_proto_udp.c).
const IDLE_TCP: Duration = Duration::from_secs(900);
const IDLE_UDP: Duration = Duration::from_secs(300);

/// A pool that records no more flows than it must begins by recording all: until each of its backends has been seen to work, at
/// most for so long, its slots change hands as often as they like.
const COMING_UP: Duration = Duration::from_secs(30);

/// For a service that was found in the maps and is not in the configuration: what the default configuration says.
const ADOPTED_DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The part of the configuration that is about the service as a whole.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) health: Health,
    drain_timeout: Duration,
    panic_threshold_percent: u8,
}

impl Settings {
    fn of(service: &Service) -> Self {
        Self {
            health: service.health.clone(),
            drain_timeout: service.drain_timeout,
            panic_threshold_percent: service.panic_threshold_percent,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub(super) id: ServiceId,
    pub(super) address: ServiceAddress,
    pub(super) name: String,
    /// Its place in the configuration.
    pub(super) position: usize,
    pub(super) forward: Forward,
    /// As configured, but never `Auto`; [`Pool::tracking_in_force`] is what the data plane is told.
    pub(super) tracking: Tracking,
    pub(super) scheduler: Scheduler,
    affinity: Affinity,
    /// When it stops to wait for backends that have not been seen to work; none: it waits no more.
    coming_up_until: Option<Duration>,
    /// None: found in the maps, and never configured.
    pub(super) settings: Option<Settings>,
    /// No longer in the configuration.
    pub(super) removed: bool,
    pub(super) panic: bool,
    pub(super) backends: BTreeMap<SocketAddr, Backend>,
    /// Those of the configuration, by name.
    pub(super) names: BTreeMap<String, SocketAddr>,
    table: Table,
    /// Who takes turns, where backends do.
    rotating: Option<BTreeMap<SocketAddr, u16>>,
    /// The table with backend numbers, 0 for none.
    wanted: Vec<u16>,
    pub(super) moves: Moves,
    /// The rule under which nothing is left to move.
    settled_under: Option<Rule>,
    /// What the data plane was last told is no longer true.
    slots_changed: bool,
    published: Option<ServiceEntry>,
}

/// What the engine has to know of a change beside its effects.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) freed: Vec<BackendId>,
    pub(super) overrides_changed: bool,
    /// Other addresses are to be followed or probed.
    pub(super) watch_changed: bool,
}

impl Pool {
    pub(super) fn new(id: ServiceId, address: ServiceAddress, seed: Seed, slot_count: u32) -> Self {
        Self {
            id,
            address,
            name: address.to_string(),
            position: usize::MAX,
            forward: Forward::Nat,
            tracking: Tracking::Full,
            scheduler: Scheduler::Consistent,
            affinity: Affinity::None,
            coming_up_until: None,
            settings: None,
            removed: false,
            panic: false,
            backends: BTreeMap::new(),
            names: BTreeMap::new(),
            table: Table::new(seed, address, slot_count),
            rotating: None,
            wanted: vec![0; slot_count as usize],
            moves: Moves::new(slot_count),
            settled_under: None,
            slots_changed: true,
            published: None,
        }
    }

    /// Takes its part of the configuration; `new_backend` makes those that were not there.
    pub(super) fn configure(
        &mut self,
        now: Duration,
        position: usize,
        service: &Service,
        mut new_backend: impl FnMut(SocketAddr) -> Option<Backend>,
    ) {
        self.removed = false;
        self.position = position;
        self.name.clone_from(&service.name);
        if self.settings.is_none() && self.tracking != Tracking::Minimal {
            self.coming_up_until = Some(now.saturating_add(COMING_UP));
        }
        self.settings = Some(Settings::of(service));
        self.forward = service.forward;
        self.scheduler = service.scheduler;
        self.affinity = service.affinity;
        self.tracking = match service.tracking {
            Tracking::Auto if service.forward.answers_pass() || service.scheduler.needs_every_flow() => Tracking::Full,
            Tracking::Auto => Tracking::Minimal,
            chosen => chosen,
        };
        self.names.clear();
        for (position, configured) in service.backends.iter().enumerate() {
            let address = SocketAddr::new(configured.address, configured.port);
            if !self.backends.contains_key(&address) {
                self.backends.extend(new_backend(address).map(|backend| (address, backend)));
            }
            if let Some(backend) = self.backends.get_mut(&address) {
                backend.configure(position, configured, &service.health);
                self.names.insert(configured.name.clone(), address);
            }
        }
        let kept: BTreeSet<SocketAddr> = self.names.values().copied().collect();
        for (_, backend) in self.backends.iter_mut().filter(|(address, _)| !kept.contains(address)) {
            backend.remove();
        }
    }

    /// It has left the configuration.
    pub(super) fn remove(&mut self) {
        self.removed = true;
        self.names.clear();
        self.backends.values_mut().for_each(Backend::remove);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.removed && self.backends.is_empty()
    }

    /// Compares what follows from the facts with what the data plane was told, and says the difference.
    pub(super) fn settle<'a>(
        &mut self,
        now: Duration,
        next_hop: impl Fn(IpAddr) -> &'a Resolution,
        effects: &mut Vec<Effect>,
    ) -> Settled {
        let mut settled = Settled::default();
        let forward = self.forward;
        let next_hop = |ip: IpAddr| usable(next_hop(ip), forward);
        self.advance(now, &mut settled, effects);
        self.end_coming_up(now);
        self.decide_panic(next_hop, effects);
        let mut takers = BTreeMap::new();
        let tracking = self.tracking_in_force();
        for backend in self.backends.values_mut() {
            let next_hop: &Resolution = &next_hop(backend.address.ip());
            let accepts_new =
                backend.is_enabled() && matches!(next_hop, Some(Ok(_))) && (backend.is_healthy() || self.panic);
            if accepts_new {
                takers.insert(backend.address, backend.weight());
            }
            settled.watch_changed |= transition(&self.name, backend, next_hop, now, effects);
            let entry = BackendEntry {
                id: backend.id,
                service: self.id,
                address: backend.address.ip(),
                port: backend.address.port(),
                vip: self.address.vip,
                vip_port: self.address.port,
                protocol: self.address.protocol,
                forward: self.forward,
                tracking,
                scheduler: self.scheduler,
                affinity: self.affinity,
                weight: backend.weight(),
                next_hop: next_hop.as_ref().and_then(|resolution| resolution.as_ref().ok().copied()),
                accepts_new,
            };
            if backend.published != Some(entry) {
                backend.published = Some(entry);
                effects.push(Effect::PutBackend(entry));
            }
        }
        self.publish_slots(now, &takers, effects);
        self.publish_entry(effects);
        settled
    }

    /// Lets time pass for each backend, and lets those go whose time has come.
    fn advance(&mut self, now: Duration, settled: &mut Settled, effects: &mut Vec<Effect>) {
        let drain_timeout = self.settings.as_ref().map_or(ADOPTED_DRAIN_TIMEOUT, |settings| settings.drain_timeout);
        for backend in self.backends.values_mut() {
            settled.overrides_changed |= backend.holds.expire(now);
            if backend.advance(now, drain_timeout) {
                effects.push(Effect::ForgetFlows(backend.id));
                self.slots_changed |= self.moves.forget(backend.id.get());
            }
        }
        self.backends.retain(|_, backend| {
            if backend.is_gone() {
                self.slots_changed |= self.moves.forget(backend.id.get());
                effects.push(Effect::RemoveBackend(backend.id));
                settled.freed.push(backend.id);
                settled.overrides_changed |= !backend.holds.is_empty();
                settled.watch_changed = true;
            }
            !backend.is_gone()
        });
    }

    fn decide_panic<'a>(&mut self, next_hop: impl Fn(IpAddr) -> Cow<'a, Resolution>, effects: &mut Vec<Effect>) {
        let threshold = self.settings.as_ref().map_or(0, |settings| usize::from(settings.panic_threshold_percent));
        let enabled = self.backends.values().filter(|backend| backend.is_enabled());
        let (mut all, mut failing) = (0, 0);
        for backend in enabled {
            all += 1;
            failing += usize::from(backend.is_failing(&next_hop(backend.address.ip())));
        }
        let on = (all - failing) * 100 < threshold * all;
        if std::mem::replace(&mut self.panic, on) != on {
            let reason = format!("{failing} of {all} enabled backends fail; the panic threshold is {threshold} %");
            effects.push(Effect::PanicChanged { service: self.name.clone(), on, reason });
        }
    }

    fn publish_slots(&mut self, now: Duration, takers: &BTreeMap<SocketAddr, u16>, effects: &mut Vec<Effect>) {
        let rule = self.rule();
        self.update_wanted(takers);
        if self.settled_under != Some(rule) {
            let ids: BTreeSet<u16> = takers.keys().map(|address| self.backends[address].id.get()).collect();
            self.slots_changed |= self.moves.advance(now, &self.wanted, |id| ids.contains(&id), rule);
            self.settled_under = self.moves.is_settled(&self.wanted, rule).then_some(rule);
        }
        if !std::mem::take(&mut self.slots_changed) {
            return;
        }
        let mut counts: BTreeMap<u16, u32> = BTreeMap::new();
        for slot in self.moves.slots() {
            *counts.entry(slot.current()).or_default() += 1;
        }
        for backend in self.backends.values_mut() {
            backend.slots = counts.get(&backend.id.get()).copied().unwrap_or(0);
        }
        effects.push(Effect::PutSlots { service: self.id, table: self.moves.slots().to_vec() });
    }

    fn update_wanted(&mut self, takers: &BTreeMap<SocketAddr, u16>) {
        let ids = |addresses: &mut dyn Iterator<Item = SocketAddr>| -> Vec<u16> {
            addresses.map(|address| self.backends[&address].id.get()).collect()
        };
        let numbers = |assignments: &[u16], ids: &[u16]| -> Vec<u16> {
            assignments.iter().map(|&index| if index == NONE { 0 } else { ids[usize::from(index)] }).collect()
        };
        if self.scheduler == Scheduler::RoundRobin {
            if self.rotating.as_ref() == Some(takers) {
                return;
            }
            let mut weighing = takers.iter().filter(|(_, weight)| **weight > 0).map(|(address, _)| *address);
            let ids = ids(&mut weighing);
            self.wanted = numbers(&rotation(self.slot_count(), takers), &ids);
            self.rotating = Some(takers.clone());
        } else {
            let (changed, rotated) = (self.table.update(takers), self.rotating.take().is_some());
            if !changed && !rotated {
                return;
            }
            let ids = ids(&mut self.table.backends());
            self.wanted = numbers(self.table.assignments(), &ids);
        }
        self.settled_under = None;
    }

    /// What the tracking of its flows asks of slots that change hands.
    fn rule(&self) -> Rule {
        match (self.tracking_in_force(), self.address.protocol) {
            (Tracking::Minimal, Protocol::Tcp) => Rule::Remembered { idle: IDLE_TCP },
            (Tracking::Minimal, Protocol::Udp) => Rule::Remembered { idle: IDLE_UDP },
            (Tracking::Off, _) => Rule::Forgotten,
            (Tracking::Auto | Tracking::Full, _) => Rule::Recorded,
        }
    }

    fn tracking_in_force(&self) -> Tracking {
        match self.tracking {
            Tracking::Minimal if self.coming_up_until.is_some() => Tracking::Full,
            tracking => tracking,
        }
    }

    /// What has moved so far has been recorded, so the next sweep tells which slots need their memory.
    fn end_coming_up(&mut self, now: Duration) {
        let Some(until) = self.coming_up_until else { return };
        let mut enabled = self.backends.values().filter(|backend| backend.is_enabled());
        let complete = enabled.all(|backend| backend.published.is_some_and(|entry| entry.accepts_new));
        if complete || now >= until {
            self.coming_up_until = None;
        }
    }

    /// Goes on where an earlier agent stopped.
    pub(super) fn adopt(&mut self, now: Duration, found: &AdoptedService) {
        let AdoptedService { forward, tracking, scheduler, affinity, slots, .. } = found;
        (self.forward, self.tracking) = (*forward, *tracking);
        (self.scheduler, self.affinity) = (*scheduler, *affinity);
        if slots.len() == self.wanted.len() {
            self.moves = Moves::adopted(slots.clone(), now);
        }
    }

    /// Slots with flows on another backend were found by a sweep. Says whether others can forget their past.
    pub(super) fn swept(&mut self, foreign: &BTreeSet<u32>) -> bool {
        let swept = matches!(self.rule(), Rule::Remembered { .. }) && self.moves.swept(foreign);
        self.slots_changed |= swept;
        swept
    }

    fn publish_entry(&mut self, effects: &mut Vec<Effect>) {
        if self.settings.is_none() {
            return;
        }
        let entry = ServiceEntry {
            id: self.id,
            vip: self.address.vip,
            port: self.address.port,
            protocol: self.address.protocol,
            forward: self.forward,
            tracking: self.tracking_in_force(),
            scheduler: self.scheduler,
            affinity: self.affinity,
            slot_count: self.slot_count(),
        };
        if !self.removed && self.published != Some(entry) {
            self.published = Some(entry);
            effects.push(Effect::PutService(entry));
        }
    }

    pub(super) fn slot_count(&self) -> u32 {
        u32::try_from(self.wanted.len()).expect("a table is made with a u32 of slots")
    }

    /// Where probes are to go, in the order of the configuration.
    pub(super) fn probes(&self) -> Vec<ProbeTarget> {
        let Some(Settings { health, .. }) = &self.settings else { return Vec::new() };
        let mut probed: Vec<&Backend> = self.backends.values().filter(|backend| backend.is_probed()).collect();
        probed.sort_by_key(|backend| backend.position);
        let target = |backend: &Backend| ProbeTarget {
            key: BackendKey { service: self.name.clone(), backend: backend.name.clone() },
            target: SocketAddr::new(backend.address.ip(), health.port.unwrap_or(backend.address.port())),
            health: health.clone(),
        };
        probed.into_iter().map(target).collect()
    }
}

/// Tells a change of state once, with its reason. Says whether the backend began or ceased to be probed.
fn transition(
    service: &str,
    backend: &mut Backend,
    next_hop: &Resolution,
    now: Duration,
    effects: &mut Vec<Effect>,
) -> bool {
    let (state, reason) = backend.state(next_hop);
    let Some(standing) = &mut backend.standing else {
        backend.standing = Some(Standing { state, reason, since: now });
        return false;
    };
    standing.reason.clone_from(&reason);
    let from = std::mem::replace(&mut standing.state, state);
    if from == state {
        return false;
    }
    standing.since = now;
    let key = BackendKey { service: service.to_owned(), backend: backend.name.clone() };
    effects.push(Effect::Transition { key, from, to: state, reason });
    (from == State::Disabled) != (state == State::Disabled)
}
