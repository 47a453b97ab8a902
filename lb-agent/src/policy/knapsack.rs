//! After KnapsackLB: remember how latency went with weight, fit a curve for each backend, and give weight piece by piece to whom
//! the next piece costs least. The original solves an integer program; the greedy answer is its optimum for convex curves.

use rand_pcg::Pcg64;

use super::plan::{Chooser, Plan};
use super::{Configured, Policy, Sight};

/// Seconds between two plans, points that are remembered, and how much older ones count.
const EVERY: f64 = 2.0;
const REMEMBERED: usize = 8;
const FADE: f64 = 0.7;
/// A weight grows by no more than this factor from plan to plan, and moves this part of the way.
const GROWTH: f64 = 1.25;
const STEP: f64 = 0.4;
const LEAST: f64 = 0.05;
/// Pieces of the mean weight.
const PIECES_SMALL_POOL: f64 = 100.0;
const PIECES_LARGE_POOL: f64 = 20.0;

/// Weight and latency.
type Point = (f64, f64);

#[derive(Debug, Clone, Default)]
struct Backend {
    points: Vec<Point>,
    /// Sums over the time since the last plan.
    share: f64,
    latency: f64,
    answers: f64,
}

#[derive(Debug)]
pub(super) struct Knapsack {
    backends: Vec<Backend>,
    weights: Vec<f64>,
    observations: f64,
    due: f64,
}

impl Knapsack {
    pub(super) fn new(backends: usize) -> Self {
        Self { backends: vec![Backend::default(); backends], weights: vec![1.0; backends], observations: 0.0, due: 0.0 }
    }

    fn replan(&mut self) {
        let count = self.weights.len();
        let curves: Vec<_> = self.backends.iter_mut().map(|backend| backend.curve(self.observations)).collect();
        let piece = 1.0 / if count <= 16 { PIECES_SMALL_POOL } else { PIECES_LARGE_POOL };
        let mut weights = vec![LEAST; count];
        let pieces = ((1.0 - LEAST) * count as f64 / piece) as usize;
        for _ in 0..pieces {
            // The derivative of weight times latency.
            let cost = |index: &usize| {
                let (base, slope) = curves[*index];
                base + 3.0 * slope * weights[*index] * weights[*index]
            };
            let may_grow = |index: &usize| weights[*index] < self.weights[*index].max(0.2) * GROWTH;
            let cheapest = (0..count).filter(may_grow).min_by(|a, b| cost(a).total_cmp(&cost(b)));
            let Some(index) = cheapest else { break };
            weights[index] += piece;
        }
        for (weight, new) in self.weights.iter_mut().zip(weights) {
            *weight += STEP * (new - *weight);
        }
        self.observations = 0.0;
    }
}

impl Backend {
    /// Latency as `base + slope · weight²`, through the newest point.
    fn curve(&mut self, observations: f64) -> (f64, f64) {
        if self.answers > 5.0 {
            self.points.push((self.share / observations.max(1.0), self.latency / self.answers));
            let old = self.points.len().saturating_sub(REMEMBERED);
            self.points.drain(..old);
        }
        (self.share, self.latency, self.answers) = (0.0, 0.0, 0.0);
        let (weight, latency) = self.points.last().copied().unwrap_or((1.0, 0.02));
        match self.fit() {
            Some((base, slope)) => {
                let scale = latency / (base + slope * weight * weight).max(1e-6);
                (base * scale, slope * scale)
            }
            None => (0.5 * latency, 0.5 * latency / weight.max(0.05).powi(2)),
        }
    }

    /// Least squares with fading weights; none where the points say too little.
    fn fit(&self) -> Option<(f64, f64)> {
        if self.points.len() < 3 {
            return None;
        }
        let (mut n, mut x, mut y, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let mut say = 1.0;
        for (weight, latency) in self.points.iter().rev() {
            let square = weight * weight;
            n += say;
            x += say * square;
            y += say * latency;
            xx += say * square * square;
            xy += say * square * latency;
            say *= FADE * FADE;
        }
        let spread = n * xx - x * x;
        if spread < 1e-3 {
            return None;
        }
        let slope = (n * xy - x * y) / spread;
        let base = (y - slope * x) / n;
        (base > 0.0 && slope > 0.0).then_some((base, slope))
    }
}

impl Policy for Knapsack {
    fn start(&self, configured: &[Configured]) -> Plan {
        Plan::even(Chooser::Draw, configured.len())
    }

    fn decide(&mut self, sight: &Sight<'_>, _: &mut Pcg64) -> Plan {
        let observation = sight.observation;
        let picks: f64 = observation.backends.iter().map(|seen| f64::from(seen.picks)).sum();
        for (backend, seen) in self.backends.iter_mut().zip(&observation.backends) {
            backend.share += f64::from(seen.picks) / picks.max(1.0) * sight.backends() as f64;
            backend.latency += seen.latency;
            backend.answers += seen.successes();
        }
        self.observations += 1.0;
        if observation.now >= self.due {
            self.due = observation.now + EVERY;
            self.replan();
        }
        Plan::with_weights(Chooser::Draw, self.weights.iter().copied())
    }
}
