//! What the engine is told. Whoever tells it has done the I/O; every value may be late, repeated or about something
//! that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use lb_common::slot::Slot;

use super::ids::{BackendId, ServiceId};
use super::lifecycle::Lifecycle;
use crate::model::config::{Affinity, Config, Forward, MAX_WEIGHT, Scheduler, Tracking};
use crate::model::pool::{BackendKey, NextHop, ProbeOutcome, ServiceAddress};

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The configuration, at the start and at each reload; all of it.
    Configured(Config),
    /// The program is attached and the maps hold what the effects so far said.
    Attached,
    Probe {
        key: BackendKey,
        outcome: ProbeOutcome,
    },
    /// What the kernel's routing and neighbour tables say about an address of [`super::Effect::SetNeighbours`].
    NextHop {
        address: IpAddr,
        resolution: Result<NextHop, String>,
    },
    /// Active flows by backend, from a sweep of the flow table that began after the effects of all earlier events
    /// were applied. A backend that is missing has none.
    FlowCounts(BTreeMap<BackendId, u64>),
    /// From the same sweep: slots that had flows recorded on another backend than the slot's own, of services that record no more
    /// than they must. A service that is missing had none.
    ForeignFlows(BTreeMap<ServiceId, BTreeSet<u32>>),
    /// The answer to one [`super::Effect::ForgetFlows`]: no flow names this backend any more.
    FlowsForgotten(BackendId),
    /// Time passes; once a second is enough.
    Tick,
    /// The agent is to end. The data plane goes on as it is.
    Stop,
    /// Everything that had to end has ended.
    Stopped,
    /// The agent cannot serve.
    Failed {
        reason: String,
    },
}

/// What an administrator wants of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminCommand {
    pub key: BackendKey,
    pub action: AdminAction,
}

/// `undo_after` returns to what was there before the command, by itself. Without it the order stays until the
/// opposite is said, across reloads and restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAction {
    /// No new flows; those that are left when the service's drain time-out passes are forgotten.
    Drain {
        undo_after: Option<Duration>,
    },
    Undrain,
    /// The configured weight, without `undo_after`, takes the order back.
    SetWeight {
        weight: u16,
        undo_after: Option<Duration>,
    },
    Enable,
    /// No new flows and no probes; flows that are there stay as long as they last.
    Disable {
        undo_after: Option<Duration>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    #[error("no service is called `{0}`; `lb-agent service list` shows those that exist")]
    UnknownService(String),
    #[error("service `{}` has no backend `{}`; `lb-agent backend list` shows those that exist", .0.service, .0.backend)]
    UnknownBackend(BackendKey),
    #[error("weight {0} is too large; choose 0 to {MAX_WEIGHT}")]
    WeightTooLarge(u16),
    #[error("a time of zero would undo the command at once; give a longer one, or none to keep it")]
    NoTime,
    #[error("the agent is {0} and takes no commands; try again when it is running")]
    NotServing(Lifecycle),
}

/// What an agent that comes back reads from the pinned maps: the flow table holds these numbers, so they must stay.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adopted {
    pub services: Vec<AdoptedService>,
    pub backends: Vec<AdoptedBackend>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AdoptedService {
    pub id: ServiceId,
    pub address: ServiceAddress,
    /// What holds for its flows until a configuration says otherwise.
    pub forward: Forward,
    /// Never `Auto`.
    pub tracking: Tracking,
    pub scheduler: Scheduler,
    pub affinity: Affinity,
    /// Its slots, if it records no more flows than it must: they know where the others are. Empty otherwise.
    pub slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdoptedBackend {
    pub id: BackendId,
    pub service: ServiceId,
    pub address: IpAddr,
    pub port: u16,
    /// Taken for its health until probes say otherwise.
    pub accepts_new: bool,
    /// Taken for true until the kernel says otherwise, so that no new flow is refused in between.
    pub next_hop: Option<NextHop>,
}
