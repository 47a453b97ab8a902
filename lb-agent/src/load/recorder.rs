//! The accounts of a run: every finished request is entered once, and all figures come from here. Memory is bounded
//! whatever the server answers, and nothing here looks at a clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::options::LoadOptions;
use super::report::{BackendReport, ErrorCounts, ErrorKind, Latency, Quantile, Report, Second, Snapshot};

/// Names beyond these are counted together; a server that invents a name per answer costs no memory.
pub(super) const MAX_BACKENDS: usize = 1_000;
const MAX_NAME_CHARS: usize = 64;
const MAX_EXAMPLE_CHARS: usize = 200;
const UNNAMED: &str = "(unnamed)";
const OTHERS: &str = "(others)";
/// How much longer than the time-out a row of the timeline stays open for late results.
const ROW_GRACE_SECONDS: u64 = 2;

/// When a request was meant to be sent, was sent, and was done: offsets from the start of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) intended: Duration,
    pub(super) sent: Duration,
    pub(super) finished: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome<'a> {
    Answer { status: u16, backend: Option<&'a [u8]>, body_bytes: u64 },
    Failure { kind: ErrorKind, detail: Option<&'a str> },
}

/// What the generator knows at the end and the recorder does not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    pub(super) started_at_unix_ms: u64,
    pub(super) elapsed: Duration,
    pub(super) interrupted: bool,
    pub(super) unfinished: u64,
    pub(super) connections_opened: u64,
}

#[derive(Debug)]
pub(super) struct Recorder {
    requests: u64,
    ok: u64,
    errors: ErrorCounts,
    error_example: Option<String>,
    body_bytes: u64,
    statuses: BTreeMap<u16, u64>,
    latency: Latencies,
    service_time: Latencies,
    lag: Latencies,
    backends: HashMap<String, BackendAccount>,
    timeline: Timeline,
    since_snapshot: Latencies,
    last_snapshot: Duration,
}

#[derive(Debug)]
struct BackendAccount {
    ok: u64,
    errors: u64,
    latency: Latencies,
}

impl Recorder {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            requests: 0,
            ok: 0,
            errors: ErrorCounts::default(),
            error_example: None,
            body_bytes: 0,
            statuses: BTreeMap::new(),
            latency: Latencies::new(FINE),
            service_time: Latencies::new(FINE),
            lag: Latencies::new(FINE),
            backends: HashMap::new(),
            timeline: Timeline::new(timeout),
            since_snapshot: Latencies::new(COARSE),
            last_snapshot: Duration::ZERO,
        }
    }

    /// A request became due `lag` ago.
    pub(super) fn due(&mut self, lag: Duration) {
        self.lag.record(lag);
    }

    /// A request has its result.
    pub(super) fn record(&mut self, timing: Timing, outcome: Outcome<'_>) {
        let latency = timing.finished.saturating_sub(timing.intended);
        self.requests += 1;
        let success = match outcome {
            Outcome::Answer { status, backend, body_bytes } => {
                let success = status < 500;
                *self.statuses.entry(status).or_default() += 1;
                self.body_bytes = self.body_bytes.saturating_add(body_bytes);
                self.backend(backend).record(success.then_some(latency));
                if !success {
                    self.errors.add(ErrorKind::Status5xx);
                }
                success
            }
            Outcome::Failure { kind, detail } => {
                self.errors.add(kind);
                if kind == ErrorKind::Other && self.error_example.is_none() {
                    self.error_example = detail.map(|detail| printable(detail, MAX_EXAMPLE_CHARS));
                }
                false
            }
        };
        if success {
            self.ok += 1;
            self.latency.record(latency);
            self.since_snapshot.record(latency);
            self.service_time.record(timing.finished.saturating_sub(timing.sent));
        }
        self.timeline.record(timing.intended, success.then_some(latency));
    }

    fn backend(&mut self, header: Option<&[u8]>) -> &mut BackendAccount {
        let name = backend_name(header);
        let name =
            if self.backends.len() < MAX_BACKENDS || self.backends.contains_key(&*name) { name } else { OTHERS.into() };
        // Looked up twice, but only a new name is copied.
        if !self.backends.contains_key(&*name) {
            self.backends.insert(name.to_string(), BackendAccount::new());
        }
        self.backends.get_mut(&*name).expect("just inserted")
    }

    pub(super) fn snapshot(&mut self, elapsed: Duration, in_flight: u64, queued: u64) -> Snapshot {
        let interval = elapsed.saturating_sub(self.last_snapshot);
        let snapshot = Snapshot {
            elapsed_seconds: elapsed.as_secs_f64(),
            requests: self.requests,
            ok: self.ok,
            errors: self.errors.total(),
            in_flight,
            queued,
            requests_per_second: per_second(self.since_snapshot.count(), interval),
            p50_ms: self.since_snapshot.quantile(0.5),
            p99_ms: self.since_snapshot.quantile(0.99),
        };
        self.last_snapshot = elapsed;
        self.since_snapshot.clear();
        snapshot
    }

    pub(super) fn report(self, options: &LoadOptions, ending: Ending) -> Report {
        let answers: u64 = self.statuses.values().sum();
        let mut backends: Vec<BackendReport> =
            self.backends.into_iter().map(|(name, account)| account.report(name, answers)).collect();
        backends.sort_by(|a, b| a.name.cmp(&b.name));
        Report {
            url: options.target.to_string(),
            target_rate: options.rate,
            arrivals: options.arrivals,
            seed: options.seed,
            connections: options.connections,
            new_connections: options.new_connections,
            timeout_ms: u64::try_from(options.timeout.as_millis()).unwrap_or(u64::MAX),
            started_at_unix_ms: ending.started_at_unix_ms,
            elapsed_seconds: ending.elapsed.as_secs_f64(),
            interrupted: ending.interrupted,
            requests: self.requests,
            ok: self.ok,
            errors: self.errors.total(),
            unfinished: ending.unfinished,
            success_percent: (self.requests > 0).then(|| self.ok as f64 / self.requests as f64 * 100.0),
            requests_per_second: per_second(self.ok, ending.elapsed),
            body_bytes: self.body_bytes,
            connections_opened: ending.connections_opened,
            latency: self.latency.summary(),
            service_time: self.service_time.summary(),
            generator_lag: self.lag.summary(),
            errors_by_kind: self.errors,
            error_example: self.error_example,
            statuses: self.statuses,
            backends,
            timeline: self.timeline.finish(),
            distribution: self.latency.distribution(),
        }
    }
}

impl BackendAccount {
    fn new() -> Self {
        Self { ok: 0, errors: 0, latency: Latencies::new(COARSE) }
    }

    fn record(&mut self, latency: Option<Duration>) {
        match latency {
            Some(latency) => {
                self.ok += 1;
                self.latency.record(latency);
            }
            None => self.errors += 1,
        }
    }

    fn report(self, name: String, answers: u64) -> BackendReport {
        let requests = self.ok + self.errors;
        BackendReport {
            name,
            requests,
            ok: self.ok,
            errors: self.errors,
            share_percent: requests as f64 / answers.max(1) as f64 * 100.0,
            p50_ms: self.latency.quantile(0.5),
            p95_ms: self.latency.quantile(0.95),
            p99_ms: self.latency.quantile(0.99),
        }
    }
}

impl OpenRow {
    fn new() -> Self {
        Self { requests: 0, errors: 0, latency: Latencies::new(COARSE) }
    }
}

/// Rows by second. A row keeps a histogram only until no result for it can come any more, so that a day-long run
/// needs a few histograms and not 86,400.
#[derive(Debug)]
struct Timeline {
    closed: Vec<Second>,
    open: VecDeque<OpenRow>,
    keep_open: usize,
}

#[derive(Debug)]
struct OpenRow {
    requests: u64,
    errors: u64,
    latency: Latencies,
}

impl Timeline {
    fn new(timeout: Duration) -> Self {
        let seconds = timeout.as_secs().saturating_add(ROW_GRACE_SECONDS);
        let keep_open = usize::try_from(seconds).unwrap_or(usize::MAX);
        Self { closed: Vec::new(), open: VecDeque::new(), keep_open }
    }

    fn record(&mut self, intended: Duration, latency: Option<Duration>) {
        let second = usize::try_from(intended.as_secs()).unwrap_or(usize::MAX);
        while second >= self.closed.len() + self.keep_open {
            self.close_oldest();
        }
        let Some(index) = second.checked_sub(self.closed.len()) else {
            // Later than the time-out allows: the machine stood still. The counts stay right.
            self.closed[second].requests += 1;
            self.closed[second].errors += u64::from(latency.is_none());
            return;
        };
        while self.open.len() <= index {
            self.open.push_back(OpenRow::new());
        }
        let row = &mut self.open[index];
        row.requests += 1;
        match latency {
            Some(latency) => row.latency.record(latency),
            None => row.errors += 1,
        }
    }

    /// Closes the oldest open row, or writes down a second in which nothing was due.
    fn close_oldest(&mut self) {
        let row = self.open.pop_front().unwrap_or_else(OpenRow::new);
        self.closed.push(Second {
            second: self.closed.len() as u64,
            requests: row.requests,
            errors: row.errors,
            p50_ms: row.latency.quantile(0.5),
            p99_ms: row.latency.quantile(0.99),
        });
    }

    fn finish(mut self) -> Vec<Second> {
        while !self.open.is_empty() {
            self.close_oldest();
        }
        self.closed
    }
}

/// Significant digits: the whole run's figures are good to 0.1 %, those of single rows to 1 %.
const FINE: u8 = 3;
const COARSE: u8 = 2;
/// Nothing below half a microsecond is told apart; this is what keeps the histograms small.
const UNIT_NANOS: u64 = 1_000;
/// Bounds how far a histogram can grow; only a machine that slept can exceed it.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug)]
struct Latencies(Histogram<u64>);

impl Latencies {
    fn new(digits: u8) -> Self {
        let mut histogram =
            Histogram::new_with_bounds(UNIT_NANOS, 2 * UNIT_NANOS, digits).expect("the bounds are constants");
        histogram.auto(true);
        Self(histogram)
    }

    fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.min(LONGEST).as_nanos()).expect("a day fits");
        self.0.record(nanos).expect("the histogram grows as needed");
    }

    fn count(&self) -> u64 {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.reset();
    }

    fn quantile(&self, quantile: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.at(quantile))
    }

    fn at(&self, quantile: f64) -> f64 {
        millis(self.0.value_at_quantile(quantile) as f64)
    }

    fn summary(&self) -> Option<Latency> {
        (!self.0.is_empty()).then(|| Latency {
            mean_ms: millis(self.0.mean()),
            p50_ms: self.at(0.5),
            p90_ms: self.at(0.9),
            p95_ms: self.at(0.95),
            p99_ms: self.at(0.99),
            p999_ms: self.at(0.999),
            max_ms: millis(self.0.max() as f64),
        })
    }

    fn distribution(&self) -> Vec<Quantile> {
        const POINTS_PER_HALVING: u32 = 5;
        self.0
            .iter_quantiles(POINTS_PER_HALVING)
            .map(|step| Quantile {
                quantile: step.quantile_iterated_to(),
                latency_ms: millis(step.value_iterated_to() as f64),
            })
            .collect()
    }
}

/// Milliseconds to the microsecond: more digits would pretend a precision that nobody has.
fn millis(nanos: f64) -> f64 {
    (nanos / 1_000.0).round() / 1_000.0
}

fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// A header's value as a name that is short and safe to print. The usual value is returned without a copy.
fn backend_name(header: Option<&[u8]>) -> std::borrow::Cow<'_, str> {
    let Some(text) = header.and_then(|value| std::str::from_utf8(value).ok()).map(str::trim) else {
        return if header.is_some() { "(not text)".into() } else { UNNAMED.into() };
    };
    if text.is_empty() {
        UNNAMED.into()
    } else if text.len() <= MAX_NAME_CHARS && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        text.into()
    } else {
        printable(text, MAX_NAME_CHARS).into()
    }
}

/// Only what cannot disturb a terminal or a table: control, bidirectional and other odd characters become `?`.
fn printable(text: &str, max_chars: usize) -> String {
    text.chars().take(max_chars).map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
