//! The names of policies, and how one is made.

use std::str::FromStr;

use super::Policy;
use super::kernel_rules::KernelRule;
use super::plan::Chooser;
use super::q_learning::QLearning;

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
    QLearning = "q-learning": "the cheapest learned price of one more flow at each backend's occupancy"
        => |backends| Box::new(QLearning::new(backends)),
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
