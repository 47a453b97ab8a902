//! What a policy decides: how the kernel chooses for a new flow, and by which numbers. All of it is plain data that maps can hold.

use lb_common::price::{BUCKETS, Prices, Terms, UNITS_PER_SECOND};
use serde::{Deserialize, Serialize};

/// What the kernel does for a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chooser {
    /// A draw by weights: the slot table.
    Draw,
    /// Smooth weighted round robin.
    RoundRobin,
    /// The fewest in flight for its weight, of all.
    LeastConnections,
    /// The same, of two drawn by chance.
    TwoChoices,
    /// Of two, the lower product of peak-sensitive latency and occupancy (Finagle).
    PeakEwma,
    /// Prequal (NSDI 2024): probes of requests in flight and latency, hot ones avoided.
    Prequal,
    /// The cheapest price at its occupancy: of all in a small pool, else of four from the slot table.
    Price,
}

/// What is written for one backend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackendPlan {
    /// Relative; the mean of a pool is 1.
    pub weight: f64,
    /// Whether it takes new flows at all.
    pub eligible: bool,
    /// Seconds that one more flow costs, at the lower edge of each bucket of occupancy.
    pub prices: [f64; BUCKETS],
    /// Silence in seconds after which it is passed over; 0: never.
    pub stall: f64,
    /// Requests in flight that an open flow stands for; 0: those in flight are counted.
    pub duty: f64,
    /// Answers quicker than this many seconds are suspicious in a run; 0: none is.
    pub quick: f64,
}

impl Default for BackendPlan {
    fn default() -> Self {
        Self { weight: 1.0, eligible: true, prices: [0.01; BUCKETS], stall: 0.0, duty: 0.0, quick: 0.0 }
    }
}

/// The lowest and highest price that a table holds, seconds.
pub const PRICE_RANGE: std::ops::RangeInclusive<f64> = 1e-6..=200.0;
/// The shortest and longest silence that passes a backend over, seconds.
pub const STALL_RANGE: std::ops::RangeInclusive<f64> = 0.02..=60.0;

impl BackendPlan {
    /// The prices as the kernel's table has them.
    pub fn encoded_prices(&self) -> Prices {
        let encode = |price: f64| {
            // A price that is no number is the dearest: it must not attract.
            let price = if price.is_nan() { *PRICE_RANGE.end() } else { price };
            (price.clamp(*PRICE_RANGE.start(), *PRICE_RANGE.end()) * f64::from(UNITS_PER_SECOND)) as u32
        };
        Prices(self.prices.map(encode))
    }

    /// Everything else; `trip` as in [`Plan::trip`].
    pub fn encoded_terms(&self, trip: u32) -> Terms {
        let stall_ms = if self.stall > 0.0 { (self.stall * 1e3).ceil() as u32 } else { 0 };
        let duty = if self.duty > 0.0 { ((self.duty * 65_536.0) as u32).clamp(1, 1 << 18) } else { 0 };
        let quick_us = if self.quick > 0.0 { (self.quick * 1e6) as u32 } else { 0 };
        Terms { stall_ms, trip, duty, quick_us }
    }
}

/// A decision for one service.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub chooser: Chooser,
    /// After so many failures in a row the kernel passes a backend over; 0: never.
    pub trip: u32,
    /// Whether weights were learned; otherwise those that are configured hold.
    pub learned: bool,
    /// In the order of the pool.
    pub backends: Vec<BackendPlan>,
}

impl Plan {
    /// Configured weights, the same terms for all.
    pub fn even(chooser: Chooser, backends: usize) -> Self {
        Self { chooser, trip: 0, learned: false, backends: vec![BackendPlan::default(); backends] }
    }

    pub fn with_weights(chooser: Chooser, weights: impl IntoIterator<Item = f64>) -> Self {
        let backends = weights.into_iter().map(|weight| BackendPlan { weight, ..BackendPlan::default() }).collect();
        Self { chooser, trip: 0, learned: true, backends }
    }

    /// Each backend's part of a draw by weights.
    pub fn shares(&self) -> Vec<f64> {
        let weight = |backend: &BackendPlan| if backend.eligible { backend.weight } else { 0.0 };
        let sum: f64 = self.backends.iter().map(weight).sum();
        self.backends.iter().map(|backend| if sum > 0.0 { weight(backend) / sum } else { 0.0 }).collect()
    }
}
