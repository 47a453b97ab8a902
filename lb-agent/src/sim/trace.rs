//! What the agent believed and decided over time, for pictures.

use crate::policy::Controller;
use crate::policy::curve::Row;

/// The agent's decision at one time, by backend.
#[derive(Debug, Clone)]
pub struct Point {
    pub at: f64,
    pub weights: Vec<f64>,
    pub eligible: Vec<bool>,
    /// ln of the delay at an idle backend, up to its shape.
    pub levels: Vec<f64>,
}

#[derive(Debug, Default)]
pub struct Trace {
    pub points: Vec<Point>,
    /// Delay by occupancy as believed at the end, and how well each bucket is known.
    pub curves: Vec<(Row, Row)>,
}

impl Trace {
    pub(super) fn decided(&mut self, at: f64, agent: &Controller) {
        let plan = agent.plan();
        self.points.push(Point {
            at,
            weights: plan.backends.iter().map(|backend| backend.weight).collect(),
            eligible: plan.backends.iter().map(|backend| backend.eligible).collect(),
            levels: agent.estimator().models().iter().map(|model| model.level()).collect(),
        });
    }

    pub(super) fn finish(&mut self, agent: &Controller) {
        self.curves = agent.estimator().models().iter().map(|model| (*model.delay(), model.confidence())).collect();
    }
}
