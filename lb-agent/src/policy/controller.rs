//! One service's policy with everything around it: an observation goes in, a plan that may be written comes out.

use rand::SeedableRng as _;
use rand_pcg::Pcg64;

use super::estimator::Estimator;
use super::observation::Observation;
use super::plan::Plan;
use super::safety::{Counts, Safety};
use super::{Configured, Policy, PolicyKind, Sight};

#[derive(Debug)]
pub struct Controller {
    kind: PolicyKind,
    configured: Vec<Configured>,
    estimator: Estimator,
    policy: Box<dyn Policy>,
    safety: Safety,
    chance: Pcg64,
    plan: Plan,
}

impl Controller {
    /// Knows nothing yet; its plan is what to write until the first observation.
    pub fn new(kind: PolicyKind, configured: &[Configured], seed: u64) -> Self {
        let policy = kind.make(configured.len());
        let mut safety = Safety::new(configured);
        let plan = safety.start(policy.start(configured));
        Self {
            kind,
            configured: configured.to_vec(),
            estimator: Estimator::new(configured.len()),
            policy,
            safety,
            chance: Pcg64::seed_from_u64(seed),
            plan,
        }
    }

    pub fn kind(&self) -> PolicyKind {
        self.kind
    }

    /// What is to be in the maps now.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn estimator(&self) -> &Estimator {
        &self.estimator
    }

    pub fn counts(&self) -> &Counts {
        self.safety.counts()
    }

    /// Takes an interval in and decides. What cannot be believed leaves the plan as it was.
    pub fn step(&mut self, mut observation: Observation) -> &Plan {
        if self.safety.screen(&mut observation).is_err() {
            return &self.plan;
        }
        self.estimator.update(&observation);
        let sight = Sight { observation: &observation, estimator: &self.estimator, configured: &self.configured };
        let wanted = self.policy.decide(&sight, &mut self.chance);
        let suspects: Vec<bool> = self.estimator.models().iter().map(|model| model.is_suspect()).collect();
        self.plan = self.safety.bound(&observation, &suspects, wanted);
        for (backend, model) in self.plan.backends.iter_mut().zip(self.estimator.models()) {
            let seen = observation.requests_visible.then(|| model.quick_answer(&self.estimator.grid)).flatten();
            backend.quick = seen.unwrap_or(0.0);
        }
        &self.plan
    }
}
