//! One service's policy with everything around it: an observation goes in, a plan that may be written comes out.

use rand::SeedableRng as _;
use rand_pcg::Pcg64;

use super::estimator::Estimator;
use super::journal::{Change, Journal};
use super::knowledge::{Imported, Knowledge};
use super::observation::Observation;
use super::plan::Plan;
use super::safety::{Counts, Safety};
use super::{CapacityAdvice, Configured, Policy, PolicyKind, Sight};

/// What is done with decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// They are written.
    #[default]
    On,
    /// They are shown; configured weights hold.
    Shadow,
    /// Nothing is learned or changed: the last plan holds.
    Frozen,
    /// Nothing is decided: configured weights hold.
    Off,
}

#[derive(Debug)]
pub struct Controller {
    kind: PolicyKind,
    configured: Vec<Configured>,
    estimator: Estimator,
    policy: Box<dyn Policy>,
    safety: Safety,
    journal: Journal,
    chance: Pcg64,
    switch: Switch,
    /// What is to be in the maps, and what the policy would have there.
    plan: Plan,
    wanted: Plan,
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
            journal: Journal::new(&plan.backends),
            chance: Pcg64::seed_from_u64(seed),
            switch: Switch::On,
            wanted: plan.clone(),
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

    /// What would be there if the switch were on.
    pub fn wanted(&self) -> &Plan {
        &self.wanted
    }

    pub fn estimator(&self) -> &Estimator {
        &self.estimator
    }

    pub fn counts(&self) -> &Counts {
        self.safety.counts()
    }

    /// The last changes of what is wanted, the oldest first.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.journal.changes()
    }

    /// Why the policy decided as it did, where there is more to say than curves show.
    pub fn reason(&self) -> Option<&str> {
        self.policy.reason()
    }

    pub fn advice(&self) -> Option<CapacityAdvice> {
        self.policy.advice()
    }

    pub fn switch(&self) -> Switch {
        self.switch
    }

    /// Takes effect at once.
    pub fn set_switch(&mut self, switch: Switch) {
        self.switch = switch;
        match switch {
            Switch::On => self.plan = self.wanted.clone(),
            Switch::Shadow => self.plan = self.safety.fallback(),
            Switch::Off => self.plan = self.safety.switched_off(),
            Switch::Frozen => {}
        }
    }

    /// What was learned.
    pub fn export(&self) -> Knowledge {
        let names = self.configured.iter().map(|backend| backend.name.clone()).collect();
        Knowledge::new(self.kind, names, self.estimator.models(), self.policy.export())
    }

    /// Takes over what fits this pool.
    pub fn import(&mut self, knowledge: &Knowledge) -> Imported {
        let mut imported = Imported { backends: 0, refused: 0 };
        for (name, learned) in &knowledge.learned {
            let index = self.configured.iter().position(|backend| backend.name == *name);
            let model = index.and_then(|index| self.estimator.models.get_mut(index));
            if model.is_some_and(|model| learned.teach(model)) {
                imported.backends += 1;
            } else {
                imported.refused += 1;
            }
        }
        self.estimator.refresh();
        // A policy's own table speaks of backends by their place.
        let same = knowledge.policy == self.kind
            && knowledge.backends.iter().eq(self.configured.iter().map(|backend| &backend.name));
        if let Some(own) = &knowledge.own {
            imported.refused += match same {
                true => self.policy.import(own).unwrap_or(1),
                false => 1,
            };
        }
        imported
    }

    /// Takes an interval in and decides. What cannot be believed leaves the plan as it was.
    pub fn step(&mut self, mut observation: Observation) -> &Plan {
        if self.safety.screen(&mut observation).is_err() || self.switch == Switch::Frozen {
            return &self.plan;
        }
        self.estimator.update(&observation);
        let sight = Sight { observation: &observation, estimator: &self.estimator, configured: &self.configured };
        let wanted = self.policy.decide(&sight, &mut self.chance);
        let models = self.estimator.models();
        let suspects: Vec<bool> = models.iter().map(|model| model.is_suspect()).collect();
        self.wanted = self.safety.bound(&observation, &suspects, wanted);
        for (backend, model) in self.wanted.backends.iter_mut().zip(models) {
            let seen = observation.requests_visible.then(|| model.quick_answer(&self.estimator.grid)).flatten();
            backend.quick = seen.unwrap_or(0.0);
        }
        self.journal.note(observation.now, &observation.backends, models, &self.wanted.backends);
        if self.switch == Switch::On {
            self.plan.clone_from(&self.wanted);
        }
        &self.plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::observation::Seen;

    fn pool(backends: usize) -> Vec<Configured> {
        (0..backends).map(|index| Configured { name: format!("b{index}"), weight: 1.0 }).collect()
    }

    /// One backend answers in 5 ms, the other in 20 ms, both at an occupancy of one.
    fn observe(step: u32) -> Observation {
        let seen = |latency: f64| {
            let count = (0.2 / latency) as u32;
            let mut seen = Seen { picks: count, ..Seen::default() };
            seen.answers[0] = count;
            seen.log_latency[0] = f64::from(count) * libm::log(latency);
            seen.latency = f64::from(count) * latency;
            seen.departures[1] = count;
            seen.time_at[1] = 0.2;
            seen.time_at[0] = 0.05;
            seen
        };
        let now = f64::from(step) * 0.25;
        Observation { now, interval: 0.25, requests_visible: true, backends: vec![seen(0.005), seen(0.02)] }
    }

    fn taught(kind: PolicyKind) -> Controller {
        let mut controller = Controller::new(kind, &pool(2), 1);
        for step in 1..80 {
            controller.step(observe(step));
        }
        controller
    }

    #[test]
    fn it_learns_what_a_flow_costs() {
        let controller = taught(PolicyKind::QLearning);
        let delays: Vec<f64> = controller.estimator().models().iter().map(|model| model.delay()[0]).collect();
        assert!((delays[0] - 0.005).abs() < 0.001 && (delays[1] - 0.02).abs() < 0.004, "{delays:?}");
        let plan = controller.plan();
        assert!(plan.backends[0].prices[0] < plan.backends[1].prices[0]);
        assert!(controller.changes().any(|change| change.backend == 0 && change.after > change.before));
    }

    #[test]
    fn knowledge_survives_as_json_and_nothing_else_comes_in() {
        let text = serde_json::to_string(&taught(PolicyKind::QLearning).export()).unwrap();
        let mut other = Controller::new(PolicyKind::QLearning, &pool(2), 1);
        let knowledge = Knowledge::parse(&text).unwrap();
        assert_eq!(other.import(&knowledge), Imported { backends: 2, refused: 0 });
        let delay = other.estimator().models()[0].delay()[0];
        assert!((delay - 0.005).abs() < 0.001, "{delay}");
        let mut smaller = Controller::new(PolicyKind::QLearning, &pool(1), 1);
        assert_eq!(smaller.import(&knowledge), Imported { backends: 1, refused: 1 }, "another pool's backend");
        for (key, value) in [("level", "1e9"), ("level", "-17"), ("mass", "[1]"), ("shape", "[]")] {
            let mut value_of: serde_json::Value = serde_json::from_str(&text).unwrap();
            value_of["learned"]["b0"][key] = serde_json::from_str(value).unwrap();
            let poisoned = Knowledge::parse(&value_of.to_string()).unwrap();
            let mut fresh = Controller::new(PolicyKind::QLearning, &pool(2), 1);
            assert_eq!(fresh.import(&poisoned), Imported { backends: 1, refused: 1 }, "{key} {value}");
        }
        assert!(Knowledge::parse("{}").is_err());
        assert!(Knowledge::parse(&text.replacen("\"version\":1", "\"version\":2", 1)).is_err());
        assert!(Knowledge::parse(&text.replacen("\"version\"", "\"x\":1,\"version\"", 1)).is_err());
    }

    #[test]
    fn switches_do_what_they_say() {
        let mut controller = taught(PolicyKind::LeastConnectionsLearned);
        let learned = controller.plan().clone();
        assert!(learned.backends[0].weight > 1.5 * learned.backends[1].weight, "{:?}", learned.shares());
        controller.set_switch(Switch::Off);
        assert_eq!(controller.plan().shares(), vec![0.5, 0.5]);
        controller.set_switch(Switch::Shadow);
        controller.step(observe(81));
        assert_eq!(controller.plan().shares(), vec![0.5, 0.5], "shown, not written");
        assert!(controller.wanted().backends[0].weight > 1.5);
        controller.set_switch(Switch::On);
        let before = controller.plan().clone();
        controller.set_switch(Switch::Frozen);
        controller.step(observe(82));
        assert_eq!(*controller.plan(), before);
    }
}
