//! Latencies as they are added up and shown: a histogram with the programs' buckets ([`lb_common::latency`]).

use lb_common::latency::{BUCKETS, lower_bound};

/// How many took how long. Counts are whole where they add up, and fractions where older ones fade.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    counts: Box<[f64; BUCKETS]>,
    /// Of all latencies, seconds.
    pub sum: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0.0; BUCKETS]), sum: 0.0 }
    }
}

impl Histogram {
    pub fn total(&self) -> f64 {
        self.counts.iter().sum()
    }

    /// Adds counts by bucket.
    pub fn add(&mut self, counts: &[u32; BUCKETS], nanoseconds: u64) {
        self.counts.iter_mut().zip(counts).for_each(|(total, count)| *total += f64::from(*count));
        self.sum += nanoseconds as f64 * 1e-9;
    }

    /// What is there counts so much less.
    pub fn fade(&mut self, factor: f64) {
        self.counts.iter_mut().for_each(|count| *count *= factor);
        self.sum *= factor;
    }

    /// The latency that a share `quantile` of all did not exceed, seconds, as if those of a bucket were spread evenly over it.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let total = self.total();
        if total <= 0.0 {
            return None;
        }
        let wanted = quantile.clamp(0.0, 1.0) * total;
        let mut before = 0.0;
        let mut found = None;
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0.0) {
            let (low, high) = (lower_bound(bucket) as f64, lower_bound(bucket + 1) as f64);
            let share = ((wanted - before) / count).clamp(0.0, 1.0);
            found = Some((low + share * (high - low)) * 1e-9);
            before += count;
            if before >= wanted {
                break;
            }
        }
        found
    }

    /// Bounds in seconds, each with how many did not exceed it and exceeded the one before: every doubling from 65 µs to 17 s, and
    /// what is above.
    pub fn doublings(&self) -> Vec<(f64, u64)> {
        const FIRST: u32 = 16;
        const LAST: u32 = 34;
        let mut from = 0;
        let bounds = (FIRST..=LAST).map(|exponent| 1_u64 << exponent).chain([u64::MAX]);
        bounds
            .map(|bound| {
                let to = (from..BUCKETS).find(|bucket| lower_bound(*bucket) >= bound).unwrap_or(BUCKETS);
                let count: f64 = self.counts[from..to].iter().sum();
                from = to;
                (if bound == u64::MAX { f64::INFINITY } else { bound as f64 * 1e-9 }, count as u64)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::latency::bucket;

    fn of(milliseconds: &[f64]) -> Histogram {
        let mut histogram = Histogram::default();
        for took in milliseconds.iter().map(|milliseconds| (milliseconds * 1e6) as u64) {
            let mut counts = [0; BUCKETS];
            counts[bucket(took)] = 1;
            histogram.add(&counts, took);
        }
        histogram
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let histogram = of(&(1..=1000).map(f64::from).collect::<Vec<_>>());
        for quantile in [0.01, 0.5, 0.9, 0.99, 1.0] {
            let found = histogram.quantile(quantile).unwrap_or_default() * 1e3;
            assert!((found / (quantile * 1000.0) - 1.0).abs() < 0.0625, "{quantile}: {found}");
        }
        assert!((histogram.sum - 500.5).abs() < 1e-6);
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn older_ones_fade() {
        let mut histogram = of(&[1.0; 100]);
        histogram.fade(0.01);
        let mut counts = [0; BUCKETS];
        counts[bucket(8_000_000)] = 99;
        histogram.add(&counts, 0);
        assert!(histogram.quantile(0.5).is_some_and(|found| (found - 0.008).abs() < 0.001));
    }

    #[test]
    fn everything_is_below_some_bound() {
        let histogram = of(&[0.001, 0.07, 1.5, 20_000.0]);
        let doublings = histogram.doublings();
        assert_eq!(doublings.iter().map(|(_, count)| count).sum::<u64>(), 4);
        assert_eq!(doublings.last(), Some(&(f64::INFINITY, 1)));
        assert_eq!(doublings.iter().find(|(bound, _)| *bound > 0.002), Some(&(0.002_097_152, 1)));
    }
}
