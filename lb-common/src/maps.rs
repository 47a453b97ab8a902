//! The maps: names, keys, values, flags. One definition for the programs and the agent; sizes and offsets are asserted, and
//! [`LAYOUT`] names the directory under which they are pinned, so that two layouts never meet in one map.
//!
//! Addresses and ports stand as they do in packets (network byte order), because the programs compare them with packets
//! and never compute with them.

use crate::flow::Bucket;
use crate::limits::{MAX_BACKEND_ID, MAX_MEMBERSHIPS, SLOTS_PER_BLOCK};
use crate::mode::ServiceMode;

/// Goes up with every change of a key, a value, an encoding or the flow hash.
pub const LAYOUT: u32 = 10;

pub const SERVICES_V4: &str = "SERVICES_V4";
pub const SERVICES_V6: &str = "SERVICES_V6";
pub const ENDPOINTS_V4: &str = "ENDPOINTS_V4";
pub const ENDPOINTS_V6: &str = "ENDPOINTS_V6";
pub const HINTS: &str = "HINTS";
pub const SERVICES: &str = "SERVICES";
pub const BACKENDS: &str = "BACKENDS";
pub const SLOT_TABLES: &str = "SLOT_TABLES";
pub const PORT_POOLS: &str = "PORT_POOLS";
pub const FLOWS: &str = "FLOWS";
pub const CLIENT_HOPS: &str = "CLIENT_HOPS";
pub const WANTED_HOPS: &str = "WANTED_HOPS";
pub const LOADS: &str = "LOADS";
pub const TURNS: &str = "TURNS";
pub const SAMPLES: &str = "SAMPLES";
pub const LATENCIES: &str = "LATENCIES";
pub const BACKEND_COUNTERS: &str = "BACKEND_COUNTERS";
pub const REASON_COUNTERS: &str = "REASON_COUNTERS";
pub const STAGES: &str = "STAGES";
pub const STAGES_TC: &str = "STAGES_TC";
pub const EVENTS: &str = "EVENTS";
pub const ANSWERS: &str = "ANSWERS";

/// Every map of the object, in the order in which they are pinned.
pub const ALL: [&str; 22] = [
    SERVICES_V4,
    SERVICES_V6,
    ENDPOINTS_V4,
    ENDPOINTS_V6,
    HINTS,
    SERVICES,
    BACKENDS,
    SLOT_TABLES,
    PORT_POOLS,
    FLOWS,
    CLIENT_HOPS,
    WANTED_HOPS,
    LOADS,
    TURNS,
    SAMPLES,
    LATENCIES,
    BACKEND_COUNTERS,
    REASON_COUNTERS,
    STAGES,
    STAGES_TC,
    EVENTS,
    ANSWERS,
];

/// Names of the constants that the agent sets when it loads the programs.
pub const HASH_KEY: &str = "HASH_KEY";
pub const BUCKET_MASK: &str = "BUCKET_MASK";
pub const TIME_SHIFT: &str = "TIME_SHIFT";
pub const FIRST_PORT: &str = "FIRST_PORT";
pub const PORTS: &str = "PORTS";
pub const PROCESSORS: &str = "PROCESSORS";

/// Programs in [`STAGES`] and [`STAGES_TC`]: packets of clients that are lent a port of this host (`snat`); packets of backends
/// that are sent to from such ports, or that several services share; what is not TCP or UDP right behind IP; what shares a hint ([`crate::hint`]).
pub const LEND: u32 = 0;
pub const SHARE: u32 = 1;
pub const UNUSUAL: u32 = 2;
pub const CROWDED: u32 = 3;
pub const STAGE_CAPACITY: usize = 4;

/// Flags of map creation (linux/bpf.h), as far as they are used here.
pub const BPF_F_MMAPABLE: u32 = 1 << 10;
pub const BPF_F_INNER_MAP: u32 = 1 << 12;

/// Address, port and protocol: of a VIP in the service maps, of a backend in the endpoint maps.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct KeyV4 {
    pub address: u32,
    pub port: u16,
    pub protocol: u8,
    pub zero: u8,
}

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct KeyV6 {
    pub address: [u32; 4],
    pub port: u16,
    pub protocol: u8,
    pub zero: u8,
}

/// What a VIP's packets need to know.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Service {
    /// Index of its slot table, 1..=4095.
    pub id: u16,
    pub mode: ServiceMode,
    /// Slots in its table.
    pub slots: u32,
}

/// A service with its address, by its number: whoever was led here by a hint looks whether it is the one.
#[repr(C, align(32))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Vip {
    /// IPv4 in the first word.
    pub address: [u32; 4],
    pub port: u16,
    pub protocol: u8,
    /// 4 or 6; 0: this place is free.
    pub version: u8,
    pub zero: u32,
    pub service: Service,
}

impl Vip {
    #[inline(always)]
    pub const fn is_v4(&self, address: u32, port: u16, protocol: u8) -> bool {
        self.address[0] == address && self.port == port && self.protocol == protocol && self.version == 4
    }

    #[inline(always)]
    pub const fn is_v6(&self, address: [u32; 4], port: u16, protocol: u8) -> bool {
        is_same(self.address, address) && self.port == port && self.protocol == protocol && self.version == 6
    }
}

/// Spelt out: of `==` the compiler makes a call of `bcmp`.
#[inline(always)]
const fn is_same(a: [u32; 4], b: [u32; 4]) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
}

/// One membership of a backend in a service: all that both directions need, in one cache line.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Backend {
    /// IPv4 in the first word.
    pub address: [u32; 4],
    /// Where answers pass, what they get as their source: the VIP. Under `ipip` and `gue`, where nobody asks for that, the
    /// source of the outer header, of the family of `address`.
    pub own: [u32; 4],
    pub destination_mac: [u8; 6],
    pub port: u16,
    pub source_mac: [u8; 6],
    pub vip_port: u16,
    /// Outgoing interface of the next hop.
    pub ifindex: u32,
    /// 0: this place is free.
    pub service: u16,
    pub flags: u16,
    /// IP protocol number of the service.
    pub protocol: u8,
    /// The service's [`ServiceMode`], of which eight bits are in use: replies find a backend without its service, and so may an
    /// agent that comes back.
    pub mode: u8,
    /// Of the outgoing interface, bytes of layer 3; 0: not known.
    pub mtu: u16,
    /// Slots in the service's table.
    pub slots: u32,
}

impl Backend {
    /// `ifindex` and the MAC addresses are known.
    pub const RESOLVED: u16 = 1;
    /// New flows may be given to it.
    pub const ACCEPTS_NEW: u16 = 2;
    /// `address` is one of IPv6.
    pub const IPV6: u16 = 4;
    /// Where in `flags` [`Backend::sampling`] begins.
    pub const SAMPLING: u32 = 8;

    #[inline(always)]
    pub const fn mode(&self) -> ServiceMode {
        ServiceMode(self.mode as u16)
    }

    /// One flow in 2^n is measured ([`crate::latency::is_sampled`]).
    #[inline(always)]
    pub const fn sampling(&self) -> u32 {
        (self.flags >> Self::SAMPLING) as u32
    }

    #[inline(always)]
    pub const fn is_at_v4(&self, address: u32, port: u16, protocol: u8) -> bool {
        self.address[0] == address && self.port == port && self.protocol == protocol && self.flags & Self::IPV6 == 0
    }

    #[inline(always)]
    pub const fn is_at_v6(&self, address: [u32; 4], port: u16, protocol: u8) -> bool {
        is_same(self.address, address) && self.port == port && self.protocol == protocol && self.flags & Self::IPV6 != 0
    }
}

/// Whose replies come from an address, port and protocol: the backend numbers of its memberships in services whose replies
/// come by here. Those with a pool of ports come first, and carry [`EndpointOwners::HAS_PORTS`]; 0 ends the list.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct EndpointOwners(pub [u16; MAX_MEMBERSHIPS]);

impl EndpointOwners {
    pub const HAS_PORTS: u16 = 0x8000;

    /// The one membership, of an endpoint that lends no ports. None: there are several, or ports.
    #[inline(always)]
    pub const fn sole(&self) -> Option<u16> {
        let first = self.0[0];
        if first & Self::HAS_PORTS == 0 && self.0[1] == 0 { Some(first) } else { None }
    }
}

/// How busy a backend is, for schedulers that ask: active flows as of the agent's last sweep, with those that were opened and
/// closed since. Packets of two processors may lose an update of each other's; the next sweep mends that.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Load {
    pub active: u32,
    /// The backend's weight; 0 counts as 1.
    pub weight: u32,
}

impl Load {
    /// Whether it has fewer active flows for its weight.
    #[inline(always)]
    pub const fn is_lighter_than(self, other: Self) -> bool {
        // One flow more on either side is what the choice is about.
        (self.active as u64 + 1) * (other.weight as u64 + (other.weight == 0) as u64)
            < (other.active as u64 + 1) * (self.weight as u64 + (self.weight == 0) as u64)
    }
}

/// A cache line of slots.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct SlotBlock(pub [u32; SLOTS_PER_BLOCK as usize]);

/// What the programs tell the agent through the ring buffer: a client's next hop has no neighbour entry.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct MissingNeighbour {
    /// The client's address; IPv4 in the first word.
    pub address: [u32; 4],
    pub ifindex: u32,
    /// 4 or 6.
    pub version: u32,
}

const _: () = {
    assert!(size_of::<KeyV4>() == 8);
    assert!(size_of::<KeyV6>() == 20);
    assert!(size_of::<Service>() == 8);
    assert!(size_of::<Vip>() == 32);
    assert!(size_of::<Backend>() == 64);
    assert!(core::mem::offset_of!(Backend, destination_mac) == 32);
    assert!(core::mem::offset_of!(Backend, source_mac) == 40);
    assert!(core::mem::offset_of!(Backend, ifindex) == 48);
    assert!(size_of::<EndpointOwners>() == 16);
    assert!(MAX_BACKEND_ID & EndpointOwners::HAS_PORTS == 0);
    assert!(size_of::<Load>() == 8);
    assert!(size_of::<SlotBlock>() == 64);
    assert!(size_of::<Bucket>() == 64);
    assert!(size_of::<MissingNeighbour>() == 24);
};
