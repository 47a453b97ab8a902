//! How a demo backend behaves: how long a request takes, how often one fails, how much it burns. Pure: the random
//! stream is an argument, so a seed gives the same sequence of requests every time.

use std::time::Duration;

use rand::Rng;
use serde::{Deserialize, Serialize};

pub(super) const MAX_DELAY: Duration = Duration::from_secs(60);
pub(super) const MAX_BURN: Duration = Duration::from_secs(10);
pub(super) const MAX_SIGMA: f64 = 3.0;
pub(super) const MAX_BODY_BYTES: u64 = 16 * 1024 * 1024;
pub(super) const MAX_CONCURRENCY: u32 = 100_000;
/// The longest that one request of a heavy tail may take.
const MAX_DRAWN_DELAY: Duration = Duration::from_secs(600);

/// Everything that can change while the server runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// Mean service time.
    pub delay: Duration,
    /// Spread of the service time: sigma of a lognormal distribution; 0: every request takes `delay`.
    pub jitter_sigma: f64,
    /// Requests served at once; the rest wait in order. 0: no limit.
    pub concurrency: u32,
    /// Share of requests that are answered with status 500, within 0 and 1.
    pub error_rate: f64,
    /// CPU time that a request uses up, on top of `delay`.
    pub cpu_burn: Duration,
    /// Length of a response body; none: one line.
    pub body_bytes: Option<u64>,
    /// What `/health` says: false makes it 503.
    pub healthy: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter_sigma: 0.0,
            concurrency: 0,
            error_rate: 0.0,
            cpu_burn: Duration::ZERO,
            body_bytes: None,
            healthy: true,
        }
    }
}

/// What one request will be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) delay: Duration,
    pub(super) cpu_burn: Duration,
    pub(super) fails: bool,
}

/// `POST /control`, and its answer: what is to change, and what holds now. Keys that are missing stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    pub delay_ms: Option<f64>,
    pub jitter_sigma: Option<f64>,
    pub concurrency: Option<u32>,
    pub error_rate: Option<f64>,
    pub cpu_burn_ms: Option<f64>,
    pub body_bytes: Option<u64>,
    pub healthy: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be within {range}")]
pub struct BehaviourError {
    what: &'static str,
    range: &'static str,
}

impl Behaviour {
    /// The next request of the stream.
    pub(super) fn draw(&self, random: &mut impl Rng) -> Work {
        // Always two uniforms and a third, whatever is switched on: changing one setting leaves the others' draws.
        let normal = standard_normal(random);
        let fails = random.random::<f64>() < self.error_rate;
        // exp(-sigma²/2) keeps the mean at `delay` whatever the spread.
        let factor = (self.jitter_sigma * normal - self.jitter_sigma.powi(2) / 2.0).exp();
        let seconds = self.delay.as_secs_f64() * factor;
        let delay = Duration::try_from_secs_f64(seconds).unwrap_or(MAX_DRAWN_DELAY).min(MAX_DRAWN_DELAY);
        Work { delay, cpu_burn: self.cpu_burn, fails }
    }

    pub(super) fn validate(&self) -> Result<(), BehaviourError> {
        let check = |fits: bool, what, range| if fits { Ok(()) } else { Err(BehaviourError { what, range }) };
        check(self.delay <= MAX_DELAY, "the delay", "0 and 60 s")?;
        check((0.0..=MAX_SIGMA).contains(&self.jitter_sigma), "the jitter's sigma", "0 and 3")?;
        check(self.concurrency <= MAX_CONCURRENCY, "the concurrency", "0 (no limit) and 100000")?;
        check((0.0..=1.0).contains(&self.error_rate), "the error rate", "0 and 1")?;
        check(self.cpu_burn <= MAX_BURN, "the CPU burn", "0 and 10 s")?;
        check(self.body_bytes.is_none_or(|bytes| bytes <= MAX_BODY_BYTES), "the body", "0 and 16 MiB")
    }

    /// With the change applied, or an error and nothing changed.
    pub(super) fn changed(&self, change: &Control) -> Result<Self, BehaviourError> {
        let millis = |value: Option<f64>, current: Duration, what, range| match value {
            None => Ok(current),
            // Refuses NaN, infinities, negative and absurd numbers alike.
            Some(ms) => Duration::try_from_secs_f64(ms / 1_000.0).map_err(|_| BehaviourError { what, range }),
        };
        let changed = Self {
            delay: millis(change.delay_ms, self.delay, "the delay", "0 and 60 s")?,
            jitter_sigma: change.jitter_sigma.unwrap_or(self.jitter_sigma),
            concurrency: change.concurrency.unwrap_or(self.concurrency),
            error_rate: change.error_rate.unwrap_or(self.error_rate),
            cpu_burn: millis(change.cpu_burn_ms, self.cpu_burn, "the CPU burn", "0 and 10 s")?,
            body_bytes: change.body_bytes.or(self.body_bytes),
            healthy: change.healthy.unwrap_or(self.healthy),
        };
        changed.validate()?;
        Ok(changed)
    }

    /// What holds now, in the form in which it can be changed.
    pub(super) fn shown(&self) -> Control {
        Control {
            delay_ms: Some(self.delay.as_secs_f64() * 1_000.0),
            jitter_sigma: Some(self.jitter_sigma),
            concurrency: Some(self.concurrency),
            error_rate: Some(self.error_rate),
            cpu_burn_ms: Some(self.cpu_burn.as_secs_f64() * 1_000.0),
            body_bytes: self.body_bytes,
            healthy: Some(self.healthy),
        }
    }
}

/// Box and Muller, "A Note on the Generation of Random Normal Deviates" (1958), the cosine half.
fn standard_normal(random: &mut impl Rng) -> f64 {
    // 1 - u is in (0, 1], so the logarithm is finite.
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_pcg::Pcg64;

    use super::*;

    fn draw_many(behaviour: &Behaviour, seed: u64, count: usize) -> Vec<Work> {
        let mut random = Pcg64::seed_from_u64(seed);
        (0..count).map(|_| behaviour.draw(&mut random)).collect()
    }

    #[test]
    fn without_jitter_every_request_takes_the_delay() {
        let behaviour = Behaviour { delay: Duration::from_millis(5), ..Behaviour::default() };
        assert!(draw_many(&behaviour, 1, 100).iter().all(|work| work.delay == behaviour.delay && !work.fails));
    }

    #[test]
    fn jitter_keeps_the_mean_and_spreads_as_a_lognormal() {
        let behaviour = Behaviour { delay: Duration::from_millis(10), jitter_sigma: 0.5, ..Behaviour::default() };
        let mut millis: Vec<f64> =
            draw_many(&behaviour, 3, 200_000).iter().map(|work| work.delay.as_secs_f64() * 1_000.0).collect();
        let mean = millis.iter().sum::<f64>() / millis.len() as f64;
        assert!((mean / 10.0 - 1.0).abs() < 0.01, "{mean}");
        millis.sort_by(f64::total_cmp);
        let quantile = |q: f64| millis[(q * millis.len() as f64) as usize];
        // ln X is normal: its 84th percentile is one sigma above its median, and the median is e^(-sigma²/2).
        assert!((quantile(0.5) / (10.0 * (-0.125_f64).exp()) - 1.0).abs() < 0.01, "{}", quantile(0.5));
        assert!(((quantile(0.8413) / quantile(0.5)).ln() - 0.5).abs() < 0.01, "{}", quantile(0.8413));
    }

    #[test]
    fn a_change_applies_whole_or_not_at_all() {
        let start = Behaviour { delay: Duration::from_millis(5), ..Behaviour::default() };
        let change: Control = serde_json::from_str(r#"{"delay_ms": 200.5, "healthy": false}"#).expect("JSON");
        let changed = start.changed(&change).expect("in range");
        assert_eq!(changed, Behaviour { delay: Duration::from_micros(200_500), healthy: false, ..start.clone() });

        let check = |json: &str, part: &str| {
            let change: Control = serde_json::from_str(json).expect("JSON");
            let error = start.changed(&change).expect_err(json).to_string();
            assert!(error.contains(part), "{json}: {error}");
        };
        check(r#"{"delay_ms": -1}"#, "the delay");
        check(r#"{"delay_ms": 1e300}"#, "the delay");
        check(r#"{"delay_ms": 60001}"#, "the delay");
        check(r#"{"error_rate": 1.01, "delay_ms": 1}"#, "the error rate");
        check(r#"{"jitter_sigma": -0.1}"#, "the jitter");
        check(r#"{"cpu_burn_ms": 10001}"#, "the CPU burn");
        check(r#"{"body_bytes": 99999999}"#, "the body");
        check(r#"{"concurrency": 100001}"#, "the concurrency");
        assert!(serde_json::from_str::<Control>(r#"{"dealy_ms": 1}"#).is_err(), "a misspelt key");
    }

    #[test]
    fn what_is_shown_can_be_sent_back() {
        let behaviour = Behaviour { delay: Duration::from_micros(1_500), error_rate: 0.25, ..Behaviour::default() };
        assert_eq!(Behaviour::default().changed(&behaviour.shown()), Ok(behaviour));
    }

    proptest! {
        #[test]
        fn the_error_rate_is_met_and_a_seed_repeats(rate in 0.0_f64..=1.0, seed: u64) {
            let behaviour = Behaviour { error_rate: rate, ..Behaviour::default() };
            let works = draw_many(&behaviour, seed, 10_000);
            let failed = works.iter().filter(|work| work.fails).count() as f64 / 10_000.0;
            // Five standard deviations of a coin thrown 10,000 times are at most 2.5 %.
            prop_assert!((failed - rate).abs() <= 0.025, "{} {}", failed, rate);
            prop_assert_eq!(works, draw_many(&behaviour, seed, 10_000));
        }

        #[test]
        fn no_draw_exceeds_the_bound(delay_ms in 0_u64..=60_000, sigma in 0.0..=MAX_SIGMA, seed: u64) {
            let behaviour =
                Behaviour { delay: Duration::from_millis(delay_ms), jitter_sigma: sigma, ..Behaviour::default() };
            prop_assert!(draw_many(&behaviour, seed, 500).iter().all(|work| work.delay <= MAX_DRAWN_DELAY));
        }
    }
}
