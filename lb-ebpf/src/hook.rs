//! Where in the kernel the programs meet a packet, and what is different there: at XDP a frame in the driver's memory, at tc one of
//! the kernel's own buffers. There payload lies apart from headers, checksums may still have to be completed, a buffer may
//! stand for many packets that are cut up later, and a VLAN tag is kept beside the frame.
//!
//! A hook knows how, and decides nothing.

use lb_common::packet::cursor::Cursor;
use lb_common::packet::ip::{Header, Ipv4, Ipv6, TCP, UDP};
use lb_common::packet::outer::Outer;
use lb_common::packet::rewrite::{Rewritten, Summed};
use lb_common::packet::transport::{Tcp, Transport as _, Udp};
use lb_common::packet::{ETHERNET, Ethernet, IPV4, IPV6};

use crate::tables::{Hop, HopQuery, Stage};

/// The first bytes of a packet, left over from it.
#[derive(Debug, Clone, Copy)]
pub struct Quoted {
    pub frame: Cursor,
    /// One's complement sum of them, as whoever gets them will compute it.
    pub sum: u32,
}

/// The first bytes of a TCP header, left over from a packet.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    pub frame: Cursor,
    /// The kernel has yet to complete the checksum, and will do so with what is in its place then.
    pub is_partial: bool,
}

pub trait Hook {
    /// The packet as it is now. Windows from before it has changed its size or a checksum are void: the verifier refuses a program
    /// that uses them.
    fn frame(&self) -> Cursor;

    /// Payload of each of the packets that this one stands for, bytes. None: it is one packet.
    fn segment(&self) -> Option<usize>;

    /// A VLAN tag has been taken off the frame, and will be put back where it leaves.
    fn has_hidden_tag(&self) -> bool;

    /// Goes on in another program for this hook. Comes back only where there is none.
    fn hand_over(&self, stage: Stage);

    /// Route and neighbour.
    fn next_hop_v4(&self, query: HopQuery<u32>) -> Hop;
    fn next_hop_v6(&self, query: HopQuery<[u32; 4]>) -> Hop;

    /// A hop was taken off a header that this hook is asked nothing else about.
    fn hop_taken<H: Header>(&self);

    /// Tells the checksum of `header`, which follows `ip`, of addresses and contents that were rewritten, and of the hop that was
    /// taken off. The last thing that is done to a packet: windows are void.
    fn update_checksum<H: Header, S: Summed>(&self, ip: H, header: S, rewritten: Rewritten);

    /// Makes room for an outer header, and UDP's if asked for, between Ethernet's header and the packet that begins at
    /// `offset`. What was between them goes. None: there is no room.
    fn encapsulate<O: Outer>(&self, offset: usize, udp: bool) -> Option<Cursor>;

    /// The outer header, of `SIZE` bytes behind Ethernet's, is written.
    fn encapsulated<const SIZE: usize>(&self, frame: Cursor);

    /// Leaves the first `SIZE` bytes of a packet, with `head` bytes of room between them and Ethernet's header. None: it is
    /// shorter, or there is no room.
    fn quote<H: Header, const SIZE: usize>(&self, ip: H, head: usize) -> Option<Quoted>;

    /// Leaves a TCP header without its options, with `head` bytes of room between it and Ethernet's header. None: there is no
    /// room.
    fn keep_segment<H: Header>(&self, ip: H, head: usize) -> Option<Kept>;
}

/// Whether all headers that the steps look at are in sight, of what a stack sends most: TCP and UDP without tags or extensions.
#[inline(always)]
pub fn has_headers(frame: Cursor) -> bool {
    match Ethernet::parse(frame).map(Ethernet::ether_type) {
        Some(IPV4) => has_transport::<Ipv4>(frame),
        Some(IPV6) => has_transport::<Ipv6>(frame),
        _ => false,
    }
}

#[inline(always)]
fn has_transport<H: Header>(frame: Cursor) -> bool {
    H::parse(frame, ETHERNET).is_some_and(|ip| match ip.protocol() {
        TCP => Tcp::parse(frame, ip.payload_offset()).is_some(),
        UDP => Udp::parse(frame, ip.payload_offset()).is_some(),
        _ => false,
    })
}

/// Where the checksum of a transport stands, from the start of its header.
#[inline(always)]
pub fn transport_checksum(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(Tcp::CHECKSUM),
        UDP => Some(Udp::CHECKSUM),
        _ => None,
    }
}
