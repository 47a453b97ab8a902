//! What the agent shows: the JSON of the API and of `--json`, and the rows of the tables. Keys are stable.

use serde::{Deserialize, Serialize};

/// `GET /api/v1/status`, `lb-agent status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// Life cycle: created, starting, running, stopping, stopped or error.
    pub state: String,
    pub pid: u32,
    pub uptime_seconds: f64,
    pub config_generation: u64,
    pub config_file: Option<String>,
    pub attachments: Vec<Attachment>,
    pub flow_table: FlowTable,
    pub services: Vec<Service>,
    /// Packets that were ours and were dropped or passed on, by reason; only reasons that occurred.
    pub reasons: Vec<ReasonCount>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    pub interface: String,
    /// xdp or tc.
    pub hook: String,
    /// native or generic.
    pub mode: String,
    pub program_id: u32,
    /// Why this hook and mode.
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowTable {
    /// Entries that fit.
    pub capacity: u64,
    /// Entries in use.
    pub entries: u64,
    pub memory_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    /// `192.0.2.10:80/tcp`.
    pub address: String,
    pub forward: String,
    pub scheduler: String,
    pub tracking: String,
    /// All enabled backends are used because too few are healthy.
    pub panic: bool,
    pub slots: Slots,
    pub traffic: Traffic,
    pub backends: Vec<Backend>,
}

/// A service's slots by what they remember (ARCHITECTURE.md, "Just-enough tracking"). Where every flow is recorded, all are
/// tracked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// One backend has all of the slot's flows.
    pub stable: u32,
    /// It changed hands a short while ago.
    pub moving: u32,
    /// Some of its flows may still be on another backend.
    pub tracked: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    pub name: String,
    /// `10.0.1.11:8080`.
    pub address: String,
    /// up, down, checking, unresolved, draining, disabled.
    pub state: String,
    /// Why it is in this state.
    pub reason: String,
    pub weight: u16,
    /// Share of the service's slots, 0–1.
    pub slot_share: f64,
    pub active_flows: u64,
    /// Seconds since the state last changed.
    pub since_seconds: f64,
    /// Latency of the last probe, milliseconds.
    pub probe_ms: Option<f64>,
    /// From a client's SYN to the backend's answer, of the last seconds.
    pub handshake: Option<Latency>,
    /// From a request to the first byte of its answer, likewise.
    pub first_byte: Option<Latency>,
    pub traffic: Traffic,
}

/// Of sampled flows, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
}

/// Totals since the counters were made, and rates over the last second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
    pub new_flows: u64,
    pub packets_per_second: f64,
    pub bytes_per_second: f64,
    pub new_flows_per_second: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReasonCount {
    /// The name used in counters, CLI and documentation.
    pub reason: String,
    /// drop or pass.
    pub verdict: String,
    pub packets: u64,
}

/// One row of `lb-agent flow list`. The table keeps a hash, not addresses: this is all that is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    pub service: String,
    pub backend: String,
    /// half-open, answered, established, closing.
    pub state: String,
    pub idle_seconds: f64,
}

/// One row of `lb-agent flow count`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowCount {
    pub service: String,
    pub backend: String,
    pub flows: u64,
}

/// `POST /api/v1/config/reload`, `lb-agent reload --json`: what the reload did. Services are named.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReloadSummary {
    /// The generation now in force; as before when nothing changed.
    pub config_generation: u64,
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
    pub unchanged: Vec<String>,
}

/// `lb-agent flow route`: the answer of the loaded program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    pub service: Option<String>,
    pub backend: Option<String>,
    /// forward, drop or pass.
    pub verdict: String,
    /// Why: `flow-table`, `slot`, or the name of a reason.
    pub reason: String,
    pub slot: Option<u32>,
}

/// A problem in the sense of RFC 9457 (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    pub title: String,
    pub status: u16,
    pub detail: String,
}
