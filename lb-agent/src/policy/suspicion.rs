//! Failures that the balancer cannot see: a backend that answers at once because it does not do the work. Every rule that likes
//! fast answers would send it everything.
//!
//! A backend's history bounds how fast it can be: with more requests present no request is served faster, and with fewer the
//! whole machine does no more work. So each occupancy that is well known bounds the latency at every other one from below. One that
//! is several times faster than that, or clearly faster while it completes more than it ever could, is not working. Means of
//! logarithms are compared: a few giant requests do not move them.
//! Once suspected it must look normal again to be cleared, and teaches nothing meanwhile.

use lb_common::price::BUCKETS;

use super::curve::{Grid, Row};
use super::estimator::Model;
use super::math::ln;
use super::observation::{Observation, Seen};

/// Evidence that an occupancy needs to bound others.
const WELL_KNOWN: f64 = 10.0;
/// Seconds of normal service before a backend can be judged at all.
const SETTLED_AFTER: f64 = 8.0;
/// Faster than it can be by these factors: certainly, and together with an impossible rate.
const FAR: f64 = 4.0;
const CLEARLY: f64 = 1.8;
/// How much more than its best rate is impossible.
const IMPOSSIBLE: f64 = 1.3;
/// Seconds without a suspicion until the history goes on, and until a relapse is no longer expected.
const CALM_AFTER: f64 = 4.0;
const RELAPSE_WITHIN: f64 = 20.0;

#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    /// Long-run mean of ln latency by the occupancy that a request met, and the answers behind it.
    history: Row,
    mass: Row,
    /// How far above its bound it usually is, and how much that varies.
    usual: Option<f64>,
    spread: f64,
    settled: f64,
    /// Best rate of successes, and the slow mean of the estimated capacity.
    best_rate: f64,
    capacity: f64,
    hits: f64,
    holds: bool,
    last: Option<f64>,
}

impl Default for Suspicion {
    fn default() -> Self {
        Self {
            history: [0.0; BUCKETS],
            mass: [0.0; BUCKETS],
            usual: None,
            spread: 0.04,
            settled: 0.0,
            best_rate: 0.0,
            capacity: 0.0,
            hits: 0.0,
            holds: false,
            last: None,
        }
    }
}

impl Suspicion {
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    /// The least mean of ln latency that is plausible at an idle backend; none before it is settled.
    pub(super) fn least_when_idle(&self, grid: &Grid) -> Option<f64> {
        let bound = self.bound(grid)[0];
        (self.settled > SETTLED_AFTER && bound.is_finite()).then_some(bound)
    }

    /// The least mean of ln latency that the history allows at each occupancy; minus infinity where it says nothing.
    fn bound(&self, grid: &Grid) -> Row {
        let known = |bucket: usize| self.mass[bucket] >= WELL_KNOWN;
        let mut bound = [f64::NEG_INFINITY; BUCKETS];
        // Latency does not fall with occupancy.
        let mut highest = f64::NEG_INFINITY;
        for (bucket, least) in bound.iter_mut().enumerate() {
            if known(bucket) {
                highest = highest.max(self.history[bucket]);
            }
            *least = highest;
        }
        // The rate of the whole, (n + 1) / Q(n), does not rise when occupancy falls.
        let mut slowest = f64::NEG_INFINITY;
        for bucket in (0..BUCKETS).rev() {
            bound[bucket] = bound[bucket].max(slowest + grid.logs[bucket]);
            if known(bucket) {
                slowest = slowest.max(self.history[bucket] - grid.logs[bucket]);
            }
        }
        bound
    }

    pub(super) fn judge(&mut self, observation: &Observation, seen: &Seen, model: &Model, grid: &Grid) {
        let (now, interval) = (observation.now, observation.interval);
        let bound = self.bound(grid);
        let (mut evidence, mut above) = (0.0, 0.0);
        for bucket in (0..BUCKETS).filter(|bucket| bound[*bucket].is_finite()) {
            let answers = f64::from(seen.answers[bucket]);
            evidence += answers;
            above += seen.log_latency[bucket] - answers * bound[bucket];
        }
        let above = above / f64::max(evidence, 1e-9);
        let successes = seen.successes();
        let heard = evidence >= 5.0 && model.is_known();
        let settled = self.settled > SETTLED_AFTER;
        let sudden = self.usual.map_or(0.0, |usual| usual - above);
        let rare = sudden > 4.0 * (self.spread + 1.5 / evidence.max(1.0)).sqrt();
        let since = self.last.map_or(f64::INFINITY, |last| now - last);
        let relapse = since < RELAPSE_WITHIN;
        let faster = if heard && settled { -above } else { 0.0 };
        let far = rare && faster > ln(FAR);
        let clearly = faster > ln(CLEARLY) && (rare || relapse);
        let impossible = successes / interval > IMPOSSIBLE * self.best_rate.max(self.capacity);
        if far || (clearly && (impossible || relapse)) {
            self.hits += if far && impossible && successes >= 20.0 { 2.0 } else { 1.0 };
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
        if !clearly && self.last.is_none() && model.is_known() {
            if heard {
                self.usual_is(above, interval);
            }
            self.settled += if successes > 0.0 { interval } else { 0.0 };
            self.remember(seen, interval);
            self.best_rate = (self.best_rate * libm::pow(0.5, interval / 60.0)).max(successes / interval);
            let capacity = model.capacity(grid);
            let step = if self.capacity == 0.0 { 1.0 } else { interval / 10.0 };
            self.capacity += step * (capacity - self.capacity);
        }
    }

    fn usual_is(&mut self, above: f64, interval: f64) {
        let usual = self.usual.unwrap_or(above);
        let surprise = above - usual;
        self.spread += interval / 10.0 * ((surprise * surprise).min(0.5) - self.spread);
        self.usual = Some(usual + interval / 5.0 * surprise);
    }

    /// Slower backends become the norm slowly: a black hole must not be excused by a bad day.
    fn remember(&mut self, seen: &Seen, interval: f64) {
        for bucket in 0..BUCKETS {
            let answers = f64::from(seen.answers[bucket]);
            if answers <= 0.0 {
                continue;
            }
            let now = seen.log_latency[bucket] / answers;
            let gain = answers / (answers + self.mass[bucket]);
            let pace = if now > self.history[bucket] { 60.0 } else { 15.0 };
            let step = if self.mass[bucket] < WELL_KNOWN { gain } else { gain.min(interval / pace) };
            self.history[bucket] += step * (now - self.history[bucket]);
            self.mass[bucket] = (self.mass[bucket] + answers).min(1e3);
        }
    }
}
