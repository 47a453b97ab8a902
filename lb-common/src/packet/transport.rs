//! TCP and UDP headers, as far as a balancer looks at them.

use core::mem::offset_of;

use network_types::tcp::TcpHdr;
use network_types::udp::UdpHdr;

use super::cursor::{Cursor, Window};
use super::ip::TCP;
use super::reset::Segment;
use super::rewrite::Summed;
use crate::checksum::Change;
use crate::flow::Flags;

/// Bytes of an option-free TCP header and of a UDP header.
const TCP_LENGTH: usize = TcpHdr::LEN;
const UDP_LENGTH: usize = UdpHdr::LEN;
/// Data offset and flags: two bytes that network-types keeps as a bit field.
const TCP_OFFSET: usize = offset_of!(TcpHdr, _bitfield_1);
const TCP_FLAGS: usize = TCP_OFFSET + 1;

/// Both ports as one word, as they stand in a packet: the source port first.
#[inline(always)]
pub fn ports(source: u16, destination: u16) -> u32 {
    let (source, destination) = (source.to_ne_bytes(), destination.to_ne_bytes());
    u32::from_ne_bytes([source[0], source[1], destination[0], destination[1]])
}

#[derive(Debug, Clone, Copy)]
pub struct Tcp(Window<TCP_LENGTH>);

#[derive(Debug, Clone, Copy)]
pub struct Udp(Window<UDP_LENGTH>);

/// A transport header that is there in full.
pub trait Transport: Summed {
    const PROTOCOL: u8;

    fn parse(frame: Cursor, offset: usize) -> Option<Self>;
    fn source_port(self) -> u16;
    fn destination_port(self) -> u16;
    /// Both ports, the source's first, as they stand in the packet.
    fn ports(self) -> u32;
    fn flags(self) -> Flags;
    /// Bytes of the header, options and all, as it says itself.
    fn header_length(self) -> usize;
    /// Whether its own length fields agree with the room that the IP packet gives it, bytes.
    fn fits(self, room: usize) -> bool;
    /// The segment, if refusals of it are segments too; `room` as above.
    fn segment(self, room: usize) -> Option<Segment>;
    /// Writes a port; gives what the checksum has to make up for.
    #[must_use]
    fn set_source_port(self, port: u16) -> Change;
    #[must_use]
    fn set_destination_port(self, port: u16) -> Change;
    /// Both, as [`ports`] gives them.
    #[must_use]
    fn set_ports(self, ports: u32) -> Change;
}

macro_rules! common {
    () => {
        #[inline(always)]
        fn parse(frame: Cursor, offset: usize) -> Option<Self> {
            frame.window(offset).map(Self)
        }

        // TCP and UDP begin alike.
        #[inline(always)]
        fn source_port(self) -> u16 {
            self.0.u16::<0>()
        }

        #[inline(always)]
        fn destination_port(self) -> u16 {
            self.0.u16::<2>()
        }

        #[inline(always)]
        fn ports(self) -> u32 {
            self.0.u32::<0>()
        }

        #[inline(always)]
        fn set_source_port(self, port: u16) -> Change {
            let change = Change::NONE.u16(self.source_port(), port);
            self.0.set_u16::<0>(port);
            change
        }

        #[inline(always)]
        fn set_destination_port(self, port: u16) -> Change {
            let change = Change::NONE.u16(self.destination_port(), port);
            self.0.set_u16::<2>(port);
            change
        }

        #[inline(always)]
        fn set_ports(self, ports: u32) -> Change {
            let change = Change::NONE.u32(self.ports(), ports);
            self.0.set_u32::<0>(ports);
            change
        }
    };
}

impl Summed for Tcp {
    const CHECKSUM: usize = offset_of!(TcpHdr, check);
    const ZERO_IS_NONE: bool = false;

    #[inline(always)]
    fn update_checksum(self, change: Change) {
        self.0.set_u16::<{ Self::CHECKSUM }>(change.apply(self.0.u16::<{ Self::CHECKSUM }>()));
    }
}

impl Transport for Tcp {
    const PROTOCOL: u8 = TCP;

    common!();

    #[inline(always)]
    fn flags(self) -> Flags {
        Flags(self.0.u8::<TCP_FLAGS>())
    }

    #[inline(always)]
    fn header_length(self) -> usize {
        (self.0.u8::<TCP_OFFSET>() as usize >> 4) * 4
    }

    #[inline(always)]
    fn fits(self, room: usize) -> bool {
        let header = self.header_length();
        header >= TCP_LENGTH && header <= room
    }

    #[inline(always)]
    fn segment(self, room: usize) -> Option<Segment> {
        Some(Segment {
            source_port: self.source_port(),
            destination_port: self.destination_port(),
            sequence: self.0.u32::<{ offset_of!(TcpHdr, seq) }>(),
            acknowledgment: self.0.u32::<{ offset_of!(TcpHdr, ack_seq) }>(),
            flags: self.flags(),
            data: room.wrapping_sub(self.header_length()) as u32,
        })
    }
}

impl Udp {
    #[inline(always)]
    pub fn has_checksum(self) -> bool {
        self.0.u16::<{ Self::CHECKSUM }>() != 0
    }
}

impl Summed for Udp {
    const CHECKSUM: usize = offset_of!(UdpHdr, check);
    const ZERO_IS_NONE: bool = true;

    #[inline(always)]
    fn update_checksum(self, change: Change) {
        self.0.set_u16::<{ Self::CHECKSUM }>(change.apply_udp(self.0.u16::<{ Self::CHECKSUM }>()));
    }
}

impl Transport for Udp {
    const PROTOCOL: u8 = super::ip::UDP;

    common!();

    #[inline(always)]
    fn flags(self) -> Flags {
        Flags::NONE
    }

    #[inline(always)]
    fn header_length(self) -> usize {
        UDP_LENGTH
    }

    #[inline(always)]
    fn fits(self, room: usize) -> bool {
        let length = u16::from_be(self.0.u16::<{ offset_of!(UdpHdr, len) }>()) as usize;
        length >= UDP_LENGTH && length <= room
    }

    #[inline(always)]
    fn segment(self, _: usize) -> Option<Segment> {
        None
    }
}
