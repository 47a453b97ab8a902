//! What the steps ask of the world around them.

use lb_common::allowance::Answer;
use lb_common::client_hop::ClientHop;
use lb_common::counters::BackendCounters;
use lb_common::flow::BUCKET_ENTRIES;
use lb_common::hash::{FlowHash, Key};
use lb_common::latency::{Kind, Sample};
use lb_common::mapping::{BLOCK, Mapping};
use lb_common::maps::{Backend, CROWDED, EndpointOwners, LEND, Load, MissingNeighbour, SHARE, Service, UNUSUAL};
use lb_common::mode::ServiceMode;
use lb_common::packet::ip::Header;
use lb_common::reason::Reason;

use crate::hook::Hook;
use crate::packet::Verdict;

/// An answer of the routing and neighbour tables.
#[derive(Debug, Clone, Copy)]
pub enum Hop {
    Found {
        ifindex: u32,
        destination: [u8; 6],
        source: [u8; 6],
        mtu: u16,
    },
    /// The route is known, the neighbour is not.
    NoNeighbour {
        ifindex: u32,
    },
    /// The address is one of this host's.
    Local,
    /// Its interface's MTU is less than the packet.
    TooBig {
        mtu: u16,
    },
    Refused(Reason),
}

/// Address family of the tables that are keyed by address: implemented for IPv4 and IPv6 headers.
pub trait Family: Header {
    /// 4 or 6.
    const VERSION: u32;

    fn service<T: Tables>(tables: &T, address: Self::Address, port: u16, protocol: u8) -> Option<&Service>;
    /// The backend whose replies come from an endpoint: [`lb_common::hint::NOBODY`], its number, or
    /// [`lb_common::hint::SHARED`] where several services share it, or ports are lent towards it.
    fn endpoint<T: Tables>(tables: &T, address: Self::Address, port: u16, protocol: u8) -> u16;
    /// All whose replies come from an endpoint.
    fn owners<T: Tables>(tables: &T, address: Self::Address, port: u16, protocol: u8) -> Option<&EndpointOwners>;
    /// Route and neighbour for a packet of `length` bytes from `source` to `destination`.
    fn next_hop<T: Tables>(tables: &T, query: HopQuery<Self::Address>) -> Hop;
    /// For [`MissingNeighbour`].
    fn address_to_words(address: Self::Address) -> [u32; 4];
}

/// A program that another one goes on in: what few packets need is kept apart from what all need, so that neither the verifier
/// nor the processor's caches meet it elsewhere. The number is its place in the map of programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// [`crate::steps::lend`].
    Lend = LEND,
    /// [`crate::steps::share`].
    Share = SHARE,
    /// [`crate::steps::unusual`].
    Unusual = UNUSUAL,
    /// [`crate::steps::balance`], without hints.
    Crowded = CROWDED,
}

#[derive(Debug, Clone, Copy)]
pub struct HopQuery<A> {
    pub source: A,
    pub destination: A,
    /// Bytes of the IP packet.
    pub length: u16,
    pub protocol: u8,
    pub class: u8,
}

pub trait Tables {
    type Key: Key;
    type Hook: Hook;

    fn hook(&self) -> &Self::Hook;
    fn hash_key(&self) -> &Self::Key;
    fn service_v4(&self, address: u32, port: u16, protocol: u8) -> Option<&Service>;
    fn service_v6(&self, address: [u32; 4], port: u16, protocol: u8) -> Option<&Service>;
    fn endpoint_v4(&self, address: u32, port: u16, protocol: u8) -> u16;
    fn endpoint_v6(&self, address: [u32; 4], port: u16, protocol: u8) -> u16;
    fn owners_v4(&self, address: u32, port: u16, protocol: u8) -> Option<&EndpointOwners>;
    fn owners_v6(&self, address: [u32; 4], port: u16, protocol: u8) -> Option<&EndpointOwners>;
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// The slot's encoding ([`lb_common::slot::Slot`]).
    fn slot(&self, service: u32, slot: u32) -> Option<u32>;
    /// Whose turn it is: a slot that comes behind the one of this processor's last call.
    fn turn(&self, service: u32, slots: u32) -> u32;
    fn random(&self) -> u32;
    fn load(&self, backend: u32) -> Option<Load>;
    /// Adds to the backend's active flows.
    fn change_load(&self, backend: u32, by: i32);
    fn bucket_mask(&self) -> u32;
    fn bucket(&self, index: u32) -> Option<&[u64; BUCKET_ENTRIES]>;
    /// The same number. The verifier would follow a search's result through all that comes after it, once for each value that it
    /// can have; from here on it knows none of them.
    fn opaque(&self, index: usize) -> usize;
    /// Stores one entry of a bucket that [`Tables::bucket`] gave.
    fn store(&self, bucket: &[u64; BUCKET_ENTRIES], index: usize, entry: u64);
    /// Coarse time, of which flow entries keep [`lb_common::flow::TIME_MASK`].
    fn now(&self) -> u32;
    /// The ports that flows are lent towards each backend: the first, and how many.
    fn ports(&self) -> (u16, u32);
    /// A block of a backend's ports; block 0 is the pool's own. None where the backend has no pool.
    fn port_block(&self, backend: u32, block: u32) -> Option<&[Mapping; BLOCK]>;
    /// Writes a mapping's [`lb_common::mapping::Control`] if it is still the old one, and says whether.
    fn claim(&self, mapping: &Mapping, old: u64, new: u64) -> bool;
    /// Writes the client of a mapping that was claimed.
    fn lend(&self, mapping: &Mapping, address: [u32; 4], port: u16);
    /// This processor, and how many there are.
    fn processor(&self) -> (u32, u32);
    /// What is waited for ([`lb_common::latency`]).
    fn sample(&self, place: u32) -> Option<&Sample>;
    fn set_sample(&self, place: &Sample, sample: Sample);
    /// The kernel's clock, the dearest helper that is called here.
    fn nanoseconds(&self) -> u64;
    /// A backend has answered after so many nanoseconds.
    fn took(&self, backend: u32, kind: Kind, nanoseconds: u64);
    /// Changes the counters of a backend.
    fn count(&self, backend: u32, change: impl FnOnce(&mut BackendCounters));
    fn count_reason(&self, reason: Reason);
    /// Goes on in another program.
    fn hand_over(&self, stage: Stage) -> Verdict;
    /// The hop with this number, if there is one ([`lb_common::client_hop`]).
    fn client_hop(&self, number: u32) -> Option<ClientHop>;
    /// The number of this hop; 0 if it has none, and then it is wanted.
    fn client_hop_number(&self, hop: ClientHop) -> u32;
    fn report(&self, missing: MissingNeighbour);
    /// Whether one more packet of our own may be sent now; if so, it is counted against the allowance.
    fn may_answer(&self, kind: Answer) -> bool;
}

impl Family for lb_common::packet::ip::Ipv4 {
    const VERSION: u32 = 4;

    #[inline(always)]
    fn service<T: Tables>(tables: &T, address: u32, port: u16, protocol: u8) -> Option<&Service> {
        tables.service_v4(address, port, protocol)
    }

    #[inline(always)]
    fn endpoint<T: Tables>(tables: &T, address: u32, port: u16, protocol: u8) -> u16 {
        tables.endpoint_v4(address, port, protocol)
    }

    #[inline(always)]
    fn owners<T: Tables>(tables: &T, address: u32, port: u16, protocol: u8) -> Option<&EndpointOwners> {
        tables.owners_v4(address, port, protocol)
    }

    #[inline(always)]
    fn next_hop<T: Tables>(tables: &T, query: HopQuery<u32>) -> Hop {
        tables.hook().next_hop_v4(query)
    }

    #[inline(always)]
    fn address_to_words(address: u32) -> [u32; 4] {
        [address, 0, 0, 0]
    }
}

impl Family for lb_common::packet::ip::Ipv6 {
    const VERSION: u32 = 6;

    #[inline(always)]
    fn service<T: Tables>(tables: &T, address: [u32; 4], port: u16, protocol: u8) -> Option<&Service> {
        tables.service_v6(address, port, protocol)
    }

    #[inline(always)]
    fn endpoint<T: Tables>(tables: &T, address: [u32; 4], port: u16, protocol: u8) -> u16 {
        tables.endpoint_v6(address, port, protocol)
    }

    #[inline(always)]
    fn owners<T: Tables>(tables: &T, address: [u32; 4], port: u16, protocol: u8) -> Option<&EndpointOwners> {
        tables.owners_v6(address, port, protocol)
    }

    #[inline(always)]
    fn next_hop<T: Tables>(tables: &T, query: HopQuery<[u32; 4]>) -> Hop {
        tables.hook().next_hop_v6(query)
    }

    #[inline(always)]
    fn address_to_words(address: [u32; 4]) -> [u32; 4] {
        address
    }
}

/// The hash of a flow from the client's side, as its service counts flows: `ends` are client and VIP.
#[inline(always)]
pub(crate) fn flow_hash<H: Family, T: Tables>(
    tables: &T,
    mode: ServiceMode,
    ends: (H::Address, H::Address),
    ports: u32,
    protocol: u8,
) -> FlowHash {
    let (client, vip) = ends;
    let hash = H::flow_hash(tables.hash_key(), client, vip, ports, protocol);
    if mode.has_client_affinity() { hash.of_client(H::flow_hash(tables.hash_key(), client, vip, 0, 0)) } else { hash }
}
