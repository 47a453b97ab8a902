//! What the API and the CLI show of the engine. Traffic is counted elsewhere and merged in by number.

use super::Engine;
use super::backend::{Backend, Standing};
use super::ids::{BackendId, ServiceId};
use super::pool::Pool;
use crate::model::view;
use crate::slots::Counts;

/// A service as shown, without traffic, and the numbers under which its traffic is counted.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceStatus {
    pub id: ServiceId,
    /// In the order of `view.backends`.
    pub backend_ids: Vec<BackendId>,
    pub view: view::Service,
}

impl Engine {
    /// In the order of the configuration; what has left it and still has flows comes last.
    pub fn services(&self, now: std::time::Duration) -> Vec<ServiceStatus> {
        let now = now.max(self.now);
        let mut pools: Vec<&Pool> =
            self.pools.values().filter(|pool| pool.settings.is_some() || pool.removed).collect();
        pools.sort_by_key(|pool| (pool.removed, pool.position));
        pools.into_iter().map(|pool| service(pool, now)).collect()
    }
}

fn service(pool: &Pool, now: std::time::Duration) -> ServiceStatus {
    let mut backends: Vec<&Backend> = pool.backends.values().collect();
    backends.sort_by_key(|backend| (backend.removed, backend.position));
    ServiceStatus {
        id: pool.id,
        backend_ids: backends.iter().map(|backend| backend.id).collect(),
        view: view::Service {
            name: pool.name.clone(),
            address: pool.address.to_string(),
            forward: pool.forward.to_string(),
            scheduler: pool.scheduler.to_string(),
            tracking: pool.tracking.to_string(),
            panic: pool.panic,
            slots: pool.moves.counts().into(),
            traffic: view::Traffic::default(),
            backends: backends
                .into_iter()
                .filter_map(|backend| Some(self::backend(backend, backend.standing.as_ref()?, pool.slot_count(), now)))
                .collect(),
        },
    }
}

impl From<Counts> for view::Slots {
    fn from(Counts { stable, moving, tracked }: Counts) -> Self {
        Self { stable, moving, tracked }
    }
}

fn backend(backend: &Backend, standing: &Standing, slot_count: u32, now: std::time::Duration) -> view::Backend {
    view::Backend {
        name: backend.name.clone(),
        address: backend.address.to_string(),
        state: standing.state.to_string(),
        reason: standing.reason.clone(),
        weight: backend.weight(),
        slot_share: f64::from(backend.slots) / f64::from(slot_count),
        active_flows: backend.flows,
        since_seconds: now.saturating_sub(standing.since).as_secs_f64(),
        handshake: None,
        first_byte: None,
        probe_ms: backend.last_probe.map(|latency| latency.as_secs_f64() * 1000.0),
        traffic: view::Traffic::default(),
    }
}
