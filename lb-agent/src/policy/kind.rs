//! The names of policies, and how one is made.

use std::str::FromStr;

use super::Policy;
use super::auto::Auto;
use super::classic::Classic;
use super::kernel_rules::KernelRule;
use super::knapsack::Knapsack;
use super::plan::Chooser;
use super::predictive::Predictive;
use super::q_learning::QLearning;
use super::weights::{ByCapacity, Weighted, inverse_latency, orca};

macro_rules! kinds {
    ($($variant:ident = $name:literal: $about:literal => $make:expr),+ $(,)?) => {
        /// A policy by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum PolicyKind { $(#[doc = $about] #[serde(rename = $name)] $variant),+ }

        impl PolicyKind {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// For people: what it does.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about),+ }
            }

            /// One that knows nothing yet, for a pool of so many backends.
            pub fn make(self, backends: usize) -> Box<dyn Policy> {
                match self { $(Self::$variant => { let make: fn(usize) -> Box<dyn Policy> = $make; make(backends) }),+ }
            }
        }
    };
}

kinds! {
    Static = "static": "configured weights, a draw by the slot table"
        => |_| Box::new(KernelRule::new(Chooser::Draw)),
    RoundRobin = "round-robin": "configured weights, smooth weighted round robin"
        => |_| Box::new(KernelRule::new(Chooser::RoundRobin)),
    LeastConnections = "least-connections": "fewest in flight for its configured weight"
        => |_| Box::new(KernelRule::new(Chooser::LeastConnections)),
    P2c = "p2c": "the fewer in flight of two drawn by chance"
        => |_| Box::new(KernelRule::new(Chooser::TwoChoices)),
    LeastConnectionsLearned = "least-connections-learned": "the same, with the learned capacities as weights"
        => |_| Box::new(ByCapacity(Chooser::LeastConnections)),
    P2cLearned = "p2c-learned": "`p2c` with the learned capacities as weights"
        => |_| Box::new(ByCapacity(Chooser::TwoChoices)),
    LatencyWeighted = "latency-weighted": "a draw by the inverse of the moving mean latency"
        => |backends| Box::new(Weighted::new(Chooser::Draw, inverse_latency, true, backends)),
    PeakEwma = "peak-ewma": "of two, the lower product of peak-sensitive latency and requests in flight (Finagle)"
        => |_| Box::new(KernelRule::new(Chooser::PeakEwma)),
    Prequal = "prequal": "probes of requests in flight and latency, hot backends avoided (Prequal, NSDI 2024)"
        => |_| Box::new(KernelRule::new(Chooser::Prequal)),
    OrcaRoundRobin = "orca-round-robin": "round robin by requests a second over reported utilisation (gRPC)"
        => |backends| Box::new(Weighted::new(Chooser::RoundRobin, orca, false, backends)),
    OrcaLeastConnections = "orca-least-connections": "the fewest in flight for those weights"
        => |backends| Box::new(Weighted::new(Chooser::LeastConnections, orca, false, backends)),
    Knapsack = "knapsack": "weights by measured curves of latency against weight (KnapsackLB)"
        => |backends| Box::new(Knapsack::new(backends)),
    Predictive = "predictive": "the fewest in flight for weights that suit the load forecast"
        => |_| Box::new(Predictive::new()),
    QLearningClassic = "q-learning-classic": "the tabular learner of 3^N states, all flows to one backend"
        => |backends| Box::new(Classic::new(backends)),
    QLearning = "q-learning": "the cheapest learned price of one more flow at each backend's occupancy"
        => |backends| Box::new(QLearning::new(backends)),
    Auto = "auto": "learns which of five ways of choosing suits the state of the pool"
        => |_| Box::new(Auto::new()),
}

impl std::fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PolicyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|kind| kind.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!("`{text}` is not a policy: use one of {}", names.join(", "))
        })
    }
}
