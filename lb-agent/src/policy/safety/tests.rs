//! Safety against everything that may be seen: generated streams of observations through every policy, and each rule alone.

use lb_common::price::BUCKETS;
use proptest::prelude::*;

use super::*;
use crate::model::pool::ReportedLoad;
use crate::policy::observation::Seen;
use crate::policy::plan::{Chooser, PRICE_RANGE};
use crate::policy::{Controller, PolicyKind};

const POOL: usize = 3;

fn configured(weights: &[f64]) -> Vec<Configured> {
    let name = |index| format!("b{index}");
    weights.iter().enumerate().map(|(index, weight)| Configured { name: name(index), weight: *weight }).collect()
}

/// A backend that answers `rate` requests in the interval with so much latency, always busy with about two.
fn busy(rate: u32, latency: f64) -> Seen {
    let mut seen = Seen { picks: rate, in_flight: 2, open: 2, ..Seen::default() };
    seen.answers[1] = rate;
    seen.log_latency[1] = f64::from(rate) * libm::log(latency);
    seen.latency = f64::from(rate) * latency;
    seen.departures[2] = rate;
    seen.time_at[2] = 0.25;
    seen
}

fn observe(now: f64, backends: Vec<Seen>) -> Observation {
    Observation { now, interval: 0.25, requests_visible: true, backends }
}

/// Numbers as they should not be.
fn poison() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(0.0),
        Just(-1.0),
        Just(1e300),
        Just(-1e300),
        Just(f64::MIN_POSITIVE),
        0.0..10.0_f64,
    ]
}

fn seen() -> impl Strategy<Value = Seen> {
    let sound = (0u32..3_000, 1e-5..20.0_f64, 0u32..50).prop_map(|(rate, latency, failures)| {
        let mut seen = busy(rate, latency);
        seen.failures = failures;
        seen
    });
    let wild = (any::<(bool, u32, u32, u32, u32)>(), any::<[u32; 4]>(), prop::array::uniform6(poison())).prop_map(
        |((up, in_flight, open, picks, failures), counts, numbers)| {
            let mut seen = Seen { up, in_flight, open, picks, failures, ..Seen::default() };
            seen.departures[0] = counts[0];
            seen.departures[BUCKETS - 1] = counts[1];
            seen.answers[3] = counts[2];
            seen.answers[BUCKETS - 1] = counts[3];
            seen.time_at[0] = numbers[0];
            seen.time_at[BUCKETS - 1] = numbers[1];
            seen.log_latency[3] = numbers[2];
            seen.log_latency[BUCKETS - 1] = numbers[3];
            seen.latency = numbers[4];
            seen.load = Some(ReportedLoad {
                cpu_percent: Some(numbers[5]),
                active_requests: Some(u64::MAX),
                response_time_ms: Some(numbers[0]),
                status: Some("\u{1b}[31m".to_owned()),
            });
            seen
        },
    );
    let failing = (1u32..5_000).prop_map(|failures| Seen { failures, picks: failures, ..Seen::default() });
    prop_oneof![4 => sound, 2 => wild, 1 => failing, 1 => Just(Seen { up: false, ..Seen::default() })]
}

/// A step of time, which may go backwards or be no number; an interval; a pool that may be of another size.
fn step() -> impl Strategy<Value = (f64, f64, bool, Vec<Seen>)> {
    let usual = (Just(0.25), Just(0.25), Just(true), prop::collection::vec(seen(), POOL));
    let odd = (poison(), poison(), any::<bool>(), prop::collection::vec(seen(), 0..POOL + 2));
    prop_oneof![5 => usual.boxed(), 1 => odd.boxed()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_seen_the_plan_stays_in_its_bounds(
        steps in prop::collection::vec(step(), 1..40),
        zero in prop::option::of(0..POOL),
    ) {
        let weights: Vec<f64> = (0..POOL).map(|index| if zero == Some(index) { 0.0 } else { 1.0 }).collect();
        for kind in PolicyKind::ALL {
            let mut controller = Controller::new(*kind, &configured(&weights), 1);
            let mut now = 0.0;
            for (passed, interval, requests_visible, backends) in &steps {
                now += passed;
                let observation = Observation {
                    now, interval: *interval, requests_visible: *requests_visible, backends: backends.clone(),
                };
                let before = controller.plan().clone();
                let frozen: u64 = frozen(&controller);
                let plan = controller.step(observation).clone();
                prop_assert_eq!(plan.backends.len(), POOL);
                for (index, backend) in plan.backends.iter().enumerate() {
                    prop_assert!((0.0..=CEILING).contains(&backend.weight), "{kind}: {}", backend.weight);
                    prop_assert!(zero != Some(index) || !backend.eligible, "{kind}: weight 0 takes nothing");
                    prop_assert!(backend.prices.windows(2).all(|pair| pair[0] <= pair[1]), "{kind}: {:?}", backend.prices);
                    let most = PRICE_RANGE.end() / RAMP_FROM;
                    prop_assert!(backend.prices.iter().all(|price| (*PRICE_RANGE.start()..=most).contains(price)), "{kind}: {:?}", backend.prices);
                    prop_assert!(backend.stall == 0.0 || crate::policy::plan::STALL_RANGE.contains(&backend.stall));
                }
                prop_assert!(plan.backends.iter().any(|backend| backend.eligible), "{kind}: somebody takes flows");
                if self::frozen(&controller) > frozen {
                    prop_assert_eq!(&before, &plan, "frozen means unchanged");
                }
                prop_assert!(controller.estimator().models().iter().all(|model| model.level().is_finite()
                    && model.delay().iter().all(|delay| *delay > 0.0)), "{kind}: what was learned stays finite");
                if !now.is_finite() {
                    now = 0.0;
                }
            }
        }
    }
}

fn frozen(controller: &Controller) -> u64 {
    use Intervention::{Late, Missing, TimeWentBack};
    [Missing, Late, TimeWentBack].map(|why| controller.counts().of(why)).iter().sum()
}

#[test]
fn each_reason_to_freeze_is_counted() {
    let mut safety = Safety::new(&configured(&[1.0, 1.0]));
    let pair = || vec![busy(10, 0.01), busy(10, 0.01)];
    assert_eq!(safety.screen(&mut observe(1.0, pair())), Ok(()));
    assert_eq!(safety.screen(&mut observe(1.25, vec![busy(1, 0.01)])), Err(Intervention::Missing));
    assert_eq!(safety.screen(&mut observe(1.25, pair())), Err(Intervention::TimeWentBack), "it stands still");
    assert_eq!(safety.screen(&mut observe(f64::NAN, pair())), Err(Intervention::TimeWentBack));
    assert_eq!(safety.screen(&mut Observation { interval: 5.0, ..observe(6.5, pair()) }), Err(Intervention::Late));
    assert_eq!(safety.screen(&mut observe(6.75, pair())), Ok(()), "it goes on afterwards");
    let mut odd = observe(7.0, pair());
    odd.backends[1].time_at[2] = f64::NAN;
    assert_eq!(safety.screen(&mut odd), Ok(()));
    assert_eq!(odd.backends[1].successes(), 0.0, "nothing is learned from what cannot be true");
    assert_eq!(odd.backends[0].successes(), 10.0, "and the others are unharmed");
    assert_eq!(safety.counts().of(Intervention::Contradictory), 1);
}

/// Runs a plan of weights through the rules until it no longer moves.
fn settle(safety: &mut Safety, weights: &[f64], chooser: Chooser, steps: u32) -> Vec<f64> {
    let mut shares = Vec::new();
    for step in 1..=steps {
        let mut observation = observe(f64::from(step) * 0.25, vec![busy(100, 0.01); weights.len()]);
        safety.screen(&mut observation).unwrap();
        let plan = Plan::with_weights(chooser, weights.iter().copied());
        shares = safety.bound(&observation, &vec![false; weights.len()], plan).shares();
    }
    shares
}

#[test]
fn a_weight_has_a_floor_and_moves_step_by_step() {
    let mut safety = Safety::new(&configured(&[1.0; 4]));
    let first = settle(&mut safety, &[0.0, 1.0, 1.0, 1.0], Chooser::LeastConnections, 1);
    assert!(first[0] > 0.05, "a quarter of what it was at most: {first:?}");
    let mut safety = Safety::new(&configured(&[1.0; 4]));
    let last = settle(&mut safety, &[0.0, 1.0, 1.0, 1.0], Chooser::LeastConnections, 40);
    assert!((last[0] - FLOOR / 4.0).abs() < 1e-3, "{last:?}");
    assert!(safety.counts().of(Intervention::Floor) > 0 && safety.counts().of(Intervention::Step) > 0);
}

#[test]
fn small_changes_wait_and_large_ones_are_spread_where_slots_decide() {
    let mut safety = Safety::new(&configured(&[1.0; 4]));
    assert_eq!(settle(&mut safety, &[1.05, 1.0, 1.0, 1.0], Chooser::Draw, 8), vec![0.25; 4]);
    assert_eq!(safety.counts().of(Intervention::DeadBand), 8);
    let mut safety = Safety::new(&configured(&[1.0; 2]));
    let mut moved = 0.0;
    let mut before = vec![0.5; 2];
    for step in 1..=20 {
        let mut observation = observe(f64::from(step) * 0.25, vec![busy(100, 0.01); 2]);
        safety.screen(&mut observation).unwrap();
        // A policy that cannot make up its mind.
        let weights = if step % 2 == 0 { [9.0, 1.0] } else { [1.0, 9.0] };
        let plan = safety.bound(&observation, &[false; 2], Plan::with_weights(Chooser::Draw, weights));
        moved += (plan.shares()[0] - before[0]).abs();
        before = plan.shares();
    }
    assert!(moved <= MOST_MOVES + 20.0 * 0.25 * MOVES_PER_SECOND + 1e-9, "{moved}");
    assert!(safety.counts().of(Intervention::MoveBudget) > 0);
}

#[test]
fn of_whom_little_is_known_the_middle_is_assumed() {
    let mut safety = Safety::new(&configured(&[1.0; 3]));
    let mut weights = Vec::new();
    for step in 1..=8 {
        let mut observation = observe(f64::from(step) * 0.25, vec![busy(100, 0.01), busy(100, 0.01), Seen::default()]);
        safety.screen(&mut observation).unwrap();
        let plan =
            safety.bound(&observation, &[false; 3], Plan::with_weights(Chooser::LeastConnections, [1.0, 3.0, 40.0]));
        weights = plan.backends.iter().map(|backend| backend.weight).collect();
    }
    assert!((weights[2] - (weights[0] + weights[1]) / 2.0).abs() < 1e-6, "{weights:?}");
    assert!(safety.counts().of(Intervention::FewSamples) > 0);
}

#[test]
fn one_that_fails_fast_is_taken_out_and_comes_back_slowly() {
    let mut safety = Safety::new(&configured(&[1.0; 3]));
    let mut plans = Vec::new();
    for step in 1..=24 {
        let fails = Seen { failures: 200, picks: 200, ..Seen::default() };
        let second = if step < 3 { fails } else { busy(100, 0.01) };
        let mut observation = observe(f64::from(step) * 0.25, vec![busy(100, 0.01), second, busy(100, 0.01)]);
        safety.screen(&mut observation).unwrap();
        plans.push(safety.bound(&observation, &[false; 3], Plan::even(Chooser::LeastConnections, 3)));
    }
    assert!(!plans[0].backends[1].eligible && !plans[6].backends[1].eligible, "out at once, for two seconds");
    let back = &plans[8];
    assert!(back.backends[1].eligible && back.backends[1].weight < 0.2, "{:?}", back.backends[1].weight);
    assert!(back.backends[1].prices[0] > 5.0 * back.backends[0].prices[0], "and dear at first");
    assert_eq!(plans[23].backends[1].weight, 1.0);
    assert_eq!(safety.counts().of(Intervention::Ejected), 1);
}

#[test]
fn weights_that_nobody_learned_are_left_as_configured() {
    let mut safety = Safety::new(&configured(&[1_000.0, 1.0, 0.0]));
    let mut observation = observe(0.25, vec![busy(100, 0.01); 3]);
    safety.screen(&mut observation).unwrap();
    let plan = safety.bound(&observation, &[false; 3], Plan::even(Chooser::Draw, 3));
    assert_eq!(plan.shares(), vec![1_000.0 / 1_001.0, 1.0 / 1_001.0, 0.0]);
}

#[test]
fn when_all_fail_at_once_all_share_the_flows() {
    let mut controller = Controller::new(PolicyKind::QLearning, &configured(&[1.0; 4]), 1);
    for step in 1..=40 {
        let fails = Seen { failures: 100, picks: 100, ..Seen::default() };
        let plan = controller.step(observe(f64::from(step) * 0.25, vec![fails; 4]));
        assert!(plan.backends.iter().all(|backend| backend.eligible), "step {step}");
    }
}
