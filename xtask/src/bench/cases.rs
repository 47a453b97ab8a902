//! What is measured: the rows of the table, and what the data plane must have done in each for the figure to count.

use lb_agent::model::config::Protocol;
use lb_common::counters::BackendCounters;
use lb_common::mode::{Forwarding, ServiceMode, Tracking};
use lb_common::slot::SlotState;
use lb_tests::lab::address::Family;

/// Which packets, to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    pub(super) traffic: Traffic,
    pub(super) service: Service,
    pub(super) table: Table,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// From random clients to an address that is no VIP.
    NotOurs,
    /// So many established flows take turns at random.
    Requests { flows: u32 },
    /// Every packet is of a flow never seen before: a SYN, or a datagram.
    New,
    /// What a backend answers to so many established flows, at random.
    Replies { flows: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    /// Several backends, which are reached through the interface that the packets come in by: the verdict is XDP_TX.
    Transmit,
    /// One backend, so that its answers belong to every flow; reached through another interface, as its clients are.
    Redirect,
    /// As the first, with minimal tracking and slots that have not moved for a while.
    TransmitStable,
    /// As the second, likewise.
    RedirectStable,
    /// As `TransmitStable`, and the backends answer clients themselves.
    Dsr,
    Ipip,
    Gue,
    /// Clients are lent ports of this host, so the backends answer those.
    Snat,
}

/// Size of the flow table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Default,
    /// Room for every flow here, but for one or two that meet a full bucket.
    Large,
    /// More entries than ten million: 128 MiB.
    Huge,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Default, Self::Large, Self::Huge];

    /// At 524,288 flows one flow in fewer than this many meets a full bucket: 1.2 % of a Poisson distribution with mean 4 lie
    /// above 8, a millionth of one with mean 1.
    pub(super) fn full_buckets(self) -> u64 {
        match self {
            Self::Default => 50,
            Self::Large | Self::Huge => 10_000,
        }
    }

    pub(super) fn entries(self) -> u32 {
        match self {
            Self::Default => lb_common::limits::DEFAULT_FLOW_ENTRIES,
            Self::Large => 4 << 20,
            Self::Huge => 16 << 20,
        }
    }
}

impl Service {
    pub(super) const ALL: [Self; 8] = [
        Self::Transmit,
        Self::Redirect,
        Self::TransmitStable,
        Self::RedirectStable,
        Self::Dsr,
        Self::Ipip,
        Self::Gue,
        Self::Snat,
    ];

    /// Whether the backends' answers to clients themselves come by here.
    pub(super) fn is_answered(self) -> bool {
        self.forwarding() == Forwarding::Nat
    }

    pub(super) fn is_redirected(self) -> bool {
        matches!(self, Self::Redirect | Self::RedirectStable)
    }

    pub(super) fn backends(self) -> u16 {
        if self.is_redirected() { 1 } else { 2 }
    }

    pub(super) fn mode(self) -> (ServiceMode, SlotState) {
        match self {
            Self::Transmit | Self::Redirect | Self::Snat => {
                (ServiceMode::new(Tracking::Full, self.forwarding()), SlotState::Tracked)
            }
            _ => (ServiceMode::new(Tracking::Minimal, self.forwarding()), SlotState::Stable),
        }
    }

    pub(super) fn port(self) -> u16 {
        match self {
            Self::Transmit => 80,
            Self::Redirect => 81,
            Self::TransmitStable => 82,
            Self::RedirectStable => 83,
            Self::Dsr => 84,
            Self::Ipip => 85,
            Self::Gue => 86,
            Self::Snat => 87,
        }
    }

    pub(super) fn forwarding(self) -> Forwarding {
        match self {
            Self::Dsr => Forwarding::Dsr,
            Self::Ipip => Forwarding::Ipip,
            Self::Gue => Forwarding::Gue,
            Self::Snat => Forwarding::Snat,
            _ => Forwarding::Nat,
        }
    }
}

/// Their buckets fill more than most caches of the last level.
const MANY: u32 = 524_288;

const BASE: Case = Case {
    name: "",
    family: Family::V4,
    protocol: Protocol::Tcp,
    traffic: Traffic::NotOurs,
    service: Service::Transmit,
    table: Table::Large,
};

const fn requests(name: &'static str, flows: u32) -> Case {
    Case { name, traffic: Traffic::Requests { flows }, ..BASE }
}

const fn through(service: Service, case: Case) -> Case {
    Case { service, ..case }
}

const fn new(name: &'static str) -> Case {
    Case { name, traffic: Traffic::New, ..BASE }
}

const fn replies(name: &'static str, flows: u32) -> Case {
    Case { name, traffic: Traffic::Replies { flows }, service: Service::Redirect, ..BASE }
}

/// The same with minimal tracking.
const fn stable(name: &'static str, case: Case) -> Case {
    let service = match case.service {
        Service::Transmit | Service::TransmitStable => Service::TransmitStable,
        Service::Redirect | Service::RedirectStable => Service::RedirectStable,
        other => other,
    };
    Case { name, service, ..case }
}

const fn v6(case: Case) -> Case {
    Case { family: Family::V6, ..case }
}

const fn udp(case: Case) -> Case {
    Case { protocol: Protocol::Udp, ..case }
}

pub(super) const ALL: [Case; 52] = [
    Case { name: "not ours: passed on", ..BASE },
    requests("1 flow", 1),
    requests("4,096 flows", 4096),
    requests("65,536 flows", 65_536),
    requests("524,288 flows", MANY),
    Case { table: Table::Default, ..requests("4,096 flows, table of 1Mi", 4096) },
    Case { table: Table::Default, ..requests("524,288 flows, table of 1Mi", MANY) },
    Case { table: Table::Huge, ..requests("524,288 flows, table of 16Mi", MANY) },
    new("new flows"),
    Case { table: Table::Huge, ..new("new flows, table of 16Mi") },
    Case { table: Table::Default, ..new("new flows, table of 1Mi, full") },
    Case { service: Service::Redirect, ..requests("1 flow, redirected", 1) },
    replies("1 flow, replies", 1),
    Case { service: Service::Redirect, ..requests("524,288 flows, redirected", MANY) },
    replies("524,288 flows, replies", MANY),
    udp(requests("UDP: 1 flow", 1)),
    udp(requests("UDP: 524,288 flows", MANY)),
    udp(new("UDP: new flows")),
    v6(Case { name: "IPv6: not ours", ..BASE }),
    v6(requests("IPv6: 1 flow", 1)),
    v6(requests("IPv6: 524,288 flows", MANY)),
    v6(new("IPv6: new flows")),
    v6(replies("IPv6: 524,288 flows, replies", MANY)),
    v6(udp(requests("IPv6 UDP: 524,288 flows", MANY))),
    v6(udp(new("IPv6 UDP: new flows"))),
    stable("minimal: 1 flow", requests("", 1)),
    stable("minimal: 4,096 flows", requests("", 4096)),
    stable("minimal: 65,536 flows", requests("", 65_536)),
    stable("minimal: 524,288 flows", requests("", MANY)),
    stable("minimal: new flows", new("")),
    stable("minimal: 1 flow, redirected", Case { service: Service::Redirect, ..requests("", 1) }),
    stable("minimal: 1 flow, replies", replies("", 1)),
    stable("minimal: 524,288 flows, redirected", Case { service: Service::Redirect, ..requests("", MANY) }),
    stable("minimal: 524,288 flows, replies", replies("", MANY)),
    udp(stable("minimal: UDP: 524,288 flows", requests("", MANY))),
    v6(stable("minimal: IPv6: 1 flow", requests("", 1))),
    v6(stable("minimal: IPv6: 524,288 flows", requests("", MANY))),
    v6(stable("minimal: IPv6: new flows", new(""))),
    v6(stable("minimal: IPv6: 524,288 flows, replies", replies("", MANY))),
    through(Service::Dsr, requests("dsr: 1 flow", 1)),
    through(Service::Dsr, requests("dsr: 524,288 flows", MANY)),
    through(Service::Ipip, requests("ipip: 1 flow", 1)),
    through(Service::Ipip, requests("ipip: 524,288 flows", MANY)),
    through(Service::Gue, requests("gue: 1 flow", 1)),
    through(Service::Gue, requests("gue: 524,288 flows", MANY)),
    through(Service::Dsr, v6(requests("IPv6 dsr: 524,288 flows", MANY))),
    through(Service::Ipip, v6(requests("IPv6 ipip: 524,288 flows", MANY))),
    through(Service::Gue, v6(requests("IPv6 gue: 524,288 flows", MANY))),
    through(Service::Snat, requests("snat: 1 flow", 1)),
    through(Service::Snat, requests("snat: 4,096 flows", 4096)),
    through(Service::Snat, udp(requests("snat: UDP: 4,096 flows", 4096))),
    through(Service::Snat, v6(requests("IPv6 snat: 4,096 flows", 4096))),
];

impl Case {
    /// Whether the NAT floor does the same: it knows one service, and requests only.
    pub(super) fn has_floor(&self) -> bool {
        let request = matches!(self.traffic, Traffic::Requests { .. } | Traffic::New);
        request
            && (self.family, self.protocol) == (Family::V4, Protocol::Tcp)
            && matches!(self.service, Service::Transmit | Service::TransmitStable)
    }

    /// Whether what the data plane counted is what the case is about; if not, what it did instead.
    pub(super) fn check(&self, packets: u32, counted: &BackendCounters) -> Result<(), String> {
        let packets = u64::from(packets);
        // Flows whose bucket is full are not remembered: each of their packets is one of a new flow.
        let found_again = packets / self.table.full_buckets();
        let (requests, replies, new_flows) = match self.traffic {
            Traffic::NotOurs => (0, 0, 0..=0),
            Traffic::Requests { .. } => (packets, 0, 0..=found_again),
            Traffic::New => (packets, 0, packets..=packets),
            Traffic::Replies { .. } => (0, packets, 0..=0),
        };
        if (counted.packets, counted.reply_packets) != (requests, replies) || !new_flows.contains(&counted.new_flows) {
            return Err(format!(
                "{}: of {packets} packets {} requests (of {} new flows) and {} replies were forwarded",
                self.name, counted.packets, counted.new_flows, counted.reply_packets
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn a_case_that_measured_something_else_is_refused() {
        let case = requests("1 flow", 1);
        let all = BackendCounters { packets: 1000, ..BackendCounters::default() };
        assert_eq!(case.check(1000, &all), Ok(()));
        assert!(case.check(1001, &all).is_err(), "a packet was not forwarded");
        assert!(case.check(1000, &BackendCounters { new_flows: 1, ..all }).is_err(), "a flow was not established");
        assert!(new("new").check(1000, &all).is_err(), "flows were known");
    }
}
