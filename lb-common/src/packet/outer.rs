//! Headers that are put in front of a packet: IP in IP (RFC 2003, RFC 2473) and Generic UDP Encapsulation
//! (draft-ietf-intarea-gue).
//!
//! They are made anew, checksums included. What is inside stays as it was. GUE is its variant 1, in which the inner IP header
//! follows UDP directly and its version nibble says so: that is what Linux takes (`ip fou add port 6080 gue`, fou_core.c), and
//! four bytes less than variant 0.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::udp::UdpHdr;

use super::cursor::{Cursor, Window};
use super::ip::UDP;
use super::{ETHERNET, IPV4, IPV6};
use crate::checksum::Change;

/// Where GUE arrives (IANA).
pub const GUE_PORT: u16 = 6080;
pub const UDP_LENGTH: usize = UdpHdr::LEN;

/// Hops of the tunnel itself; what is inside has its own.
const HOPS: u8 = 64;
/// Ports for flows that nobody listens on (RFC 6335, section 6): 49152 and up.
const DYNAMIC_PORTS: u16 = 0xc000;
const LABEL_BITS: u32 = 20;

/// What a header that is made here says, whatever follows it.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// IPv4 in the first word.
    pub source: [u32; 4],
    pub destination: [u32; 4],
    /// Type of service or traffic class. A tunnel copies both halves of what is inside: DSCP (RFC 2983, uniform) and ECN
    /// (RFC 6040, section 4.1, normal mode).
    pub class: u8,
    /// Of the flow: receivers and routers spread tunnels' packets by port or flow label (RFC 6438), with all packets of a flow
    /// together.
    pub entropy: u32,
}

impl Ends {
    /// What the checksum of a transport covers beside itself, for `length` bytes of it (RFC 9293, section 3.1; RFC 8200, section
    /// 8.1). The words that an IPv4 address has no use for are zero.
    #[inline(always)]
    pub const fn pseudo_header(&self, protocol: u8, length: usize) -> Change {
        let tail = [(length as u32).to_be(), u32::from_ne_bytes([0, 0, 0, protocol])];
        Change::NONE.words(self.source).words(self.destination).words(tail)
    }
}

/// The packet inside.
#[derive(Debug, Clone, Copy)]
pub struct Inner {
    /// Bytes of it.
    pub length: u16,
    /// Its protocol number in IP.
    pub protocol: u8,
}

/// The family of a header that is made here.
pub trait Outer {
    const LENGTH: usize;
    const ETHER_TYPE: u16;

    /// Writes the header behind Ethernet's, for `payload` bytes of `protocol`.
    fn write(frame: Cursor, ends: &Ends, protocol: u8, payload: u16) -> Option<()>;
}

#[derive(Debug, Clone, Copy)]
pub struct OuterV4;

#[derive(Debug, Clone, Copy)]
pub struct OuterV6;

impl Outer for OuterV4 {
    const LENGTH: usize = Ipv4Hdr::LEN;
    const ETHER_TYPE: u16 = IPV4;

    #[inline(always)]
    fn write(frame: Cursor, ends: &Ends, protocol: u8, payload: u16) -> Option<()> {
        let header: Window<{ Ipv4Hdr::LEN }> = frame.window(ETHERNET)?;
        let [high, low] = (payload.wrapping_add(Ipv4Hdr::LEN as u16)).to_be_bytes();
        let words = [
            u32::from_ne_bytes([0x45, ends.class, high, low]),
            // Never a fragment, hence no identification (RFC 6864): what would not fit is not sent.
            u32::from_ne_bytes([0, 0, 0x40, 0]),
            u32::from_ne_bytes([HOPS, protocol, 0, 0]),
            ends.source[0],
            ends.destination[0],
        ];
        header.set_u32::<0>(words[0]);
        header.set_u32::<4>(words[1]);
        header.set_u32::<8>(words[2]);
        header.set_u32::<12>(words[3]);
        header.set_u32::<16>(words[4]);
        header.set_u16::<{ offset_of!(Ipv4Hdr, check) }>(Change::NONE.words(words).checksum());
        Some(())
    }
}

impl Outer for OuterV6 {
    const LENGTH: usize = Ipv6Hdr::LEN;
    const ETHER_TYPE: u16 = IPV6;

    #[inline(always)]
    fn write(frame: Cursor, ends: &Ends, protocol: u8, payload: u16) -> Option<()> {
        let header: Window<{ Ipv6Hdr::LEN }> = frame.window(ETHERNET)?;
        let label = ends.entropy & ((1 << LABEL_BITS) - 1);
        let [high, low] = payload.to_be_bytes();
        header.set_u32::<0>((6 << 28 | u32::from(ends.class) << LABEL_BITS | label).to_be());
        header.set_u32::<4>(u32::from_ne_bytes([high, low, protocol, HOPS]));
        header.set_address_v6::<{ offset_of!(Ipv6Hdr, src_addr) }>(ends.source);
        header.set_address_v6::<{ offset_of!(Ipv6Hdr, dst_addr) }>(ends.destination);
        Some(())
    }
}

/// IP in IP.
#[inline(always)]
pub fn write_ipip<O: Outer>(frame: Cursor, ends: &Ends, inner: Inner) -> Option<()> {
    O::write(frame, ends, inner.protocol, inner.length)
}

/// GUE. Its UDP checksum is none: in IPv4 that is anybody's choice; in IPv6 a tunnel may (RFC 6935, RFC 6936), since what is
/// inside has checksums of its own that cover its addresses, and a header that was damaged leads to a host that does not
/// expect this tunnel's source.
#[inline(always)]
pub fn write_gue<O: Outer>(frame: Cursor, ends: &Ends, inner: Inner) -> Option<()> {
    let length = inner.length.wrapping_add(UDP_LENGTH as u16);
    O::write(frame, ends, UDP, length)?;
    let udp: Window<UDP_LENGTH> = frame.window(ETHERNET + O::LENGTH)?;
    udp.set_u16::<{ offset_of!(UdpHdr, src) }>((DYNAMIC_PORTS | ends.entropy as u16).to_be());
    udp.set_u16::<{ offset_of!(UdpHdr, dst) }>(GUE_PORT.to_be());
    udp.set_u16::<{ offset_of!(UdpHdr, len) }>(length.to_be());
    udp.set_u16::<{ offset_of!(UdpHdr, check) }>(0);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn ends(source: [u8; 16], destination: [u8; 16], class: u8, entropy: u32) -> Ends {
        let words =
            |bytes: [u8; 16]| core::array::from_fn(|i| u32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()));
        Ends { source: words(source), destination: words(destination), class, entropy }
    }

    /// A frame with `outer` written in front of `length` bytes.
    fn frame(ether_type: u16, head: usize, length: u16, write: impl FnOnce(Cursor) -> Option<()>) -> Vec<u8> {
        let mut bytes = std::vec![0xaa; ETHERNET + head + usize::from(length)];
        bytes[12..14].copy_from_slice(&ether_type.to_ne_bytes());
        let range = bytes.as_mut_ptr_range();
        // SAFETY: the buffer outlives the cursor.
        write(unsafe { Cursor::new(range.start as usize, range.end as usize) }).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn ipv4(from: [u8; 16], to: [u8; 16], class: u8, length in 0u16..1500, entropy: u32) {
            let (ends, inner) = (ends(from, to, class, entropy), Inner { length, protocol: 4 });
            let bytes = frame(IPV4, 20, length, |frame| write_ipip::<OuterV4>(frame, &ends, inner));
            let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
            let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
            let header = ip.header().to_header();
            prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
            prop_assert_eq!((&header.source[..], &header.destination[..]), (&from[..4], &to[..4]));
            prop_assert_eq!((header.protocol.0, header.time_to_live, header.identification), (4, HOPS, 0));
            prop_assert!(header.dont_fragment && !header.more_fragments);
            prop_assert_eq!(header.dscp.value() << 2 | header.ecn.value(), class);
            prop_assert_eq!(usize::from(header.total_len), 20 + usize::from(length));
        }

        #[test]
        fn ipv6(from: [u8; 16], to: [u8; 16], class: u8, length in 0u16..1500, entropy: u32) {
            let (ends, inner) = (ends(from, to, class, entropy), Inner { length, protocol: 4 });
            let bytes = frame(IPV6, 48, length, |frame| write_gue::<OuterV6>(frame, &ends, inner));
            let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
            let Some(NetSlice::Ipv6(ip)) = packet.net else { panic!("not IPv6") };
            let header = ip.header().to_header();
            prop_assert_eq!((header.source, header.destination), (from, to));
            prop_assert_eq!((header.traffic_class, header.hop_limit), (class, HOPS));
            prop_assert_eq!(header.flow_label.value(), entropy & 0xf_ffff);
            prop_assert_eq!(header.payload_length, 8 + length);
            let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("not UDP") };
            let port = DYNAMIC_PORTS | entropy as u16;
            prop_assert_eq!((udp.source_port(), udp.destination_port()), (port, GUE_PORT));
            prop_assert_eq!((udp.length(), udp.checksum()), (8 + length, 0));
        }
    }
}
