//! When a target is probed next: its interval, shortened by up to 10 % of jitter, so that the probes of many backends
//! spread out and stay spread. Never lengthened: `fall` intervals are a promise. Pure: the clock is an argument, and the random stream is seeded by the backend's name.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

use crate::model::pool::BackendKey;

/// So many new targets at once are probed at once; more are spread.
const PROBED_AT_ONCE: usize = 16;
/// The first probes of a large pool are spread over this at most: nobody waits longer for a first verdict.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    due: Instant,
    random: Pcg64Mcg,
}

impl Schedule {
    /// The schedule of a target that was added together with others, `batch` in all.
    pub(super) fn new(key: &BackendKey, interval: Duration, batch: usize, now: Instant) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut random = Pcg64Mcg::seed_from_u64(hasher.finish());
        let first = match batch {
            ..=PROBED_AT_ONCE => Duration::ZERO,
            _ => interval.min(FIRST_WITHIN).mul_f64(random.random::<f64>()),
        };
        Self { interval, due: now + first, random }
    }

    /// When the next probe should start.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Moves on by one interval from the last due time, so that the rate does not depend on how long probes take. Times
    /// that were missed are not made up for: a backend is never probed in a burst.
    pub(super) fn advance(&mut self, now: Instant) {
        let jitter = self.random.random_range(0.9..=1.0);
        self.due = (self.due + self.interval.mul_f64(jitter)).max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: usize) -> BackendKey {
        BackendKey { service: "web".to_owned(), backend: format!("b{number}") }
    }

    #[test]
    fn a_small_pool_is_probed_at_once_and_a_large_one_is_spread() {
        let now = Instant::now();
        let interval = Duration::from_secs(5);
        assert!((0..16).all(|n| Schedule::new(&key(n), interval, 16, now).due() == now));
        let mut tenths = [0; 10];
        for n in 0..1000 {
            let delay = Schedule::new(&key(n), interval, 1000, now).due() - now;
            assert!(delay < FIRST_WITHIN, "{delay:?}");
            tenths[(delay.as_millis() / 100) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (50..=150).contains(count)), "{tenths:?}");
    }

    #[test]
    fn backends_with_one_interval_drift_apart() {
        let now = Instant::now();
        let mut schedules: Vec<_> = (0..16).map(|n| Schedule::new(&key(n), Duration::from_secs(1), 16, now)).collect();
        schedules.iter_mut().for_each(|schedule| schedule.advance(now));
        let mut due: Vec<_> = schedules.iter().map(Schedule::due).collect();
        due.sort();
        due.dedup();
        assert_eq!(due.len(), 16);
    }

    #[test]
    fn a_schedule_can_be_repeated() {
        let now = Instant::now();
        let dues = || {
            let mut schedule = Schedule::new(&key(1), Duration::from_secs(1), 100, now);
            (0..50).map(|_| (schedule.advance(now), schedule.due()).1).collect::<Vec<_>>()
        };
        assert_eq!(dues(), dues());
    }

    proptest! {
        #[test]
        fn jitter_is_within_a_tenth_and_missed_times_are_skipped(
            interval_ms in 10u64..60_000, number: usize, late_ms in proptest::collection::vec(0u64..200_000, 1..50),
        ) {
            let mut now = Instant::now();
            let interval = Duration::from_millis(interval_ms);
            let mut schedule = Schedule::new(&key(number), interval, 1, now);
            for late in late_ms {
                let due = schedule.due();
                now = due + Duration::from_millis(late);
                schedule.advance(now);
                prop_assert!(schedule.due() >= now);
                let step = schedule.due() - due;
                let rounding = Duration::from_nanos(2);
                prop_assert!(step + rounding >= interval.mul_f64(0.9));
                prop_assert!(schedule.due() == now || step <= interval + rounding);
            }
        }
    }
}
