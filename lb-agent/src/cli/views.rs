//! The columns of every list: which key each has in CSV and JSON, and which of them a table shows.

use super::table::{Column, Value};
use crate::model::view;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn optional(text: Option<&str>) -> Value {
    Value::Text(text.unwrap_or_default().to_owned())
}

/// A backend and the service it belongs to.
pub(super) struct BackendRow {
    pub(super) service: String,
    pub(super) backend: view::Backend,
}

pub(super) fn backend_rows(services: &[view::Service]) -> Vec<BackendRow> {
    services
        .iter()
        .flat_map(|service| service.backends.iter().map(|backend| (service.name.clone(), backend.clone())))
        .map(|(service, backend)| BackendRow { service, backend })
        .collect()
}

pub(super) const BACKEND: &[Column<BackendRow>] = &[
    Column::new("service", "SERVICE", |row| text(&row.service)),
    Column::new("backend", "BACKEND", |row| text(&row.backend.name)),
    Column::new("address", "ADDRESS", |row| text(&row.backend.address)),
    Column::new("state", "STATE", |row| Value::State(row.backend.state.clone())),
    Column::new("weight", "WEIGHT", |row| Value::Count(row.backend.weight.into())),
    Column::new("slot_share", "SHARE", |row| Value::Share(row.backend.slot_share)),
    Column::new("active_flows", "FLOWS", |row| Value::Count(row.backend.active_flows)),
    Column::new("new_flows_per_second", "NEW/S", |row| Value::Rate(row.backend.traffic.new_flows_per_second)),
    Column::new("packets_per_second", "PKT/S", |row| Value::Rate(row.backend.traffic.packets_per_second)),
    Column::exact("bytes_per_second", |row| Value::Rate(row.backend.traffic.bytes_per_second)),
    Column::exact("packets", |row| Value::Count(row.backend.traffic.packets)),
    Column::exact("bytes", |row| Value::Count(row.backend.traffic.bytes)),
    Column::exact("reply_packets", |row| Value::Count(row.backend.traffic.reply_packets)),
    Column::exact("reply_bytes", |row| Value::Count(row.backend.traffic.reply_bytes)),
    Column::exact("new_flows", |row| Value::Count(row.backend.traffic.new_flows)),
    Column::exact("probe_ms", |row| Value::Millis(row.backend.probe_ms)),
    Column::new("first_byte_p50_ms", "P50", |row| Value::Millis(row.backend.first_byte.map(|latency| latency.p50_ms))),
    Column::new("first_byte_p99_ms", "P99", |row| Value::Millis(row.backend.first_byte.map(|latency| latency.p99_ms))),
    Column::exact("handshake_p50_ms", |row| Value::Millis(row.backend.handshake.map(|latency| latency.p50_ms))),
    Column::exact("handshake_p99_ms", |row| Value::Millis(row.backend.handshake.map(|latency| latency.p99_ms))),
    Column::new("since_seconds", "SINCE", |row| Value::Age(row.backend.since_seconds)),
    Column::new("reason", "REASON", |row| text(&row.backend.reason)),
];

/// What a table of backends leaves out where its service is named above it.
pub(super) const UNDER_SERVICE: &[&str] = &["service"];
/// The same on one screen with other services.
pub(super) const ON_SCREEN: &[&str] = &["service", "address"];
/// The same where there is room for neither addresses nor reasons; what matters of them is said below.
pub(super) const ON_NARROW_SCREEN: &[&str] = &["service", "address", "reason", "first_byte_p50_ms"];
/// What the lists leave out on a narrow terminal; `service show` has it.
pub(super) const NARROW_BACKENDS: &[&str] = &["address", "reason", "first_byte_p50_ms"];
pub(super) const NARROW_SERVICES: &[&str] = &["forward", "scheduler", "tracking"];

fn backends_up(service: &view::Service) -> usize {
    service.backends.iter().filter(|backend| backend.state == "up").count()
}

pub(super) const SERVICE: &[Column<view::Service>] = &[
    Column::new("name", "SERVICE", |service| text(&service.name)),
    Column::new("address", "ADDRESS", |service| text(&service.address)),
    Column::new("forward", "FORWARD", |service| text(&service.forward)),
    Column::new("scheduler", "SCHEDULER", |service| text(&service.scheduler)),
    Column::new("tracking", "TRACKING", |service| text(&service.tracking)),
    Column::new("backends_up", "UP", |service| Value::Count(backends_up(service) as u64)),
    Column::new("backends", "OF", |service| Value::Count(service.backends.len() as u64)),
    Column::new("panic", "PANIC", |service| Value::Flag(service.panic)),
    Column::new("active_flows", "FLOWS", |service| Value::Count(active_flows(service))),
    Column::new("new_flows_per_second", "NEW/S", |service| Value::Rate(service.traffic.new_flows_per_second)),
    Column::new("packets_per_second", "PKT/S", |service| Value::Rate(service.traffic.packets_per_second)),
    Column::exact("bytes_per_second", |service| Value::Rate(service.traffic.bytes_per_second)),
    Column::exact("packets", |service| Value::Count(service.traffic.packets)),
    Column::exact("bytes", |service| Value::Count(service.traffic.bytes)),
    Column::exact("reply_packets", |service| Value::Count(service.traffic.reply_packets)),
    Column::exact("reply_bytes", |service| Value::Count(service.traffic.reply_bytes)),
    Column::exact("new_flows", |service| Value::Count(service.traffic.new_flows)),
];

pub(super) fn active_flows(service: &view::Service) -> u64 {
    service.backends.iter().fold(0, |sum, backend| sum.saturating_add(backend.active_flows))
}

pub(super) const FLOW: &[Column<view::Flow>] = &[
    Column::new("service", "SERVICE", |flow| text(&flow.service)),
    Column::new("backend", "BACKEND", |flow| text(&flow.backend)),
    Column::new("state", "STATE", |flow| Value::State(flow.state.clone())),
    Column::new("idle_seconds", "IDLE", |flow| Value::Age(flow.idle_seconds)),
];

pub(super) const FLOW_COUNT: &[Column<view::FlowCount>] = &[
    Column::new("service", "SERVICE", |count| text(&count.service)),
    Column::new("backend", "BACKEND", |count| text(&count.backend)),
    Column::new("flows", "FLOWS", |count| Value::Count(count.flows)),
];

pub(super) const ROUTE: &[Column<view::Route>] = &[
    Column::new("service", "SERVICE", |route| optional(route.service.as_deref())),
    Column::new("backend", "BACKEND", |route| optional(route.backend.as_deref())),
    Column::new("verdict", "VERDICT", |route| Value::State(route.verdict.clone())),
    Column::new("reason", "REASON", |route| text(&route.reason)),
    // A name, not a quantity: never rounded.
    Column::new("slot", "SLOT", |route| Value::Text(route.slot.map(|slot| slot.to_string()).unwrap_or_default())),
];

pub(super) const REASON: &[Column<view::ReasonCount>] = &[
    Column::new("reason", "REASON", |count| text(&count.reason)),
    Column::new("verdict", "VERDICT", |count| Value::State(count.verdict.clone())),
    Column::new("packets", "PACKETS", |count| Value::Count(count.packets)),
];
