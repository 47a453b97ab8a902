//! The flow table as the agent sees it: mapped, counted by backend once a second, idle entries let go.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use lb_common::flow::{FlowEntry, FlowState, age};
use lb_common::hash::slot_of_tag;
use lb_common::maps;
use lb_common::mode::Tracking;
use lb_common::slot::{Slot, SlotState};

use super::error::KernelError;
use super::mapped::Mapped;
use super::pins::{Meta, Pins};
use super::{Kernel, object};

#[derive(Debug)]
pub(super) struct Flows {
    table: Mapped,
    unit_seconds: f64,
}

/// Seconds of silence after which an entry is let go. The values are those of IPVS (ip_vs_proto_tcp.c, ip_vs_proto_udp.c)
/// but for established TCP flows: those have an hour, because a reply of a flow that is forgotten cannot be told from
/// the backend's own traffic, and an entry costs eight bytes.
const HALF_OPEN_SECONDS: f64 = 60.0;
const CLOSING_SECONDS: f64 = 120.0;
const ESTABLISHED_TCP_SECONDS: f64 = 3600.0;
const ESTABLISHED_UDP_SECONDS: f64 = 300.0;

/// What one pass over the table found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Flows that are not closing, by backend.
    pub active: BTreeMap<u16, u64>,
    /// Entries in use, closing ones among them.
    pub entries: u64,
    /// Entries let go because they were idle, or because their backend is to be forgotten.
    pub removed: u64,
    /// Tracked slots, by service, that have flows on another backend than their own.
    pub foreign: BTreeMap<u16, BTreeSet<u32>>,
}

/// The slots of one service that records no more flows than it must.
#[derive(Debug, Clone, Copy)]
struct Tracked<'a> {
    service: u16,
    slots: u32,
    words: &'a [AtomicU32],
}

/// One entry, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlowRow {
    pub backend: u16,
    pub state: FlowState,
    pub idle_seconds: f64,
}

impl Flows {
    pub(super) fn open(pins: &Pins, meta: &Meta) -> Result<Self, KernelError> {
        let map = pins.map_data(maps::FLOWS)?;
        let table = Mapped::new(map.fd().as_fd(), meta.flow_entries as usize * size_of::<u64>())
            .map_err(KernelError::io("map the flow table"))?;
        Ok(Self { table, unit_seconds: meta.time_unit_seconds() })
    }
}

impl Kernel {
    /// Counts the flows by backend, lets idle ones go, and all of the backends in `forget`.
    ///
    /// # Errors
    /// When the kernel's clock cannot be asked.
    pub fn sweep(&self, is_udp: impl Fn(u16) -> bool, forget: &[u16]) -> Result<Sweep, KernelError> {
        let now = object::run_clock(&self.clock)?;
        let mut tracked = vec![None; usize::from(u16::MAX) + 1];
        for (id, backend) in self.tables.backends() {
            if backend.mode().tracking() == Tracking::Minimal {
                let (service, slots) = (backend.service(), backend.slots());
                let words = self.tables.mapped_slots(service);
                tracked[usize::from(id)] = words.map(|words| Tracked { service, slots, words });
            }
        }
        let found = sweep(self.flows.table.words64(), now, self.flows.unit_seconds, is_udp, forget, &tracked);
        for (id, _) in self.tables.backends() {
            self.tables.set_active(id, found.active.get(&id).copied().unwrap_or(0));
        }
        Ok(found)
    }

    /// Up to `limit` entries that `wanted` takes, by backend.
    ///
    /// # Errors
    /// When the kernel's clock cannot be asked.
    pub fn flow_rows(&self, limit: usize, wanted: impl Fn(u16) -> bool) -> Result<Vec<FlowRow>, KernelError> {
        let now = object::run_clock(&self.clock)?;
        let rows = self.flows.table.words64().iter().filter_map(|word| {
            let entry = FlowEntry(word.load(Ordering::Relaxed));
            let idle_seconds = f64::from(age(now, entry.seen())) * self.flows.unit_seconds;
            Some(FlowRow { backend: entry.backend(), state: entry.state()?, idle_seconds })
        });
        Ok(rows.filter(|row| wanted(row.backend)).take(limit).collect())
    }
}

/// `tracked` by backend number.
fn sweep(
    table: &[AtomicU64],
    now: u32,
    unit_seconds: f64,
    is_udp: impl Fn(u16) -> bool,
    forget: &[u16],
    tracked: &[Option<Tracked<'_>>],
) -> Sweep {
    let mut found = Sweep::default();
    // Counted in a flat array first: a map look-up for each of a million entries would take most of the time.
    let mut active = vec![0_u64; usize::from(u16::MAX) + 1];
    for word in table {
        let raw = word.load(Ordering::Relaxed);
        if raw == 0 {
            continue;
        }
        let entry = FlowEntry(raw);
        let idle = f64::from(age(now, entry.seen())) * unit_seconds;
        let limit = match entry.state() {
            Some(FlowState::HalfOpen | FlowState::Answered) => HALF_OPEN_SECONDS,
            Some(FlowState::Established | FlowState::Heard) if is_udp(entry.backend()) => ESTABLISHED_UDP_SECONDS,
            Some(FlowState::Established | FlowState::Heard) => ESTABLISHED_TCP_SECONDS,
            Some(FlowState::Closing) => CLOSING_SECONDS,
            None => 0.0,
        };
        if idle > limit || forget.contains(&entry.backend()) {
            // A packet may have refreshed it meanwhile; then it stays.
            if word.compare_exchange(raw, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                found.removed += 1;
                continue;
            }
        }
        found.entries += 1;
        if let Some(Some(Tracked { service, slots, words })) = tracked.get(usize::from(entry.backend())) {
            let index = slot_of_tag(entry.tag(), *slots);
            let slot = words.get(index as usize).map_or(Slot::default(), |word| Slot(word.load(Ordering::Relaxed)));
            if slot.state() == SlotState::Tracked && slot.current() != entry.backend() {
                found.foreign.entry(*service).or_default().insert(index);
            }
        }
        if entry.state() != Some(FlowState::Closing) {
            active[usize::from(entry.backend())] += 1;
        }
    }
    let counts = active.into_iter().zip(0..=u16::MAX).filter(|(count, _)| *count > 0);
    found.active = counts.map(|(count, backend)| (backend, count)).collect();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: f64 = 1.024;

    fn table(entries: &[FlowEntry]) -> Vec<AtomicU64> {
        entries.iter().map(|entry| AtomicU64::new(entry.0)).chain([AtomicU64::new(0)]).collect()
    }

    #[test]
    fn counts_and_lets_go() {
        let entry = |backend, seen, state| FlowEntry::new(7, backend, seen, state);
        let table = table(&[
            entry(1, 4000, FlowState::Established),
            entry(1, 4050, FlowState::HalfOpen),
            entry(1, 4000, FlowState::Closing),
            entry(2, 3900, FlowState::HalfOpen),
            entry(3, 3000, FlowState::Established),
            entry(4, 3000, FlowState::Established),
            entry(5, 4000, FlowState::Established),
        ]);
        // Time has wrapped since the entries were written; backend 4 is UDP, backend 5 is to be forgotten.
        let found = sweep(&table, 10, UNIT, |backend| backend == 4, &[5], &[]);
        assert_eq!(found.active, BTreeMap::from([(1, 2), (3, 1)]));
        assert_eq!((found.entries, found.removed), (4, 3));
    }

    /// Only a tracked slot's flows on another backend than its own are foreign: not those of a moving one, nor its own.
    #[test]
    fn foreign_flows_are_found_by_slot() {
        const SLOTS: u32 = 4;
        let words = [SlotState::Tracked, SlotState::Tracked, SlotState::Moving, SlotState::Stable]
            .map(|state| AtomicU32::new(Slot::new(1, 2, state).0));
        let tracked = [None, Some(1), Some(1), Some(1)]
            .map(|service| service.map(|service| Tracked { service, slots: SLOTS, words: &words }));
        let entry = |slot: u32, backend| FlowEntry::new(slot << 30, backend, 5, FlowState::Heard);
        let table = table(&[entry(0, 1), entry(1, 2), entry(1, 3), entry(2, 2), entry(3, 2), entry(0, 9)]);
        let found = sweep(&table, 5, UNIT, |_| false, &[], &tracked);
        assert_eq!(found.foreign, BTreeMap::from([(1, BTreeSet::from([1]))]));
        let found = sweep(&table, 5, UNIT, |_| false, &[2, 3], &tracked);
        assert_eq!(found.foreign, BTreeMap::new(), "what is let go is not foreign");
    }

    #[test]
    fn an_empty_table() {
        assert_eq!(sweep(&table(&[]), 5, UNIT, |_| false, &[1], &[]), Sweep::default());
    }
}
