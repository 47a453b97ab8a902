//! IPv4 and IPv6 headers behind one trait, so that each step of the data plane is written once.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use super::cursor::{Cursor, Window};
use super::outer::{Outer, OuterV4, OuterV6};
use crate::checksum::Change;
use crate::hash::{FlowHash, Key};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
/// A whole IPv4 packet (RFC 2003), a whole IPv6 packet (RFC 2473).
pub const IPIP: u8 = 4;
pub const IPV6_IN_IP: u8 = 41;

/// An IP header that is there in full, without what follows it.
pub trait Header: Copy {
    type Address: Copy + PartialEq;
    /// A header of this family that is made here.
    type Outer: Outer;
    /// Protocol number of this family's ICMP.
    const ICMP: u8;
    /// Protocol number of a packet of this family inside another packet.
    const INNER: u8;
    /// The header has a checksum of its own. Where it has not, ICMP's covers the addresses.
    const HAS_CHECKSUM: bool;

    /// The header at `offset`, where an EtherType said that it is; none if the bytes there are no such header.
    fn parse(frame: Cursor, offset: usize) -> Option<Self>;
    fn source(self) -> Self::Address;
    fn destination(self) -> Self::Address;
    /// TCP, UDP or something else. IPv6 extension headers are something else.
    fn protocol(self) -> u8;
    /// Where this header begins, from the start of the frame.
    fn offset(self) -> usize;
    /// Where the next header begins, from the start of the frame; at most 60 bytes later.
    fn payload_offset(self) -> usize;
    /// Bytes of the frame that belong to the packet, from the start of the frame, as the length field says.
    fn packet_end(self) -> usize;
    /// A piece of a datagram, first or later.
    fn is_fragment(self) -> bool;
    /// A later piece: no ports in it.
    fn is_later_fragment(self) -> bool;
    /// TTL or hop limit.
    fn hops_left(self) -> u8;
    /// Type of service or traffic class.
    fn class(self) -> u8;
    /// Header checksum kept.
    fn set_class(self, class: u8);
    /// Another source, as in a quoted header; header checksum kept.
    fn set_source(self, address: Self::Address);
    /// Another destination, as in a quoted header; header checksum kept.
    fn set_destination(self, address: Self::Address);
    /// One hop fewer; header checksum kept.
    fn forward(self);
    /// One hop fewer, and another source; header checksum kept.
    fn forward_from(self, source: Self::Address);
    /// One hop fewer, and another destination; header checksum kept.
    fn forward_to(self, destination: Self::Address);
    /// One hop fewer, and two other ends; header checksum kept.
    fn forward_between(self, source: Self::Address, destination: Self::Address);
    fn address_change(old: Self::Address, new: Self::Address) -> Change;
    fn flow_hash(
        key: &impl Key,
        source: Self::Address,
        destination: Self::Address,
        ports: u32,
        protocol: u8,
    ) -> FlowHash;
    /// Whether ICMP messages of this type are errors that quote a packet. A redirect is not one: its quote is not about
    /// a failure, and it is for this host alone.
    fn is_error(kind: u8) -> bool;
    /// Whether the address, as a source, is one host's that may be told of errors (RFC 1122, section 3.2.2; RFC 4443,
    /// section 2.4).
    fn is_host(address: Self::Address) -> bool;
    /// From a map value.
    fn address_from_words(words: &[u32; 4]) -> Self::Address;
}

#[derive(Debug, Clone, Copy)]
pub struct Ipv4(Window<20>, usize);

impl Ipv4 {
    /// More-fragments flag and offset, without don't-fragment.
    const FRAGMENT_BITS: u16 = 0x3fff_u16.to_be();
    const OFFSET_BITS: u16 = 0x1fff_u16.to_be();

    #[inline(always)]
    fn header_length(self) -> usize {
        (self.0.u8::<{ offset_of!(Ipv4Hdr, vihl) }>() as usize & 0xf) * 4
    }

    #[inline(always)]
    fn update_checksum(self, change: Change) {
        const CHECK: usize = offset_of!(Ipv4Hdr, check);
        self.0.set_u16::<CHECK>(change.apply(self.0.u16::<CHECK>()));
    }

    #[inline(always)]
    fn write_source(self, address: u32) {
        self.0.set_u32::<{ offset_of!(Ipv4Hdr, src_addr) }>(address);
    }

    #[inline(always)]
    fn write_destination(self, address: u32) {
        self.0.set_u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>(address);
    }

    /// One hop fewer, and the checksum right for that and for the change.
    #[inline(always)]
    fn forward_with(self, change: Change) {
        // The TTL shares its 16-bit word with the protocol. Both are loaded and stored as one: loading a word of which a byte
        // has just been stored waits until that store is done.
        const TTL: usize = offset_of!(Ipv4Hdr, ttl);
        let old = self.0.u16::<TTL>();
        let [hops, protocol] = old.to_ne_bytes();
        let new = u16::from_ne_bytes([hops.wrapping_sub(1), protocol]);
        self.0.set_u16::<TTL>(new);
        self.update_checksum(change.u16(old, new));
    }
}

impl Header for Ipv4 {
    type Address = u32;
    type Outer = OuterV4;
    const ICMP: u8 = 1;
    const INNER: u8 = IPIP;
    const HAS_CHECKSUM: bool = true;

    #[inline(always)]
    fn parse(frame: Cursor, offset: usize) -> Option<Self> {
        let header = Self(frame.window(offset)?, offset);
        let vihl = header.0.u8::<{ offset_of!(Ipv4Hdr, vihl) }>();
        (vihl >> 4 == 4 && vihl & 0xf >= 5).then_some(header)
    }

    #[inline(always)]
    fn source(self) -> u32 {
        self.0.u32::<{ offset_of!(Ipv4Hdr, src_addr) }>()
    }

    #[inline(always)]
    fn destination(self) -> u32 {
        self.0.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>()
    }

    #[inline(always)]
    fn protocol(self) -> u8 {
        self.0.u8::<{ offset_of!(Ipv4Hdr, proto) }>()
    }

    #[inline(always)]
    fn offset(self) -> usize {
        self.1
    }

    #[inline(always)]
    fn payload_offset(self) -> usize {
        self.1 + self.header_length()
    }

    #[inline(always)]
    fn packet_end(self) -> usize {
        self.1 + u16::from_be(self.0.u16::<{ offset_of!(Ipv4Hdr, tot_len) }>()) as usize
    }

    #[inline(always)]
    fn is_fragment(self) -> bool {
        self.0.u16::<{ offset_of!(Ipv4Hdr, frags) }>() & Self::FRAGMENT_BITS != 0
    }

    #[inline(always)]
    fn is_later_fragment(self) -> bool {
        self.0.u16::<{ offset_of!(Ipv4Hdr, frags) }>() & Self::OFFSET_BITS != 0
    }

    #[inline(always)]
    fn hops_left(self) -> u8 {
        self.0.u8::<{ offset_of!(Ipv4Hdr, ttl) }>()
    }

    #[inline(always)]
    fn class(self) -> u8 {
        self.0.u8::<{ offset_of!(Ipv4Hdr, tos) }>()
    }

    #[inline(always)]
    fn set_class(self, class: u8) {
        let old = self.0.u16::<0>();
        let [version, _] = old.to_ne_bytes();
        let new = u16::from_ne_bytes([version, class]);
        self.0.set_u16::<0>(new);
        self.update_checksum(Change::NONE.u16(old, new));
    }

    #[inline(always)]
    fn set_source(self, address: u32) {
        self.update_checksum(Self::address_change(self.source(), address));
        self.write_source(address);
    }

    #[inline(always)]
    fn set_destination(self, address: u32) {
        self.update_checksum(Self::address_change(self.destination(), address));
        self.write_destination(address);
    }

    #[inline(always)]
    fn forward(self) {
        self.forward_with(Change::NONE);
    }

    #[inline(always)]
    fn forward_from(self, source: u32) {
        self.forward_with(Self::address_change(self.source(), source));
        self.write_source(source);
    }

    #[inline(always)]
    fn forward_to(self, destination: u32) {
        self.forward_with(Self::address_change(self.destination(), destination));
        self.write_destination(destination);
    }

    #[inline(always)]
    fn forward_between(self, source: u32, destination: u32) {
        let change = Self::address_change(self.source(), source);
        self.forward_with(change.plus(Self::address_change(self.destination(), destination)));
        self.write_source(source);
        self.write_destination(destination);
    }

    #[inline(always)]
    fn address_change(old: u32, new: u32) -> Change {
        Change::NONE.u32(old, new)
    }

    #[inline(always)]
    fn flow_hash(key: &impl Key, source: u32, destination: u32, ports: u32, protocol: u8) -> FlowHash {
        FlowHash::v4(key, source, destination, ports, protocol)
    }

    /// Unreachable, time exceeded, parameter problem (RFC 792).
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }

    #[inline(always)]
    fn is_host(address: u32) -> bool {
        !matches!(address.to_ne_bytes()[0], 0 | 127 | 224..=255)
    }

    #[inline(always)]
    fn address_from_words(words: &[u32; 4]) -> u32 {
        words[0]
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Ipv6(Window<40>, usize);

impl Header for Ipv6 {
    type Address = [u32; 4];
    type Outer = OuterV6;
    const ICMP: u8 = 58;
    const INNER: u8 = IPV6_IN_IP;
    const HAS_CHECKSUM: bool = false;

    #[inline(always)]
    fn parse(frame: Cursor, offset: usize) -> Option<Self> {
        let header = Self(frame.window(offset)?, offset);
        (header.0.u8::<0>() >> 4 == 6).then_some(header)
    }

    #[inline(always)]
    fn source(self) -> [u32; 4] {
        self.0.address_v6::<{ offset_of!(Ipv6Hdr, src_addr) }>()
    }

    #[inline(always)]
    fn destination(self) -> [u32; 4] {
        self.0.address_v6::<{ offset_of!(Ipv6Hdr, dst_addr) }>()
    }

    #[inline(always)]
    fn protocol(self) -> u8 {
        self.0.u8::<{ offset_of!(Ipv6Hdr, next_hdr) }>()
    }

    #[inline(always)]
    fn offset(self) -> usize {
        self.1
    }

    #[inline(always)]
    fn payload_offset(self) -> usize {
        self.1 + Ipv6Hdr::LEN
    }

    #[inline(always)]
    fn packet_end(self) -> usize {
        self.payload_offset() + u16::from_be(self.0.u16::<{ offset_of!(Ipv6Hdr, payload_len) }>()) as usize
    }

    /// A fragment has an extension header, hence another protocol than TCP or UDP.
    #[inline(always)]
    fn is_fragment(self) -> bool {
        false
    }

    #[inline(always)]
    fn is_later_fragment(self) -> bool {
        false
    }

    #[inline(always)]
    fn hops_left(self) -> u8 {
        self.0.u8::<{ offset_of!(Ipv6Hdr, hop_limit) }>()
    }

    #[inline(always)]
    fn class(self) -> u8 {
        self.0.u8::<0>() << 4 | self.0.u8::<1>() >> 4
    }

    #[inline(always)]
    fn set_class(self, class: u8) {
        let [first, second] = [self.0.u8::<0>(), self.0.u8::<1>()];
        self.0.set_u16::<0>(u16::from_ne_bytes([first & 0xf0 | class >> 4, class << 4 | second & 0x0f]));
    }

    #[inline(always)]
    fn set_source(self, address: [u32; 4]) {
        self.0.set_address_v6::<{ offset_of!(Ipv6Hdr, src_addr) }>(address);
    }

    #[inline(always)]
    fn set_destination(self, address: [u32; 4]) {
        self.0.set_address_v6::<{ offset_of!(Ipv6Hdr, dst_addr) }>(address);
    }

    /// No checksum covers it.
    #[inline(always)]
    fn forward(self) {
        self.0.set_u8::<{ offset_of!(Ipv6Hdr, hop_limit) }>(self.hops_left().wrapping_sub(1));
    }

    #[inline(always)]
    fn forward_from(self, source: [u32; 4]) {
        self.forward();
        self.set_source(source);
    }

    #[inline(always)]
    fn forward_to(self, destination: [u32; 4]) {
        self.forward();
        self.set_destination(destination);
    }

    #[inline(always)]
    fn forward_between(self, source: [u32; 4], destination: [u32; 4]) {
        self.forward();
        self.set_source(source);
        self.set_destination(destination);
    }

    #[inline(always)]
    fn address_change(old: [u32; 4], new: [u32; 4]) -> Change {
        Change::NONE.u128(old, new)
    }

    #[inline(always)]
    fn flow_hash(key: &impl Key, source: [u32; 4], destination: [u32; 4], ports: u32, protocol: u8) -> FlowHash {
        FlowHash::v6(key, source, destination, ports, protocol)
    }

    /// Unreachable, too big, time exceeded, parameter problem (RFC 4443).
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    #[inline(always)]
    fn is_host(address: [u32; 4]) -> bool {
        let below = address[3] == 0 || address[3] == 1_u32.to_be();
        address[0].to_ne_bytes()[0] != 0xff && !(address[0] | address[1] | address[2] == 0 && below)
    }

    #[inline(always)]
    fn address_from_words(words: &[u32; 4]) -> [u32; 4] {
        [words[0], words[1], words[2], words[3]]
    }
}
