//! From latencies that the programs count to totals, to what was seen of late, and to how many flows are worth a look: pure, fed with
//! readings.

use std::collections::BTreeMap;

use lb_common::latency::{BUCKETS, KINDS, Kind, MAX_SHIFT};

use crate::model::latency::Histogram;
use crate::model::view;

/// What a reading of a second ago counts against one of now: half of what is shown is from the last three seconds.
const FADE: f64 = 0.8;
/// Of a backend, packets a second that may be looked at. A look costs less than 100 ns.
const LOOKS_PER_SECOND: f64 = 2000.0;

/// A reading of one kind: counts by bucket and their sum, both wrapping.
type Reading = ([u32; BUCKETS], u64);

#[derive(Debug, Default)]
pub(super) struct Latencies {
    backends: BTreeMap<u16, [Seen; KINDS]>,
    unanswered: BTreeMap<u16, u64>,
}

#[derive(Debug, Default)]
struct Seen {
    last: Option<Box<Reading>>,
    total: Histogram,
    recent: Histogram,
}

impl Latencies {
    /// Takes a reading in. What an agent of before has seen counts as seen.
    pub(super) fn read(&mut self, backend: u16, kind: Kind, (counts, sum): Reading) {
        let seen = &mut self.backends.entry(backend).or_default()[kind as usize];
        let (old, old_sum) = seen.last.as_deref().copied().unwrap_or(([0; BUCKETS], 0));
        let new: [u32; BUCKETS] = std::array::from_fn(|bucket| counts[bucket].wrapping_sub(old[bucket]));
        let new_sum = sum.wrapping_sub(old_sum);
        seen.recent.fade(FADE);
        seen.total.add(&new, new_sum);
        if seen.last.is_some() {
            seen.recent.add(&new, new_sum);
        }
        seen.last = Some(Box::new((counts, sum)));
    }

    /// A handshake that the backend did not answer.
    pub(super) fn unanswered(&mut self, backend: u16) {
        *self.unanswered.entry(backend).or_default() += 1;
    }

    pub(super) fn unanswered_by(&self, backend: u16) -> u64 {
        self.unanswered.get(&backend).copied().unwrap_or(0)
    }

    /// For a backend that is gone.
    pub(super) fn forget(&mut self, backend: u16) {
        self.backends.remove(&backend);
        self.unanswered.remove(&backend);
    }

    pub(super) fn total(&self, backend: u16, kind: Kind) -> Option<&Histogram> {
        self.backends.get(&backend).map(|kinds| &kinds[kind as usize].total)
    }

    /// Of the last seconds; nothing where less than one answer is left of them.
    pub(super) fn recent(&self, backend: u16, kind: Kind) -> Option<view::Latency> {
        let recent = &self.backends.get(&backend)?[kind as usize].recent;
        if recent.total() < 0.5 {
            return None;
        }
        let millis = |quantile| Some(recent.quantile(quantile)? * 1e3);
        Some(view::Latency { p50_ms: millis(0.5)?, p95_ms: millis(0.95)?, p99_ms: millis(0.99)? })
    }
}

/// One flow in 2^n is looked at, of a backend with so many packets a second.
pub(super) fn sampling(packets_per_second: f64) -> u32 {
    let times = (packets_per_second / LOOKS_PER_SECOND).max(1.0);
    (times.log2().ceil() as u32).min(MAX_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::latency::bucket;

    fn reading(count: u32) -> Reading {
        let mut counts = [0; BUCKETS];
        counts[bucket(1_000_000)] = count;
        (counts, u64::from(count) * 1_000_000)
    }

    #[test]
    fn readings_add_up_and_fade() {
        let mut latencies = Latencies::default();
        let kind = Kind::FirstByte;
        latencies.read(7, kind, reading(u32::MAX - 1));
        assert_eq!(latencies.recent(7, kind), None, "what was counted before is not of late");
        latencies.read(7, kind, reading(8));
        let recent = latencies.recent(7, kind).unwrap();
        assert!((recent.p50_ms - 1.0).abs() < 0.1 && recent.p99_ms >= recent.p50_ms, "{recent:?}");
        assert_eq!(latencies.total(7, kind).map(Histogram::total), Some(f64::from(u32::MAX - 1) + 10.0));
        assert_eq!(latencies.recent(7, Kind::Handshake), None);
        (0..20).for_each(|_| latencies.read(7, kind, reading(8)));
        assert_eq!(latencies.recent(7, kind), None, "long ago");
        latencies.forget(7);
        assert!(latencies.total(7, kind).is_none());
    }

    #[test]
    fn busy_backends_are_sampled() {
        let shifts = [0.0, 2000.0, 2001.0, 64_000.0, 1e12, f64::NAN].map(sampling);
        assert_eq!(shifts, [0, 0, 1, 5, 15, 0]);
    }
}
