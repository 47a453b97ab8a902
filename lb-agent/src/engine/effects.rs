//! What the engine wants done. The effects of one event are in an order that is safe while packets flow: whoever
//! carries them out one by one passes through valid states only.

use std::net::{IpAddr, SocketAddr};

use lb_common::slot::Slot;

use super::backend::State;
use super::ids::{BackendId, ServiceId};
use super::lifecycle::Lifecycle;
use crate::model::config::{Affinity, Forward, Health, Protocol, Scheduler, Tracking};
use crate::model::pool::{BackendKey, NextHop};

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    PutBackend(BackendEntry),
    /// The whole table of a service. It may come before the service's entry.
    PutSlots {
        service: ServiceId,
        table: Vec<Slot>,
    },
    PutService(ServiceEntry),
    RemoveService(ServiceId),
    RemoveBackend(BackendId),
    /// Delete every flow of this backend from the flow table, then say [`super::Event::FlowsForgotten`], once for each.
    ForgetFlows(BackendId),
    /// Resolve these addresses and follow them; nothing else needs to be followed any more.
    SetNeighbours(Vec<IpAddr>),
    /// Probe these, and nothing else.
    SetProbes(Vec<ProbeTarget>),
    /// To be logged: a service began or ceased to use backends without regard to their health.
    PanicChanged {
        service: String,
        on: bool,
        reason: String,
    },
    /// To be logged.
    Transition {
        key: BackendKey,
        from: State,
        to: State,
        reason: String,
    },
    /// To be logged and shown.
    Lifecycle {
        from: Lifecycle,
        to: Lifecycle,
        reason: String,
    },
    /// The configuration does not fit; nothing has changed.
    Rejected {
        reason: String,
    },
    /// [`super::Engine::overrides`] is to be saved.
    OverridesChanged,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ProbeTarget {
    pub key: BackendKey,
    /// Where the probe goes: the backend, at the port of the check if it has its own.
    pub target: SocketAddr,
    pub health: Health,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceEntry {
    pub id: ServiceId,
    pub vip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub forward: Forward,
    /// Never `Auto`.
    pub tracking: Tracking,
    pub scheduler: Scheduler,
    pub affinity: Affinity,
    pub slot_count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendEntry {
    pub id: BackendId,
    pub service: ServiceId,
    pub address: IpAddr,
    pub port: u16,
    pub vip: IpAddr,
    pub vip_port: u16,
    pub protocol: Protocol,
    /// Its service's.
    pub forward: Forward,
    /// Its service's; never `Auto`.
    pub tracking: Tracking,
    /// Its service's.
    pub scheduler: Scheduler,
    /// Its service's.
    pub affinity: Affinity,
    pub weight: u16,
    /// None: under `nat` the program looks the route up itself; otherwise it drops.
    pub next_hop: Option<NextHop>,
    pub accepts_new: bool,
}

impl Effect {
    /// A backend is there before a slot names it, slots before the service that uses them; slots cease to
    /// name a backend before it ceases to accept, and before it is removed. Logs come last.
    fn rank(&self) -> u8 {
        match self {
            Self::PutBackend(entry) if entry.accepts_new => 0,
            Self::PutSlots { .. } => 1,
            Self::PutService(_) => 2,
            Self::PutBackend(_) => 3,
            Self::RemoveService(_) => 4,
            Self::RemoveBackend(_) => 5,
            Self::ForgetFlows(_) => 6,
            Self::SetNeighbours(_) => 7,
            Self::SetProbes(_) => 8,
            Self::PanicChanged { .. } | Self::Transition { .. } => 9,
            Self::OverridesChanged => 10,
            Self::Lifecycle { .. } | Self::Rejected { .. } => 11,
        }
    }
}

pub(super) fn in_safe_order(mut effects: Vec<Effect>) -> Vec<Effect> {
    effects.sort_by_key(Effect::rank);
    effects
}
