//! What a policy is told: the kernel's counters of one service over one interval. The live agent fills it from maps, the simulator
//! from its backends. Nothing in it is trusted; [`super::safety`] looks at it first.

use lb_common::price::BUCKETS;

use crate::model::pool::ReportedLoad;

/// One interval of one service. Times are seconds since any moment that stays the same while the agent runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// When the interval ended.
    pub now: f64,
    /// How long it was.
    pub interval: f64,
    /// Whether requests and answers both pass here (`nat`, `snat`); otherwise only the opening of flows is seen.
    pub requests_visible: bool,
    /// In the order of the pool.
    pub backends: Vec<Seen>,
}

/// What the kernel counted of one backend in the interval, and how it stands at its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Health checks let it take new flows.
    pub up: bool,
    /// Requests without an answer now; where answers do not pass, open flows.
    pub in_flight: u32,
    /// Open flows now.
    pub open: u32,
    /// New flows that it was given.
    pub picks: u32,
    /// Resets before an answer, SYNs without one, time-outs.
    pub failures: u32,
    /// Answers (where they do not pass: ends of flows) by the occupancy that they left.
    pub departures: [u32; BUCKETS],
    /// Seconds spent at each occupancy.
    pub time_at: [f64; BUCKETS],
    /// Successful answers by the occupancy that their request met.
    pub answers: [u32; BUCKETS],
    /// Sum of ln(latency in seconds) of those.
    pub log_latency: [f64; BUCKETS],
    /// Sum of their latencies, seconds.
    pub latency: f64,
    /// What it said of itself, if it says anything.
    pub load: Option<ReportedLoad>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            up: true,
            in_flight: 0,
            open: 0,
            picks: 0,
            failures: 0,
            departures: [0; BUCKETS],
            time_at: [0.0; BUCKETS],
            answers: [0; BUCKETS],
            log_latency: [0.0; BUCKETS],
            latency: 0.0,
            load: None,
        }
    }
}

impl Seen {
    /// Successful answers.
    pub fn successes(&self) -> f64 {
        self.answers.iter().map(|count| f64::from(*count)).sum()
    }

    /// Requests that came to an end, one way or another.
    pub fn finished(&self) -> f64 {
        self.successes() + f64::from(self.failures)
    }

    /// Mean latency in seconds; none without successes.
    pub fn mean_latency(&self) -> Option<f64> {
        let count = self.successes();
        (count > 0.0).then(|| self.latency / count)
    }

    /// Reported CPU use from 0 to 1.
    pub fn cpu(&self) -> Option<f64> {
        let percent = self.load.as_ref()?.cpu_percent?;
        (percent.is_finite() && percent >= 0.0).then(|| (percent / 100.0).min(1.0))
    }

    /// Forgets the counters and keeps the state: what is left is true, and teaches nothing.
    pub(super) fn blank(&mut self) {
        *self = Self { up: self.up, in_flight: self.in_flight, open: self.open, ..Self::default() };
    }
}
