//! Brings the shares of a plain rendezvous table to within 1 % by handing over as few slots as that takes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Column, NONE, beats};

/// The slot counts a column may have: within 1 % of its exact share, or the whole numbers next to that share where
/// 1 % is less than a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Band {
    pub(super) low: u32,
    pub(super) high: u32,
}

impl Band {
    pub(super) fn new(slots: u32, weight: u16, total_weight: u64) -> Self {
        let exact = u64::from(slots) * u64::from(weight);
        let low = (exact * 99).div_ceil(total_weight * 100).min(exact / total_weight);
        let high = (exact * 101 / (total_weight * 100)).max(exact.div_ceil(total_weight));
        let narrow = |count| u32::try_from(count).expect("a share is at most the number of slots");
        Self { low: narrow(low), high: narrow(high) }
    }
}

/// Hands slots over until every column is in its band. The number of slots handed over is the least that any
/// correction needs: each goes from a column that has too many, or to one that has too few, and never twice.
pub(super) fn correct(columns: &[Column], table: &mut [u16]) {
    let total_weight: u64 = columns.iter().map(|column| u64::from(column.weight)).sum();
    if total_weight == 0 {
        return;
    }
    let slots = u32::try_from(table.len()).expect("a table has at most u32::MAX slots");
    let bands: Vec<Band> = columns.iter().map(|column| Band::new(slots, column.weight, total_weight)).collect();
    let low: Vec<u32> = bands.iter().map(|band| band.low).collect();
    let high: Vec<u32> = bands.iter().map(|band| band.high).collect();
    let mut counts = vec![0_u32; columns.len()];
    for &holder in table.iter() {
        counts[usize::from(holder)] += 1;
    }
    let mut exchange = Exchange { columns, table, counts };
    // Too many to too few; then what is left of either, with those that are in their band.
    exchange.run(&high, &low);
    exchange.run(&high, &high);
    exchange.run(&low, &low);
}

struct Exchange<'a> {
    columns: &'a [Column],
    table: &'a mut [u16],
    counts: Vec<u32>,
}

/// How much worse off a slot would be with `receiver` than with its holder: the ratio of the weighted costs. A holder
/// whose weight fell by this factor would lose the slot to that receiver, so the slots that are handed over are
/// those that a slightly different weight would have moved anyhow. The slot's number breaks ties.
type Offer = Reverse<(u64, u32, u16)>;

impl Exchange<'_> {
    /// Moves slots, cheapest first, from columns above their `floor` to columns below their `ceiling`.
    fn run(&mut self, floor: &[u32], ceiling: &[u32]) {
        let gives: Vec<bool> = self.counts.iter().zip(floor).map(|(count, floor)| count > floor).collect();
        let mut receivers: Vec<u16> = (0..self.columns.len())
            .filter(|&column| self.counts[column] < ceiling[column])
            .map(|column| u16::try_from(column).expect("a table has fewer columns than NONE"))
            .collect();
        if receivers.is_empty() || !gives.contains(&true) {
            return;
        }
        let mut offers: BinaryHeap<Offer> = (0_u32..)
            .zip(self.table.iter())
            .filter(|&(_, &holder)| gives[usize::from(holder)])
            .map(|(slot, &holder)| self.offer(slot, holder, &receivers))
            .collect();
        let mut surplus: u32 = self.counts.iter().zip(floor).map(|(count, floor)| count.saturating_sub(*floor)).sum();
        while surplus > 0
            && let Some(Reverse((_, slot, receiver))) = offers.pop()
        {
            let holder = self.table[slot as usize];
            if self.counts[usize::from(holder)] <= floor[usize::from(holder)] {
                continue;
            }
            if self.counts[usize::from(receiver)] < ceiling[usize::from(receiver)] {
                self.table[slot as usize] = receiver;
                self.counts[usize::from(holder)] -= 1;
                self.counts[usize::from(receiver)] += 1;
                surplus -= 1;
                continue;
            }
            // The receiver is full by now. The next best is no cheaper, so the order of the heap stays true.
            receivers.retain(|&other| self.counts[usize::from(other)] < ceiling[usize::from(other)]);
            if receivers.is_empty() {
                return;
            }
            offers.push(self.offer(slot, holder, &receivers));
        }
    }

    fn offer(&self, slot: u32, holder: u16, receivers: &[u16]) -> Offer {
        let mut best = (NONE, 0, 1);
        for &receiver in receivers {
            let column = &self.columns[usize::from(receiver)];
            let cost = column.key.cost(slot);
            if best.0 == NONE || beats((receiver, cost, column.weight), best) {
                best = (receiver, cost, column.weight);
            }
        }
        let column = &self.columns[usize::from(holder)];
        let there = u128::from(best.1 * u64::from(column.weight)) << 32;
        let here = u128::from(column.key.cost(slot) * u64::from(best.2));
        Reverse((u64::try_from(there / here).unwrap_or(u64::MAX), slot, best.0))
    }
}
