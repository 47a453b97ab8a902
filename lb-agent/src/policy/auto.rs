//! Chooses among ways of choosing: Q-learning over what the kernel does for a new flow. All arms share the estimator, so that each is
//! usable at once. The state is how loaded, how unequal and how faulty the pool is; the reward of an arm is low latency. An arm
//! is tried while it may still be the best (upper confidence bound), and left only when another is better by a margin.

use std::fmt::Write as _;

use rand_pcg::Pcg64;

use super::math::{ln, mean};
use super::plan::{Chooser, Plan};
use super::{Configured, Policy, Sight, q_learning};

/// Seconds that an arm is held.
const HOLD: f64 = 2.0;
const LEAST_STEP: f64 = 0.1;
/// How far uncertainty reaches, in units of reward (ln of latency).
const CONFIDENCE: f64 = 0.15;
/// An arm is left only for one that is better by this much.
const MARGIN: f64 = 0.02;
const FAILURE_PENALTY: f64 = 5.0;
const STATES: usize = 27;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Arm {
    LeastConnections,
    Price(f64),
    ByCapacity,
}

/// The price with the whole harm in it comes first: it is tried before the others.
const ARMS: [(Arm, &str); 5] = [
    (Arm::Price(1.0), "price"),
    (Arm::Price(2.0), "price with twice the harm"),
    (Arm::Price(0.0), "price without the harm"),
    (Arm::ByCapacity, "least connections by capacity"),
    (Arm::LeastConnections, "least connections"),
];

#[derive(Debug, Clone, Copy, Default)]
struct Value {
    reward: f64,
    visits: f64,
}

#[derive(Debug)]
pub(super) struct Auto {
    values: [[Value; ARMS.len()]; STATES],
    arm: usize,
    state: Option<usize>,
    due: f64,
    /// Since the last decision: sum of ln latency, answers, failures.
    log_latency: f64,
    answers: f64,
    failures: f64,
    reason: String,
}

impl Auto {
    pub(super) fn new() -> Self {
        Self {
            values: [[Value::default(); ARMS.len()]; STATES],
            arm: 0,
            state: None,
            due: 0.0,
            log_latency: 0.0,
            answers: 0.0,
            failures: 0.0,
            reason: "nothing is known yet".to_owned(),
        }
    }

    fn state(sight: &Sight<'_>, failures: f64) -> usize {
        let digit = |value: f64, bounds: [f64; 2]| usize::from(value >= bounds[0]) + usize::from(value >= bounds[1]);
        let picks: f64 = sight.observation.backends.iter().map(|seen| seen.finished()).sum();
        let capacity: f64 = sight.estimator.capacities().iter().sum();
        let load = picks / sight.observation.interval / capacity.max(1.0);
        let levels = || sight.estimator.models().iter().map(|model| model.level());
        let middle = mean(levels()).unwrap_or(0.0);
        let spread = mean(levels().map(|level| (level - middle) * (level - middle))).unwrap_or(0.0).sqrt();
        digit(load, [0.5, 0.8]) * 9 + digit(spread, [0.2, 0.6]) * 3 + digit(failures, [0.001, 0.02])
    }

    fn choose(&mut self, state: usize) {
        let row = &self.values[state];
        let visits: f64 = row.iter().map(|value| value.visits).sum();
        let score = |arm: usize| {
            let Value { reward, visits: own } = row[arm];
            // Untried ones in their order.
            if own == 0.0 { 1e3 - arm as f64 } else { reward + CONFIDENCE * (ln(visits + 1.0) / own).sqrt() }
        };
        let best = (1..ARMS.len()).fold(0, |best, arm| if score(arm) > score(best) { arm } else { best });
        let stays = best == self.arm || score(best) <= score(self.arm) + MARGIN;
        self.reason.clear();
        let known = row.iter().zip(ARMS).filter(|(value, _)| value.visits > 0.0);
        let known: Vec<_> = known.map(|(value, (_, name))| format!("{name} {:.3}", value.reward)).collect();
        if !stays {
            self.arm = best;
        }
        let verb = if stays { "stays with" } else { "goes over to" };
        let name = ARMS[self.arm].1;
        let _ = write!(self.reason, "{verb} {name}; mean rewards in this state: {}", known.join(", "));
    }

    fn learn(&mut self, state: usize, reward: f64) {
        let value = &mut self.values[state][self.arm];
        value.visits += 1.0;
        value.reward += LEAST_STEP.max(1.0 / value.visits) * (reward - value.reward);
    }
}

impl Policy for Auto {
    fn start(&self, configured: &[Configured]) -> Plan {
        q_learning::QLearning::new(configured.len()).start(configured)
    }

    fn decide(&mut self, sight: &Sight<'_>, _: &mut Pcg64) -> Plan {
        for seen in &sight.observation.backends {
            self.log_latency += seen.log_latency.iter().sum::<f64>();
            self.answers += seen.successes();
            self.failures += f64::from(seen.failures);
        }
        if sight.observation.now >= self.due {
            let finished = self.answers + self.failures;
            let failures = self.failures / finished.max(1.0);
            let reward = -self.log_latency / self.answers.max(1.0) - FAILURE_PENALTY * failures;
            if let Some(state) = self.state
                && finished > 0.0
            {
                self.learn(state, reward);
            }
            let state = Self::state(sight, failures);
            self.choose(state);
            self.state = Some(state);
            self.due = sight.observation.now + HOLD;
            (self.log_latency, self.answers, self.failures) = (0.0, 0.0, 0.0);
        }
        let visible = sight.observation.requests_visible;
        match ARMS[self.arm].0 {
            Arm::Price(harm) => {
                let harm = if visible { harm } else { harm.min(0.5) };
                q_learning::plan(sight, harm)
            }
            Arm::ByCapacity => Plan { chooser: Chooser::LeastConnections, ..q_learning::plan(sight, 1.0) },
            Arm::LeastConnections => {
                let mut plan = Plan { chooser: Chooser::LeastConnections, ..q_learning::plan(sight, 1.0) };
                plan.backends.iter_mut().for_each(|backend| backend.weight = 1.0);
                plan
            }
        }
    }

    fn reason(&self) -> Option<&str> {
        Some(&self.reason)
    }
}
