//! What holds around every policy, whatever it does: observations are screened before anything learns from them, and plans are
//! bounded before anything is written. Each rule that takes effect is counted (`lb_policy_clamped_total`).

mod bounds;
mod guard;
mod interventions;
mod screen;
#[cfg(test)]
mod tests;

pub use bounds::{CEILING, DEAD_BAND, FLOOR, MOST_MOVES, MOVES_PER_SECOND, PRICE_STEP, WEIGHT_STEP};
pub use interventions::{Counts, Intervention};

use self::bounds::MoveBudget;
use self::guard::Guard;
use super::Configured;
use super::math::median;
use super::observation::Observation;
use super::plan::Plan;

/// Failures in a row after which the kernel passes a backend over by itself.
const TRIP: u32 = 6;
/// A backend that comes back has its full share after this many seconds, and never less than this part of it.
const RAMP_SECONDS: f64 = 3.0;
const RAMP_FROM: f64 = 0.05;
/// Requests, decayed over ten seconds, below which a backend is not known well enough for a weight of its own.
const FEW_SAMPLES: f64 = 5.0;
const SAMPLES_LAST: f64 = 10.0;

#[derive(Debug)]
pub struct Safety {
    configured: Vec<Configured>,
    guard: Guard,
    budget: MoveBudget,
    counts: Counts,
    /// Weights and prices as bounded last, before ramps.
    weights: Vec<f64>,
    last: Option<Plan>,
    samples: Vec<f64>,
    was_up: Vec<bool>,
    /// When a backend last came up again.
    back_at: Vec<Option<f64>>,
    last_now: Option<f64>,
    usual_interval: Option<f64>,
}

impl Safety {
    pub fn new(configured: &[Configured]) -> Self {
        let backends = configured.len();
        let sum: f64 = configured.iter().map(|backend| backend.weight).sum();
        let even = |weight: f64| if sum > 0.0 { weight * backends as f64 / sum } else { 1.0 };
        Self {
            configured: configured.to_vec(),
            guard: Guard::new(backends),
            budget: MoveBudget::default(),
            counts: Counts::default(),
            weights: configured.iter().map(|backend| even(backend.weight).clamp(FLOOR, CEILING)).collect(),
            last: None,
            samples: vec![0.0; backends],
            was_up: vec![true; backends],
            back_at: vec![None; backends],
            last_now: None,
            usual_interval: None,
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Bounds what is to be written before anything is known.
    pub fn start(&mut self, mut plan: Plan) -> Plan {
        bounds::prices(&mut plan, None, &mut self.counts);
        plan.trip = TRIP;
        for (backend, configured) in plan.backends.iter_mut().zip(&self.configured) {
            backend.weight = configured.weight;
            backend.eligible &= configured.weight > 0.0;
        }
        plan
    }

    /// Makes an observation fit to learn from, or says why nothing may be learned or changed.
    pub fn screen(&mut self, observation: &mut Observation) -> Result<(), Intervention> {
        let refused = screen::refuse(observation, self.last_now, self.usual_interval, self.configured.len());
        // Time that jumped back is the new time: a clock that was set must not stop a policy for ever.
        if observation.now.is_finite() {
            self.last_now = Some(observation.now);
        }
        if let Some(why) = refused {
            self.counts.add(why);
            return Err(why);
        }
        let usual = self.usual_interval.unwrap_or(observation.interval);
        self.usual_interval = Some(usual + 0.1 * (observation.interval - usual));
        for (index, seen) in observation.backends.iter_mut().enumerate() {
            if !screen::is_sound(seen, observation.interval) {
                self.counts.add(Intervention::Contradictory);
                seen.blank();
            }
            let kept = self.samples[index] * libm::exp(-observation.interval / SAMPLES_LAST);
            self.samples[index] = kept + seen.finished();
            if seen.up && !self.was_up[index] {
                self.back_at[index] = Some(observation.now);
            }
            self.was_up[index] = seen.up;
        }
        Ok(())
    }

    /// Bounds what a policy wants; `suspects` are those whose answers are too good to be true.
    pub fn bound(&mut self, observation: &Observation, suspects: &[bool], mut plan: Plan) -> Plan {
        if plan.backends.len() != self.configured.len() {
            self.counts.add(Intervention::NotANumber);
            plan = self.last.clone().unwrap_or_else(|| self.fallback());
        }
        if plan.learned {
            self.hold_unknown(&mut plan);
            bounds::weights(&mut plan, &self.weights, &mut self.counts);
            self.budget.hold(&mut plan, &self.weights, observation.interval, &mut self.counts);
            self.weights = plan.backends.iter().map(|backend| backend.weight).collect();
        } else {
            for (backend, configured) in plan.backends.iter_mut().zip(&self.configured) {
                backend.weight = configured.weight;
            }
        }
        bounds::prices(&mut plan, self.last.as_ref(), &mut self.counts);
        plan.trip = TRIP;
        self.last = Some(plan.clone());
        for index in self.guard.judge(observation, suspects) {
            self.counts.add(if suspects[index] { Intervention::TooGood } else { Intervention::Ejected });
        }
        self.admit(observation, &mut plan);
        plan
    }

    /// Configured weights, nothing else.
    pub fn fallback(&self) -> Plan {
        let weights = self.configured.iter().map(|backend| backend.weight);
        let mut plan = Plan::with_weights(super::Chooser::Draw, weights);
        for (backend, configured) in plan.backends.iter_mut().zip(&self.configured) {
            backend.eligible = configured.weight > 0.0;
        }
        plan
    }

    /// The off-switch.
    pub fn switched_off(&mut self) -> Plan {
        self.counts.add(Intervention::Off);
        self.fallback()
    }

    /// A weight that was learned from nearly nothing is the pool's middle one.
    fn hold_unknown(&mut self, plan: &mut Plan) {
        let known = |samples: &f64| *samples >= FEW_SAMPLES;
        let backends = plan.backends.iter().zip(&self.samples);
        let mut weights: Vec<f64> = backends
            .filter(|(backend, samples)| known(samples) && backend.weight.is_finite())
            .map(|(backend, _)| backend.weight)
            .collect();
        let Some(middle) = median(&mut weights) else {
            // Of nobody is anything known: what is configured holds.
            for (backend, weight) in plan.backends.iter_mut().zip(&self.weights) {
                backend.weight = *weight;
            }
            self.counts.add(Intervention::FewSamples);
            return;
        };
        for (backend, samples) in plan.backends.iter_mut().zip(&self.samples) {
            if !known(samples) {
                backend.weight = middle;
                self.counts.add(Intervention::FewSamples);
            }
        }
    }

    /// Who takes new flows, and who does so only step by step.
    fn admit(&mut self, observation: &Observation, plan: &mut Plan) {
        let now = observation.now;
        for (index, backend) in plan.backends.iter_mut().enumerate() {
            let up = observation.backends[index].up && self.configured[index].weight > 0.0;
            backend.eligible &= up && !self.guard.is_out(index, now);
            let back = [self.back_at[index], self.guard.back_at(index)].into_iter().flatten().fold(f64::MIN, f64::max);
            let ramp = ((now - back + observation.interval) / RAMP_SECONDS).clamp(RAMP_FROM, 1.0);
            if ramp < 1.0 && backend.eligible {
                self.counts.add(Intervention::SlowStart);
                backend.weight *= ramp;
                backend.prices = backend.prices.map(|price| price / ramp);
            }
        }
        if plan.backends.iter().any(|backend| backend.eligible) {
            return;
        }
        // Nobody is well: those that health checks allow, else all, share the flows; refusing them would help nobody.
        let takes = |index: usize| self.configured[index].weight > 0.0;
        let anyone_up = (0..plan.backends.len()).any(|index| takes(index) && observation.backends[index].up);
        for (index, backend) in plan.backends.iter_mut().enumerate() {
            backend.eligible = takes(index) && (observation.backends[index].up || !anyone_up);
        }
    }
}
