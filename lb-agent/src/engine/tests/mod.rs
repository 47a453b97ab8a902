//! The engine against a data plane that checks, effect by effect, that every state it passes through is a valid one.

mod generated;
mod rows;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use lb_common::slot::{Slot, SlotState};

use super::*;
use crate::model::config::*;

const SEED: Seed = Seed(*b"0123456789abcdef");
/// A small prime: the properties of large tables are tested with the tables.
const SLOTS: u32 = 211;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ip(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 1, n))
}

fn hop(n: u8) -> NextHop {
    NextHop { ifindex: 2, source_mac: [2; 6], destination_mac: [n; 6], mtu: 1500, source: None, gateway: None }
}

fn key(service: &str, backend: &str) -> BackendKey {
    BackendKey { service: service.to_owned(), backend: backend.to_owned() }
}

/// `b7` is 10.0.1.7:8080, weight 1.
fn backend(n: u8) -> Backend {
    Backend {
        name: format!("b{n}"),
        address: ip(n),
        port: 8080,
        weight: 1,
        zone: None,
        labels: BTreeMap::new(),
        max_flows: None,
    }
}

fn service(name: &str, vip: u8, backends: impl IntoIterator<Item = u8>) -> Service {
    Service {
        name: name.to_owned(),
        vip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, vip)),
        port: 80,
        protocol: Protocol::Tcp,
        forward: Forward::Nat,
        scheduler: Scheduler::Consistent,
        affinity: Affinity::None,
        tracking: Tracking::Auto,
        policy: Policy::Static,
        health: Health {
            kind: HealthKind::Tcp,
            path: "/".to_owned(),
            port: None,
            interval: seconds(1),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            send: String::new(),
            expect: None,
        },
        slow_start: Duration::ZERO,
        drain_timeout: seconds(60),
        panic_threshold_percent: 50,
        backends: backends.into_iter().map(backend).collect(),
    }
}

fn config(services: impl IntoIterator<Item = Service>) -> Config {
    Config {
        interfaces: vec!["eth0".to_owned()],
        hook: Hook::Auto,
        xdp_mode: XdpMode::Native,
        flow_table: 1 << 20,
        snat: Snat::default(),
        state_dir: "/var/lib/lb".into(),
        pin_dir: "/sys/fs/bpf/lb".into(),
        api: Api { socket: "/run/lb/agent.sock".into(), listen: None },
        services: services.into_iter().collect(),
    }
}

/// One service `web` with backends b1, b2, b3.
fn three() -> Config {
    config([service("web", 10, 1..=3)])
}

fn success() -> ProbeOutcome {
    ProbeOutcome::Success { latency: Duration::from_millis(2), load: None }
}

fn failure() -> ProbeOutcome {
    ProbeOutcome::Failure { reason: "connection refused".to_owned() }
}

/// The maps as the effects make them, and what must be true of them at any moment.
#[derive(Debug, Clone, Default, PartialEq)]
struct Maps {
    services: BTreeMap<ServiceId, ServiceEntry>,
    backends: BTreeMap<BackendId, BackendEntry>,
    slots: BTreeMap<ServiceId, Vec<Slot>>,
    probes: Vec<ProbeTarget>,
    neighbours: Vec<IpAddr>,
    /// Asked to be forgotten, not confirmed yet.
    forgetting: Vec<BackendId>,
    /// Confirmed since their entry was last put with new flows allowed.
    forgotten: BTreeSet<BackendId>,
}

impl Maps {
    fn apply(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::PutBackend(entry) => self.put_backend(*entry),
                Effect::PutSlots { service, table } => {
                    assert_eq!(table.len(), SLOTS as usize);
                    for raw in table.iter().map(|slot| slot.current()).filter(|&raw| raw != 0) {
                        let entry = &self.backends[&BackendId::new(raw).expect("a slot names a valid number")];
                        assert!(entry.accepts_new && entry.service == *service, "a slot names {entry:?}");
                    }
                    assert_ne!(self.slots.insert(*service, table.clone()).as_ref(), Some(table), "put twice");
                }
                Effect::PutService(entry) => {
                    assert!(self.slots.contains_key(&entry.id), "a service needs its slots first");
                    assert_ne!(entry.tracking, Tracking::Auto);
                    self.services.insert(entry.id, *entry);
                }
                Effect::RemoveService(id) => {
                    assert!(self.slots[id].iter().all(|slot| slot.current() == 0), "a service goes with slots in use");
                    self.services.remove(id);
                    self.slots.remove(id);
                }
                Effect::RemoveBackend(id) => {
                    assert!(!self.is_named(*id), "a slot names a backend that goes");
                    let remembers = |slot: &Slot| slot.state() == SlotState::Moving && slot.previous() == id.get();
                    assert!(!self.slots.values().flatten().any(remembers), "a slot remembers a backend that goes");
                    assert!(self.forgotten.remove(id), "{id} goes before its flows are forgotten");
                    self.backends.remove(id);
                }
                Effect::ForgetFlows(id) => {
                    assert!(!self.is_named(*id), "flows of a backend in use are forgotten");
                    self.forgetting.push(*id);
                }
                Effect::SetProbes(probes) => self.probes.clone_from(probes),
                Effect::SetNeighbours(neighbours) => self.neighbours.clone_from(neighbours),
                Effect::Transition { from, to, reason, .. } => assert!(from != to && !reason.is_empty()),
                Effect::PanicChanged { .. }
                | Effect::Lifecycle { .. }
                | Effect::Rejected { .. }
                | Effect::OverridesChanged => {}
            }
        }
    }

    fn put_backend(&mut self, entry: BackendEntry) {
        assert!(entry.accepts_new || !self.is_named(entry.id), "a slot names a backend that ceases to accept");
        if let Some(old) = self.backends.insert(entry.id, entry) {
            let identity = |entry: &BackendEntry| (entry.service, entry.address, entry.port, entry.vip, entry.vip_port);
            assert_eq!(identity(&old), identity(&entry), "a number changed hands while it was in use");
        }
        if entry.accepts_new {
            assert!(entry.next_hop.is_some());
            self.forgotten.remove(&entry.id);
        }
    }

    fn is_named(&self, id: BackendId) -> bool {
        self.slots.values().flatten().any(|slot| slot.current() == id.get())
    }

    /// Slots by backend, as `b1` for 10.0.1.1.
    fn shares(&self, service: u16) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for slot in &self.slots[&ServiceId::new(service).unwrap()] {
            let name =
                BackendId::new(slot.current()).map_or("none".to_owned(), |id| match self.backends[&id].address {
                    IpAddr::V4(v4) => format!("b{}", v4.octets()[3]),
                    IpAddr::V6(v6) => v6.to_string(),
                });
            *shares.entry(name).or_default() += 1;
        }
        shares
    }
}

/// An engine, its data plane and a clock.
#[derive(Debug, Clone)]
struct World {
    engine: Engine,
    maps: Maps,
    now: Duration,
}

impl World {
    fn new(adopted: Adopted) -> Self {
        let engine = Engine::with_slot_count(SEED, adopted, SLOTS);
        Self { engine, maps: Maps::default(), now: seconds(1000) }
    }

    /// Configured, attached, all next hops known, all backends up.
    fn running(config: Config) -> Self {
        let mut world = Self::new(Adopted::default());
        let backends: Vec<(String, Backend)> =
            config.services.iter().flat_map(|s| s.backends.iter().map(|b| (s.name.clone(), b.clone()))).collect();
        world.tell(Event::Configured(config));
        world.tell(Event::Attached);
        for (service, backend) in backends {
            world.resolve(backend.address);
            world.probe(&service, &backend.name, success());
        }
        world
    }

    fn tell(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.engine.handle(self.now, event);
        self.maps.apply(&effects);
        effects
    }

    fn resolve(&mut self, address: IpAddr) -> Vec<Effect> {
        self.tell(Event::NextHop { address, resolution: Ok(hop(1)) })
    }

    fn probe(&mut self, service: &str, backend: &str, outcome: ProbeOutcome) -> Vec<Effect> {
        self.tell(Event::Probe { key: key(service, backend), outcome })
    }

    fn admin(&mut self, backend: &str, action: AdminAction) -> Vec<Effect> {
        let command = AdminCommand { key: key("web", backend), action };
        let effects = self.engine.admin(self.now, command).expect("the command is valid");
        self.maps.apply(&effects);
        effects
    }

    fn tick_after(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        self.tell(Event::Tick)
    }

    /// The data plane has forgotten what it was asked to forget.
    fn confirm(&mut self) -> Vec<Effect> {
        let mut all = Vec::new();
        for id in std::mem::take(&mut self.maps.forgetting) {
            self.maps.forgotten.insert(id);
            all.extend(self.tell(Event::FlowsForgotten(id)));
        }
        all
    }

    /// A sweep; backends are named by their last octet, all others have no flow.
    fn count(&mut self, flows: &[(u8, u64)]) -> Vec<Effect> {
        let by_address = |n: u8| self.maps.backends.values().find(|entry| entry.address == ip(n)).unwrap().id;
        let counts = flows.iter().map(|&(n, count)| (by_address(n), count)).collect();
        self.tell(Event::FlowCounts(counts))
    }

    /// `b1:up b2:down`, by service.
    fn states(&self, service: usize) -> String {
        let services = self.engine.services(self.now);
        let states = services[service].view.backends.iter().map(|b| format!("{}:{}", b.name, b.state));
        states.collect::<Vec<_>>().join(" ")
    }

    fn shares(&self) -> BTreeMap<String, usize> {
        self.maps.shares(1)
    }

    fn takers(&self) -> String {
        self.shares().into_keys().collect::<Vec<_>>().join(" ")
    }
}

/// The parts of effects that tell one kind of story: kinds in order, without their contents.
fn kinds(effects: &[Effect]) -> String {
    let kind = |effect: &Effect| match effect {
        Effect::PutBackend(entry) => format!("+b{}{}", entry.id, if entry.accepts_new { "" } else { "-" }),
        Effect::PutSlots { service, .. } => format!("slots{service}"),
        Effect::PutService(entry) => format!("+s{}", entry.id),
        Effect::RemoveService(id) => format!("-s{id}"),
        Effect::RemoveBackend(id) => format!("-b{id}"),
        Effect::ForgetFlows(id) => format!("forget{id}"),
        Effect::SetNeighbours(addresses) => format!("neighbours*{}", addresses.len()),
        Effect::SetProbes(probes) => format!("probes*{}", probes.len()),
        Effect::PanicChanged { on, .. } => format!("panic={on}"),
        Effect::Transition { key, from, to, .. } => format!("{}:{from}>{to}", key.backend),
        Effect::Lifecycle { from, to, .. } => format!("{from}>{to}"),
        Effect::Rejected { .. } => "rejected".to_owned(),
        Effect::OverridesChanged => "overrides".to_owned(),
    };
    effects.iter().map(kind).collect::<Vec<_>>().join(" ")
}
