//! Answers to the API's questions, and its orders.

use std::collections::BTreeMap;

use lb_common::latency::Kind;
use lb_common::limits::SLOTS;
use lb_common::mode::ServiceMode;
use lb_common::reason::Outcome;
use lb_common::route::Route;

use super::agent::Agent;
use super::requests::Request;
use super::{RunError, Source, traffic};
use crate::api::{ControlError, FlowFilter, RouteQuery};
use crate::config;
use crate::dataplane::kernel::{Packet, flow_hash};
use crate::engine::{AdminAction, AdminCommand, AdminError, Event, ServiceStatus};
use crate::model::admin::Action;
use crate::model::config::{Affinity, Config, Scheduler, Service};
use crate::model::pool::BackendKey;
use crate::model::view;
use crate::os::links;

impl Agent {
    pub(super) async fn answer(&mut self, request: Request) {
        // Whoever asked may have gone; then the answer is for nobody.
        match request {
            Request::Status(answer) => drop(answer.send(self.status())),
            Request::Admin(key, action, answer) => drop(answer.send(self.admin(key, action))),
            Request::Flows(filter, answer) => drop(answer.send(self.flows(&filter))),
            Request::Route(query, answer) => drop(answer.send(self.route(query))),
            Request::Reload(answer) => {
                let result = self.reload().await;
                drop(answer.send(result));
            }
            Request::Metrics(answer) => drop(answer.send(super::metrics::text(self))),
        }
    }

    /// The engine's services with their traffic.
    pub(super) fn services(&self) -> Vec<ServiceStatus> {
        let mut services = self.engine.services(self.now());
        for service in &mut services {
            for (backend, id) in service.view.backends.iter_mut().zip(&service.backend_ids) {
                backend.traffic = self.meter.traffic(id.get());
                backend.handshake = self.latencies.recent(id.get(), Kind::Handshake);
                backend.first_byte = self.latencies.recent(id.get(), Kind::FirstByte);
            }
            service.view.traffic = traffic::sum(service.view.backends.iter().map(|backend| backend.traffic));
        }
        services
    }

    pub(super) fn status(&self) -> view::Status {
        let reasons =
            self.kernel.reasons().unwrap_or_default().into_iter().map(|(reason, packets)| view::ReasonCount {
                reason: reason.name().to_owned(),
                verdict: match reason.outcome() {
                    Outcome::Drop => "drop".to_owned(),
                    Outcome::Pass => "pass".to_owned(),
                },
                packets,
            });
        let capacity = u64::from(self.kernel.flow_entries());
        view::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.engine.lifecycle().as_str().to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.now().as_secs_f64(),
            config_generation: self.generation,
            config_file: match &self.source {
                Source::File(path) => Some(path.display().to_string()),
                Source::Flags => None,
            },
            attachments: self.attachments.values().cloned().collect(),
            flow_table: view::FlowTable { capacity, entries: self.flow_entries, memory_bytes: capacity * 8 },
            services: self.services().into_iter().map(|service| service.view).collect(),
            reasons: reasons.collect(),
        }
    }

    fn admin(&mut self, key: BackendKey, action: Action) -> Result<view::Backend, ControlError> {
        let action = match action {
            Action::Drain { undo_after } => AdminAction::Drain { undo_after },
            Action::Undrain => AdminAction::Undrain,
            Action::Weight { weight, undo_after } => AdminAction::SetWeight { weight, undo_after },
            Action::Enable => AdminAction::Enable,
            Action::Disable { undo_after } => AdminAction::Disable { undo_after },
        };
        tracing::info!(backend = %key, ?action, "ordered");
        let command = AdminCommand { key: key.clone(), action };
        let effects = self.engine.admin(self.now(), command).map_err(refused)?;
        self.apply_all(effects).map_err(internal)?;
        let service = self.services().into_iter().find(|service| service.view.name == key.service);
        let backend = service.and_then(|service| service.view.backends.into_iter().find(|b| b.name == key.backend));
        backend.ok_or(ControlError::UnknownBackend(key))
    }

    /// Names by the number that the flow table holds.
    fn names(&self) -> BTreeMap<u16, (String, String)> {
        let services = self.services().into_iter().flat_map(|service| {
            let name = service.view.name;
            let ids = service.backend_ids.into_iter().map(|id| id.get());
            ids.zip(service.view.backends).map(move |(id, backend)| (id, (name.clone(), backend.name)))
        });
        services.collect()
    }

    fn flows(&self, filter: &FlowFilter) -> Result<Vec<view::Flow>, ControlError> {
        let mut names = self.names();
        if let Some(service) = &filter.service {
            names.retain(|_, (name, _)| name == service);
            if names.is_empty() {
                return Err(ControlError::UnknownService(service.clone()));
            }
            if let Some(backend) = &filter.backend {
                names.retain(|_, (_, name)| name == backend);
                if names.is_empty() {
                    let key = BackendKey { service: service.clone(), backend: backend.clone() };
                    return Err(ControlError::UnknownBackend(key));
                }
            }
        }
        let rows = self.kernel.flow_rows(filter.limit, |id| names.contains_key(&id)).map_err(internal)?;
        let named = rows.into_iter().filter_map(|row| {
            let (service, backend) = names.get(&row.backend)?.clone();
            let state = row.state.name().to_owned();
            Some(view::Flow { service, backend, state, idle_seconds: row.idle_seconds })
        });
        Ok(named.collect())
    }

    fn route(&self, query: RouteQuery) -> Result<view::Route, ControlError> {
        let packet = Packet { protocol: query.protocol, source: query.source, destination: query.destination };
        let route = self.kernel.route(packet).map_err(internal)?.unwrap_or(Route::NotOurs);
        let names = self.names();
        let slot = self.slot_of(packet);
        let to = |backend: u16, reason: &str, slot| {
            let (service, name) = names.get(&backend).cloned().unzip();
            view::Route { service, backend: name, verdict: "forward".into(), reason: reason.into(), slot }
        };
        let nowhere = |verdict: &str, reason: &str| view::Route {
            service: None,
            backend: None,
            verdict: verdict.into(),
            reason: reason.into(),
            slot: None,
        };
        Ok(match route {
            Route::NotOurs => nowhere("pass", "not-ours"),
            Route::Remembered { backend } => to(backend, "flow-table", slot),
            Route::Chosen { backend } => to(backend, self.scheduler_of(packet), slot),
            Route::Undetermined { .. } => view::Route {
                service: self.service_of(packet).map(|service| service.name.clone()),
                ..nowhere("forward", self.scheduler_of(packet))
            },
            Route::Refused(reason) => match reason.outcome() {
                Outcome::Drop => nowhere("drop", reason.name()),
                Outcome::Pass => nowhere("pass", reason.name()),
            },
        })
    }

    /// The configured service that the packet is for.
    fn service_of(&self, packet: Packet) -> Option<&Service> {
        let address = |service: &Service| (std::net::SocketAddr::new(service.vip, service.port), service.protocol);
        self.config.services.iter().find(|service| address(service) == (packet.destination, packet.protocol))
    }

    /// Why a flow that nobody remembers gets its backend.
    fn scheduler_of(&self, packet: Packet) -> &'static str {
        match self.service_of(packet).map_or(Scheduler::Consistent, |service| service.scheduler) {
            Scheduler::Consistent => "slot",
            other => other.as_str(),
        }
    }

    fn slot_of(&self, packet: Packet) -> Option<u32> {
        let affine = self.service_of(packet).is_some_and(|service| service.affinity == Affinity::ClientIp);
        let mode = ServiceMode::default().with_client_affinity(affine);
        flow_hash(&self.kernel.hash_key(), mode, packet).map(|hash| hash.slot(SLOTS))
    }

    pub(super) async fn reload_on_signal(&mut self) {
        match self.reload().await {
            Ok(summary) => tracing::info!(?summary, "reloaded"),
            Err(error) => tracing::error!(%error, "not reloaded, nothing changed"),
        }
    }

    /// Reads the file again and applies all of it, or nothing.
    async fn reload(&mut self) -> Result<view::ReloadSummary, ControlError> {
        let Source::File(path) = &self.source else {
            return Err(ControlError::Conflict("the agent was started without a file; start it with -c FILE".into()));
        };
        let new = config::load(path).map_err(|errors| ControlError::InvalidConfig(errors.to_string()))?;
        self.check_change(&new)?;
        let mut summary = compare(&self.config, &new);
        if new == self.config {
            summary.config_generation = self.generation;
            return Ok(summary);
        }
        let fits = super::interfaces::examine(&new).await.map_err(|error| ControlError::Conflict(error.to_string()))?;
        let before: Vec<String> = self.attachments.keys().cloned().collect();
        for fit in fits.into_iter().filter(|fit| !before.contains(&fit.link.name)) {
            if let Err(error) = self.attach(fit) {
                self.detach_all_but(&before).await;
                return Err(ControlError::Conflict(error.to_string()));
            }
        }
        let effects = self.engine.handle(self.now(), Event::Configured(new.clone()));
        if let Some(reason) = super::apply::rejection(&effects) {
            self.detach_all_but(&before).await;
            return Err(ControlError::InvalidConfig(reason));
        }
        self.apply_all(effects).map_err(internal)?;
        self.config = new;
        self.detach_all_but(&self.config.interfaces.clone()).await;
        self.generation += 1;
        summary.config_generation = self.generation;
        Ok(summary)
    }

    /// What a running agent cannot change.
    fn check_change(&self, new: &Config) -> Result<(), ControlError> {
        let old = &self.config;
        let fixed = [
            ("flow_table", old.flow_table != new.flow_table),
            ("snat.ports", old.snat.ports != new.snat.ports),
            ("pin_dir", old.pin_dir != new.pin_dir),
            ("state_dir", old.state_dir != new.state_dir),
            ("api", old.api != new.api),
            ("hook", old.hook != new.hook),
            ("xdp_mode", old.xdp_mode != new.xdp_mode),
        ];
        if let Some((key, _)) = fixed.into_iter().find(|(_, changed)| *changed) {
            return Err(ControlError::Conflict(format!(
                "{key} cannot change while the agent runs; set it back, or restart the agent"
            )));
        }
        let needed: usize = new.services.iter().map(|service| service.backends.len()).sum();
        let capacity = self.kernel.backend_capacity() as usize;
        if needed >= capacity {
            return Err(ControlError::Conflict(format!(
                "{needed} backends do not fit into the running data plane, which holds {}; \
                 to make a larger one (connections lose their place): stop the agent, lb-agent unload, start it again",
                capacity - 1
            )));
        }
        Ok(())
    }

    async fn detach_all_but(&mut self, wanted: &[String]) {
        let unwanted: Vec<String> = self.attachments.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in unwanted {
            self.attachments.remove(&name);
            // An interface that is gone has taken its attachment along.
            let Ok(link) = links::by_name(&name).await else { continue };
            match self.kernel.detach_everywhere(link.index) {
                Ok(()) => tracing::info!(interface = %name, "detached"),
                Err(error) => tracing::error!(interface = %name, %error, "cannot detach"),
            }
        }
    }
}

/// What a reload does, by service.
fn compare(old: &Config, new: &Config) -> view::ReloadSummary {
    let mut summary = view::ReloadSummary::default();
    for service in &new.services {
        let list = match old.services.iter().find(|before| before.address() == service.address()) {
            None => &mut summary.added,
            Some(before) if before == service => &mut summary.unchanged,
            Some(_) => &mut summary.changed,
        };
        list.push(service.name.clone());
    }
    let gone = old.services.iter().filter(|before| new.services.iter().all(|now| now.address() != before.address()));
    summary.removed = gone.map(|service| service.name.clone()).collect();
    summary
}

fn refused(error: AdminError) -> ControlError {
    match error {
        AdminError::UnknownService(name) => ControlError::UnknownService(name),
        AdminError::UnknownBackend(key) => ControlError::UnknownBackend(key),
        AdminError::NotServing(_) => ControlError::Unavailable(error.to_string()),
        AdminError::WeightTooLarge(_) | AdminError::NoTime => ControlError::Conflict(error.to_string()),
    }
}

fn internal(error: impl Into<RunError>) -> ControlError {
    ControlError::Internal(error.into().to_string())
}
