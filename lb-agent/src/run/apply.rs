//! Carrying out what the engine says, one effect after the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::RunError;
use super::agent::Agent;
use super::mode::Settings;
use crate::dataplane::kernel::{Endpoint, Kernel};
use crate::engine::{BackendEntry, Effect, Event, ServiceEntry, ServiceId};
use crate::health::Target;
use crate::model::config::Protocol;
use crate::model::pool::ServiceAddress;

/// What the maps hold, as far as later effects need to know it.
#[derive(Debug, Default)]
pub(super) struct Applied {
    services: BTreeMap<u16, (ServiceAddress, u32)>,
    backends: BTreeMap<u16, Protocol>,
    /// Numbers whose backend has gone.
    retired: BTreeSet<u16>,
    /// Slots that changed hands since the agent started, by service.
    pub(super) slots_moved: BTreeMap<u16, u64>,
    pub(super) transitions: BTreeMap<crate::model::pool::BackendKey, u64>,
}

impl Applied {
    /// Backends that an earlier agent wrote keep their counters.
    pub(super) fn adopting(kernel: &Kernel) -> Self {
        let backends = kernel.tables().backends().into_iter().map(|(id, backend)| (id, backend.protocol())).collect();
        Self { backends, ..Self::default() }
    }

    pub(super) fn is_udp(&self, backend: u16) -> bool {
        self.backends.get(&backend) == Some(&Protocol::Udp)
    }

    pub(super) fn backends(&self) -> BTreeSet<u16> {
        self.backends.keys().copied().collect()
    }

    fn slots(&self, service: ServiceId) -> u32 {
        self.services.get(&service.get()).map_or(crate::slots::DEFAULT_SLOTS, |(_, slots)| *slots)
    }
}

/// The reason, where the engine refused a configuration.
pub(super) fn rejection(effects: &[Effect]) -> Option<String> {
    effects.iter().find_map(|effect| match effect {
        Effect::Rejected { reason } => Some(reason.clone()),
        _ => None,
    })
}

impl Agent {
    /// Tells the engine, and does what it says.
    pub(super) fn event(&mut self, event: Event) -> Result<(), RunError> {
        let effects = self.engine.handle(self.now(), event);
        self.apply_all(effects)
    }

    pub(super) fn apply_all(&mut self, effects: Vec<Effect>) -> Result<(), RunError> {
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            if let Effect::ForgetFlows(id) = effect {
                let applied = &self.applied;
                self.kernel.sweep(|backend| applied.is_udp(backend), &[id.get()])?;
                queue.extend(self.engine.handle(self.now(), Event::FlowsForgotten(id)));
            } else {
                self.apply(effect)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, effect: Effect) -> Result<(), RunError> {
        match effect {
            Effect::PutBackend(entry) => self.put_backend(&entry)?,
            Effect::PutSlots { service, table } => {
                let moved = self.kernel.tables_mut().put_slots(service.get(), &table)?;
                *self.applied.slots_moved.entry(service.get()).or_default() += moved as u64;
            }
            Effect::PutService(entry) => self.put_service(&entry)?,
            Effect::RemoveService(id) => {
                if let Some((vip, _)) = self.applied.services.remove(&id.get()) {
                    self.kernel.tables_mut().remove_service(vip, id.get())?;
                }
            }
            Effect::RemoveBackend(id) => {
                self.kernel.tables_mut().remove_backend(id.get())?;
                self.applied.backends.remove(&id.get());
                self.applied.retired.insert(id.get());
                self.meter.forget(id.get());
                self.latencies.forget(id.get());
            }
            // Done by `apply_all`, which has the engine's answer to carry out.
            Effect::ForgetFlows(_) => {}
            Effect::SetNeighbours(addresses) => self.neighbours.set_addresses(addresses),
            Effect::SetProbes(targets) => {
                let target = |probe: crate::engine::ProbeTarget| Target {
                    key: probe.key,
                    address: probe.target,
                    health: probe.health,
                };
                self.prober.set_targets(targets.into_iter().map(target).collect());
            }
            Effect::PanicChanged { service, on, reason } => tracing::warn!(service, on, reason, "panic"),
            Effect::Transition { key, from, to, reason } => {
                tracing::info!(backend = %key, %from, %to, reason, "backend");
                *self.applied.transitions.entry(key).or_default() += 1;
            }
            Effect::Lifecycle { from, to, reason } => tracing::info!(%from, %to, reason, "agent"),
            Effect::Rejected { reason } => tracing::error!(reason, "configuration refused, nothing changed"),
            Effect::OverridesChanged => self.store.save(self.engine.overrides()),
        }
        Ok(())
    }

    fn put_service(&mut self, entry: &ServiceEntry) -> Result<(), RunError> {
        let vip = ServiceAddress { vip: entry.vip, port: entry.port, protocol: entry.protocol };
        self.kernel.tables_mut().put_service(
            vip,
            entry.id.get(),
            entry.slot_count,
            Settings {
                tracking: entry.tracking,
                forward: entry.forward,
                scheduler: entry.scheduler,
                affinity: entry.affinity,
            }
            .mode(),
        )?;
        self.applied.services.insert(entry.id.get(), (vip, entry.slot_count));
        Ok(())
    }

    fn put_backend(&mut self, entry: &BackendEntry) -> Result<(), RunError> {
        let id = entry.id.get();
        if self.applied.backends.insert(id, entry.protocol).is_none() {
            self.kernel.clear_counters(id)?;
            if self.applied.retired.remove(&id) {
                // A packet that was under way during the last sweep may have written an entry of the old one back.
                let applied = &self.applied;
                self.kernel.sweep(|backend| applied.is_udp(backend), &[id])?;
            }
        }
        let endpoint = Endpoint {
            service: entry.service.get(),
            slots: self.applied.slots(entry.service),
            mode: Settings {
                tracking: entry.tracking,
                forward: entry.forward,
                scheduler: entry.scheduler,
                affinity: entry.affinity,
            }
            .mode(),
            weight: entry.weight,
            vip: ServiceAddress { vip: entry.vip, port: entry.vip_port, protocol: entry.protocol },
            address: entry.address,
            port: entry.port,
            next_hop: entry.next_hop,
            accepts_new: entry.accepts_new,
        };
        Ok(self.kernel.tables_mut().put_backend(id, &endpoint)?)
    }
}
