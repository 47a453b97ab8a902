//! Failures that the balancer cannot see: a backend that answers at once because it does not do the work. Every rule that likes
//! fast answers would send it everything.
//!
//! The level of a model is a speed of service: queueing is in the shape. So one that is several times faster than it ever was,
//! or clearly faster while it completes more than it ever could, is not working. Judged only at low, well known occupancies,
//! because a black hole is never busy. Once suspected it must look normal again to be cleared, and teaches nothing meanwhile.

use lb_common::price::BUCKETS;

use super::estimator::{Innovation, Model};
use super::math::ln;
use super::observation::{Observation, Seen};

/// Buckets with one occupancy each.
const EXACT: usize = 16;
/// Evidence that a bucket needs to be judged by.
const WELL_KNOWN: f64 = 20.0;
/// Seconds of normal service before a backend can be judged at all.
const SETTLED_AFTER: f64 = 8.0;
/// Faster than ever by these factors: certainly, and together with an impossible rate.
const FAR: f64 = 4.0;
const CLEARLY: f64 = 1.8;
/// How much more than its best rate is impossible.
const IMPOSSIBLE: f64 = 1.3;
/// Seconds without a suspicion until the references learn again, and until a relapse is no longer expected.
const CALM_AFTER: f64 = 4.0;
const RELAPSE_WITHIN: f64 = 20.0;

#[derive(Debug, Clone, Default)]
pub(super) struct Suspicion {
    /// Long-run level, its recent mean and variance.
    reference: Option<f64>,
    recent: Option<f64>,
    spread: Option<f64>,
    settled: f64,
    /// Best rate of successes, and the slow mean of the estimated capacity.
    best_rate: f64,
    capacity: f64,
    hits: f64,
    holds: bool,
    last: Option<f64>,
}

impl Suspicion {
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    pub(super) fn judge(
        &mut self,
        observation: &Observation,
        seen: &Seen,
        model: &Model,
        innovation: &Innovation,
        capacity: f64,
    ) {
        let (now, interval) = (observation.now, observation.interval);
        let judged = |bucket: &usize| model.mass[*bucket] >= WELL_KNOWN;
        let evidence: f64 = (0..EXACT.min(BUCKETS)).filter(judged).map(|bucket| innovation.evidence[bucket]).sum();
        let moved: f64 = (0..EXACT)
            .filter(judged)
            .map(|bucket| innovation.evidence[bucket] * innovation.residual[bucket])
            .sum::<f64>()
            / evidence.max(1e-9);
        // The level that this interval alone would suggest.
        let level = model.level + moved;
        let successes = seen.successes();
        let heard = evidence >= 5.0 && model.known;
        let settled = self.settled > SETTLED_AFTER;
        let drop = if settled { self.reference.unwrap_or(level) - level } else { 0.0 };
        let sudden = if settled { self.recent.unwrap_or(level) - level } else { 0.0 };
        let rare = sudden > 3.0 * (self.spread.unwrap_or(0.04) + 1.5 / evidence.max(1.0)).sqrt();
        let since = self.last.map_or(f64::INFINITY, |last| now - last);
        let relapse = since < RELAPSE_WITHIN;
        let far = heard && rare && drop > ln(FAR);
        let clearly = heard && drop > ln(CLEARLY) && (rare || relapse);
        let impossible = successes / interval > IMPOSSIBLE * self.best_rate.max(self.capacity);
        let low = far || (clearly && (impossible || relapse));
        if low {
            self.hits += if far && successes >= 20.0 { 2.0 } else { 1.0 };
        } else if heard {
            self.hits = 0.0;
        }
        // Samples of latency are noisier than counts of departures.
        self.holds = self.hits >= if observation.requests_visible { 2.0 } else { 4.0 };
        if self.holds {
            self.last = Some(now);
        } else if heard && !clearly && since > CALM_AFTER {
            self.last = None;
        }
        if heard && !clearly && self.last.is_none() {
            self.remember(level, interval, settled, successes, capacity);
        }
    }

    fn remember(&mut self, level: f64, interval: f64, settled: bool, successes: f64, capacity: f64) {
        self.settled += interval;
        let reference = self.reference.unwrap_or(level);
        let recent = self.recent.unwrap_or(level);
        let spread = self.spread.unwrap_or(0.04);
        let surprise = level - recent;
        self.spread = Some(spread + interval / 10.0 * ((surprise * surprise).min(0.5) - spread));
        self.recent = Some(recent + interval / 5.0 * surprise);
        // Slower backends become the norm slowly: a black hole must not be excused by a bad day.
        let pace = if level > reference && settled { 60.0 } else { 15.0 };
        self.reference = Some(reference + interval / pace * (level - reference));
        self.best_rate = (self.best_rate * libm::pow(0.5, interval / 60.0)).max(successes / interval);
        if self.settled > 2.0 {
            self.capacity = if self.capacity == 0.0 {
                capacity
            } else {
                self.capacity + interval / 10.0 * (capacity - self.capacity)
            };
        }
    }
}
