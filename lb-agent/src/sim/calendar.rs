//! When what happens next: a tournament over the backends' next completions, and a heap of everything else that is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The earliest of a fixed number of times, each of which may change; a change costs log2 of the number.
#[derive(Debug)]
pub(super) struct Tournament {
    /// A binary tree in an array: leaves from `leaves` on, each parent the earlier of its children.
    times: Vec<f64>,
    leaves: usize,
}

impl Tournament {
    pub(super) fn new(entries: usize) -> Self {
        let leaves = entries.next_power_of_two().max(2);
        Self { times: vec![f64::INFINITY; 2 * leaves], leaves }
    }

    #[inline]
    pub(super) fn set(&mut self, entry: usize, time: f64) {
        let mut at = self.leaves + entry;
        self.times[at] = time;
        while at > 1 {
            at /= 2;
            let earlier = self.times[2 * at].min(self.times[2 * at + 1]);
            if self.times[at] == earlier {
                return;
            }
            self.times[at] = earlier;
        }
    }

    #[inline]
    pub(super) fn earliest(&self) -> f64 {
        self.times[1]
    }

    /// The entry whose time is earliest; the first of equal ones.
    #[inline]
    pub(super) fn winner(&self) -> usize {
        let mut at = 1;
        while at < self.leaves {
            at *= 2;
            if self.times[at] > self.times[at + 1] {
                at += 1;
            }
        }
        at - self.leaves
    }
}

/// Times and what is due at them; equal times in the order of what is due.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(u64, u32)>>);

impl Timers {
    #[inline]
    pub(super) fn add(&mut self, time: f64, what: u32) {
        // Of numbers that are not negative, the bits are in the same order.
        self.0.push(Reverse((time.max(0.0).to_bits(), what)));
    }

    #[inline]
    pub(super) fn earliest(&self) -> f64 {
        self.0.peek().map_or(f64::INFINITY, |Reverse((bits, _))| f64::from_bits(*bits))
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        self.0.pop().map(|Reverse((_, what))| what)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_tournament_knows_the_earliest(
            entries in 1usize..70,
            changes in prop::collection::vec((0usize..70, 0.0..100.0_f64), 1..200),
        ) {
            let mut tournament = Tournament::new(entries);
            let mut times = vec![f64::INFINITY; entries];
            for (entry, time) in changes {
                let entry = entry % entries;
                tournament.set(entry, time);
                times[entry] = time;
                let earliest = times.iter().copied().fold(f64::INFINITY, f64::min);
                prop_assert_eq!(tournament.earliest(), earliest);
                prop_assert_eq!(times[tournament.winner()], earliest);
            }
        }
    }
}
