//! Takes a configuration in, the first and every later one. What is the same (a service by VIP, port and protocol, a
//! backend by address and port) keeps its number, its health, its orders and its flows, whatever it is called now.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::backend::Backend;
use super::effects::Effect;
use super::events::Adopted;
use super::ids::{BackendId, ServiceId};
use super::lifecycle::Lifecycle;
use super::pool::Pool;
use super::{Engine, Neighbour};
use crate::model::config::{Config, Service};
use crate::model::pool::ServiceAddress;

fn address_of(service: &Service) -> ServiceAddress {
    ServiceAddress { vip: service.vip, port: service.port, protocol: service.protocol }
}

impl Engine {
    /// Takes over what an earlier agent left in the maps. What contradicts itself is not believed: a number that comes
    /// twice belongs to the first, and a backend of an unknown service is to be removed.
    pub(super) fn adopt(&mut self, adopted: Adopted) {
        for found in adopted.services {
            let (id, address) = (found.id, found.address);
            if !self.pools.contains_key(&address) && self.service_ids.claim(id.get()) {
                let mut pool = Pool::new(id, address, self.seed, self.slot_count);
                pool.adopt(self.now, &found);
                self.pools.insert(address, pool);
            }
        }
        for found in adopted.backends {
            if !self.backend_ids.claim(found.id.get()) {
                continue;
            }
            let address = SocketAddr::new(found.address, found.port);
            let pool = self.pools.values_mut().find(|pool| pool.id == found.service);
            match pool.filter(|pool| !pool.backends.contains_key(&address)) {
                Some(pool) => {
                    pool.backends.insert(address, Backend::adopted(found.id, address, found.accepts_new));
                    if let Some(mut next_hop) = found.next_hop {
                        // Only some of the services that have this backend keep its source in the maps.
                        let known = self.neighbours.get(&found.address).and_then(|known| known.resolution.as_ref());
                        next_hop.source = next_hop.source.or(known.and_then(|known| known.as_ref().ok()?.source));
                        let neighbour = Neighbour { services: BTreeSet::new(), resolution: Some(Ok(next_hop)) };
                        self.neighbours.insert(found.address, neighbour);
                    }
                }
                None => {
                    self.strays.insert(found.id);
                }
            }
        }
    }

    pub(super) fn configure(&mut self, config: &Config, effects: &mut Vec<Effect>) {
        if let Err(reason) = self.check_capacity(config) {
            if self.lifecycle == Lifecycle::Created {
                self.change_lifecycle(Lifecycle::Error, &reason, effects);
            }
            effects.push(Effect::Rejected { reason });
            return;
        }
        if self.lifecycle == Lifecycle::Created {
            self.change_lifecycle(Lifecycle::Starting, "configured", effects);
            effects.extend(self.strays.iter().map(|&id| Effect::ForgetFlows(id)));
        }
        self.names.clear();
        for (position, service) in config.services.iter().enumerate() {
            self.configure_service(position, service);
        }
        let configured: BTreeSet<ServiceAddress> = self.names.values().copied().collect();
        for (address, pool) in &mut self.pools {
            if !configured.contains(address) {
                pool.remove();
            }
        }
        // An order about something that neither the maps nor the configuration know has no object any more.
        self.overrides_changed |= !self.saved.is_empty();
        self.saved.clear();
        self.touched.extend(self.pools.keys());
        self.watch_changed = true;
    }

    fn configure_service(&mut self, position: usize, service: &Service) {
        let address = address_of(service);
        if !self.pools.contains_key(&address) {
            let Some(id) = self.service_ids.take().and_then(ServiceId::new) else { return };
            self.pools.insert(address, Pool::new(id, address, self.seed, self.slot_count));
        }
        let Some(pool) = self.pools.get_mut(&address) else { return };
        self.names.insert(service.name.clone(), address);
        let ids = &mut self.backend_ids;
        pool.configure(self.now, position, service, |backend| {
            ids.take().and_then(BackendId::new).map(|id| Backend::new(id, backend))
        });
        for (backend, known) in &mut pool.backends {
            if let Some(holds) = self.saved.remove(&(address, *backend)) {
                known.restore(holds);
            }
        }
    }

    /// All of a configuration or nothing: numbers for all that is new must be there before anything changes.
    fn check_capacity(&self, config: &Config) -> Result<(), String> {
        let (mut services, mut backends) = (0, 0);
        for service in &config.services {
            let pool = self.pools.get(&address_of(service));
            services += usize::from(pool.is_none());
            backends += service
                .backends
                .iter()
                .map(|backend| SocketAddr::new(backend.address, backend.port))
                .filter(|address| pool.is_none_or(|pool| !pool.backends.contains_key(address)))
                .count();
        }
        let check = |what: &str, new: usize, free: usize, max: u16| {
            if new <= free {
                return Ok(());
            }
            Err(format!(
                "{new} new {what}s, but only {free} of {max} {what} numbers are free; configure fewer {what}s, \
                 or wait until removed ones have drained"
            ))
        };
        check("service", services, self.service_ids.available(), ServiceId::MAX)?;
        check("backend", backends, self.backend_ids.available(), BackendId::MAX)
    }
}
