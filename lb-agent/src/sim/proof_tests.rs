//! What `q-learning` must show. Figures over all scenarios, sizes and seeds are a study's matter (docs/policies.md); these are the
//! promises that hold in each run, on short scenarios so that the tests stay quick without optimisation.

use super::tests::scenario;
use super::*;
use crate::policy::PolicyKind;

const Q_LEARNING: Contender = Contender::Policy(PolicyKind::QLearning);

fn run(text: &str, backends: usize, seed: u64) -> (Recording, Summary, f64) {
    let scenario = scenario(text);
    let (recording, _) = play(&World::new(&scenario, backends, seed), Q_LEARNING, false);
    let summary = recording.summary(scenario.duration, &scenario.marks(), backends);
    (recording, summary, scenario.duration)
}

#[test]
fn a_backend_at_a_quarter_of_its_speed_is_found_within_three_seconds() {
    let slow = "name: slow\nduration: 24s\nload: { kind: constant, load: 0.6 }\n\
                events: [{ kind: slow, at: 12s, until: 24s, factor: 0.25 }]\n";
    let mut times: Vec<f64> = (1..=5).map(|seed| run(slow, 3, seed).1.convergence).collect();
    times.sort_by(f64::total_cmp);
    assert!(times[2] <= 3.0, "median of five seeds: {times:?}");
}

#[test]
fn two_equal_backends_share_evenly_for_ten_minutes_and_do_not_swing() {
    let even = "name: even\nduration: 10m\nload: { kind: constant, load: 0.6 }\npool: { backends: [{ cores: 2 }] }\n";
    let (recording, _, duration) = run(even, 2, 1);
    let shares = recording.shares_by_second(duration, 2);
    let minutes: Vec<f64> = shares
        .chunks(60)
        .map(|minute| minute.iter().map(|share| share[0]).sum::<f64>() / minute.len() as f64)
        .collect();
    assert!(minutes.iter().all(|share| (0.45..=0.55).contains(share)), "{minutes:?}");
    // A limit cycle would show as shares of one second that go with those some seconds before.
    let first: Vec<f64> = shares[10..].iter().map(|share| share[0] - 0.5).collect();
    let power: f64 = first.iter().map(|value| value * value).sum();
    for lag in 2..60 {
        let together: f64 = first.windows(lag + 1).map(|part| part[0] * part[lag]).sum();
        assert!(together.abs() < 0.35 * power, "shares swing with a period of {lag} s: {:.2}", together / power);
    }
}

#[test]
fn a_backend_that_answers_everything_with_an_error_gets_next_to_nothing() {
    for seen in ["1", "0"] {
        let errors = format!(
            "name: errors\nduration: 50s\nload: {{ kind: constant, load: 0.5 }}\nfailures: {{ seen: {seen} }}\n\
             pool: {{ backends: [{{ cores: 2 }}] }}\n\
             events: [{{ kind: errors, at: 12s, until: 50s, backends: [1] }}]\n"
        );
        let (recording, summary, duration) = run(&errors, 3, 1);
        let shares = recording.shares_by_second(duration, 3);
        let late = &shares[42..];
        assert!(late.iter().all(|share| share[1] <= 0.05), "seen {seen}: {late:?}");
        // Never above its fair share, taken over any three seconds from its first failures on.
        let most = shares[12..].windows(3).map(|part| part.iter().map(|share| share[1]).sum::<f64>() / 3.0);
        let most = most.fold(0.0, f64::max);
        assert!(most <= 1.0 / 3.0 && summary.failed < 0.02, "seen {seen}: {most}, {}", summary.failed);
    }
}

#[test]
fn on_short_runs_it_is_better_than_rules_that_do_not_learn() {
    let slow = scenario(
        "name: short\nduration: 16s\nload: { kind: constant, load: 0.6 }\n\
         events: [{ kind: slow, at: 7s, until: 12s, factor: 0.25 }]\n",
    );
    let world = World::new(&slow, 3, 1);
    let p99 = |contender| play(&world, contender, false).0.summary(slow.duration, &slow.marks(), 3).p99;
    let own = p99(Q_LEARNING);
    for rival in [PolicyKind::LeastConnections, PolicyKind::P2c, PolicyKind::LatencyWeighted, PolicyKind::RoundRobin] {
        assert!(own < p99(Contender::Policy(rival)), "{rival}");
    }
}
