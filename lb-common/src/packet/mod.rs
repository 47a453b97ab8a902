//! Reading and writing frames: the one place that computes with packet pointers. [`cursor`] checks bounds, [`ip`] and
//! [`transport`] and [`icmp`] know where the fields stand, [`rewrite`] changes addresses and keeps the
//! checksums right, [`outer`] writes headers in front of a packet, and [`reset`] the segment that refuses another.

pub mod cursor;
pub mod icmp;
pub mod ip;
pub mod outer;
pub mod reset;
pub mod rewrite;
pub mod transport;

use core::mem::offset_of;

use cursor::{Cursor, Window};
use network_types::eth::EthHdr;

pub const ETHERNET: usize = EthHdr::LEN;

/// EtherTypes as they stand in a frame, read as a native `u16`.
pub const IPV4: u16 = 0x0800_u16.to_be();
pub const IPV6: u16 = 0x86dd_u16.to_be();
pub const VLAN: u16 = 0x8100_u16.to_be();
pub const QINQ: u16 = 0x88a8_u16.to_be();

/// A VLAN tag: behind the EtherType that announces it, and with the next EtherType at its end.
#[derive(Debug, Clone, Copy)]
pub struct VlanTag(Window<VLAN_TAG>);

pub const VLAN_TAG: usize = 4;

impl VlanTag {
    #[inline(always)]
    pub fn parse(frame: Cursor, offset: usize) -> Option<Self> {
        frame.window(offset).map(Self)
    }

    #[inline(always)]
    pub fn ether_type(self) -> u16 {
        self.0.u16::<2>()
    }
}

/// The Ethernet header of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Ethernet(Window<ETHERNET>);

impl Ethernet {
    #[inline(always)]
    pub fn parse(frame: Cursor) -> Option<Self> {
        frame.window(0).map(Self)
    }

    #[inline(always)]
    pub fn ether_type(self) -> u16 {
        self.0.u16::<{ offset_of!(EthHdr, ether_type) }>()
    }

    #[inline(always)]
    pub fn set_ether_type(self, ether_type: u16) {
        self.0.set_u16::<{ offset_of!(EthHdr, ether_type) }>(ether_type);
    }

    /// Destination and source.
    #[inline(always)]
    pub fn addresses(self) -> ([u8; 6], [u8; 6]) {
        (self.0.mac::<{ offset_of!(EthHdr, dst_addr) }>(), self.0.mac::<{ offset_of!(EthHdr, src_addr) }>())
    }

    /// Writes both addresses.
    #[inline(always)]
    pub fn set_addresses(self, destination: [u8; 6], source: [u8; 6]) {
        self.0.set_mac::<{ offset_of!(EthHdr, dst_addr) }>(destination);
        self.0.set_mac::<{ offset_of!(EthHdr, src_addr) }>(source);
    }
}
