//! Failure first: a backend that fails takes no flows, however fast it fails. Ejection grows with relapses, leaves most of the pool
//! alone (Envoy's outlier detection has the same bounds), and ends in a ramp.

use crate::policy::observation::Observation;

/// Decayed failures, and their share of requests, from which a backend is ejected; and how much worse than the rest.
const FAILURES: f64 = 5.0;
const RATE: f64 = 0.15;
const TIMES_THE_REST: f64 = 3.0;
/// Counts decay by this each update.
const DECAY: f64 = 0.6;
/// First ejection in seconds; each further one doubles it, up to 2^5.
const FIRST_EJECTION: f64 = 2.0;
const MOST_RELAPSES: f64 = 6.0;
/// The part of a pool that may be out at once; one always may.
const MOST_EJECTED: f64 = 0.34;
/// Seconds of good service until relapses begin to be forgotten, and how fast, per second.
const FORGIVEN_AFTER: f64 = 10.0;
const FORGIVEN_PER_SECOND: f64 = 0.4;

#[derive(Debug, Clone, Copy)]
struct Watch {
    failed: f64,
    finished: f64,
    relapses: f64,
    out_until: f64,
}

#[derive(Debug)]
pub(super) struct Guard {
    watches: Vec<Watch>,
}

impl Guard {
    pub(super) fn new(backends: usize) -> Self {
        let fresh = Watch { failed: 0.0, finished: 0.0, relapses: 0.0, out_until: f64::NEG_INFINITY };
        Self { watches: vec![fresh; backends] }
    }

    /// Judges the interval; a suspect's answers all count as failures. Gives those that are newly ejected.
    pub(super) fn judge(&mut self, observation: &Observation, suspects: &[bool]) -> Vec<usize> {
        let now = observation.now;
        for ((watch, seen), suspect) in self.watches.iter_mut().zip(&observation.backends).zip(suspects) {
            let finished = seen.finished();
            let failed = if *suspect { finished } else { f64::from(seen.failures) };
            watch.failed = DECAY * watch.failed + failed;
            watch.finished = DECAY * watch.finished + finished;
        }
        let sum = |of: fn(&Watch) -> f64| self.watches.iter().map(of).sum::<f64>();
        let (failed, finished) = (sum(|watch| watch.failed), sum(|watch| watch.finished));
        let rate = |watch: &Watch| watch.failed / watch.finished.max(1.0);
        let is_bad = |watch: &Watch| {
            let rest = (failed - watch.failed) / (finished - watch.finished).max(1.0);
            watch.failed >= FAILURES && rate(watch) > RATE && rate(watch) > TIMES_THE_REST * rest
        };
        let out = self.watches.iter().filter(|watch| watch.out_until > now).count();
        let room = ((MOST_EJECTED * self.watches.len() as f64) as usize).max(1).saturating_sub(out);
        let mut bad: Vec<usize> = (0..self.watches.len())
            .filter(|index| self.watches[*index].out_until <= now && is_bad(&self.watches[*index]))
            .collect();
        // The worst first; equal ones in the order of the pool.
        bad.sort_by(|a, b| rate(&self.watches[*b]).total_cmp(&rate(&self.watches[*a])));
        bad.truncate(room);
        for index in &bad {
            let watch = &mut self.watches[*index];
            watch.relapses = (watch.relapses + 1.0).min(MOST_RELAPSES);
            watch.out_until = now + FIRST_EJECTION * libm::exp2(watch.relapses - 1.0);
            (watch.failed, watch.finished) = (0.0, 0.0);
        }
        for watch in &mut self.watches {
            if now - watch.out_until > FORGIVEN_AFTER {
                watch.relapses = (watch.relapses - FORGIVEN_PER_SECOND * observation.interval).max(0.0);
            }
        }
        bad
    }

    pub(super) fn is_out(&self, backend: usize, now: f64) -> bool {
        self.watches[backend].out_until > now
    }

    /// When its last ejection ends or ended; none if there was none.
    pub(super) fn back_at(&self, backend: usize) -> Option<f64> {
        let until = self.watches[backend].out_until;
        until.is_finite().then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::observation::Seen;

    fn seen(successes: u32, failures: u32) -> Seen {
        let mut seen = Seen { failures, ..Seen::default() };
        seen.answers[0] = successes;
        seen
    }

    fn judge(guard: &mut Guard, now: f64, backends: Vec<Seen>) -> Vec<usize> {
        let suspects = vec![false; backends.len()];
        guard.judge(&Observation { now, interval: 0.25, requests_visible: true, backends }, &suspects)
    }

    #[test]
    fn one_that_fails_is_out_for_two_seconds_then_for_four() {
        let mut guard = Guard::new(4);
        let round = |bad| vec![seen(50, 0), seen(50 - bad, bad), seen(50, 0), seen(50, 0)];
        assert_eq!(judge(&mut guard, 1.0, round(20)), [1]);
        assert!(guard.is_out(1, 2.9) && !guard.is_out(1, 3.0));
        assert_eq!(judge(&mut guard, 3.25, round(20)), [1]);
        assert!(guard.is_out(1, 7.2) && !guard.is_out(1, 7.25));
    }

    #[test]
    fn a_failure_of_all_is_nobodys() {
        let mut guard = Guard::new(4);
        for step in 1..40 {
            assert_eq!(judge(&mut guard, f64::from(step) * 0.25, vec![seen(0, 50); 4]), [0_usize; 0]);
        }
    }

    #[test]
    fn most_of_the_pool_stays() {
        let mut guard = Guard::new(9);
        let mut backends = vec![seen(500, 0); 4];
        backends.extend(vec![seen(5, 20); 5]);
        assert!(judge(&mut guard, 1.0, backends.clone()).len() <= 3);
        judge(&mut guard, 1.25, backends);
        assert!((0..9).filter(|index| guard.is_out(*index, 1.3)).count() <= 3);
    }

    #[test]
    fn few_failures_are_not_enough() {
        let mut guard = Guard::new(2);
        assert_eq!(judge(&mut guard, 1.0, vec![seen(0, 4), seen(100, 0)]), [0_usize; 0]);
    }
}
