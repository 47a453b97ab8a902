//! From recordings to charts: which lines a figure has and what they mean.

use lb_common::price::BUCKETS;

use super::chart::{Chart, Line};
use super::figure::Figure;
use crate::model::scenario::Scenario;
use crate::policy::PolicyKind;
use crate::policy::curve::Grid;
use crate::policy::math::{exp, ln, mean};
use crate::sim::play::Contender;
use crate::sim::record::{Recording, Sample, WARM_UP};
use crate::sim::study::{Outcome, Study};
use crate::sim::trace::Trace;

/// Lines of backends that can still be told apart.
const MOST_BACKENDS: usize = 16;
/// Points of a distribution.
const POINTS: usize = 240;

pub(super) struct Played {
    pub(super) contender: Contender,
    pub(super) recording: Recording,
    pub(super) trace: Trace,
}

/// The policy whose decisions are shown: q-learning, or the last one.
pub(super) fn explained(plays: &[Played]) -> Option<&Played> {
    let wanted = Contender::Policy(PolicyKind::QLearning);
    plays.iter().find(|played| played.contender == wanted).or_else(|| plays.get(1..)?.last())
}

/// The second colour is for q-learning, whoever else plays; the others follow in their order.
fn colours(contenders: &[Contender]) -> Vec<usize> {
    const Q_LEARNING: Contender = Contender::Policy(PolicyKind::QLearning);
    let mut next = 1;
    let colour = |contender: &Contender| match contender {
        Contender::Oracle => 0,
        other if *other == Q_LEARNING => 1,
        _ => {
            next += 1;
            next
        }
    };
    contenders.iter().map(colour).collect()
}

fn legend(contenders: &[Contender]) -> Vec<(usize, String)> {
    colours(contenders).into_iter().zip(contenders).map(|(colour, contender)| (colour, contender.to_string())).collect()
}

/// The oracle's line and q-learning's are thick.
fn line(points: Vec<(f64, f64)>, colour: usize) -> Line {
    Line { points, colour, bold: colour < 2, faint: false }
}

/// All contenders in one scenario: latency and throughput over time, distribution, regret.
pub(super) fn compared(scenario: &Scenario, backends: usize, plays: &[Played]) -> Figure {
    let duration = scenario.duration;
    let marks = scenario.marks();
    let contenders: Vec<Contender> = plays.iter().map(|played| played.contender).collect();
    let colours = colours(&contenders);
    let lines = |of: &dyn Fn(&Played) -> Vec<(f64, f64)>| -> Vec<Line> {
        let line = |(played, colour): (&Played, &usize)| line(of(played), *colour);
        plays.iter().zip(&colours).map(line).collect()
    };
    let latency = |played: &Played| {
        let windows = played.recording.p99_by_window(duration).into_iter().enumerate();
        windows.filter_map(|(window, p99)| Some((0.5 * window as f64 + 0.25, p99?))).collect()
    };
    let means: Vec<Vec<Option<f64>>> = plays.iter().map(|played| mean_by_second(&played.recording, duration)).collect();
    let regret: Vec<Line> =
        means.iter().zip(&colours).map(|(own, colour)| line(accumulated(own, &means[0]), *colour)).collect();
    let worst = regret.iter().filter_map(|line| line.points.last()).map(|(_, regret)| *regret);
    let mut ends: Vec<f64> = worst.collect();
    ends.sort_by(f64::total_cmp);
    let charts = vec![
        Chart {
            title: "p99 over time".to_owned(),
            x_label: "s",
            y_label: "ms",
            y_log: true,
            lines: lines(&latency),
            marks: marks.clone(),
            ..Chart::default()
        },
        Chart {
            title: "Successes a second".to_owned(),
            x_label: "s",
            y_label: "requests/s",
            lines: lines(&|played| successes(&played.recording, duration)),
            marks: marks.clone(),
            ..Chart::default()
        },
        Chart {
            title: "Part of the requests that took longer".to_owned(),
            x_label: "ms",
            y_label: "1 - CDF",
            x_log: true,
            y_log: true,
            lines: lines(&|played| tail(&played.recording)),
            ..Chart::default()
        },
        Chart {
            title: "Regret: mean latency above the oracle's, summed up".to_owned(),
            x_label: "s",
            y_label: "ms",
            lines: regret,
            marks,
            // The half that does well decides the axis; the others leave it at the top.
            y_most: ends.get(ends.len() / 2).map(|end| (end * 1.5).max(1.0)),
            ..Chart::default()
        },
    ];
    Figure {
        file: format!("{}-{backends}", scenario.name),
        title: format!("{}, {backends} backends, seed 1: {}", scenario.name, scenario.about),
        columns: 2,
        charts,
        legend: legend(&contenders),
    }
}

/// Mean cost in milliseconds, second by second.
fn mean_by_second(recording: &Recording, duration: f64) -> Vec<Option<f64>> {
    let mut sums = vec![(0.0, 0.0); duration.ceil() as usize];
    for sample in &recording.samples {
        if let Some((sum, count)) = sums.get_mut(sample.at as usize) {
            *sum += f64::from(sample.cost()) * 1e3;
            *count += 1.0;
        }
    }
    sums.into_iter().map(|(sum, count)| (count > 0.0).then(|| sum / count)).collect()
}

/// The sum of the differences, second by second, after the warm-up.
fn accumulated(own: &[Option<f64>], oracle: &[Option<f64>]) -> Vec<(f64, f64)> {
    let mut sum = 0.0;
    let pairs = own.iter().zip(oracle).enumerate().skip(WARM_UP as usize);
    pairs
        .filter_map(|(second, (own, oracle))| {
            sum += (*own)? - (*oracle)?;
            Some((second as f64 + 1.0, sum))
        })
        .collect()
}

fn successes(recording: &Recording, duration: f64) -> Vec<(f64, f64)> {
    let mut counts = vec![0.0; duration.ceil() as usize];
    for sample in recording.samples.iter().filter(|sample| !sample.failed) {
        // Counted when the answer comes.
        if let Some(count) = counts.get_mut((sample.at + sample.latency) as usize) {
            *count += 1.0;
        }
    }
    counts.into_iter().enumerate().map(|(second, count)| (second as f64 + 0.5, count)).collect()
}

/// Latencies against the part of requests above them, evenly over the decades down to one request in 100,000.
fn tail(recording: &Recording) -> Vec<(f64, f64)> {
    let counted = recording.samples.iter().filter(|sample| sample.at >= WARM_UP);
    let mut costs: Vec<f32> = counted.map(Sample::cost).collect();
    costs.sort_unstable_by(f32::total_cmp);
    let least = (1.0 / costs.len().max(1) as f64).max(1e-5);
    (0..=POINTS)
        .filter_map(|point| {
            let part = exp(ln(least) * point as f64 / POINTS as f64);
            let index = ((1.0 - part) * costs.len() as f64) as usize;
            Some((f64::from(*costs.get(index)?) * 1e3, part))
        })
        .collect()
}

/// One policy from inside: shares, weights, reward, learned curves.
pub(super) fn inside(scenario: &Scenario, backends: usize, played: &Played) -> Figure {
    let Played { contender, recording, trace } = played;
    let marks = scenario.marks();
    let shown = backends.min(MOST_BACKENDS);
    let shares = recording.shares_by_second(scenario.duration, backends);
    let share = |backend: usize| {
        shares.iter().enumerate().map(|(second, shares)| (second as f64 + 0.5, 100.0 * shares[backend])).collect()
    };
    let weight = |backend: usize| {
        let weight = |point: &crate::sim::trace::Point| {
            (point.at, if point.eligible[backend] { point.weights[backend] } else { 0.0 })
        };
        trace.points.iter().map(weight).collect()
    };
    let lines = |of: &dyn Fn(usize) -> Vec<(f64, f64)>| -> Vec<Line> {
        (0..shown).map(|backend| Line { points: of(backend), colour: backend + 1, ..Line::default() }).collect()
    };
    let reward = mean_by_second(recording, scenario.duration).into_iter().enumerate();
    let reward = reward.filter_map(|(second, mean)| Some((second as f64 + 0.5, mean?))).collect();
    let chart = |title: &str, y_label, lines| Chart {
        title: title.to_owned(),
        x_label: "s",
        y_label,
        lines,
        marks: marks.clone(),
        ..Chart::default()
    };
    let mut legend: Vec<_> = (0..shown).map(|backend| (backend + 1, format!("backend {backend}"))).collect();
    if shown < backends {
        legend.push((0, format!("(and {} more)", backends - shown)));
    }
    Figure {
        file: format!("{}-{backends}-{contender}", scenario.name),
        title: format!("{contender} in {}, {backends} backends, seed 1", scenario.name),
        columns: 2,
        charts: vec![
            chart("Share of the requests", "%", lines(&share)),
            chart("Weights that were decided (0: ejected)", "mean is 1", lines(&weight)),
            chart("Mean latency (the reward is its negative)", "ms", vec![line(reward, 0)]),
            learned(trace, shown),
        ],
        legend,
    }
}

/// Delay by occupancy as believed at the end; thin where little is known.
fn learned(trace: &Trace, shown: usize) -> Chart {
    let grid = Grid::new();
    let mut lines = Vec::new();
    for (backend, (delay, confidence)) in trace.curves.iter().take(shown).enumerate() {
        let point = |bucket: usize| (grid.centre[bucket] + 1.0, delay[bucket] * 1e3);
        let known: Vec<usize> = (0..BUCKETS).filter(|bucket| confidence[*bucket] > 0.3).collect();
        let highest = known.last().map_or(8, |last| (last + 4).min(BUCKETS - 1));
        let (first, last) = (known.first().copied().unwrap_or(0), known.last().copied().unwrap_or(0));
        let part = |range: std::ops::RangeInclusive<usize>| range.map(point).collect();
        lines.push(Line { points: part(first..=last), colour: backend + 1, ..Line::default() });
        lines.push(Line { points: part(0..=first), colour: backend + 1, faint: true, ..Line::default() });
        lines.push(Line { points: part(last..=highest), colour: backend + 1, faint: true, ..Line::default() });
    }
    Chart {
        title: "Learned delay of a flow, by those that it meets (thin: extrapolated)".to_owned(),
        x_label: "requests in flight, and itself",
        y_label: "ms",
        x_log: true,
        y_log: true,
        lines,
        ..Chart::default()
    }
}

/// p99 against the oracle's, policy by scenario.
pub(super) fn overview(study: &Study, outcomes: &[Outcome], backends: usize) -> Figure {
    let whole = |contender: Contender, scenario: usize| {
        let runs = outcomes.iter().filter(|outcome| {
            (outcome.contender, outcome.scenario, outcome.backends) == (contender, scenario, backends)
        });
        mean(runs.map(|outcome| ln(outcome.times_oracle))).map(exp)
    };
    let contenders: Vec<Contender> =
        std::iter::once(Contender::Oracle).chain(study.contenders.iter().copied()).collect();
    let points = |(colour, contender): (usize, &Contender)| {
        let point = |scenario| Some((scenario as f64, whole(*contender, scenario)?));
        line((0..study.scenarios.len()).filter_map(point).collect(), colour)
    };
    let lines: Vec<Line> = colours(&contenders).into_iter().zip(&contenders).map(points).collect();
    let names: Vec<String> = study.scenarios.iter().map(|scenario| scenario.name.clone()).collect();
    let chart = |title: &str, y_most| Chart {
        title: title.to_owned(),
        x_label: "",
        y_label: "times the oracle's",
        y_log: true,
        lines: lines.clone(),
        names: names.clone(),
        y_most,
        ..Chart::default()
    };
    Figure {
        file: format!("comparison-{backends}"),
        title: format!("p99 against the oracle's, {backends} backends, seeds 1 to {}", study.seeds),
        columns: 1,
        charts: vec![chart("All", None), chart("The best", Some(2.0))],
        legend: legend(&contenders),
    }
}
