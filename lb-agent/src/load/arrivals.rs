//! When requests are meant to be sent. The schedule is a pure sequence of offsets from the start: it never looks at
//! the clock or at the server, which is what makes the load open-loop and a run repeatable from its seed.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

/// How the gaps between requests are distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Evenly spaced.
    Constant,
    /// Exponential gaps: what many independent users look like.
    Poisson,
}

/// An endless, never decreasing sequence of send times.
#[derive(Debug, Clone)]
pub struct Schedule {
    arrivals: Arrivals,
    rate: f64,
    random: Pcg64,
    /// Requests scheduled so far.
    count: u64,
    /// Offset of the last one, in nanoseconds; only Poisson gaps accumulate here.
    nanos: f64,
}

const NANOS: f64 = 1e9;

impl Schedule {
    /// `rate` is in requests per second and must be positive and finite.
    pub fn new(arrivals: Arrivals, rate: f64, seed: u64) -> Self {
        debug_assert!(rate.is_finite() && rate > 0.0, "the options were validated");
        Self { arrivals, rate, random: Pcg64::seed_from_u64(seed), count: 0, nanos: 0.0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let nanos = match self.arrivals {
            // From the index and not by adding gaps, so that rounding cannot drift away from the rate.
            Arrivals::Constant => self.count as f64 / self.rate * NANOS,
            Arrivals::Poisson => {
                // random() is in [0, 1); 1 - u is never 0, so the logarithm is finite.
                self.nanos += -(1.0 - self.random.random::<f64>()).ln() / self.rate * NANOS;
                self.nanos
            }
        };
        self.count += 1;
        Some(Duration::from_nanos(nanos as u64))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn constant_arrivals_do_not_drift() {
        let last = Schedule::new(Arrivals::Constant, 3.0, 0).nth(3_000_000).expect("endless");
        assert_eq!(last, Duration::from_secs(1_000_000));
    }

    #[test]
    fn poisson_gaps_vary_as_an_exponential_does() {
        let offsets: Vec<f64> =
            Schedule::new(Arrivals::Poisson, 50.0, 7).take(50_000).map(|at| at.as_secs_f64()).collect();
        let gaps: Vec<f64> = offsets.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // An exponential's standard deviation equals its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{} {mean}", variance.sqrt());
    }

    fn kind() -> impl Strategy<Value = Arrivals> {
        prop_oneof![Just(Arrivals::Constant), Just(Arrivals::Poisson)]
    }

    proptest! {
        #[test]
        fn offsets_never_decrease(arrivals in kind(), rate in 0.01_f64..1e6, seed: u64) {
            let offsets: Vec<Duration> = Schedule::new(arrivals, rate, seed).take(2_000).collect();
            prop_assert!(offsets.is_sorted());
        }

        #[test]
        fn the_mean_rate_is_the_requested_one(arrivals in kind(), rate in 0.1_f64..1e5, seed: u64) {
            let count = 20_000;
            let last = Schedule::new(arrivals, rate, seed).nth(count - 1).expect("endless");
            // The relative deviation of a sum of n exponentials is 1/sqrt(n): five of those are 3.5 %.
            let seen = count as f64 / last.as_secs_f64();
            prop_assert!((seen / rate - 1.0).abs() < 0.036, "{} {}", seen, rate);
        }

        #[test]
        fn a_seed_repeats_its_schedule(arrivals in kind(), rate in 0.1_f64..1e5, seed: u64) {
            let first: Vec<Duration> = Schedule::new(arrivals, rate, seed).take(500).collect();
            let again: Vec<Duration> = Schedule::new(arrivals, rate, seed).take(500).collect();
            prop_assert_eq!(first, again);
        }
    }
}
