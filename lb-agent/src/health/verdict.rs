//! Turns the outcomes of a backend's probes into a state that does not flap: `rise` successes in a row bring a backend
//! in, `fall` failures in a row take it out. It owns the two counters and the state, and neither clock nor I/O.
//!
//! A backend about which nothing is known yet comes up with its first success, as in Envoy: a new pool serves after
//! one probe, not after `rise` intervals. An outcome that says nothing about the backend (the agent was starved)
//! changes nothing, and breaks no row either.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::pool::ProbeOutcome;

/// What is believed about a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Not known yet: no success, and not enough failures.
    Checking,
    Up,
    Down,
}

impl HealthState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Checking => "checking",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A change of state; it is logged once, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub from: HealthState,
    pub to: HealthState,
    /// For people: `3 probes in a row failed: connection refused`.
    pub reason: String,
}

/// The rise/fall state machine of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    rise: u32,
    fall: u32,
    state: HealthState,
    successes: u32,
    failures: u32,
}

impl Verdict {
    /// A backend about which nothing is known. A threshold of 0 counts as 1.
    pub fn new(rise: u32, fall: u32) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), state: HealthState::Checking, successes: 0, failures: 0 }
    }

    /// A backend whose state was known before the agent restarted: it keeps that state until probes say otherwise.
    pub fn known(rise: u32, fall: u32, healthy: bool) -> Self {
        let state = if healthy { HealthState::Up } else { HealthState::Down };
        Self { state, ..Self::new(rise, fall) }
    }

    /// Takes new thresholds after a reload. State and rows stay; the next outcome is judged by the new numbers.
    pub fn set_thresholds(&mut self, rise: u32, fall: u32) {
        self.rise = rise.max(1);
        self.fall = fall.max(1);
    }

    /// Takes one outcome in; says so if the state changed.
    pub fn observe(&mut self, outcome: &ProbeOutcome) -> Option<Transition> {
        match outcome {
            ProbeOutcome::Success { .. } => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                let needed = match self.state {
                    HealthState::Checking => 1,
                    HealthState::Down => self.rise,
                    HealthState::Up => return None,
                };
                (self.successes >= needed).then(|| self.become_up())
            }
            ProbeOutcome::Failure { reason } => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                let out = self.state != HealthState::Down && self.failures >= self.fall;
                out.then(|| self.become_down(reason))
            }
            ProbeOutcome::Starved { .. } => None,
        }
    }

    pub fn state(&self) -> HealthState {
        self.state
    }

    /// Successes since the last failure.
    pub fn consecutive_successes(&self) -> u32 {
        self.successes
    }

    /// Failures since the last success.
    pub fn consecutive_failures(&self) -> u32 {
        self.failures
    }

    fn become_up(&mut self) -> Transition {
        let reason = match (self.state, self.successes) {
            (HealthState::Checking, _) => "first probe succeeded".to_owned(),
            (_, 1) => "probe succeeded".to_owned(),
            (_, n) => format!("{n} probes in a row succeeded"),
        };
        let from = std::mem::replace(&mut self.state, HealthState::Up);
        Transition { from, to: HealthState::Up, reason }
    }

    fn become_down(&mut self, why: &str) -> Transition {
        let reason = match self.failures {
            1 => format!("probe failed: {why}"),
            n => format!("{n} probes in a row failed: {why}"),
        };
        let from = std::mem::replace(&mut self.state, HealthState::Down);
        Transition { from, to: HealthState::Down, reason }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn success() -> ProbeOutcome {
        ProbeOutcome::Success { latency: Duration::from_millis(1), load: None }
    }

    fn failure() -> ProbeOutcome {
        ProbeOutcome::Failure { reason: "connection refused".to_owned() }
    }

    fn starved() -> ProbeOutcome {
        ProbeOutcome::Starved { late_by: Duration::from_secs(30) }
    }

    /// One row: outcomes as letters (`+` success, `-` failure, `~` starved) and the state after each (`c`, `u`, `d`).
    fn check(mut verdict: Verdict, outcomes: &str, expected: &str) {
        let mut seen = String::new();
        for letter in outcomes.chars() {
            let outcome = match letter {
                '+' => success(),
                '-' => failure(),
                _ => starved(),
            };
            let before = verdict.state();
            let transition = verdict.observe(&outcome);
            assert_eq!(transition.is_some(), before != verdict.state(), "{outcomes}: a change is reported, once");
            if let Some(transition) = transition {
                assert_eq!((transition.from, transition.to), (before, verdict.state()), "{outcomes}");
            }
            seen.push_str(&verdict.state().as_str()[..1]);
        }
        assert_eq!(seen, expected, "after {outcomes}");
    }

    #[test]
    fn rows() {
        check(Verdict::new(2, 3), "+", "u");
        check(Verdict::new(2, 3), "---++", "ccddu");
        check(Verdict::new(2, 3), "--+--+---", "ccuuuuuud");
        check(Verdict::new(2, 3), "~~-~-~-", "ccccccd");
        check(Verdict::known(2, 3, true), "--~-", "uuud");
        check(Verdict::known(2, 3, false), "+~+", "ddu");
        check(Verdict::known(2, 3, false), "+-++", "dddu");
        check(Verdict::known(1, 1, true), "-+-+", "dudu");
        check(Verdict::known(0, 0, true), "-+-+", "dudu");
    }

    #[test]
    fn reasons_are_for_people() {
        let mut verdict = Verdict::new(2, 3);
        assert_eq!(verdict.observe(&success()).unwrap().reason, "first probe succeeded");
        assert!(verdict.observe(&failure()).is_none());
        assert!(verdict.observe(&failure()).is_none());
        assert_eq!(verdict.observe(&failure()).unwrap().reason, "3 probes in a row failed: connection refused");
        assert!(verdict.observe(&success()).is_none());
        assert_eq!(verdict.observe(&success()).unwrap().reason, "2 probes in a row succeeded");
    }

    #[test]
    fn lowered_threshold_applies_from_the_next_outcome() {
        let mut verdict = Verdict::known(5, 5, true);
        assert!(verdict.observe(&failure()).is_none());
        assert!(verdict.observe(&failure()).is_none());
        verdict.set_thresholds(2, 2);
        assert_eq!((verdict.state(), verdict.consecutive_failures()), (HealthState::Up, 2));
        assert_eq!(verdict.observe(&failure()).unwrap().to, HealthState::Down);
        assert!(verdict.observe(&success()).is_none());
        assert_eq!(verdict.observe(&success()).unwrap().to, HealthState::Up);
    }

    /// The definition, slow and plain: the state is found by looking back over the whole history at every step.
    fn reference(start: HealthState, rise: usize, fall: usize, history: &[bool]) -> HealthState {
        (1..=history.len()).fold(start, |state, end| {
            let past = &history[..end];
            let ends_with =
                |count: usize, value| past.len() >= count && past[end - count..].iter().all(|o| *o == value);
            match state {
                HealthState::Checking if ends_with(1, true) => HealthState::Up,
                HealthState::Down if ends_with(rise, true) => HealthState::Up,
                HealthState::Checking | HealthState::Up if ends_with(fall, false) => HealthState::Down,
                same => same,
            }
        })
    }

    fn start() -> impl Strategy<Value = HealthState> {
        prop_oneof![Just(HealthState::Checking), Just(HealthState::Up), Just(HealthState::Down)]
    }

    fn verdict_in(state: HealthState, rise: u32, fall: u32) -> Verdict {
        match state {
            HealthState::Checking => Verdict::new(rise, fall),
            HealthState::Up => Verdict::known(rise, fall, true),
            HealthState::Down => Verdict::known(rise, fall, false),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            start in start(), rise in 1u32..6, fall in 1u32..6,
            outcomes in proptest::collection::vec(0u8..5, 0..80),
        ) {
            let mut verdict = verdict_in(start, rise, fall);
            let mut history = Vec::new();
            for outcome in outcomes {
                let before = verdict.state();
                // Two of five succeed, two fail, one is starved and so not part of the history.
                let transition = match outcome {
                    0 | 1 => { history.push(true); verdict.observe(&success()) }
                    2 | 3 => { history.push(false); verdict.observe(&failure()) }
                    _ => verdict.observe(&starved()),
                };
                let expected = reference(start, rise as usize, fall as usize, &history);
                prop_assert_eq!(verdict.state(), expected);
                prop_assert_eq!(transition.map(|t| (t.from, t.to)), (before != expected).then_some((before, expected)));
                let row = |value| history.iter().rev().take_while(|o| **o == value).count();
                prop_assert_eq!(verdict.consecutive_successes() as usize, row(true));
                prop_assert_eq!(verdict.consecutive_failures() as usize, row(false));
            }
        }

        #[test]
        fn alternation_never_flaps(healthy: bool, rise in 2u32..9, fall in 2u32..9, first: bool, count in 0usize..60) {
            let mut verdict = Verdict::known(rise, fall, healthy);
            for step in 0..count {
                let outcome = if first ^ (step % 2 == 0) { success() } else { failure() };
                prop_assert_eq!(verdict.observe(&outcome), None);
            }
        }

        #[test]
        fn starvation_is_as_if_nothing_happened(
            start in start(), rise in 1u32..6, fall in 1u32..6,
            before in proptest::collection::vec(any::<bool>(), 0..10), count in 1usize..50,
        ) {
            let mut verdict = verdict_in(start, rise, fall);
            for ok in before {
                verdict.observe(&if ok { success() } else { failure() });
            }
            let untouched = verdict.clone();
            for _ in 0..count {
                prop_assert_eq!(verdict.observe(&starved()), None);
            }
            prop_assert_eq!(verdict, untouched);
        }
    }
}
