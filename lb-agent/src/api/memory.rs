//! An agent in memory for tests: fixed figures, and a record of what was asked of it.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;

use super::control::{Control, ControlError, FlowFilter, RouteQuery};
use crate::model::admin::Action;
use crate::model::config::Protocol;
use crate::model::pool::BackendKey;
use crate::model::view;

#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) not_ready: Option<String>,
    pub(crate) reload_fails: Option<ControlError>,
    /// Rings when `status` begins.
    pub(crate) status_asked: Notify,
    /// How long `status` takes.
    pub(crate) delay: Duration,
    /// Bytes of padding in the metrics.
    pub(crate) metrics_padding: usize,
}

impl Memory {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

impl Control for Memory {
    async fn status(&self) -> view::Status {
        self.status_asked.notify_one();
        tokio::time::sleep(self.delay).await;
        status()
    }

    async fn service(&self, name: &str) -> Option<view::Service> {
        status().services.into_iter().find(|service| service.name == name)
    }

    async fn admin(&self, key: BackendKey, action: Action) -> Result<view::Backend, ControlError> {
        let service = self.service(&key.service).await.ok_or(ControlError::UnknownService(key.service.clone()))?;
        let backend = service.backends.into_iter().find(|backend| backend.name == key.backend);
        let mut backend = backend.ok_or(ControlError::UnknownBackend(key.clone()))?;
        self.note(format!("{key} {action:?}"));
        match action {
            Action::Weight { weight, .. } => backend.weight = weight,
            Action::Drain { .. } => backend.state = "draining".into(),
            Action::Disable { .. } => backend.state = "disabled".into(),
            Action::Undrain => return Err(ControlError::Conflict(format!("{key} is not draining"))),
            Action::Enable => {}
        }
        Ok(backend)
    }

    async fn flows(&self, filter: FlowFilter) -> Result<Vec<view::Flow>, ControlError> {
        self.note(format!("{filter:?}"));
        if let Some(service) = filter.service.filter(|name| name != "web") {
            return Err(ControlError::UnknownService(service));
        }
        let flow = |backend: &str, state: &str, idle_seconds| view::Flow {
            service: "web".into(),
            backend: backend.into(),
            state: state.into(),
            idle_seconds,
        };
        let flows = [flow("b1", "established", 0.25), flow("b2", "half-open", 12.0)];
        let wanted = |flow: &view::Flow| filter.backend.as_ref().is_none_or(|name| *name == flow.backend);
        Ok(flows.into_iter().filter(wanted).take(filter.limit).collect())
    }

    async fn flow_counts(&self) -> Result<Vec<view::FlowCount>, ControlError> {
        let count = |backend: &str, flows| view::FlowCount { service: "web".into(), backend: backend.into(), flows };
        Ok(vec![count("b1", 1_234_567), count("b2", 0)])
    }

    async fn route(&self, query: RouteQuery) -> Result<view::Route, ControlError> {
        self.note(format!("{query:?}"));
        Ok(if query.protocol == Protocol::Tcp {
            view::Route {
                service: Some("web".into()),
                backend: Some("b1".into()),
                verdict: "forward".into(),
                reason: "slot".into(),
                slot: Some(4711),
            }
        } else {
            view::Route {
                service: None,
                backend: None,
                verdict: "pass".into(),
                reason: "no_service".into(),
                slot: None,
            }
        })
    }

    async fn reload(&self) -> Result<view::ReloadSummary, ControlError> {
        self.note("reload".into());
        match &self.reload_fails {
            Some(error) => Err(error.clone()),
            None => Ok(view::ReloadSummary {
                config_generation: 4,
                added: vec!["dns".into()],
                changed: vec!["web".into(), "mail".into()],
                ..Default::default()
            }),
        }
    }

    async fn metrics(&self) -> String {
        format!("# {}\nlb_packets_total 5\n", "x".repeat(self.metrics_padding))
    }

    async fn ready(&self) -> Result<(), String> {
        self.not_ready.clone().map_or(Ok(()), Err)
    }
}

fn backend(name: &str, state: &str, reason: &str) -> view::Backend {
    view::Backend {
        name: name.into(),
        address: "10.0.1.11:8080".into(),
        state: state.into(),
        reason: reason.into(),
        weight: 1,
        slot_share: 0.3333,
        active_flows: 1_200,
        since_seconds: 7_505.0,
        probe_ms: Some(1.234),
        handshake: None,
        first_byte: Some(view::Latency { p50_ms: 2.5, p95_ms: 7.25, p99_ms: 9.5 }),
        traffic: view::Traffic {
            packets: 12_345_678,
            bytes: 9_876_543_210,
            reply_packets: 11_000_000,
            reply_bytes: 99_000_000_000,
            new_flows: 54_321,
            packets_per_second: 15_432.1,
            bytes_per_second: 12_345_678.0,
            new_flows_per_second: 67.8,
        },
    }
}

/// A status with something of everything, hostile text included.
pub(crate) fn status() -> view::Status {
    let web = view::Service {
        name: "web".into(),
        address: "192.0.2.10:80/tcp".into(),
        forward: "nat".into(),
        scheduler: "consistent".into(),
        tracking: "full".into(),
        panic: false,
        slots: view::Slots { tracked: 65_537, ..view::Slots::default() },
        traffic: backend("", "", "").traffic,
        backends: vec![
            backend("b1", "up", "probes succeed"),
            view::Backend { slot_share: 0.0, probe_ms: None, ..backend("b2", "down", "connection refused") },
            view::Backend { weight: 1000, since_seconds: 3.2, ..backend("b3", "draining", "asked for by an operator") },
        ],
    };
    let dns = view::Service {
        name: "dns".into(),
        address: "[2001:db8::1]:53/udp".into(),
        panic: true,
        slots: view::Slots { tracked: 65_537, ..view::Slots::default() },
        traffic: view::Traffic::default(),
        backends: vec![view::Backend {
            address: "[2001:db8::53]:5353".into(),
            active_flows: 0,
            traffic: view::Traffic::default(),
            ..backend("[2001:db8::53]:5353", "down", "said \u{1b}[31m\"no\", twice\r\n\u{202e}and left")
        }],
        ..web.clone()
    };
    view::Status {
        version: "0.1.0".into(),
        state: "running".into(),
        pid: 4242,
        uptime_seconds: 93_784.0,
        config_generation: 3,
        config_file: Some("/etc/lb/lb.yaml".into()),
        attachments: vec![
            view::Attachment {
                interface: "eth0".into(),
                hook: "xdp".into(),
                mode: "native".into(),
                program_id: 77,
                reason: "the driver ixgbe has native XDP and frames are frames".into(),
            },
            view::Attachment {
                interface: "eth1".into(),
                hook: "xdp".into(),
                mode: "generic".into(),
                program_id: 78,
                reason: "asked for".into(),
            },
        ],
        flow_table: view::FlowTable { capacity: 1_048_576, entries: 12_345, memory_bytes: 8 << 20 },
        services: vec![web, dns],
        reasons: vec![
            view::ReasonCount { reason: "no_backend".into(), verdict: "drop".into(), packets: 12 },
            view::ReasonCount { reason: "fragment".into(), verdict: "pass".into(), packets: 34_567 },
        ],
    }
}
