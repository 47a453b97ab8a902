//! Everything that a packet can change, read from the kernel before and after it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use lb_agent::dataplane::kernel::{Events, Kernel, Missing};
use lb_common::allowance::Answer;
use lb_common::counters::BackendCounters;
use lb_common::flow::{BUCKET_ENTRIES, FlowEntry};
use lb_common::maps::{ANSWERS, FLOWS, LAYOUT};
use lb_common::reason::Reason;

use super::plan::BACKEND_NUMBERS;

pub(super) type Bucket = [u64; BUCKET_ENTRIES];

/// The flow table, read through its pin, so that rows see entries and not only what the agent makes of them.
pub(super) struct FlowTable(Array<MapData, Bucket>);

impl FlowTable {
    pub(super) fn open(pin_dir: &Path) -> Result<Self> {
        Ok(Self(pinned(pin_dir, FLOWS)?.try_into().context("reading the flow table's layout")?))
    }

    pub(super) fn buckets(&self) -> u32 {
        self.0.len()
    }

    pub(super) fn bucket(&self, index: u32) -> Result<Bucket> {
        self.0.get(&index, 0).with_context(|| format!("reading bucket {index}"))
    }

    pub(super) fn set_bucket(&mut self, index: u32, bucket: Bucket) -> Result<()> {
        self.0.set(index, bucket, 0).with_context(|| format!("writing bucket {index}"))
    }

    pub(super) fn read(&self) -> Result<Vec<Bucket>> {
        (0..self.buckets()).map(|index| self.bucket(index)).collect()
    }

    pub(super) fn clear(&mut self) -> Result<()> {
        (0..self.buckets()).try_for_each(|index| self.set_bucket(index, [0; BUCKET_ENTRIES]))
    }
}

fn pinned(pin_dir: &Path, name: &str) -> Result<Map> {
    let path = pin_dir.join(format!("v{LAYOUT}")).join("maps").join(name);
    let map = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    Map::from_map_data(map).with_context(|| format!("reading the kind of {name}"))
}

/// What the processors may still answer.
pub(super) struct Answers(PerCpuArray<MapData, u64>);

impl Answers {
    pub(super) fn open(pin_dir: &Path) -> Result<Self> {
        Ok(Self(pinned(pin_dir, ANSWERS)?.try_into().context("reading the allowances")?))
    }

    /// Lets every processor give as many answers at once as there ever may be.
    pub(super) fn refill(&mut self) -> Result<()> {
        for kind in Answer::ALL {
            let full = vec![u64::from(kind.per_unit()); aya::util::nr_cpus().map_err(|(_, error)| error)?];
            self.0.set(kind as u32, full.try_into()?, 0).context("writing the allowances")?;
        }
        Ok(())
    }
}

/// The flow table and all counters.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub(super) flows: Vec<Bucket>,
    pub(super) counters: BTreeMap<u16, BackendCounters>,
    pub(super) reasons: BTreeMap<Reason, u64>,
}

impl Snapshot {
    pub(super) fn take(kernel: &Kernel, flows: &FlowTable) -> Result<Self> {
        Ok(Self { flows: flows.read()?, counters: counters(kernel)?, reasons: reasons(kernel)? })
    }

    /// Entries in use.
    pub fn entries(&self) -> impl Iterator<Item = FlowEntry> {
        self.flows.iter().flatten().map(|word| FlowEntry(*word)).filter(|entry| !entry.is_free())
    }
}

/// Of every number of the plan.
pub(super) fn counters(kernel: &Kernel) -> Result<BTreeMap<u16, BackendCounters>> {
    BACKEND_NUMBERS.map(|id| Ok((id, kernel.counters(id)?))).collect()
}

pub(super) fn reasons(kernel: &Kernel) -> Result<BTreeMap<Reason, u64>> {
    Ok(kernel.reasons()?.into_iter().collect())
}

/// What has been counted between two readings, by reason.
pub(super) fn more_reasons(before: &BTreeMap<Reason, u64>, after: &BTreeMap<Reason, u64>) -> BTreeMap<Reason, u64> {
    let old = |reason| before.get(reason).copied().unwrap_or(0);
    after.iter().map(|(reason, count)| (*reason, count.wrapping_sub(old(reason)))).filter(|(_, n)| *n != 0).collect()
}

/// What has been counted between two readings, by backend.
pub(super) fn more_counters(
    before: &BTreeMap<u16, BackendCounters>,
    after: &BTreeMap<u16, BackendCounters>,
) -> BTreeMap<u16, BackendCounters> {
    let changes = after.iter().map(|(id, new)| (*id, difference(new, &before[id])));
    changes.filter(|(_, change)| *change != BackendCounters::default()).collect()
}

pub(super) fn difference(new: &BackendCounters, old: &BackendCounters) -> BackendCounters {
    BackendCounters {
        packets: new.packets.wrapping_sub(old.packets),
        bytes: new.bytes.wrapping_sub(old.bytes),
        reply_packets: new.reply_packets.wrapping_sub(old.reply_packets),
        reply_bytes: new.reply_bytes.wrapping_sub(old.reply_bytes),
        new_flows: new.new_flows.wrapping_sub(old.new_flows),
        resets: new.resets.wrapping_sub(old.resets),
        evicted_half_open: new.evicted_half_open.wrapping_sub(old.evicted_half_open),
        evicted_stale: new.evicted_stale.wrapping_sub(old.evicted_stale),
    }
}

/// The events since the last call.
pub(super) fn events(events: &mut Events) -> Vec<Missing> {
    std::iter::from_fn(|| events.next_missing()).collect()
}
