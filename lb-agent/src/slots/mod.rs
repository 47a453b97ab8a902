//! The slot table of a service: which backend takes a new flow whose hash falls on a slot. It is a pure function of
//! (service, secret seed, backend addresses, weights): every node with the same input has the same table, and a
//! weight that returns gives the same slots back. This module owns that function; who is eligible is not its business.
//!
//! # How
//! Weighted rendezvous hashing (Schindelhauer and Schomaker, Weighted distributed hash tables, 2005): a slot belongs to
//! the backend with the smallest `-log2(u(slot, backend)) / weight`. Shares then scatter like coin flips:
//! at 65,537 slots by 0.5 % with 3 equal backends, 1.2 % with 10, 12 % with 1,000 (one sigma). A correction
//! brings each to within 1 % of its exact share (to a whole slot next to it, where 1 % is less than that).
//!
//! # What holds
//! Exactly, for the table as it is handed out: the order of the backends does not matter; the same input gives the
//! same table, so what returns gets its old slots back; shares are within the band above.
//!
//! Exactly, for the plain table: a weight that rises only pulls slots to its backend, one that falls only lets slots
//! go. No correction can keep that to the letter for every set of backends: it would mean that each slot has one fixed
//! order of all (backend, weight) pairs, whatever the others weigh, and then the scatter is back. So the correction is
//! the smallest there is: it touches the least number of slots that reaches the bands, and a slot that it touches
//! neither before nor after a change keeps the property to the letter. Calibrating the weights instead (the usual
//! remedy) has no such bound, since every factor depends on every weight.
//!
//! | equal backends | slots corrected | needlessly moved when one backend goes (due: its share) |
//! |---|---|---|
//! | 3 | 0.01 % | less than 0.01 % |
//! | 10 | 0.15 % | 0.08 % |
//! | 100 | 1.2 % | 0.33 % |
//! | 1,000 | 4.6 % | 0.39 % |
//!
//! # What it costs
//! A weight that changes costs one column of the plain table and the correction, not the whole table: 0.7 ms instead of
//! 1.8 with 3 backends, 85 ms instead of 340 with 1,000. A cost takes 4 ns and is computed again when it is needed: to
//! keep them all would take 256 KiB a backend, gigabytes for a full agent.

mod balance;
mod moves;
mod rotation;
mod score;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

pub use moves::{Counts, Moves, Rule};
pub use rotation::rotation;
use score::ColumnKey;

use crate::model::pool::ServiceAddress;

/// Slots of a service: a prime, large enough for 1 % steps with hundreds of backends.
pub const DEFAULT_SLOTS: u32 = 65_537;
/// In [`Table::assignments`]: no backend takes this slot.
pub const NONE: u16 = u16::MAX;

/// What makes the table unpredictable to clients. Nodes that share a VIP share it; it never changes while flows live.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u8; 16]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(secret)")
    }
}

/// The table as it is, ready to follow changes of backends and weights.
#[derive(Debug, Clone)]
pub struct Table {
    seed: Seed,
    service: ServiceAddress,
    /// Sorted by backend: an index into it is the same on every node.
    columns: Vec<Column>,
    /// By slot, the index of the column that wins it.
    plain: Vec<u16>,
    /// `plain` after the correction of shares.
    corrected: Vec<u16>,
}

#[derive(Debug, Clone)]
struct Column {
    backend: SocketAddr,
    key: ColumnKey,
    /// Never 0: what weighs nothing has no column.
    weight: u16,
}

/// Whether the first of two (column, cost, weight) has the smaller `cost / weight`; the smaller index breaks a tie.
#[inline]
fn beats(challenger: (u16, u64, u16), holder: (u16, u64, u16)) -> bool {
    let (left, right) = (challenger.1 * u64::from(holder.2), holder.1 * u64::from(challenger.2));
    left < right || (left == right && challenger.0 < holder.0)
}

/// The whole table from nothing: by slot, the index of its backend in the ascending order of addresses, or [`NONE`].
pub fn build(seed: Seed, service: ServiceAddress, slots: u32, weights: &BTreeMap<SocketAddr, u16>) -> Vec<u16> {
    let mut table = Table::new(seed, service, slots);
    table.update(weights);
    table.corrected
}

impl Table {
    /// An empty table of `slots` slots.
    pub fn new(seed: Seed, service: ServiceAddress, slots: u32) -> Self {
        let plain = vec![NONE; slots as usize];
        Self { seed, service, columns: Vec::new(), corrected: plain.clone(), plain }
    }

    /// Makes these the backends and weights (0: takes no slots); says whether anything changed.
    ///
    /// # Panics
    /// With more than 65,534 backends, which no service can have.
    pub fn update(&mut self, weights: &BTreeMap<SocketAddr, u16>) -> bool {
        let gone = self.columns.iter().filter(|column| !weights.contains_key(&column.backend));
        let mut changes: Vec<(SocketAddr, u16)> = gone.map(|column| (column.backend, 0)).collect();
        changes
            .extend(weights.iter().map(|(&backend, &weight)| (backend, weight)).filter(|&(b, w)| self.weight(b) != w));
        if changes.is_empty() {
            return false;
        }
        // Column by column costs two looks at each slot, the whole table one look per column: take the cheaper.
        if changes.len() * 2 >= self.columns.len() {
            self.rebuild(weights);
        } else {
            changes.into_iter().for_each(|(backend, weight)| self.set(backend, weight));
        }
        self.corrected.copy_from_slice(&self.plain);
        balance::correct(&self.columns, &mut self.corrected);
        true
    }

    /// By slot, an index into [`Self::backends`], or [`NONE`] everywhere if there is no backend.
    pub fn assignments(&self) -> &[u16] {
        &self.corrected
    }

    /// The backends that weigh anything, ascending.
    pub fn backends(&self) -> impl ExactSizeIterator<Item = SocketAddr> + '_ {
        self.columns.iter().map(|column| column.backend)
    }

    fn weight(&self, backend: SocketAddr) -> u16 {
        self.find(backend).map_or(0, |index| self.columns[index].weight)
    }

    fn find(&self, backend: SocketAddr) -> Result<usize, usize> {
        self.columns.binary_search_by_key(&backend, |column| column.backend)
    }

    fn rebuild(&mut self, weights: &BTreeMap<SocketAddr, u16>) {
        let (seed, service) = (&self.seed, &self.service);
        let weighing = weights.iter().filter(|&(_, &weight)| weight > 0);
        self.columns = weighing
            .map(|(&backend, &weight)| Column { backend, key: ColumnKey::new(seed, service, &backend), weight })
            .collect();
        assert!(self.columns.len() < usize::from(NONE), "a slot table has at most {} backends", NONE - 1);
        for (slot, holder) in (0_u32..).zip(self.plain.iter_mut()) {
            *holder = winner(&self.columns, slot);
        }
    }

    /// Changes one weight in the plain table.
    fn set(&mut self, backend: SocketAddr, weight: u16) {
        match self.find(backend) {
            Ok(index) if weight == 0 => {
                self.columns.remove(index);
                let index = index as u16;
                for (slot, holder) in (0_u32..).zip(self.plain.iter_mut()) {
                    if *holder == index {
                        *holder = winner(&self.columns, slot);
                    } else if *holder > index && *holder != NONE {
                        *holder -= 1;
                    }
                }
            }
            Ok(index) => {
                let rises = weight > self.columns[index].weight;
                self.columns[index].weight = weight;
                if rises { self.pull(index as u16) } else { self.let_go(index as u16) }
            }
            Err(_) if weight == 0 => {}
            Err(index) => {
                let key = ColumnKey::new(&self.seed, &self.service, &backend);
                self.columns.insert(index, Column { backend, key, weight });
                assert!(self.columns.len() < usize::from(NONE), "a slot table has at most {} backends", NONE - 1);
                let index = index as u16;
                self.plain.iter_mut().filter(|holder| **holder >= index && **holder != NONE).for_each(|h| *h += 1);
                self.pull(index);
            }
        }
    }

    /// A weight rose: its column takes what it now wins.
    fn pull(&mut self, index: u16) {
        let column = &self.columns[usize::from(index)];
        for (slot, holder) in (0_u32..).zip(self.plain.iter_mut()) {
            if *holder == index {
                continue;
            }
            let wins = self.columns.get(usize::from(*holder)).is_none_or(|other| {
                let held = (*holder, other.key.cost(slot), other.weight);
                beats((index, column.key.cost(slot), column.weight), held)
            });
            if wins {
                *holder = index;
            }
        }
    }

    /// A weight fell: the slots of its column are contested anew.
    fn let_go(&mut self, index: u16) {
        for (slot, holder) in (0_u32..).zip(self.plain.iter_mut()) {
            if *holder == index {
                *holder = winner(&self.columns, slot);
            }
        }
    }
}

fn winner(columns: &[Column], slot: u32) -> u16 {
    let mut best = (NONE, 0, 1);
    for (index, column) in (0_u16..).zip(columns) {
        let cost = column.key.cost(slot);
        if best.0 == NONE || beats((index, cost, column.weight), best) {
            best = (index, cost, column.weight);
        }
    }
    best.0
}
