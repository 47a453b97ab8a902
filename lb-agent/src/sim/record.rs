//! What happened to each request, and the figures that are drawn from it.

/// One request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When it began, seconds.
    pub at: f32,
    /// Seconds until its answer, or until it was given up.
    pub latency: f32,
    pub backend: u32,
    pub failed: bool,
}

impl Sample {
    /// What it cost its client: a failure is at least a retry after a second.
    pub fn cost(&self) -> f32 {
        if self.failed { self.latency.max(FAILURE_COST) } else { self.latency }
    }
}

/// Seconds that a failed request costs, and one that never ended.
const FAILURE_COST: f32 = 1.0;
const UNFINISHED_COST: f32 = 5.0;
/// What happens before this does not count: the pool starts empty, and nobody has learned anything.
pub const WARM_UP: f32 = 5.0;
/// Windows in which latency over time is looked at, and the fewest requests that make a percentile.
pub const WINDOW: f32 = 0.5;
const FEWEST: usize = 30;

#[derive(Debug, Default)]
pub struct Recording {
    /// In the order in which they ended.
    pub samples: Vec<Sample>,
    /// Flows that were open long after the end.
    pub unfinished: usize,
}

/// The figures of one run; latencies in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Summary {
    pub requests: u64,
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    /// Part of the requests.
    pub failed: f64,
    /// Successes a second.
    pub throughput: f64,
    /// Seconds after a mark until p99 stays near its new level; the mean over marks.
    pub convergence: f64,
    /// Mean total variation of shares from one second to the next.
    pub oscillation: f64,
}

impl Recording {
    pub(super) fn with_room(arrivals: usize) -> Self {
        Self { samples: Vec::with_capacity(arrivals), unfinished: 0 }
    }

    pub(super) fn add(&mut self, at: f64, latency: f64, backend: u32, failed: bool) {
        self.samples.push(Sample { at: at as f32, latency: latency as f32, backend, failed });
    }

    pub fn summary(&self, duration: f64, marks: &[f64], backends: usize) -> Summary {
        let counted = || self.samples.iter().filter(|sample| sample.at >= WARM_UP);
        let mut costs: Vec<f32> = counted().map(Sample::cost).collect();
        costs.extend(std::iter::repeat_n(UNFINISHED_COST, self.unfinished));
        let failed = counted().filter(|sample| sample.failed).count() + self.unfinished;
        let requests = costs.len();
        let sum: f64 = costs.iter().map(|cost| f64::from(*cost)).sum();
        let mut quantile = |part: f64| quantile(&mut costs, part).unwrap_or(0.0) * 1e3;
        Summary {
            requests: requests as u64,
            mean: sum / requests.max(1) as f64 * 1e3,
            p50: quantile(0.5),
            p95: quantile(0.95),
            p99: quantile(0.99),
            p999: quantile(0.999),
            failed: failed as f64 / requests.max(1) as f64,
            throughput: (requests - failed.min(requests)) as f64 / (duration - f64::from(WARM_UP)).max(1e-9),
            convergence: self.convergence(duration, marks),
            oscillation: self.oscillation(duration, backends),
        }
    }

    /// p99 in milliseconds of each window with enough requests in it; windows by their number.
    pub fn p99_by_window(&self, duration: f64) -> Vec<Option<f64>> {
        let count = (duration / f64::from(WINDOW)) as usize;
        let mut windows: Vec<Vec<f32>> = vec![Vec::new(); count];
        for sample in &self.samples {
            if let Some(window) = windows.get_mut((sample.at / WINDOW) as usize) {
                window.push(sample.cost());
            }
        }
        let p99 = |window: &mut Vec<f32>| {
            if window.len() >= FEWEST { quantile(window, 0.99).map(|seconds| seconds * 1e3) } else { None }
        };
        windows.iter_mut().map(p99).collect()
    }

    /// Seconds after each mark until the last two windows in a row whose p99 is further than a fifth (and a quarter for the
    /// noise of a window) above the median of the last third before the next mark; the mean over marks.
    fn convergence(&self, duration: f64, marks: &[f64]) -> f64 {
        let windows = self.p99_by_window(duration);
        let number = |at: f64| (at / f64::from(WINDOW)) as usize;
        let mut times = Vec::new();
        for (index, mark) in marks.iter().enumerate() {
            let first = number(*mark);
            let end = marks.get(index + 1).map_or(windows.len(), |next| number(*next).min(windows.len()));
            let Some(part) = windows.get(first..end).filter(|part| part.iter().flatten().count() >= 6) else {
                continue;
            };
            let mut tail: Vec<f64> = part[part.len() - part.len() / 3..].iter().flatten().copied().collect();
            let Some(steady) = crate::policy::math::median(&mut tail) else { continue };
            let above = |window: &Option<f64>| window.is_some_and(|p99| p99 > 1.2 * 1.25 * steady);
            let last = (1..part.len()).rev().find(|at| above(&part[*at]) && above(&part[at - 1]));
            times.push(last.map_or(0.0, |last| (last + 1) as f64 * f64::from(WINDOW)));
        }
        crate::policy::math::mean(times).unwrap_or(0.0)
    }

    /// Each backend's part of the requests, second by second.
    pub fn shares_by_second(&self, duration: f64, backends: usize) -> Vec<Vec<f64>> {
        let mut counts = vec![vec![0.0; backends]; duration.ceil() as usize];
        for sample in &self.samples {
            if let Some(second) = counts.get_mut(sample.at as usize) {
                second[sample.backend as usize] += 1.0;
            }
        }
        for second in &mut counts {
            let sum: f64 = second.iter().sum();
            second.iter_mut().for_each(|count| *count /= sum.max(1.0));
        }
        counts
    }

    fn oscillation(&self, duration: f64, backends: usize) -> f64 {
        let shares = self.shares_by_second(duration, backends);
        let settled = shares.get(WARM_UP as usize..).unwrap_or_default();
        let moved = settled
            .windows(2)
            .map(|pair| 0.5 * pair[0].iter().zip(&pair[1]).map(|(before, after)| (after - before).abs()).sum::<f64>());
        crate::policy::math::mean(moved).unwrap_or(0.0)
    }
}

/// The value below which this part of the values lies, between neighbours in proportion; none of nothing.
pub fn quantile(values: &mut [f32], part: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let at = part * last as f64;
    let below = at.floor() as usize;
    let (_, low, above) = values.select_nth_unstable_by(below, f32::total_cmp);
    let low = f64::from(*low);
    let high = above.iter().copied().min_by(f32::total_cmp).map_or(low, f64::from);
    Some(low + (high - low) * (at - below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let mut values: Vec<f32> = (0..=100).rev().map(|value| value as f32).collect();
        assert_eq!(quantile(&mut values, 0.99), Some(99.0));
        assert_eq!(quantile(&mut values, 0.5), Some(50.0));
        assert_eq!(quantile(&mut [1.0, 2.0], 0.25), Some(1.25));
        assert_eq!(quantile(&mut [], 0.5), None);
    }

    fn recording(p99_at: impl Fn(f64) -> f64) -> Recording {
        let mut recording = Recording::default();
        for number in 0..40_000 {
            let at = f64::from(number) / 1_000.0;
            recording.add(at, p99_at(at) / 1e3, 0, false);
        }
        recording
    }

    #[test]
    fn convergence_is_the_time_until_latency_stays_near_its_new_level() {
        let step = |until: f64| recording(move |at| if (10.0..until).contains(&at) { 300.0 } else { 50.0 });
        assert_eq!(step(10.0).summary(40.0, &[10.0], 1).convergence, 0.0);
        assert_eq!(step(12.0).summary(40.0, &[10.0], 1).convergence, 2.0);
    }

    #[test]
    fn failures_cost_a_second_and_what_never_ends_five() {
        let mut recording = Recording::default();
        for number in 0..98 {
            recording.add(6.0 + f64::from(number) * 0.01, 0.01, 0, false);
        }
        recording.add(7.0, 0.001, 0, true);
        recording.unfinished = 1;
        let summary = recording.summary(10.0, &[], 1);
        assert_eq!((summary.requests, summary.failed), (100, 0.02));
        assert!((summary.mean - (98.0 * 10.0 + 1_000.0 + 5_000.0) / 100.0).abs() < 0.01, "{}", summary.mean);
    }
}
