//! Services whose backends answer clients themselves, beside those of the plan: for each family and protocol one that
//! forwards frames, and tunnels of both kinds over both families. All slots are their one backend's.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, UdpHeader,
};
use lb_agent::dataplane::kernel::Endpoint;
use lb_agent::model::pool::{NextHop, ServiceAddress};
use lb_common::mode::{Forwarding, ServiceMode, Tracking};
use lb_common::packet::outer::GUE_PORT;

use super::frame::{ETHERNET, Frame, Macs, Tuple};
use super::plan::{Link, STACKS, Stack};
use super::world::{World, taken};
use crate::lab::address::Family;

/// The plan's services have lower numbers, and so have its backends.
const FIRST_SERVICE: u16 = 100;
const FIRST_BACKEND: u16 = 230;
const FIRST_PORT: u16 = 400;
const SLOTS: usize = 61;
/// The backends' link.
const LINK: Link = Link::Backend(1);
/// Hops that an outer header begins with.
const OUTER_HOPS: u8 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carrier {
    pub stack: Stack,
    pub forwarding: Forwarding,
    /// Of the backend's address.
    pub outer: Family,
    pub service: u16,
    pub backend: u16,
}

impl Carrier {
    pub fn all() -> Vec<Self> {
        let ways = |stack: Stack| {
            let tunnels = [Forwarding::Ipip, Forwarding::Gue].into_iter();
            let tunnels = tunnels.flat_map(|forwarding| Family::ALL.map(|outer| (forwarding, outer)));
            [(Forwarding::Dsr, stack.family)].into_iter().chain(tunnels).map(move |way| (stack, way))
        };
        let all = STACKS.into_iter().flat_map(ways).zip(0..);
        all.map(|((stack, (forwarding, outer)), n)| Self {
            stack,
            forwarding,
            outer,
            service: FIRST_SERVICE + n,
            backend: FIRST_BACKEND + n,
        })
        .collect()
    }

    pub fn name(self) -> String {
        let outer = if self.outer == Family::V4 { "IPv4" } else { "IPv6" };
        match self.forwarding {
            Forwarding::Ipip => format!("{} in ipip over {outer}", self.stack.name()),
            Forwarding::Gue => format!("{} in gue over {outer}", self.stack.name()),
            _ => format!("{} by dsr", self.stack.name()),
        }
    }

    pub fn vip(self) -> SocketAddr {
        SocketAddr::new(self.stack.family.vip(), FIRST_PORT + self.service)
    }

    /// The backend's own.
    pub fn address(self) -> IpAddr {
        self.outer.backend(1)
    }

    /// What an outer header has as its source.
    pub fn source(self) -> IpAddr {
        self.outer.balancer_at(1)
    }

    /// Bytes in front of a packet.
    pub fn overhead(self) -> usize {
        let ip = if self.outer == Family::V4 { 20 } else { 40 };
        match self.forwarding {
            Forwarding::Ipip => ip,
            Forwarding::Gue => ip + 8,
            _ => 0,
        }
    }

    /// Has the service in the world; without an MTU, with an unresolved backend.
    pub fn put(self, world: &mut World, mtu: Option<u32>) -> Result<()> {
        let (ifindex, Macs { source: source_mac, destination: destination_mac }) = world.hop(LINK);
        let source = Some(self.source());
        let next_hop = mtu.map(|mtu| NextHop { ifindex, source_mac, destination_mac, mtu, source, gateway: None });
        let vip = ServiceAddress { vip: self.vip().ip(), port: self.vip().port(), protocol: self.stack.protocol };
        let slots = vec![self.backend; SLOTS];
        let count = u32::try_from(SLOTS)?;
        let mode = ServiceMode::new(Tracking::Full, self.forwarding);
        let endpoint = Endpoint {
            service: self.service,
            slots: count,
            vip,
            address: self.address(),
            port: vip.port,
            mode,
            next_hop,
            weight: 1,
            accepts_new: true,
        };
        let tables = world.kernel.tables_mut();
        tables.put_backend(self.backend, &endpoint)?;
        tables.put_slots(self.service, &taken(&slots))?;
        Ok(tables.put_service(vip, self.service, count, mode)?)
    }

    /// From a client with this port.
    pub fn frame(self, port: u16) -> Frame {
        Frame::new(self.stack, self.stack.client(port), self.vip())
    }

    /// As the client's packet leaves towards the backend.
    pub fn sent(self, world: &World, frame: &Frame) -> Vec<u8> {
        let forwarded = Frame { hops: frame.hops - 1, ..frame.clone() }.build();
        self.carry(world, &forwarded, frame.class, frame.padding.len(), frame.tuple())
    }

    /// A frame that has made its hop, on the backend's link; `padding` of its bytes belong to no packet, and it belongs to `flow`.
    pub fn carry(self, world: &World, frame: &[u8], class: u8, padding: usize, flow: Tuple) -> Vec<u8> {
        let macs = world.hop(LINK).1;
        let packet = &frame[ETHERNET..];
        let outer = match self.forwarding {
            Forwarding::Ipip | Forwarding::Gue => {
                self.outer_headers(class, packet.len() - padding, world.hash(flow).tag())
            }
            _ => vec![],
        };
        let family = if outer.is_empty() { self.stack.family } else { self.outer };
        let ether_type = if family == Family::V4 { EtherType::IPV4 } else { EtherType::IPV6 };
        let ethernet = Ethernet2Header { destination: macs.destination, source: macs.source, ether_type };
        [ethernet.to_bytes().as_slice(), &outer, packet].concat()
    }

    fn outer_headers(self, class: u8, length: usize, entropy: u32) -> Vec<u8> {
        let inner = if self.stack.family == Family::V4 { IpNumber::IPV4 } else { IpNumber::IPV6 };
        let (protocol, udp) = match self.forwarding {
            Forwarding::Gue => {
                let [_, _, high, low] = entropy.to_be_bytes();
                let udp = UdpHeader {
                    source_port: 0xc000 | u16::from_be_bytes([high, low]),
                    destination_port: GUE_PORT,
                    length: u16::try_from(8 + length).expect("frames are small"),
                    checksum: 0,
                };
                (IpNumber::UDP, udp.to_bytes().to_vec())
            }
            _ => (inner, vec![]),
        };
        let payload = u16::try_from(length + udp.len()).expect("frames are small");
        let ip = match (self.source(), self.address()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let mut header = Ipv4Header::new(payload, OUTER_HOPS, protocol, source, destination).expect("small");
                header.dscp = IpDscp::try_new(class >> 2).expect("six bits");
                header.ecn = IpEcn::try_new(class & 3).expect("two bits");
                header.dont_fragment = true;
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => Ipv6Header {
                traffic_class: class,
                flow_label: Ipv6FlowLabel::try_new(entropy & 0xf_ffff).expect("20 bits"),
                payload_length: payload,
                next_header: protocol,
                hop_limit: OUTER_HOPS,
                source: source.octets(),
                destination: destination.octets(),
            }
            .to_bytes()
            .to_vec(),
            _ => unreachable!("both addresses are of one family"),
        };
        [ip, udp].concat()
    }
}
