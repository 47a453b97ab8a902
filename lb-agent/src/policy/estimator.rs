//! Occupancy Q-learning's memory: for each backend, what delay a flow meets there by how many are there already, `Q(n)`.
//!
//! `ln Q(n) = level + shape(n)`. The level moves fast (a scalar Kalman filter): a backend that slows down keeps its shape. The shape
//! is learned slowly, bucket by bucket, and rises with n. Where requests are visible the evidence is the rate of departures:
//! while k are there, work leaves at k / Q(k - 1) (Little's law for the state k), which needs no latency samples and sees a stall
//! at once. Elsewhere it is the mean logarithm of latency by the occupancy at arrival.

use lb_common::price::BUCKETS;

use super::curve::{Grid, Row, exp_row, isotonic};
use super::math::{exp, ln, median};
use super::observation::{Observation, Seen};
use super::suspicion::Suspicion;

/// Where a level starts before anything is known: 20 ms.
const FIRST_LEVEL: f64 = -3.912_023_005_428_146;
const FIRST_VARIANCE: f64 = 2.0;
/// How fast a level may wander, variance per second: departures, latencies.
const WANDER: f64 = 0.1;
const WANDER_BY_LATENCY: f64 = 0.02;
/// Variance of an innovation: a part that evidence makes smaller and one that it does not.
const NOISE_BY_EVIDENCE: f64 = 1.5;
const NOISE_FLOOR: f64 = 0.005;
/// Standardised innovations beyond this are a change, not noise.
const SURPRISE: f64 = 9.0;
/// A bucket's evidence is bounded, so that shapes can change, and fades.
const MOST_MASS: f64 = 100.0;
const FORGET: f64 = 0.999;
/// Evidence at which a bucket speaks for itself as much as its neighbours do.
const HALF_KNOWN: f64 = 20.0;
/// Elasticity of ln Q to ln(n + 1) where a bucket leans on its neighbour: above the best known bucket, and below.
const STEEP: f64 = 2.0;
const FLAT: f64 = 0.5;
/// A failed request costs this much of its decaying count each quarter of a second.
const FAILURE_DECAY: f64 = 0.85;
/// From so many requests a flow on, flows are what is placed.
const REQUESTS_A_FLOW: f64 = 2.0;
/// Evidence below which a backend counts as unknown.
const KNOWN_FROM: f64 = 5.0;

/// What one interval says of a backend, against what was expected.
#[derive(Debug, Clone)]
pub(super) struct Innovation {
    /// Evidence and residual of ln Q by bucket.
    pub(super) evidence: Row,
    pub(super) residual: Row,
    /// Both pooled, weighted by how well the buckets are known.
    pub(super) total: f64,
    pub(super) pooled: f64,
    pub(super) variance: f64,
}

/// What is believed of one backend.
#[derive(Debug, Clone)]
pub struct Model {
    pub(super) level: f64,
    pub(super) variance: f64,
    pub(super) shape: Row,
    /// Evidence by bucket.
    pub(super) mass: Row,
    pub(super) known: bool,
    /// The shape with poorly known buckets filled in, and `exp(level + extended)`.
    extended: Row,
    delay: Row,
    failed: f64,
    finished: f64,
    idle: f64,
    /// Variance of the ln of latencies, as if they were lognormal.
    dispersion: f64,
    /// Requests in flight for each open flow.
    duty: Option<f64>,
    suspicion: Suspicion,
}

impl Model {
    fn new(grid: &Grid) -> Self {
        let mut model = Self {
            level: FIRST_LEVEL,
            variance: FIRST_VARIANCE,
            shape: grid.centre.map(|n| ln(((n + 1.0) / 2.0).max(1.0))),
            mass: [0.0; BUCKETS],
            known: false,
            extended: [0.0; BUCKETS],
            delay: [0.0; BUCKETS],
            failed: 0.0,
            finished: 0.0,
            idle: 0.0,
            dispersion: 1.0,
            duty: None,
            suspicion: Suspicion::default(),
        };
        model.refresh(grid);
        model
    }

    /// Expected delay in seconds of a flow sent there, by the occupancy that it meets.
    pub fn delay(&self) -> &Row {
        &self.delay
    }

    /// ln of the delay that a flow meets at an idle backend, up to its shape.
    pub fn level(&self) -> f64 {
        self.level
    }

    /// How well each bucket is known, from 0 to 1.
    pub fn confidence(&self) -> Row {
        self.mass.map(|mass| mass / (mass + HALF_KNOWN))
    }

    /// Whether anything has been learned of it.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// The best rate of answers over all occupancies, requests a second.
    pub fn capacity(&self, grid: &Grid) -> f64 {
        // Beyond 24 buckets (157 in flight) nothing is known but extrapolation.
        let rates = grid.centre.iter().zip(&self.delay).take(24).map(|(n, delay)| (n + 1.0) / delay);
        rates.fold(0.0, f64::max)
    }

    /// Decayed probability that a request fails; few requests are drawn towards none.
    pub fn failure_probability(&self) -> f64 {
        self.failed / (self.finished + 20.0)
    }

    /// Answers in less than this many seconds are a minority where the work is done, even if the backend is idle; none before it
    /// is known well enough.
    pub fn quick_answer(&self, grid: &Grid) -> Option<f64> {
        // Half a deviation below the middle are 31 % of a lognormal.
        let below = (0.5 * self.dispersion.sqrt()).max(0.5);
        Some(exp(self.suspicion.least_when_idle(grid)? - below))
    }

    /// Whether its answers are too good to be true.
    pub fn is_suspect(&self) -> bool {
        self.suspicion.holds()
    }

    fn expected(&self) -> Row {
        self.extended.map(|shape| self.level + shape)
    }

    /// How far a bucket may speak for the level: known ones fully, extrapolated ones hardly; all before anything is known.
    fn say(&self, bucket: usize) -> f64 {
        if self.known { self.mass[bucket] / (self.mass[bucket] + HALF_KNOWN) } else { 1.0 }
    }

    /// k / Q(k - 1) is the rate of departures at k.
    fn by_departures(&self, grid: &Grid, seen: &Seen) -> Innovation {
        let delay_before = grid.one_less(&self.expected());
        let (mut evidence, mut residual) = ([0.0; BUCKETS], [0.0; BUCKETS]);
        let (mut total, mut left, mut due) = (0.0, 0.0, 0.0);
        for bucket in 1..BUCKETS {
            let departed = f64::from(seen.departures[bucket]);
            if departed == 0.0 && seen.time_at[bucket] == 0.0 {
                continue;
            }
            let expected = grid.centre[bucket] / exp(delay_before[bucket]) * seen.time_at[bucket];
            let weight = 0.5 * (departed + expected);
            evidence[bucket - 1] = weight;
            residual[bucket - 1] = -ln((departed + 0.5) / (expected + 0.5));
            let say = self.say(bucket - 1);
            total += say * weight;
            left += say * departed;
            due += say * expected;
        }
        let pooled = -ln((left + 0.5) / (due + 0.5));
        let variance = NOISE_BY_EVIDENCE / total.max(1e-9) + NOISE_FLOOR;
        Innovation { evidence, residual, total, pooled, variance }
    }

    fn by_latency(&self, seen: &Seen) -> Innovation {
        let expected = self.expected();
        let (mut evidence, mut residual) = ([0.0; BUCKETS], [0.0; BUCKETS]);
        let (mut total, mut sum) = (0.0, 0.0);
        for bucket in 0..BUCKETS {
            let count = f64::from(seen.answers[bucket]);
            if count == 0.0 {
                continue;
            }
            evidence[bucket] = count;
            residual[bucket] = seen.log_latency[bucket] / count - expected[bucket];
            let weight = self.say(bucket) * count;
            total += weight;
            sum += weight * residual[bucket];
        }
        let pooled = sum / total.max(1e-9);
        Innovation { evidence, residual, total, pooled, variance: 1.0 / total.max(1e-9) + NOISE_FLOOR }
    }

    /// The part of the time in which an open flow has a request in flight.
    fn use_of_flows(&mut self, grid: &Grid, seen: &Seen) {
        let time: f64 = seen.time_at.iter().sum();
        if seen.open == 0 || time <= 0.0 {
            return;
        }
        let in_flight = seen.time_at.iter().zip(&grid.centre).map(|(time, n)| time * n).sum::<f64>() / time;
        let duty = (in_flight / f64::from(seen.open)).clamp(1e-3, 1.0);
        self.duty = Some(self.duty.map_or(duty, |known| known + 0.3 * (duty - known)));
    }

    /// How scattered latencies are: `ln mean - mean ln` is half their variance if they are lognormal.
    fn scatter(&mut self, seen: &Seen, interval: f64) {
        let count = seen.successes();
        if count < 20.0 {
            return;
        }
        let gap = ln(seen.latency / count) - seen.log_latency.iter().sum::<f64>() / count;
        self.dispersion += (interval / 5.0).min(1.0) * ((2.0 * gap).clamp(0.0, 9.0) - self.dispersion);
    }

    fn learn(&mut self, innovation: &Innovation, wander: f64, interval: f64) {
        let Innovation { evidence, residual, total, pooled, variance } = innovation;
        let heard = *total >= 1.0;
        self.variance = (self.variance + wander * interval).min(10.0);
        let surprised = heard && self.known && pooled * pooled > SURPRISE * (self.variance + variance);
        if surprised {
            self.variance = self.variance.max(pooled * pooled);
        }
        let gain = if heard { self.variance / (self.variance + variance) } else { 0.0 };
        self.level += (gain * pooled).clamp(-3.0, 3.0);
        self.variance *= 1.0 - gain;
        // While the level jumps, a residual says nothing of the shape.
        let shape_may_learn = self.known && !surprised;
        self.known |= *total >= KNOWN_FROM;
        for bucket in 0..BUCKETS {
            let mass = self.mass[bucket];
            let mut seen = 0.0;
            if shape_may_learn && evidence[bucket] > 0.0 {
                seen = evidence[bucket];
                let step = (residual[bucket] - gain * pooled).clamp(-1.5, 1.5);
                self.shape[bucket] += seen / (seen + mass) * step;
            }
            self.mass[bucket] = (mass * FORGET + seen).min(MOST_MASS);
        }
    }

    /// Fills the poorly known buckets in and makes delays rise.
    fn refresh(&mut self, grid: &Grid) {
        let mut best = (0, f64::MIN);
        let mut below = 0.0;
        for (bucket, mass) in self.mass.iter().enumerate() {
            below += mass;
            // Of equally well known buckets, the one with more evidence below it.
            let score = mass + 1e-6 * below;
            if score > best.1 {
                best = (bucket, score);
            }
        }
        let mut row = self.shape;
        let lean = |own: f64, mass: f64, other: f64| (mass * own + HALF_KNOWN * other) / (mass + HALF_KNOWN);
        for bucket in best.0 + 1..BUCKETS {
            row[bucket] = lean(row[bucket], self.mass[bucket], row[bucket - 1] + STEEP * grid.steps[bucket - 1]);
        }
        for bucket in (0..best.0).rev() {
            row[bucket] = lean(row[bucket], self.mass[bucket], row[bucket + 1] - FLAT * grid.steps[bucket]);
        }
        isotonic(&mut row, &self.mass.map(|mass| mass + 0.01));
        self.extended = row;
        self.delay = exp_row(&self.expected());
    }
}

/// The models of one service's backends.
#[derive(Debug)]
pub struct Estimator {
    pub grid: Grid,
    pub(super) models: Vec<Model>,
    /// Decayed requests and new flows of the whole pool.
    requests: f64,
    flows: f64,
    /// Where only flows are seen: seconds for which flows were open, and for which requests of new flows took, decayed.
    open: f64,
    working: f64,
}

impl Estimator {
    pub fn new(backends: usize) -> Self {
        let grid = Grid::new();
        let models = vec![Model::new(&grid); backends];
        Self { grid, models, requests: 0.0, flows: 0.0, open: 0.0, working: 0.0 }
    }

    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// Requests in flight that an open flow stands for, where flows carry several: what is placed then is a flow, which will send
    /// requests for long after those that are in flight now are done. None where requests in flight say it best.
    pub fn duty(&self, backend: usize) -> Option<f64> {
        (self.requests > REQUESTS_A_FLOW * self.flows.max(1.0)).then(|| self.models[backend].duty).flatten()
    }

    /// Whether open flows are idle for most of their time, where only flows are seen.
    pub fn flows_are_idle(&self) -> bool {
        self.open > REQUESTS_A_FLOW * self.working
    }

    pub fn capacities(&self) -> Vec<f64> {
        self.models.iter().map(|model| model.capacity(&self.grid)).collect()
    }

    /// The middle level of the backends of which something is known.
    pub fn median_level(&self) -> Option<f64> {
        median(&mut self.models.iter().filter(|model| model.known).map(|model| model.level).collect::<Vec<_>>())
    }

    /// Learns from an interval that has been found sound.
    pub fn update(&mut self, observation: &Observation) {
        let interval = observation.interval;
        let wander = if observation.requests_visible { WANDER } else { WANDER_BY_LATENCY };
        self.requests *= 0.9;
        self.flows *= 0.9;
        self.open *= 0.9;
        self.working *= 0.9;
        let decay = libm::pow(FAILURE_DECAY, interval / 0.25);
        for (model, seen) in self.models.iter_mut().zip(&observation.backends) {
            let innovation = if observation.requests_visible {
                model.by_departures(&self.grid, seen)
            } else {
                model.by_latency(seen)
            };
            let mut suspicion = std::mem::take(&mut model.suspicion);
            suspicion.judge(observation, seen, model, &self.grid);
            model.suspicion = suspicion;
            if !model.is_suspect() {
                model.learn(&innovation, wander, interval);
                model.scatter(seen, interval);
            }
            model.failed = model.failed * decay + f64::from(seen.failures);
            model.finished = model.finished * decay + seen.finished();
            if observation.requests_visible {
                model.use_of_flows(&self.grid, seen);
                self.requests += seen.finished();
                self.flows += f64::from(seen.picks);
            } else {
                self.open += seen.time_at.iter().zip(&self.grid.centre).map(|(time, n)| time * n).sum::<f64>();
                self.working += f64::from(seen.picks) * seen.mean_latency().unwrap_or(0.0);
            }
            model.idle = if seen.picks == 0 { model.idle + interval } else { 0.0 };
        }
        self.explore();
        self.refresh();
    }

    /// Brings the delays in line with levels and shapes.
    pub(super) fn refresh(&mut self) {
        for model in &mut self.models {
            model.refresh(&self.grid);
        }
    }

    /// Prices rise with occupancy, so the pool explores by itself. Only one that is dearer than the others and gets nothing would
    /// never be heard of again: its level drifts to the middle. What was never heard of starts there.
    fn explore(&mut self) {
        let all = median(&mut self.models.iter().map(|model| model.level).collect::<Vec<_>>());
        let known = self.median_level();
        for model in &mut self.models {
            if let (false, Some(level)) = (model.known, known) {
                model.level = level;
            } else if let Some(level) = all
                && model.level > level
                && model.idle > 0.5
            {
                model.level += 0.1 * (level - model.level);
            }
        }
    }
}
