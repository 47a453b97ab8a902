//! What a study promises: the same result whatever the machine, one result whatever the number of threads, and what the oracle
//! and the policies owe each other.

use super::*;
use crate::config::load_scenario;
use crate::model::scenario::Scenario;
use crate::policy::PolicyKind;

pub(super) fn scenario(text: &str) -> Scenario {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("scenario.yaml");
    std::fs::write(&file, text).unwrap();
    load_scenario(&file).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Short, with one backend that slows down.
fn short() -> Scenario {
    scenario(
        "name: short\nduration: 8s\nload: { kind: constant, load: 0.6 }\n\
         events: [{ kind: slow, at: 3s, until: 6s, factor: 0.25 }]\n",
    )
}

fn summary(scenario: &Scenario, backends: usize, contender: Contender) -> Summary {
    let (recording, _) = play(&World::new(scenario, backends, 1), contender, false);
    recording.summary(scenario.duration, &scenario.marks(), backends)
}

#[test]
fn a_study_does_not_depend_on_the_number_of_threads() {
    let study = |threads| Study {
        scenarios: vec![short()],
        contenders: vec![Contender::Policy(PolicyKind::QLearning), Contender::Policy(PolicyKind::P2c)],
        backends: vec![2, 3],
        seeds: 2,
        threads,
    };
    let figures = |threads| {
        let outcomes = study(threads).run(&|_| ());
        outcomes.iter().map(|outcome| format!("{outcome:?}")).collect::<Vec<_>>()
    };
    let one = figures(1);
    assert_eq!(one.len() as u64, study(1).runs());
    assert_eq!(one, figures(3));
}

/// Frozen: the figures of one run to the last bit. They change only with the rules of the simulator itself, and never with the
/// machine, its C library or the number of its processors.
#[test]
fn the_same_on_every_machine() {
    let summary = summary(&short(), 3, Contender::Policy(PolicyKind::LeastConnections));
    insta::assert_snapshot!(format!(
        "{} requests, mean {:016x}, p99 {:016x}",
        summary.requests,
        summary.mean.to_bits(),
        summary.p99.to_bits()
    ));
}

#[test]
fn every_request_is_accounted_for() {
    let scenario = scenario(
        "name: all\nduration: 6s\nload: { kind: constant, load: 0.5 }\nrequests_per_flow: 4\nthink: 20ms\n\
         events: [{ kind: hang, at: 2s, until: 4s }, { kind: errors, at: 1s, until: 5s, probability: 0.3 }]\n",
    );
    let world = World::new(&scenario, 4, 7);
    for contender in [Contender::Oracle, Contender::Policy(PolicyKind::QLearning)] {
        let (recording, _) = play(&world, contender, false);
        // A flow ends with its last request or with the first that fails.
        let flows = world.arrivals.len();
        let planned: u32 = (0..flows as u32).map(|flow| world.requests_of(flow)).sum();
        assert!(recording.samples.len() <= planned as usize && recording.samples.len() >= flows - recording.unfinished);
        assert!(recording.unfinished < flows / 100, "{}", recording.unfinished);
    }
}

#[test]
fn in_light_load_a_request_takes_its_work_and_the_network() {
    let scenario = scenario(
        "name: light\nduration: 10s\nload: { kind: constant, load: 0.01 }\nwork: { mean: 10ms, distribution: fixed }\n\
         pool: { backends: [{ cores: 4 }], network: 1ms }\n",
    );
    let summary = summary(&scenario, 2, Contender::Policy(PolicyKind::LeastConnections));
    assert!((summary.p50 - 11.0).abs() < 1e-3 && (summary.p99 - 11.0).abs() < 1e-3, "{summary:?}");
}

#[test]
fn a_queue_with_one_server_waits_as_theory_says() {
    // M/M/1 at 0.5: a mean of twice the service time (here 20 ms), whatever the discipline.
    for discipline in ["fifo", "lifo", "sharing"] {
        let scenario = scenario(&format!(
            "name: mm1\nduration: 20m\nload: {{ kind: constant, load: 0.5 }}\n\
             work: {{ mean: 10ms, distribution: exponential }}\n\
             pool: {{ backends: [{{ cores: 1 }}], network: 0s, discipline: {discipline} }}\n"
        ));
        let summary = summary(&scenario, 1, Contender::Policy(PolicyKind::Static));
        assert!((summary.mean - 20.0).abs() < 0.6, "{discipline}: {}", summary.mean);
    }
}
