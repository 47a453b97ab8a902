//! Why safety did not do what a policy wanted, or did not let it learn: each case has a name and a count.

use serde::Serialize;

macro_rules! interventions {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal),+ $(,)?) => {
        /// A rule of safety that took effect.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Intervention { $($(#[doc = $doc])+ $variant),+ }

        impl Intervention {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name that metrics and commands show.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// For people: what it means.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }
        }
    };
}

interventions! {
    /// No observation of the whole pool, or of another pool than the configured one: nothing was learned or changed.
    Missing = "missing",
    /// An observation that cannot be true: its backend was not learned from.
    Contradictory = "contradictory",
    /// The agent itself came too late for the interval to mean anything: nothing was learned or changed.
    Late = "late",
    /// Time went backwards or stood still: nothing was learned or changed.
    TimeWentBack = "time-went-back",
    /// The policy gave something that is not a number: the last good value stayed.
    NotANumber = "not-a-number",
    /// A weight was raised to the share that every backend keeps.
    Floor = "floor",
    /// A weight or price was cut to the most that is allowed.
    Ceiling = "ceiling",
    /// A weight or price moved less than the policy wanted in one update.
    Step = "step",
    /// A change too small to be worth moving slots.
    DeadBand = "dead-band",
    /// A change was spread over time, because moving slots costs flows their place.
    MoveBudget = "move-budget",
    /// A backend of which little is known has the middle weight of the pool.
    FewSamples = "few-samples",
    /// A backend that came back takes its share step by step.
    SlowStart = "slow-start",
    /// A backend fails much more than the others and was taken out for a while.
    Ejected = "ejected",
    /// A backend answers faster than it can work: its answers count as failures.
    TooGood = "too-good",
    /// The policy is switched off: configured weights are in force.
    Off = "off",
}

/// How often each took effect.
#[derive(Debug, Clone)]
pub struct Counts([u64; Intervention::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Intervention::ALL.len()])
    }
}

impl Counts {
    pub(crate) fn add(&mut self, intervention: Intervention) {
        self.0[intervention as usize] += 1;
    }

    pub fn of(&self, intervention: Intervention) -> u64 {
        self.0[intervention as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = (Intervention, u64)> {
        Intervention::ALL.iter().map(|intervention| (*intervention, self.of(*intervention)))
    }
}
