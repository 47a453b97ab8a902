//! Occupancy Q-learning. The state of a backend is how many flows are there, the action is to give it one more, the value is
//! the delay that the flow meets ([`super::estimator`]). The kernel gets a price for each occupancy and takes the cheapest.
//!
//! The price is not the delay but the marginal cost: the delay of the new flow and what it adds to the delays of those that are
//! there. With delays alone, everybody crowds at the fastest backend until it is as slow as the others (Wardrop's equilibrium);
//! with marginal costs the sum of delays is least (Pigou).

use lb_common::price::BUCKETS;
use rand_pcg::Pcg64;

use super::curve::raise;
use super::estimator::{Estimator, Model};
use super::plan::{BackendPlan, Chooser, PRICE_RANGE, Plan};
use super::{Configured, Policy, Sight};

/// How much of the harm to others the price has in it, where requests are visible and where they are not. There, occupancy
/// counts flows; where most of those are idle, the slope of the curve is hardly known and left out.
const HARM: f64 = 1.0;
const HARM_BY_LATENCY: f64 = 0.5;
/// A failed request costs a second, a client's retry.
const FAILURE_COST: f64 = 1.0;
/// Silence counts as a stall after so many times the delay at an occupancy of two.
const STALL_TIMES: f64 = 16.0;

#[derive(Debug)]
pub(super) struct QLearning {
    backends: usize,
}

impl QLearning {
    pub(super) fn new(backends: usize) -> Self {
        Self { backends }
    }
}

impl Policy for QLearning {
    fn start(&self, _: &[Configured]) -> Plan {
        estimated(&Estimator::new(self.backends), true, HARM)
    }

    fn decide(&mut self, sight: &Sight<'_>, _: &mut Pcg64) -> Plan {
        let harm = match sight.observation.requests_visible {
            true => HARM,
            false if sight.estimator.flows_are_idle() => 0.0,
            false => HARM_BY_LATENCY,
        };
        plan(sight, harm)
    }
}

/// Prices with so much of the harm to others in them, and weights by capacity for whoever draws candidates.
pub(super) fn plan(sight: &Sight<'_>, harm: f64) -> Plan {
    estimated(sight.estimator, sight.observation.requests_visible, harm)
}

fn estimated(estimator: &Estimator, visible: bool, harm: f64) -> Plan {
    let capacities = estimator.capacities();
    let models = estimator.models().iter().zip(capacities).enumerate();
    let backends = models.map(|(index, (model, capacity))| BackendPlan {
        weight: capacity,
        eligible: true,
        prices: prices(estimator, model, harm),
        stall: if visible { STALL_TIMES * model.delay()[2] } else { 0.0 },
        duty: estimator.duty(index).unwrap_or(0.0),
        ..BackendPlan::default()
    });
    Plan { chooser: Chooser::Price, trip: 0, learned: true, backends: backends.collect() }
}

/// `Q(n) + harm · n (Q(n) - Q(n - 1))`, rising, plus what failures cost.
fn prices(estimator: &Estimator, model: &Model, harm: f64) -> [f64; BUCKETS] {
    let grid = &estimator.grid;
    let delay = model.delay();
    let before = grid.one_less(delay);
    let mut row: [f64; BUCKETS] = std::array::from_fn(|bucket| {
        delay[bucket] + harm * grid.centre[bucket] * (delay[bucket] - before[bucket]).max(0.0)
    });
    raise(&mut row);
    let failures = FAILURE_COST * model.failure_probability();
    // Where nobody ever was, extrapolation knows no bounds; the table does.
    row.map(|price| (price + failures).clamp(*PRICE_RANGE.start(), *PRICE_RANGE.end()))
}
