//! Which backend a flow gets that nobody remembers: by its slot, in turns, by chance, or where fewer flows are. The one place where
//! a new flow's backend is chosen.

use lb_common::flow::Flags;
use lb_common::hash::{FlowHash, slot_of_tag};
use lb_common::maps::{Load, Service};
use lb_common::mode::Scheduler;
use lb_common::reason::Reason;
use lb_common::slot::Slot;

use crate::tables::Tables;

/// A backend's number, and whether another packet of the same flow would be given it again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Picked {
    pub(crate) id: u16,
    pub(crate) by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// What the maps hold: again, as long as they hold it.
    Maps,
    /// Turns or chance.
    Turn,
}

/// `is_new`: whether the flow may be a new one; others that nobody remembers have their slot's backend under every scheduler,
/// because that is all that can be found out about them.
#[inline(always)]
pub(crate) fn pick<T: Tables>(tables: &T, service: &Service, hash: FlowHash, is_new: bool) -> Result<Picked, Reason> {
    let own = hash.slot(service.slots);
    let scheduler = if is_new { service.mode.scheduler() } else { Scheduler::Consistent };
    let (slot, by) = match scheduler {
        Scheduler::Consistent => (own, By::Maps),
        Scheduler::LeastConnections => return lighter(tables, service, own, hash.second_slot(service.slots)),
        Scheduler::RoundRobin => (tables.turn(u32::from(service.id), service.slots), By::Turn),
        Scheduler::Random => (slot_of_tag(tables.random(), service.slots), By::Turn),
    };
    Ok(Picked { id: current(tables, service, slot)?, by })
}

/// Weights count twice: by the slots that a backend has, and by the flows that it may have.
#[inline(always)]
fn lighter<T: Tables>(tables: &T, service: &Service, first: u32, second: u32) -> Result<Picked, Reason> {
    let (first, second) = (current(tables, service, first)?, current(tables, service, second)?);
    let load = |id: u16| tables.load(u32::from(id)).unwrap_or_default();
    let (first_load, second_load): (Load, Load) = (load(first), load(second));
    let id = if second_load.is_lighter_than(first_load) { second } else { first };
    Ok(Picked { id, by: By::Maps })
}

#[inline(always)]
fn current<T: Tables>(tables: &T, service: &Service, slot: u32) -> Result<u16, Reason> {
    tables.slot(u32::from(service.id), slot).map(|slot| Slot(slot).current()).ok_or(Reason::MapMiss)
}

/// A flow of the backend was opened: for services whose scheduler asks.
#[inline(always)]
pub(crate) fn opened<T: Tables>(tables: &T, scheduler: Scheduler, id: u32) {
    if scheduler == Scheduler::LeastConnections {
        tables.change_load(id, 1);
    }
}

/// A packet with these flags has made the flow a closing one.
#[inline(always)]
pub(crate) fn closes<T: Tables>(tables: &T, scheduler: Scheduler, id: u32, was_closing: bool, flags: Flags) {
    if scheduler == Scheduler::LeastConnections && flags.ends() && !was_closing {
        tables.change_load(id, -1);
    }
}
