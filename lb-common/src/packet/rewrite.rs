//! NAT on one packet: address, port, hop count, and the checksums that cover them.

use super::ip::Header;
use super::transport::{Transport, ports};
use crate::checksum::Change;

/// What the checksum of TCP, UDP or ICMP has to make up for. In two parts: as long as the kernel has yet to complete a checksum,
/// the addresses are all that its field knows of.
#[derive(Debug, Clone, Copy)]
#[must_use = "the checksum is wrong until it is told"]
pub struct Rewritten {
    pub addresses: Change,
    pub rest: Change,
}

impl Rewritten {
    /// For a checksum that is complete.
    #[inline(always)]
    pub const fn all(self) -> Change {
        self.addresses.plus(self.rest)
    }
}

/// A header whose checksum covers itself and what follows it.
pub trait Summed: Copy {
    /// Where the checksum stands in it.
    const CHECKSUM: usize;
    /// Zero says that there is none.
    const ZERO_IS_NONE: bool;

    /// Brings a complete checksum up to date.
    fn update_checksum(self, change: Change);
}

/// Towards the backend: the destination becomes `address` and `port`. What the transport's checksum covers has changed.
#[inline(always)]
pub fn destination<H: Header, T: Transport>(ip: H, transport: T, address: H::Address, port: u16) -> Rewritten {
    let addresses = H::address_change(ip.destination(), address);
    ip.forward_to(address);
    Rewritten { addresses, rest: transport.set_destination_port(port) }
}

/// Towards the client: the source becomes `address` and `port`. What the transport's checksum covers has changed.
#[inline(always)]
pub fn source<H: Header, T: Transport>(ip: H, transport: T, address: H::Address, port: u16) -> Rewritten {
    let addresses = H::address_change(ip.source(), address);
    ip.forward_from(address);
    Rewritten { addresses, rest: transport.set_source_port(port) }
}

/// Both ends become others: `source` and `destination` are address and port. What the transport's checksum covers has changed.
#[inline(always)]
pub fn both<H: Header, T: Transport>(
    ip: H,
    transport: T,
    source: (H::Address, u16),
    destination: (H::Address, u16),
) -> Rewritten {
    let addresses = H::address_change(ip.source(), source.0).plus(H::address_change(ip.destination(), destination.0));
    ip.forward_between(source.0, destination.0);
    Rewritten { addresses, rest: transport.set_ports(ports(source.1, destination.1)) }
}

#[cfg(test)]
mod tests {
    use super::super::ETHERNET;
    use super::super::cursor::Cursor;
    use super::super::ip::{Ipv4, Ipv6};
    use super::super::transport::{Tcp, Udp};
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn cursor(bytes: &mut [u8]) -> Cursor {
        let range = bytes.as_mut_ptr_range();
        // SAFETY: the buffer outlives every use in these tests.
        unsafe { Cursor::new(range.start as usize, range.end as usize) }
    }

    fn words(bytes: [u8; 16]) -> [u32; 4] {
        core::array::from_fn(|i| u32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()))
    }

    /// Every checksum in the frame, against a full computation by another implementation.
    fn assert_valid(frame: &[u8]) {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let (source, destination, header) = match packet.net.as_ref().unwrap() {
            etherparse::NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                (header.source.to_vec(), header.destination.to_vec(), 4)
            }
            etherparse::NetSlice::Ipv6(ip) => (ip.header().source().to_vec(), ip.header().destination().to_vec(), 6),
            other => panic!("{other:?}"),
        };
        let (found, computed) = match packet.transport.as_ref().unwrap() {
            TransportSlice::Tcp(tcp) => {
                let (head, payload) = (tcp.to_header(), tcp.payload());
                let sum = if header == 4 {
                    head.calc_checksum_ipv4_raw(source.try_into().unwrap(), destination.try_into().unwrap(), payload)
                } else {
                    head.calc_checksum_ipv6_raw(source.try_into().unwrap(), destination.try_into().unwrap(), payload)
                };
                (head.checksum, sum.unwrap())
            }
            TransportSlice::Udp(udp) => {
                let (head, payload) = (udp.to_header(), udp.payload());
                let sum = if header == 4 {
                    head.calc_checksum_ipv4_raw(source.try_into().unwrap(), destination.try_into().unwrap(), payload)
                } else {
                    head.calc_checksum_ipv6_raw(source.try_into().unwrap(), destination.try_into().unwrap(), payload)
                };
                (head.checksum, sum.unwrap())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(found, computed);
    }

    fn rewrite<H: Header, T: Transport>(ip: H, transport: T, address: H::Address, port: u16, back: bool) {
        let change =
            if back { source(ip, transport, address, port) } else { destination(ip, transport, address, port) };
        transport.update_checksum(change.all());
    }

    proptest! {
        #[test]
        fn ipv4(source: [u8; 4], destination: [u8; 4], ports: (u16, u16), new: ([u8; 4], u16), tcp: bool, back: bool,
                payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4(source, destination, 64);
            let mut frame = Vec::new();
            if tcp {
                builder.tcp(ports.0, ports.1, 7, 512).syn().write(&mut frame, &payload).unwrap();
            } else {
                builder.udp(ports.0, ports.1).write(&mut frame, &payload).unwrap();
            }
            let frame_cursor = cursor(&mut frame);
            let ip = Ipv4::parse(frame_cursor, ETHERNET).unwrap();
            let (address, port) = (u32::from_ne_bytes(new.0), new.1.to_be());
            let offset = ip.payload_offset();
            if tcp {
                rewrite(ip, Tcp::parse(frame_cursor, offset).unwrap(), address, port, back);
            } else {
                rewrite(ip, Udp::parse(frame_cursor, offset).unwrap(), address, port, back);
            }
            prop_assert_eq!(if back { ip.source() } else { ip.destination() }, address);
            prop_assert_eq!(ip.hops_left(), 63);
            assert_valid(&frame);
        }

        #[test]
        fn ipv6(source: [u8; 16], destination: [u8; 16], ports: (u16, u16), new: ([u8; 16], u16), tcp: bool,
                payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv6(source, destination, 64);
            let mut frame = Vec::new();
            if tcp {
                builder.tcp(ports.0, ports.1, 7, 512).ack(9).write(&mut frame, &payload).unwrap();
            } else {
                builder.udp(ports.0, ports.1).write(&mut frame, &payload).unwrap();
            }
            let frame_cursor = cursor(&mut frame);
            let ip = Ipv6::parse(frame_cursor, ETHERNET).unwrap();
            let (address, port) = (words(new.0), new.1.to_be());
            if tcp {
                rewrite(ip, Tcp::parse(frame_cursor, ip.payload_offset()).unwrap(), address, port, false);
            } else {
                rewrite(ip, Udp::parse(frame_cursor, ip.payload_offset()).unwrap(), address, port, true);
            }
            prop_assert_eq!(if tcp { ip.destination() } else { ip.source() }, address);
            assert_valid(&frame);
        }
    }
}
