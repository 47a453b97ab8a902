//! A service's settings as the configuration names them and as the programs read them.

use lb_common::mode::{self, Forwarding, ServiceMode};

use crate::model::config::{Affinity, Forward, Scheduler, Tracking};

/// What the programs are told of a service beside its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    /// Never `Auto`: the engine decides that.
    pub(super) tracking: Tracking,
    pub(super) forward: Forward,
    pub(super) scheduler: Scheduler,
    pub(super) affinity: Affinity,
}

const TRACKING: [(Tracking, mode::Tracking); 3] = [
    (Tracking::Full, mode::Tracking::Full),
    (Tracking::Minimal, mode::Tracking::Minimal),
    (Tracking::Off, mode::Tracking::Off),
];
const FORWARD: [(Forward, Forwarding); 5] = [
    (Forward::Nat, Forwarding::Nat),
    (Forward::Snat, Forwarding::Snat),
    (Forward::Dsr, Forwarding::Dsr),
    (Forward::Ipip, Forwarding::Ipip),
    (Forward::Gue, Forwarding::Gue),
];
const SCHEDULER: [(Scheduler, mode::Scheduler); 4] = [
    (Scheduler::Consistent, mode::Scheduler::Consistent),
    (Scheduler::RoundRobin, mode::Scheduler::RoundRobin),
    (Scheduler::Random, mode::Scheduler::Random),
    (Scheduler::LeastConnections, mode::Scheduler::LeastConnections),
];

/// The other name of a value; the first pair's for one that has none.
fn other<A: Copy + PartialEq, B: Copy>(pairs: &[(A, B)], value: A) -> B {
    pairs.iter().find(|(one, _)| *one == value).unwrap_or(&pairs[0]).1
}

fn back<A: Copy, B: Copy + PartialEq>(pairs: &[(A, B)], value: B) -> A {
    pairs.iter().find(|(_, one)| *one == value).unwrap_or(&pairs[0]).0
}

impl Settings {
    pub(super) fn mode(self) -> ServiceMode {
        ServiceMode::new(other(&TRACKING, self.tracking), other(&FORWARD, self.forward))
            .with_scheduler(other(&SCHEDULER, self.scheduler))
            .with_client_affinity(self.affinity == Affinity::ClientIp)
    }

    /// Of a service found in the maps.
    pub(super) fn of(mode: ServiceMode) -> Self {
        Self {
            tracking: back(&TRACKING, mode.tracking()),
            forward: back(&FORWARD, mode.forwarding()),
            scheduler: back(&SCHEDULER, mode.scheduler()),
            affinity: if mode.has_client_affinity() { Affinity::ClientIp } else { Affinity::None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_writes_another_reads() {
        for (tracking, _) in TRACKING {
            for (forward, _) in FORWARD {
                for (scheduler, _) in SCHEDULER {
                    for affinity in [Affinity::None, Affinity::ClientIp] {
                        let settings = Settings { tracking, forward, scheduler, affinity };
                        assert_eq!(Settings::of(settings.mode()), settings);
                    }
                }
            }
        }
    }
}
