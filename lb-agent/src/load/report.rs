//! What a run of the generator says at its end, and in between. These types are the JSON of `lb-agent load --json`;
//! their keys are stable, and every latency is in milliseconds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::arrivals::Arrivals;

/// The result of one run.
///
/// `requests` = `ok` + `errors`, and the sums over `timeline` are the same. `ok` + `errors_by_kind.status_5xx` are
/// the requests that were answered; the sums over `backends` and over `statuses` are those.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub url: String,
    /// Requests per second that were asked for.
    pub target_rate: f64,
    pub arrivals: Arrivals,
    pub seed: u64,
    /// Upper bound on concurrent connections.
    pub connections: u32,
    /// A connection per request.
    pub new_connections: bool,
    pub timeout_ms: u64,
    /// Wall-clock time of the first intended send, to set the timeline beside other logs.
    pub started_at_unix_ms: u64,
    /// From the start to the end of the schedule or to the last answer, whichever is later.
    pub elapsed_seconds: f64,
    /// The run was stopped before its schedule was complete.
    pub interrupted: bool,
    /// Requests with a result.
    pub requests: u64,
    /// Answered with a status below 500.
    pub ok: u64,
    pub errors: u64,
    /// Requests that waited or were under way when the run was interrupted; they are in no other figure.
    pub unfinished: u64,
    /// Null if there was no request.
    pub success_percent: Option<f64>,
    /// Successful requests per second of `elapsed_seconds`.
    pub requests_per_second: f64,
    /// Bytes of response bodies.
    pub body_bytes: u64,
    /// Connections that were established.
    pub connections_opened: u64,
    /// Of successful requests, from the intended send time to the end of the body; null if there was none.
    pub latency: Option<Latency>,
    /// The same requests from when they were really sent (or began to connect): without the wait for a connection.
    pub service_time: Option<Latency>,
    /// How late the generator itself was. Where it comes near `latency`, the generator was the bottleneck.
    pub generator_lag: Option<Latency>,
    pub errors_by_kind: ErrorCounts,
    /// The text of the first error that was counted as `other`.
    pub error_example: Option<String>,
    /// Answers by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers by backend, sorted by name; at most 1,000 and one for all others.
    pub backends: Vec<BackendReport>,
    /// One row for each second of the schedule; a request belongs to the second of its intended send time.
    pub timeline: Vec<Second>,
    /// The distribution of `latency`, finer towards the tail.
    pub distribution: Vec<Quantile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

/// Why requests failed; every error is in exactly one of these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCounts {
    /// Nothing listens there.
    pub refused: u64,
    /// The connection was closed or reset before the answer was complete.
    pub reset: u64,
    /// No complete answer within the time-out, wherever the time went.
    pub timeout: u64,
    /// An answer, with a status of 500 or above.
    pub status_5xx: u64,
    /// All connections were busy and too many requests were waiting already.
    pub queue_full: u64,
    /// Unreachable, not HTTP, too large: see `error_example`.
    pub other: u64,
}

/// One kind of [`ErrorCounts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    Refused,
    Reset,
    Timeout,
    Status5xx,
    QueueFull,
    Other,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendReport {
    /// From the response header `X-Backend`, else `Server`, else `(unnamed)`.
    pub name: String,
    pub requests: u64,
    pub ok: u64,
    pub errors: u64,
    /// Of all answers.
    pub share_percent: f64,
    /// Latency of successes; null if there was none.
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Since the start, from 0.
    pub second: u64,
    pub requests: u64,
    pub errors: u64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantile {
    /// 0 to 1.
    pub quantile: f64,
    pub latency_ms: f64,
}

/// What is known while a run goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub elapsed_seconds: f64,
    /// Since the start, as in [`Report`].
    pub requests: u64,
    pub ok: u64,
    pub errors: u64,
    /// Being answered now.
    pub in_flight: u64,
    /// Waiting for a connection now.
    pub queued: u64,
    /// Since the snapshot before this one: successes per second, and their latency.
    pub requests_per_second: f64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

impl Report {
    /// Share of requests that failed; 0 if there was none.
    pub fn error_percent(&self) -> f64 {
        self.success_percent.map_or(0.0, |_| self.errors as f64 / self.requests.max(1) as f64 * 100.0)
    }
}

impl ErrorCounts {
    pub(super) fn add(&mut self, kind: ErrorKind) {
        *match kind {
            ErrorKind::Refused => &mut self.refused,
            ErrorKind::Reset => &mut self.reset,
            ErrorKind::Timeout => &mut self.timeout,
            ErrorKind::Status5xx => &mut self.status_5xx,
            ErrorKind::QueueFull => &mut self.queue_full,
            ErrorKind::Other => &mut self.other,
        } += 1;
    }

    /// Names as they stand in JSON, with their counts.
    pub fn entries(&self) -> [(&'static str, u64); 6] {
        [
            ("refused", self.refused),
            ("reset", self.reset),
            ("timeout", self.timeout),
            ("status_5xx", self.status_5xx),
            ("queue_full", self.queue_full),
            ("other", self.other),
        ]
    }

    pub fn total(&self) -> u64 {
        self.entries().iter().map(|(_, count)| count).sum()
    }
}
