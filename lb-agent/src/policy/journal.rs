//! Why weights are what they are: the last changes, each with what was seen and what was decided.

use std::collections::VecDeque;

use serde::Serialize;

use super::estimator::Model;
use super::observation::Seen;
use super::plan::BackendPlan;

/// Changes that are remembered.
const REMEMBERED: usize = 256;
/// A weight that has moved by less than this part since it was last noted is not worth a line.
const WORTH_A_LINE: f64 = 0.2;

/// One change of one backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    pub at: f64,
    pub backend: usize,
    /// Weights before and after; 0: it took no flows.
    pub before: f64,
    pub after: f64,
    /// What was seen of it in the interval.
    pub answers: f64,
    pub failures: u32,
    pub in_flight: u32,
    /// Mean, seconds.
    pub latency: Option<f64>,
    /// What is believed: delay of a flow that meets nobody, seconds, and probability of a failure.
    pub delay: f64,
    pub failure_probability: f64,
    pub why: &'static str,
}

#[derive(Debug)]
pub(super) struct Journal {
    changes: VecDeque<Change>,
    /// Weights as last noted.
    noted: Vec<f64>,
}

fn weight(plan: &BackendPlan) -> f64 {
    if plan.eligible { plan.weight } else { 0.0 }
}

impl Journal {
    /// Begins with what was written before anything was known.
    pub(super) fn new(plans: &[BackendPlan]) -> Self {
        Self { changes: VecDeque::new(), noted: plans.iter().map(weight).collect() }
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter()
    }

    /// Notes what has moved.
    pub(super) fn note(&mut self, at: f64, seen: &[Seen], models: &[Model], plans: &[BackendPlan]) {
        for (backend, plan) in plans.iter().enumerate() {
            let (before, after) = (self.noted[backend], weight(plan));
            let turned = (before > 0.0) != (after > 0.0);
            if !turned && (after - before).abs() <= WORTH_A_LINE * before {
                continue;
            }
            let (seen, model) = (&seen[backend], &models[backend]);
            self.noted[backend] = after;
            if self.changes.len() == REMEMBERED {
                self.changes.pop_front();
            }
            self.changes.push_back(Change {
                at,
                backend,
                before,
                after,
                answers: seen.successes(),
                failures: seen.failures,
                in_flight: seen.in_flight,
                latency: seen.mean_latency(),
                delay: model.delay()[0],
                failure_probability: model.failure_probability(),
                why: why(seen, model, before, after),
            });
        }
    }
}

fn why(seen: &Seen, model: &Model, before: f64, after: f64) -> &'static str {
    match () {
        () if after == 0.0 && !seen.up => "health checks took it out",
        () if after == 0.0 && model.is_suspect() => "its answers are too quick to be work: ejected",
        () if after == 0.0 => "it fails more than the others: ejected",
        () if before == 0.0 => "it comes back, step by step",
        () if after > before => "it carries more than was believed, or the others less",
        () => "it carries less than was believed, or the others more",
    }
}
