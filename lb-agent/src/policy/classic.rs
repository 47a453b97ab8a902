//! The tabular learner that balancers are often taught with: the state says of every backend whether its load is low, medium or
//! high, the action is the backend that gets the flows.
//!
//! **Why it cannot scale.** N backends have 3^N states: 27 for three, 6,561 for eight, 3.4 · 10^30 for sixty-four, and each
//! state has N actions to try. At four decisions a second a pool of eight is through with one try of each after three and a half
//! hours, in a world that changes within seconds. What it learns of one backend in one state tells it nothing of that backend in
//! any other, nor of the other backends in this one. And its action gives all flows to one backend until the next
//! decision, so it overloads whomever it finds good. [`super::q_learning`] asks another question, "what does one more flow cost
//! here when n are there", whose answers add up linearly.

use std::collections::BTreeMap;

use rand::Rng as _;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::observation::{Observation, Seen};
use super::plan::{Chooser, Plan};
use super::{Configured, Policy, Sight};

const LEARNING_RATE: f64 = 0.1;
const DISCOUNT: f64 = 0.9;
const FIRST_EXPLORATION: f64 = 0.1;
const EXPLORATION_DECAY: f64 = 0.995;
const LEAST_EXPLORATION: f64 = 0.01;
const FAILURE_REWARD: f64 = -1_000.0;
/// Medium and high begin above these: CPU, active requests, response time in seconds.
const CPU: [f64; 2] = [0.5, 0.8];
const ACTIVE: [f64; 2] = [5.0, 10.0];
const RESPONSE_TIME: [f64; 2] = [0.1, 0.2];
/// States that are remembered; beyond it, new ones stay at zero. 64 backends at 100,000 states are 51 MB.
const MOST_STATES: usize = 100_000;

/// Load of each backend: 0 low, 1 medium, 2 high.
type State = Vec<u8>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Table {
    /// Values of the actions by state, written as digits.
    values: BTreeMap<String, Vec<f64>>,
    exploration: f64,
}

#[derive(Debug)]
pub(super) struct Classic {
    backends: usize,
    values: BTreeMap<State, Vec<f64>>,
    exploration: f64,
    /// State and action of the decision before.
    before: Option<(State, usize)>,
}

impl Classic {
    pub(super) fn new(backends: usize) -> Self {
        Self { backends, values: BTreeMap::new(), exploration: FIRST_EXPLORATION, before: None }
    }

    fn value(&self, state: &State, action: usize) -> f64 {
        self.values.get(state).map_or(0.0, |row| row[action])
    }

    /// The best action, the first of equal ones, and its value.
    fn best(&self, state: &State) -> (usize, f64) {
        let first = (0, self.value(state, 0));
        (1..self.backends)
            .map(|action| (action, self.value(state, action)))
            .fold(first, |best, other| if other.1 > best.1 { other } else { best })
    }

    /// `Q(s, a) += α (r + γ max Q(s', ·) - Q(s, a))` (Watkins 1989).
    fn learn(&mut self, state: &State, action: usize, reward: f64, next: &State) {
        let target = reward + DISCOUNT * self.best(next).1;
        let value = self.value(state, action);
        if self.values.len() < MOST_STATES || self.values.contains_key(state) {
            let row = self.values.entry(state.clone()).or_insert_with(|| vec![0.0; self.backends]);
            row[action] = value + LEARNING_RATE * (target - value);
        }
    }

    /// ε-greedy.
    fn choose(&mut self, state: &State, chance: &mut Pcg64) -> usize {
        let explores = chance.random::<f64>() < self.exploration;
        self.exploration = (self.exploration * EXPLORATION_DECAY).max(LEAST_EXPLORATION);
        if explores { chance.random_range(0..self.backends as u32) as usize } else { self.best(state).0 }
    }

    pub(super) fn export(&self) -> Table {
        let digits = |state: &State| state.iter().map(|level| char::from(b'0' + level)).collect();
        let values = self.values.iter().map(|(state, row)| (digits(state), row.clone())).collect();
        Table { values, exploration: self.exploration }
    }

    /// Takes what fits the pool, and nothing else; says how much did not.
    pub(super) fn import(&mut self, table: &Table) -> usize {
        let mut refused = 0;
        for (digits, row) in &table.values {
            let state: State = digits.bytes().map(|digit| digit.wrapping_sub(b'0')).collect();
            let fits = state.len() == self.backends
                && row.len() == self.backends
                && state.iter().all(|level| *level <= 2)
                && row.iter().all(|value| value.is_finite() && value.abs() <= 1e6)
                && self.values.len() < MOST_STATES;
            if fits {
                self.values.insert(state, row.clone());
            } else {
                refused += 1;
            }
        }
        if (LEAST_EXPLORATION..=1.0).contains(&table.exploration) {
            self.exploration = table.exploration;
        }
        refused
    }
}

fn level(value: f64, bounds: [f64; 2]) -> u8 {
    u8::from(value > bounds[0]) + u8::from(value > bounds[1])
}

fn load(seen: &Seen) -> u8 {
    let cpu = level(seen.cpu().unwrap_or(0.0), CPU);
    let active = level(f64::from(seen.in_flight), ACTIVE);
    let response = level(seen.mean_latency().unwrap_or(0.0), RESPONSE_TIME);
    cpu.max(active).max(response)
}

/// `-response_time_ms / 10` and -1000 for a failure, as means over the requests of the interval.
fn reward(observation: &Observation) -> f64 {
    let sum = |of: fn(&Seen) -> f64| observation.backends.iter().map(of).sum::<f64>();
    let (latency, successes) = (sum(|seen| seen.latency), sum(Seen::successes));
    let failures = sum(|seen| f64::from(seen.failures));
    let requests = (successes + failures).max(1.0);
    (-latency * 1e3 / 10.0 + FAILURE_REWARD * failures) / requests
}

impl Policy for Classic {
    fn start(&self, configured: &[Configured]) -> Plan {
        Plan::even(Chooser::LeastConnections, configured.len())
    }

    fn decide(&mut self, sight: &Sight<'_>, chance: &mut Pcg64) -> Plan {
        let state: State = sight.observation.backends.iter().map(load).collect();
        if let Some((before, action)) = self.before.take() {
            self.learn(&before, action, reward(sight.observation), &state);
        }
        let action = self.choose(&state, chance);
        self.before = Some((state, action));
        // The floor of safety makes it fifty to one: the others get what the chosen one has fifty times of.
        Plan::with_weights(
            Chooser::LeastConnections,
            (0..self.backends).map(|index| f64::from(u8::from(index == action))),
        )
    }

    fn export(&self) -> Option<serde_json::Value> {
        serde_json::to_value(Classic::export(self)).ok()
    }

    fn import(&mut self, value: &serde_json::Value) -> Result<usize, String> {
        let table = Table::deserialize(value).map_err(|error| error.to_string())?;
        Ok(Classic::import(self, &table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten updates by hand: α 0.1, γ 0.9, two backends, states A (both low) and B (the first high).
    #[test]
    fn ten_updates_computed_by_hand() {
        let (a, b): (State, State) = (vec![0, 0], vec![2, 0]);
        let mut classic = Classic::new(2);
        let rows: [(&State, usize, f64, &State, f64); 10] = [
            // Q(A,0) = 0 + 0.1 (-2 + 0.9 · 0 - 0)
            (&a, 0, -2.0, &a, -0.2),
            // Q(A,1) = 0 + 0.1 (-1 + 0.9 · max(-0.2, 0) - 0)
            (&a, 1, -1.0, &a, -0.1),
            // Q(A,0) = -0.2 + 0.1 (-20 + 0.9 · 0 + 0.2)
            (&a, 0, -20.0, &b, -2.18),
            // Q(B,0) = 0 + 0.1 (-50 + 0.9 · max(0, 0) - 0)
            (&b, 0, -50.0, &b, -5.0),
            // Q(B,1) = 0 + 0.1 (-3 + 0.9 · max(-2.18, -0.1) - 0)
            (&b, 1, -3.0, &a, -0.309),
            // Q(A,1) = -0.1 + 0.1 (-1 + 0.9 · -0.1 + 0.1)
            (&a, 1, -1.0, &a, -0.199),
            // Q(A,0) = -2.18 + 0.1 (-1000 + 0.9 · max(-5, -0.309) + 2.18)
            (&a, 0, -1_000.0, &b, -101.989_81),
            // Q(B,1) = -0.309 + 0.1 (-2 + 0.9 · max(-5, -0.309) + 0.309)
            (&b, 1, -2.0, &b, -0.505_91),
            // Q(B,0) = -5 + 0.1 (-4 + 0.9 · max(-101.98981, -0.199) + 5)
            (&b, 0, -4.0, &a, -4.917_91),
            // Q(A,1) = -0.199 + 0.1 (-1 + 0.9 · max(-4.91791, -0.50591) + 0.199)
            (&a, 1, -1.0, &b, -0.324_631_9),
        ];
        for (number, (state, action, reward, next, expected)) in rows.into_iter().enumerate() {
            classic.learn(state, action, reward, next);
            let value = classic.value(state, action);
            assert!((value - expected).abs() < 1e-9, "update {}: {value} instead of {expected}", number + 1);
        }
        assert_eq!(classic.best(&a).0, 1);
        assert_eq!(classic.best(&b).0, 1);
    }

    #[test]
    fn load_levels_are_those_of_the_design() {
        let seen = |cpu: f64, active: u32, response: f64| {
            let mut seen = Seen { in_flight: active, latency: response, ..Seen::default() };
            seen.answers[0] = 1;
            let cpu_percent = Some(cpu);
            seen.load = Some(crate::model::pool::ReportedLoad { cpu_percent, ..Default::default() });
            load(&seen)
        };
        assert_eq!(seen(50.0, 5, 0.1), 0);
        assert_eq!([seen(51.0, 0, 0.0), seen(0.0, 6, 0.0), seen(0.0, 0, 0.101)], [1; 3]);
        assert_eq!([seen(81.0, 0, 0.0), seen(0.0, 11, 0.0), seen(0.0, 0, 0.201)], [2; 3]);
    }

    #[test]
    fn what_was_learned_can_be_saved_and_loaded() {
        let mut classic = Classic::new(3);
        classic.learn(&vec![0, 1, 2], 1, -7.0, &vec![0, 0, 0]);
        let saved = Policy::export(&classic).unwrap();
        let mut other = Classic::new(3);
        assert_eq!(Policy::import(&mut other, &saved), Ok(0));
        assert_eq!(other.values, classic.values);
        assert_eq!(Policy::import(&mut Classic::new(2), &saved), Ok(1), "another pool's states are refused");
    }
}
