//! What the rows' balancer is configured with: for each family and protocol the same services, which differ in how
//! their backends are reached. Numbers and addresses follow from the plan, so rows name roles only.

use std::net::{IpAddr, SocketAddr};

use lb_agent::model::config::Protocol;
use lb_agent::model::pool::ServiceAddress;
use lb_common::reason::Reason;

use crate::lab::address::Family;

/// A family and a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stack {
    pub family: Family,
    pub protocol: Protocol,
}

pub const TCP4: Stack = Stack { family: Family::V4, protocol: Protocol::Tcp };
pub const UDP4: Stack = Stack { family: Family::V4, protocol: Protocol::Udp };
pub const TCP6: Stack = Stack { family: Family::V6, protocol: Protocol::Tcp };
pub const UDP6: Stack = Stack { family: Family::V6, protocol: Protocol::Udp };
pub const STACKS: [Stack; 4] = [TCP4, UDP4, TCP6, UDP6];

/// What a service is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All slots are the first backend's; the second one is on another interface.
    Web,
    /// Slots, but no backend in them.
    Empty,
    /// The agent has not resolved the backend, the kernel knows its neighbour.
    Asked,
    /// Neither of them knows the neighbour.
    Lost,
    /// Reached through the interface that packets come in on.
    Hairpin,
    /// Not resolved, and behind an interface of the smallest MTU.
    Narrow,
    /// Not resolved, and the routing table refuses.
    Unreachable,
    /// Not resolved, and the address is the balancer's own.
    Here,
    /// Three backends that share the slots.
    Spread,
}

impl Role {
    pub const ALL: [Self; 9] = [
        Self::Web,
        Self::Empty,
        Self::Asked,
        Self::Lost,
        Self::Hairpin,
        Self::Narrow,
        Self::Unreachable,
        Self::Here,
        Self::Spread,
    ];
}

/// The balancer's links. Packets come in on the loopback device: that is what BPF_PROG_TEST_RUN says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Loopback,
    Client,
    /// Of backend `i`, counted from 1.
    Backend(u16),
}

/// The link with [`NARROW_MTU`].
pub const NARROW: Link = Link::Backend(2);
/// The least that IPv6 allows.
pub const NARROW_MTU: u32 = 1280;

/// How packets get to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// As its entry says.
    Entry(Link),
    /// As the routing and neighbour tables say.
    Asked(Link),
    Refused(Reason),
}

/// A backend of one service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    pub id: u16,
    pub service: u16,
    pub address: SocketAddr,
    pub vip: SocketAddr,
    pub reach: Reach,
}

const FIRST_VIP_PORT: u16 = 80;
const FIRST_BACKEND_PORT: u16 = 9000;
const SERVICES_PER_STACK: u16 = 16;
const BACKENDS_PER_SERVICE: u16 = 4;

/// Backend numbers that the plan uses, and a few that it does not.
pub const BACKEND_NUMBERS: std::ops::Range<u16> = 1..4 * SERVICES_PER_STACK * BACKENDS_PER_SERVICE + 1;

impl Stack {
    pub fn name(self) -> String {
        let family = if self.family == Family::V4 { "IPv4" } else { "IPv6" };
        format!("{} over {family}", self.protocol.as_str().to_uppercase())
    }

    pub fn is_tcp(self) -> bool {
        self.protocol == Protocol::Tcp
    }

    fn number(self) -> u16 {
        let position = STACKS.iter().position(|stack| *stack == self).expect("there are four");
        u16::try_from(position).expect("there are four")
    }

    pub fn service(self, role: Role) -> u16 {
        1 + self.number() * SERVICES_PER_STACK + role as u16
    }

    pub fn vip(self, role: Role) -> SocketAddr {
        SocketAddr::new(self.family.vip(), FIRST_VIP_PORT + role as u16)
    }

    pub fn service_address(self, role: Role) -> ServiceAddress {
        let vip = self.vip(role);
        ServiceAddress { vip: vip.ip(), port: vip.port(), protocol: self.protocol }
    }

    /// The service at an address.
    pub fn role_at(self, address: SocketAddr) -> Option<Role> {
        Role::ALL.into_iter().find(|role| self.vip(*role) == address)
    }

    /// A service's only backend, or its first.
    pub fn host(self, role: Role) -> Host {
        self.hosts(role)[0]
    }

    /// All backends of a service.
    pub fn hosts(self, role: Role) -> Vec<Host> {
        let family = self.family;
        let at = |i: u16| (family.backend(i), Reach::Entry(Link::Backend(i)));
        let places: Vec<(IpAddr, Reach)> = match role {
            Role::Web => vec![at(1), at(3)],
            Role::Empty => vec![],
            Role::Asked => vec![(family.backend(3), Reach::Asked(Link::Backend(3)))],
            Role::Lost => vec![(family.beside_backend(3, 99), Reach::Refused(Reason::NoNeighbour))],
            Role::Hairpin => vec![(family.backend(1), Reach::Entry(Link::Loopback))],
            Role::Narrow => vec![(family.backend(2), Reach::Asked(NARROW))],
            Role::Unreachable => vec![(family.apart(9), Reach::Refused(Reason::NoRoute))],
            Role::Here => vec![(family.balancer(), Reach::Refused(Reason::NoRoute))],
            Role::Spread => vec![at(1), at(2), at(3)],
        };
        let host = |(n, (address, reach))| {
            let id = 1 + (self.number() * SERVICES_PER_STACK + role as u16) * BACKENDS_PER_SERVICE + n;
            let address = SocketAddr::new(address, FIRST_BACKEND_PORT + id);
            Host { id, service: self.service(role), address, vip: self.vip(role), reach }
        };
        (0..).zip(places).map(host).collect()
    }

    pub fn host_at(self, address: SocketAddr) -> Option<Host> {
        Role::ALL.into_iter().flat_map(|role| self.hosts(role)).find(|host| host.address == address)
    }

    /// The table that a service starts with.
    pub fn slots(self, role: Role) -> Vec<u16> {
        let hosts = self.hosts(role);
        match role {
            Role::Empty => vec![0; 61],
            // Uneven on purpose: a mistaken slot shows.
            Role::Spread => (0..1021).map(|slot| hosts[[0, 1, 1, 2, 2, 2][slot * 7 % 6]].id).collect(),
            _ => vec![hosts[0].id; 251],
        }
    }

    /// An address of the client with a port of its own.
    pub fn client(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.family.client(), port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_and_addresses_are_unique() {
        let (mut ids, mut addresses, mut hosts) = (BTreeSet::new(), BTreeSet::new(), 0);
        for stack in STACKS {
            for host in Role::ALL.into_iter().flat_map(|role| stack.hosts(role)) {
                assert!(BACKEND_NUMBERS.contains(&host.id));
                ids.insert(host.id);
                addresses.insert((host.address, stack.protocol));
                hosts += 1;
            }
        }
        assert_eq!((ids.len(), addresses.len()), (hosts, hosts));
    }
}
