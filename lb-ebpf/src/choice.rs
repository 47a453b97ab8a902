//! Which backend a client's packet goes to, and what is remembered of that.
//!
//! By the service's tracking: `full` asks the flow table first and records every flow; `minimal` asks the slot table first, and
//! the flow table only where a slot has changed hands; `off` knows the slot table only (ARCHITECTURE.md, "Just-enough
//! tracking").

use lb_common::flow::{self, BUCKET_ENTRIES, Flags, FlowEntry, FlowState};
use lb_common::hash::FlowHash;
use lb_common::maps::{Backend, Service};
use lb_common::mode::Tracking;
use lb_common::reason::Reason;
use lb_common::slot::{Slot, SlotState};

use crate::scheduler::{self, By};
use crate::tables::Tables;

/// What the choice depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) hash: FlowHash,
    pub(crate) flags: Flags,
    /// Its protocol marks the packet that opens a flow. Where it does not, any packet may be the first.
    pub(crate) has_opening: bool,
    /// If nobody remembers it, it may be a new one.
    pub(crate) may_be_new: bool,
}

/// Where a packet goes, and whether that was known before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice<'a> {
    pub(crate) id: u16,
    pub(crate) backend: &'a Backend,
    pub(crate) source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The flow table remembered it.
    FlowTable,
    /// The slot table said so.
    Slot,
    /// Another packet might have got another backend.
    Turn,
}

type Bucket = [u64; BUCKET_ENTRIES];

#[inline(always)]
pub(crate) fn choose<'a, T: Tables>(tables: &'a T, service: &Service, flow: Flow) -> Result<Choice<'a>, Reason> {
    if service.mode.tracking() == Tracking::Full {
        return choose_recorded(tables, service, flow);
    }
    let slot = slot(tables, service, flow)?;
    if service.mode.tracking() == Tracking::Minimal && slot.state() != SlotState::Stable {
        return choose_on_changed_slot(tables, service, flow, slot);
    }
    let choice = by_slot(tables, slot.current())?;
    if flow.flags.opens() {
        count_new(tables, choice.id);
    }
    Ok(choice)
}

/// Every flow is remembered, or else gets its slot's backend and is remembered from now on.
#[inline(always)]
fn choose_recorded<'a, T: Tables>(tables: &'a T, service: &Service, flow: Flow) -> Result<Choice<'a>, Reason> {
    let now = tables.now();
    let bucket = tables.bucket(flow.hash.bucket(tables.bucket_mask())).ok_or(Reason::MapMiss)?;
    let known = flow::find(bucket, flow.hash.tag()).map(|index| tables.opaque(index));
    if let Some(index) = known
        && let Some(choice) = remembered(tables, service, bucket, index, now, flow.flags)
    {
        return Ok(choice);
    }
    let mut picked = scheduler::pick(tables, service, flow.hash, flow.may_be_new)?;
    // The end of a flow that nobody remembers is not worth remembering.
    if !flow.flags.ends() && picked.id != 0 {
        let entry = FlowEntry::new(flow.hash.tag(), picked.id, now, FlowState::HalfOpen);
        if record(tables, bucket, known, entry, now) {
            scheduler::opened(tables, service.mode.scheduler(), u32::from(picked.id));
        } else {
            tables.count_reason(Reason::FlowTableFull);
            // Where nothing is remembered of it, its slot is what its next packets and their answers will be judged by.
            picked = scheduler::pick(tables, service, flow.hash, false)?;
        }
        count_new(tables, picked.id);
    }
    let choice = by_slot(tables, picked.id)?;
    let source = if picked.by == By::Turn { Source::Turn } else { Source::Slot };
    Ok(Choice { source, ..choice })
}

/// The slot has changed hands, so its flows may be on several backends: who is not recorded is older than the change while
/// the slot moves, and new afterwards.
#[inline(always)]
fn choose_on_changed_slot<'a, T: Tables>(
    tables: &'a T,
    service: &Service,
    flow: Flow,
    slot: Slot,
) -> Result<Choice<'a>, Reason> {
    let now = tables.now();
    let opens = flow.flags.opens();
    let bucket = tables.bucket(flow.hash.bucket(tables.bucket_mask())).ok_or(Reason::MapMiss)?;
    let known = flow::find(bucket, flow.hash.tag()).map(|index| tables.opaque(index));
    if let Some(index) = known
        && let Some(choice) = remembered(tables, service, bucket, index, now, flow.flags)
    {
        return Ok(choice);
    }
    let (is_there, takes_new) = match tables.backend(u32::from(slot.previous())) {
        Some(previous) => (previous.service == service.id, previous.flags & Backend::ACCEPTS_NEW != 0),
        None => (false, false),
    };
    let moving = slot.state() == SlotState::Moving;
    // A datagram may be the first of its flow: it is not given to a backend that takes no new ones.
    let is_older = moving && !opens && is_there && (flow.has_opening || takes_new);
    let mut id = if is_older { slot.previous() } else { slot.current() };
    if id == 0 {
        return Err(Reason::NoBackend);
    }
    // Where the slot no longer moves, unrecorded means the current backend: only an entry that says otherwise is written over.
    if (moving || known.is_some()) && !flow.flags.ends() {
        let state = if opens { FlowState::HalfOpen } else { FlowState::Heard };
        let entry = FlowEntry::new(flow.hash.tag(), id, now, state);
        if !record(tables, bucket, known, entry, now) {
            tables.count_reason(Reason::FlowTableFull);
            // Unrecorded, its next packet will be taken for one of an older flow: so it begins where those are.
            if opens && is_there && takes_new {
                id = slot.previous();
            }
        }
    }
    if opens {
        count_new(tables, id);
    }
    by_slot(tables, id)
}

#[inline(always)]
fn slot<T: Tables>(tables: &T, service: &Service, flow: Flow) -> Result<Slot, Reason> {
    tables.slot(u32::from(service.id), flow.hash.slot(service.slots)).map(Slot).ok_or(Reason::MapMiss)
}

/// What a new flow gets.
#[inline(always)]
pub(crate) fn by_current_slot<'a, T: Tables>(
    tables: &'a T,
    service: &Service,
    flow: Flow,
) -> Result<Choice<'a>, Reason> {
    by_slot(tables, slot(tables, service, flow)?.current())
}

/// The backend with this number, as a slot names it.
#[inline(always)]
fn by_slot<T: Tables>(tables: &T, id: u16) -> Result<Choice<'_>, Reason> {
    if id == 0 {
        return Err(Reason::NoBackend);
    }
    let backend = tables.backend(u32::from(id)).ok_or(Reason::MapMiss)?;
    Ok(Choice { id, backend, source: Source::Slot })
}

/// The backend that the entry names, if it still is one of this service; an opening packet wants one that takes new flows.
#[inline(always)]
fn remembered<'a, T: Tables>(
    tables: &'a T,
    service: &Service,
    bucket: &Bucket,
    index: usize,
    now: u32,
    flags: Flags,
) -> Option<Choice<'a>> {
    let entry = FlowEntry(bucket[index & (BUCKET_ENTRIES - 1)]);
    let state = entry.state()?;
    let backend = tables.backend(u32::from(entry.backend()))?;
    if backend.service != service.id {
        return None;
    }
    if flags.opens() && (state == FlowState::Closing || backend.flags & Backend::ACCEPTS_NEW == 0) {
        return None;
    }
    let answers_pass = service.mode.forwarding().answers_pass();
    let after = if answers_pass { state.after_request(flags) } else { state.after_lone_request(flags) };
    let update = entry.seen_again(now, after);
    if update != entry {
        tables.store(bucket, index, update.0);
        let was_closing = state == FlowState::Closing;
        scheduler::closes(tables, service.mode.scheduler(), u32::from(entry.backend()), was_closing, flags);
    }
    Some(Choice { id: entry.backend(), backend, source: Source::FlowTable })
}

#[inline(always)]
pub(crate) fn count_new<T: Tables>(tables: &T, id: u16) {
    tables.count(u32::from(id), |counters| counters.new_flows += 1);
}

/// Puts a flow into its bucket: over the entry that it had, or where it hurts least. Says whether there was a place.
#[inline(always)]
pub(crate) fn record<T: Tables>(tables: &T, bucket: &Bucket, known: Option<usize>, entry: FlowEntry, now: u32) -> bool {
    let Some(index) = known.or_else(|| flow::place(bucket, now).map(|index| tables.opaque(index))) else {
        return false;
    };
    if known.is_none() {
        let loser = FlowEntry(bucket[index & (BUCKET_ENTRIES - 1)]);
        match loser.state() {
            None | Some(FlowState::Closing) => {}
            Some(FlowState::Established) => {
                tables.count(u32::from(loser.backend()), |counters| counters.evicted_stale += 1);
            }
            Some(_) => tables.count(u32::from(loser.backend()), |counters| counters.evicted_half_open += 1),
        }
    }
    tables.store(bucket, index, entry.0);
    true
}
