//! Policies that turn a measurement into weights, the loops that most balancers have. Rivals: a loop over weights reacts in
//! hundreds of milliseconds, queues build in tens.

use rand_pcg::Pcg64;

use super::math::mean;
use super::observation::Seen;
use super::plan::{Chooser, Plan};
use super::{Configured, Policy, Sight};

/// Part of a new measurement in the moving mean.
const STEP: f64 = 0.3;

/// What is measured; larger is better.
type Measure = fn(&Seen, interval: f64) -> Option<f64>;

/// Inverse mean latency.
pub(super) fn inverse_latency(seen: &Seen, _: f64) -> Option<f64> {
    seen.mean_latency()
}

/// Requests a second over reported utilisation, with failures as more utilisation: ORCA in gRPC's weighted round robin (gRFC A58).
pub(super) fn orca(seen: &Seen, interval: f64) -> Option<f64> {
    let finished = seen.finished();
    let utilisation = seen.cpu()?;
    (finished > 0.0).then(|| {
        let errors = f64::from(seen.failures) / finished;
        finished / interval / (utilisation.max(0.02) + errors)
    })
}

/// Moving means of a measurement as weights.
#[derive(Debug)]
pub(super) struct Weighted {
    chooser: Chooser,
    measure: Measure,
    /// The measurement is a cost: weights are its inverse.
    inverse: bool,
    means: Vec<Option<f64>>,
}

impl Weighted {
    pub(super) fn new(chooser: Chooser, measure: Measure, inverse: bool, backends: usize) -> Self {
        Self { chooser, measure, inverse, means: vec![None; backends] }
    }
}

impl Policy for Weighted {
    fn start(&self, configured: &[Configured]) -> Plan {
        Plan::even(self.chooser, configured.len())
    }

    fn decide(&mut self, sight: &Sight<'_>, _: &mut Pcg64) -> Plan {
        for (known, seen) in self.means.iter_mut().zip(&sight.observation.backends) {
            if let Some(new) = (self.measure)(seen, sight.observation.interval) {
                *known = Some(known.map_or(new, |known| known + STEP * (new - known)));
            }
        }
        // One that has not been measured yet is taken for an average one.
        let Some(middle) = mean(self.means.iter().flatten().copied()) else {
            return self.start(sight.configured);
        };
        let weight = |known: &Option<f64>| {
            let value = known.unwrap_or(middle);
            if self.inverse { 1.0 / value } else { value }
        };
        Plan::with_weights(self.chooser, self.means.iter().map(weight).collect::<Vec<_>>())
    }
}

/// The learned capacities as weights of a kernel rule: the model of `q-learning` without its prices.
#[derive(Debug)]
pub(super) struct ByCapacity(pub(super) Chooser);

impl Policy for ByCapacity {
    fn start(&self, configured: &[Configured]) -> Plan {
        Plan::even(self.0, configured.len())
    }

    fn decide(&mut self, sight: &Sight<'_>, _: &mut Pcg64) -> Plan {
        Plan::with_weights(self.0, sight.estimator.capacities())
    }
}
