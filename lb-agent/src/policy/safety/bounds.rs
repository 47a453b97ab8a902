//! Bounds on what a policy may write: floor, ceiling, step, dead-band and the budget of moved slots.

use lb_common::price::BUCKETS;

use super::interventions::{Counts, Intervention};
use crate::policy::curve::raise;
use crate::policy::math::median;
use crate::policy::plan::{BackendPlan, Chooser, PRICE_RANGE, Plan, STALL_RANGE};

/// No backend has less than this part of the mean weight, so that it is still heard of.
pub const FLOOR: f64 = 0.02;
/// And none has more.
pub const CEILING: f64 = 50.0;
/// A weight changes by no more than this factor in one update, up or down.
pub const WEIGHT_STEP: f64 = 4.0;
/// A price likewise.
pub const PRICE_STEP: f64 = 32.0;
/// A smaller total variation of shares than this moves no slots.
pub const DEAD_BAND: f64 = 0.02;
/// Total variation of shares that may move: each second, and saved up.
pub const MOVES_PER_SECOND: f64 = 0.25;
pub const MOST_MOVES: f64 = 0.5;

/// Weights to a mean of 1 and into their bounds; what is no number keeps the weight before.
pub(super) fn weights(plan: &mut Plan, before: &[f64], counts: &mut Counts) {
    let is_weight = |weight: f64| weight.is_finite() && weight >= 0.0;
    for (backend, before) in plan.backends.iter_mut().zip(before) {
        if !is_weight(backend.weight) {
            counts.add(Intervention::NotANumber);
            backend.weight = *before;
        }
        // Sums of weights stay finite whatever a policy says.
        backend.weight = backend.weight.min(1e12);
    }
    normalise(&mut plan.backends);
    let bound = |value: f64, low: f64, high: f64, why: [Intervention; 2], counts: &mut Counts| {
        if value < low {
            counts.add(why[0]);
        } else if value > high {
            counts.add(why[1]);
        }
        value.clamp(low, high)
    };
    for (backend, before) in plan.backends.iter_mut().zip(before) {
        let (low, high) = (before / WEIGHT_STEP, before * WEIGHT_STEP);
        let stepped = bound(backend.weight, low, high, [Intervention::Step; 2], counts);
        backend.weight = bound(stepped, FLOOR, CEILING, [Intervention::Floor, Intervention::Ceiling], counts);
    }
    normalise(&mut plan.backends);
    for backend in &mut plan.backends {
        // The second normalisation may have gone below the floor again, by as much as the first bounds had added.
        backend.weight = backend.weight.clamp(FLOOR, CEILING);
    }
}

fn normalise(backends: &mut [BackendPlan]) {
    let mean = backends.iter().map(|backend| backend.weight).sum::<f64>() / backends.len().max(1) as f64;
    for backend in backends {
        backend.weight = if mean > 0.0 { backend.weight / mean } else { 1.0 };
    }
}

/// Prices into their range, rising, and not too far from those before.
pub(super) fn prices(plan: &mut Plan, before: Option<&Plan>, counts: &mut Counts) {
    for index in 0..plan.backends.len() {
        let last = before.and_then(|plan| plan.backends.get(index)).map(|backend| backend.prices);
        for bucket in 0..BUCKETS {
            let price = plan.backends[index].prices[bucket];
            let price = if price.is_finite() {
                price
            } else {
                counts.add(Intervention::NotANumber);
                last.map_or_else(|| middle(plan, bucket), |last| last[bucket])
            };
            let mut bounded = price.clamp(*PRICE_RANGE.start(), *PRICE_RANGE.end());
            if bounded < price {
                counts.add(Intervention::Ceiling);
            } else if bounded > price {
                counts.add(Intervention::Floor);
            }
            if let Some(last) = last {
                let stepped = bounded.clamp(last[bucket] / PRICE_STEP, last[bucket] * PRICE_STEP);
                if stepped != bounded {
                    counts.add(Intervention::Step);
                }
                bounded = stepped;
            }
            plan.backends[index].prices[bucket] = bounded;
        }
        let backend = &mut plan.backends[index];
        raise(&mut backend.prices);
        backend.stall = match backend.stall {
            stall if stall > 0.0 => stall.clamp(*STALL_RANGE.start(), *STALL_RANGE.end()),
            _ => 0.0,
        };
        backend.duty = if backend.duty.is_finite() { backend.duty.clamp(0.0, 4.0) } else { 0.0 };
    }
}

/// The middle price of the pool at an occupancy; the dearest where there is none.
fn middle(plan: &Plan, bucket: usize) -> f64 {
    let mut prices: Vec<f64> =
        plan.backends.iter().map(|backend| backend.prices[bucket]).filter(|price| price.is_finite()).collect();
    median(&mut prices).unwrap_or(*PRICE_RANGE.end())
}

/// What moving slots costs: small changes wait, large ones are spread over time.
#[derive(Debug)]
pub(super) struct MoveBudget {
    left: f64,
}

impl Default for MoveBudget {
    fn default() -> Self {
        Self { left: MOST_MOVES }
    }
}

impl MoveBudget {
    /// Only where a draw by slots decides: prices and counts of connections move nobody.
    pub(super) fn hold(&mut self, plan: &mut Plan, before: &[f64], interval: f64, counts: &mut Counts) {
        self.left = (self.left + MOVES_PER_SECOND * interval).min(MOST_MOVES);
        if plan.chooser != Chooser::Draw {
            return;
        }
        let after: f64 = plan.backends.iter().map(|backend| backend.weight).sum();
        let sum: f64 = before.iter().sum();
        let shares = plan.backends.iter().zip(before);
        let moved = 0.5 * shares.map(|(backend, before)| (backend.weight / after - before / sum).abs()).sum::<f64>();
        let part = if moved < DEAD_BAND {
            if moved > 0.0 {
                counts.add(Intervention::DeadBand);
            }
            0.0
        } else if moved > self.left {
            counts.add(Intervention::MoveBudget);
            self.left / moved
        } else {
            1.0
        };
        self.left -= part * moved;
        if part < 1.0 {
            for (backend, before) in plan.backends.iter_mut().zip(before) {
                backend.weight = before + part * (backend.weight - before);
            }
        }
    }
}
