//! Policies: what is seen of a service's backends becomes a plan for the maps. Everything here is a function of observations,
//! own state, time and a seeded stream of chance, so that the simulator runs the very code of the agent.
//!
//! [`Controller`] is the whole: screen, learn ([`estimator`]), decide ([`Policy`]), bound ([`safety`]), explain.

mod auto;
mod classic;
mod controller;
pub mod curve;
pub mod estimator;
mod journal;
mod kernel_rules;
pub mod kind;
mod knapsack;
pub mod knowledge;
pub mod math;
pub mod observation;
pub mod plan;
mod predictive;
mod q_learning;
pub mod safety;
mod suspicion;
mod weights;

use rand_pcg::Pcg64;

pub use controller::{Controller, Switch};
pub use journal::Change;
pub use kind::PolicyKind;
pub use observation::{Observation, Seen};
pub use plan::{BackendPlan, Chooser, Plan};
pub use predictive::CapacityAdvice;

use estimator::Estimator;

/// A backend as the configuration has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Configured {
    pub name: String,
    /// 0: it takes no flows.
    pub weight: f64,
}

/// What a policy decides from.
#[derive(Debug)]
pub struct Sight<'a> {
    pub observation: &'a Observation,
    /// Learned from all observations, this one included; the same for every policy.
    pub estimator: &'a Estimator,
    pub configured: &'a [Configured],
}

impl Sight<'_> {
    pub fn backends(&self) -> usize {
        self.configured.len()
    }
}

/// One way to decide.
pub trait Policy: std::fmt::Debug + Send {
    /// What to write before anything is known.
    fn start(&self, configured: &[Configured]) -> Plan;

    /// What to write now. Called once an interval, with observations that have been found sound.
    fn decide(&mut self, sight: &Sight<'_>, chance: &mut Pcg64) -> Plan;

    /// What it has learned beside the estimator; none: nothing.
    fn export(&self) -> Option<serde_json::Value> {
        None
    }

    /// Takes in what [`Policy::export`] gave, as far as it fits; gives how many parts did not.
    fn import(&mut self, _: &serde_json::Value) -> Result<usize, String> {
        Ok(0)
    }

    /// Why it decided as it did, for people, where there is more to say than the estimator shows.
    fn reason(&self) -> Option<&str> {
        None
    }

    /// What it would have an operator do.
    fn advice(&self) -> Option<CapacityAdvice> {
        None
    }
}
