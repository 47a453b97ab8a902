//! ICMP errors and the packet that they quote (RFC 792, RFC 4443).
//!
//! A quote may hold no more than the IP header and eight bytes of what followed (RFC 792), so no more is asked for: the
//! ports, and of UDP the checksum. A TCP checksum that is quoted as well stays as it is; nobody can check it, since the
//! quote is cut off.

use super::cursor::{Cursor, Window};
use super::ip::{Header, UDP};
use super::outer::Ends;
use super::rewrite::Summed;
use super::transport::ports;
use crate::checksum::Change;

const CHECKSUM: usize = 2;
/// Type, code, checksum, and four bytes that depend on the type.
const LENGTH: usize = 8;

/// The header of an ICMP message.
#[derive(Debug, Clone, Copy)]
pub struct Icmp(Window<LENGTH>);

impl Icmp {
    #[inline(always)]
    pub fn parse(frame: Cursor, offset: usize) -> Option<Self> {
        frame.window(offset).map(Self)
    }

    #[inline(always)]
    pub fn kind(self) -> u8 {
        self.0.u8::<0>()
    }
}

impl Summed for Icmp {
    const CHECKSUM: usize = CHECKSUM;
    const ZERO_IS_NONE: bool = false;

    #[inline(always)]
    fn update_checksum(self, change: Change) {
        self.0.set_u16::<CHECKSUM>(change.apply(self.0.u16::<CHECKSUM>()));
    }
}

/// Bytes of a large packet that an error of ours quotes: as much as IPv4 allows for (576 bytes in all, RFC 1812, section
/// 4.3.2.3), in whole words, and what the kernel sums up at once.
pub const QUOTE: usize = 512;
/// An error without its quote.
pub const ERROR_LENGTH: usize = LENGTH;

/// What an error of our own says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// "Fragmentation needed" (RFC 1191), "packet too big" (RFC 8201): so much would have fitted.
    TooBig {
        mtu: u16,
    },
    /// Time, or hop limit, exceeded in transit.
    HopsExceeded,
    PortUnreachable,
}

impl Told {
    /// Type and code.
    const fn kind<H: Header>(self) -> (u8, u8) {
        match self {
            Self::TooBig { .. } if H::HAS_CHECKSUM => (3, 4),
            Self::TooBig { .. } => (2, 0),
            Self::HopsExceeded if H::HAS_CHECKSUM => (11, 0),
            Self::HopsExceeded => (3, 0),
            Self::PortUnreachable if H::HAS_CHECKSUM => (3, 3),
            Self::PortUnreachable => (1, 4),
        }
    }

    const fn mtu(self) -> u16 {
        match self {
            Self::TooBig { mtu } => mtu,
            Self::HopsExceeded | Self::PortUnreachable => 0,
        }
    }
}

/// Writes an error before its quote of `quoted` bytes; `sum` is the one's complement sum over that.
#[inline(always)]
pub fn write_error<H: Header>(message: Window<LENGTH>, told: Told, quoted: usize, sum: u32, ends: &Ends) {
    let [high, low] = told.mtu().to_be_bytes();
    let (kind, code) = told.kind::<H>();
    let words = [u32::from_ne_bytes([kind, code, 0, 0]), u32::from_ne_bytes([0, 0, high, low])];
    let mut change = Change::NONE.words(words).words([sum]);
    if !H::HAS_CHECKSUM {
        change = change.plus(ends.pseudo_header(H::ICMP, LENGTH + quoted));
    }
    message.set_u32::<0>(words[0]);
    message.set_u32::<4>(words[1]);
    message.set_u16::<CHECKSUM>(change.checksum());
}

/// The quoted packet: its IP header and the first eight bytes behind that.
#[derive(Debug, Clone, Copy)]
pub struct Quote<H> {
    pub ip: H,
    transport: Window<8>,
}

impl<H: Header> Quote<H> {
    /// The quote of the ICMP message at `offset`. None: it has no ports.
    #[inline(always)]
    pub fn parse(frame: Cursor, offset: usize) -> Option<Self> {
        let ip = H::parse(frame, offset + LENGTH)?;
        if ip.is_later_fragment() {
            return None;
        }
        Some(Self { ip, transport: frame.window(ip.payload_offset())? })
    }

    #[inline(always)]
    pub fn source_port(self) -> u16 {
        self.transport.u16::<0>()
    }

    #[inline(always)]
    pub fn destination_port(self) -> u16 {
        self.transport.u16::<2>()
    }

    /// The ports of the packet's answer: destination first.
    #[inline(always)]
    pub fn ports_reversed(self) -> u32 {
        ports(self.destination_port(), self.source_port())
    }

    /// Writes the quoted source. Gives what that changes in the sum over the quote.
    #[inline(always)]
    pub fn set_source(self, address: H::Address, port: u16) -> Change {
        let addresses = H::address_change(self.ip.source(), address);
        let change = self.change_port(addresses, Change::NONE.u16(self.source_port(), port));
        self.transport.set_u16::<0>(port);
        self.ip.set_source(address);
        change
    }

    /// Writes the quoted destination. Gives what that changes in the sum over the quote.
    #[inline(always)]
    pub fn set_destination(self, address: H::Address, port: u16) -> Change {
        let addresses = H::address_change(self.ip.destination(), address);
        let change = self.change_port(addresses, Change::NONE.u16(self.destination_port(), port));
        self.transport.set_u16::<2>(port);
        self.ip.set_destination(address);
        change
    }

    /// The quoted UDP checksum is kept right. In IPv4 the quoted header's checksum takes up the change of its addresses.
    #[inline(always)]
    fn change_port(self, addresses: Change, port: Change) -> Change {
        const UDP_CHECKSUM: usize = 6;
        let mut change = if H::HAS_CHECKSUM { port } else { port.plus(addresses) };
        if self.ip.protocol() == UDP {
            let old = self.transport.u16::<UDP_CHECKSUM>();
            let new = addresses.plus(port).apply_udp(old);
            self.transport.set_u16::<UDP_CHECKSUM>(new);
            change = change.u16(old, new);
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::super::ETHERNET;
    use super::super::ip::{Ipv4, Ipv6};
    use super::*;
    use etherparse::{PacketBuilder, checksum::Sum16BitWords};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn cursor(bytes: &mut [u8]) -> Cursor {
        let range = bytes.as_mut_ptr_range();
        // SAFETY: the buffer outlives every use in these tests.
        unsafe { Cursor::new(range.start as usize, range.end as usize) }
    }

    /// The packet that is quoted, from its IP header on, and no more than `kept` bytes behind that.
    fn quoted(v6: bool, udp: bool, addresses: ([u8; 16], [u8; 16]), port: u16, kept: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        let (source, destination) = addresses;
        let four = |address: [u8; 16]| [address[0], address[1], address[2], address[3]];
        let builder = PacketBuilder::ethernet2([0; 6], [0; 6]);
        let builder =
            if v6 { builder.ipv6(source, destination, 9) } else { builder.ipv4(four(source), four(destination), 9) };
        if udp {
            builder.udp(port, 99).write(&mut packet, b"payload!").unwrap();
        } else {
            builder.tcp(port, 99, 7, 512).write(&mut packet, b"payload!").unwrap();
        }
        let header = if v6 { 40 } else { 20 };
        packet.drain(..ETHERNET);
        packet.truncate(header + kept);
        packet
    }

    fn sum(bytes: &[u8]) -> u16 {
        bytes
            .chunks(2)
            .fold(Sum16BitWords::new(), |sum, pair| sum.add_2bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
            .ones_complement()
    }

    /// An ICMP message at the start of nothing but itself, with a checksum over message and `pseudo`.
    fn message(kind: u8, quote: &[u8], pseudo: &[u8]) -> Vec<u8> {
        let mut message = std::vec![kind, 1, 0, 0, 0, 0, 5, 0xdc];
        message.extend(quote);
        let mut all = message.clone();
        all.extend(pseudo);
        let checksum = sum(&all);
        message[2..4].copy_from_slice(&checksum.to_ne_bytes());
        message
    }

    proptest! {
        /// After any rewrite the message still sums to zero, with the outer addresses that belong to it.
        #[test]
        fn stays_valid(v6: bool, udp: bool, source: bool, old: ([u8; 16], [u8; 16]), new: [u8; 16], ports in (1u16.., 1u16..), kept in 4usize..20) {
            let kept = kept * 2;
            let quote = quoted(v6, udp, old, ports.0, kept);
            // In ICMPv6 the pseudo header holds the outer destination: the sender of the quoted packet.
            let pseudo = |address: [u8; 16]| if v6 { address.to_vec() } else { Vec::new() };
            let mut bytes = message(if v6 { 2 } else { 3 }, &quote, &pseudo(old.0));
            let frame = cursor(&mut bytes);
            let icmp = Icmp::parse(frame, 0).unwrap();
            let words = |bytes: [u8; 16]| core::array::from_fn::<u32, 4, _>(|i| u32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()));
            let port = ports.1.to_be();
            let mut outer = old.0;
            if v6 {
                let quote = Quote::<Ipv6>::parse(frame, 0).unwrap();
                let mut change = if source { quote.set_source(words(new), port) } else { quote.set_destination(words(new), port) };
                if source {
                    change = change.plus(Ipv6::address_change(words(old.0), words(new)));
                    outer = new;
                }
                icmp.update_checksum(change);
                prop_assert_eq!(if source { quote.ip.source() } else { quote.ip.destination() }, words(new));
            } else {
                let quote = Quote::<Ipv4>::parse(frame, 0).unwrap();
                let address = words(new)[0];
                let change = if source { quote.set_source(address, port) } else { quote.set_destination(address, port) };
                icmp.update_checksum(change);
                prop_assert_eq!(if source { quote.ip.source() } else { quote.ip.destination() }, address);
                prop_assert_eq!(sum(&bytes[LENGTH..LENGTH + 20]), 0, "the quoted header's own checksum");
            }
            let mut all = bytes.clone();
            all.extend(pseudo(outer));
            prop_assert_eq!(sum(&all), 0);
        }
    }

    proptest! {
        #[test]
        fn our_own_is_valid(which in 0usize..3, v6: bool, addresses: ([u8; 16], [u8; 16]), mtu: u16, fill: u8) {
            let words = |bytes: [u8; 16]| core::array::from_fn(|i| u32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()));
            let ends = Ends { source: words(addresses.0), destination: words(addresses.1), class: 0, entropy: 0 };
            let mut bytes = std::vec![fill; LENGTH + QUOTE];
            let quoted = bytes[LENGTH..].chunks(2).map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]]))).sum();
            let message = cursor(&mut bytes).window(0).unwrap();
            let (told, v4_kind, v6_kind) = [
                (Told::TooBig { mtu }, [3, 4], [2, 0]),
                (Told::HopsExceeded, [11, 0], [3, 0]),
                (Told::PortUnreachable, [3, 3], [1, 4]),
            ][which];
            if v6 {
                write_error::<Ipv6>(message, told, QUOTE, quoted, &ends);
            } else {
                write_error::<Ipv4>(message, told, QUOTE, quoted, &ends);
            }
            let expected = if v6 { v6_kind } else { v4_kind };
            let mtu = if which == 0 { mtu } else { 0 };
            prop_assert_eq!((&bytes[..2], &bytes[4..6], &bytes[6..8]), (&expected[..], &[0, 0][..], &mtu.to_be_bytes()[..]));
            let mut all = bytes.clone();
            if v6 {
                all.extend([addresses.0, addresses.1].concat());
                all.extend([0, 0, 2, 8, 0, 0, 0, 58]);
            }
            prop_assert_eq!(sum(&all), 0);
        }
    }

    #[test]
    fn a_quote_without_ports_is_none() {
        let quote = quoted(false, true, ([1; 16], [2; 16]), 53, 7);
        let mut bytes = message(3, &quote, &[]);
        assert!(Quote::<Ipv4>::parse(cursor(&mut bytes), 0).is_none());
    }
}
