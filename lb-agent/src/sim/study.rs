//! Many runs: each scenario with each size of pool and each seed, every contender on the same world, on all processors. The
//! result does not depend on how many those are.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::play::{Contender, play};
use super::record::Summary;
use super::world::World;
use crate::model::scenario::Scenario;

#[derive(Debug)]
pub struct Study {
    pub scenarios: Vec<Scenario>,
    /// Whom to compare with the oracle, which always plays.
    pub contenders: Vec<Contender>,
    pub backends: Vec<usize>,
    /// Seeds from 1 on.
    pub seeds: u64,
    pub threads: usize,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Index into the scenarios.
    pub scenario: usize,
    pub backends: usize,
    pub seed: u64,
    pub contender: Contender,
    pub summary: Summary,
    /// Against the oracle on the same world: mean milliseconds a request, and p99 as a multiple.
    pub regret: f64,
    pub times_oracle: f64,
}

impl Study {
    /// Runs that will be played.
    pub fn runs(&self) -> u64 {
        let worlds = self.scenarios.len() as u64 * self.backends.len() as u64 * self.seeds;
        worlds * (self.contenders.len() as u64 + 1)
    }

    /// Plays everything; `played` hears of each run with the requests that were in it.
    pub fn run(&self, played: &(dyn Fn(u64) + Sync)) -> Vec<Outcome> {
        let mut worlds = Vec::new();
        for &backends in &self.backends {
            for scenario in 0..self.scenarios.len() {
                worlds.extend((1..=self.seeds).map(|seed| (backends, scenario, seed)));
            }
        }
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<Vec<Outcome>>> = Mutex::new(vec![Vec::new(); worlds.len()]);
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(&(backends, scenario, seed)) = worlds.get(index) else { return };
                        let outcomes = self.play_world(backends, scenario, seed, played);
                        done.lock().unwrap_or_else(PoisonError::into_inner)[index] = outcomes;
                    }
                });
            }
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
    }

    fn play_world(&self, backends: usize, index: usize, seed: u64, played: &(dyn Fn(u64) + Sync)) -> Vec<Outcome> {
        let scenario = &self.scenarios[index];
        let world = World::new(scenario, backends, seed);
        let marks = scenario.marks();
        let figures = |contender| {
            let (recording, _) = play(&world, contender, false);
            played(recording.samples.len() as u64);
            recording.summary(scenario.duration, &marks, backends)
        };
        let oracle = figures(Contender::Oracle);
        let outcome = |contender, summary: Summary| Outcome {
            scenario: index,
            backends,
            seed,
            contender,
            summary,
            regret: summary.mean - oracle.mean,
            times_oracle: if oracle.p99 > 0.0 { summary.p99 / oracle.p99 } else { 1.0 },
        };
        let mut outcomes = vec![outcome(Contender::Oracle, oracle)];
        outcomes.extend(self.contenders.iter().map(|contender| outcome(*contender, figures(*contender))));
        outcomes
    }
}
