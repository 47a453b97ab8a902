//! Next hops towards clients, by number, so that a flow entry can name the one that its answers take: to ask the kernel's routing
//! and neighbour tables costs as much as all else that is done to an answer.
//!
//! The kernel's tables are asked when an answer is the first of its flow in a unit of coarse time (about a second). If they name
//! one of these hops, the flow keeps its number until that unit ends. The agent enters hops that were wanted; without an
//! agent, what is there goes on to be used and checked like this. Clients have few next hops where they are behind routers; where
//! they are on our own links and many, most have no number, and their answers go by the kernel's tables each time.

/// Four bits of a flow entry. Number 0 means none.
pub const CLIENT_HOPS: usize = 16;

/// | word | upper 48 bits | lower 16 bits |
/// |---|---|---|
/// | 0 | destination MAC address | MTU, bytes of layer 3; never 0 |
/// | 1 | source MAC address | outgoing interface |
///
/// All zeroes: no hop.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct ClientHop(pub [u64; 2]);

/// Value of the map of hops, by number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct ClientHops(pub [ClientHop; CLIENT_HOPS]);

impl ClientHop {
    /// None: it has no place here, because its interface's number is large or its MTU not known.
    #[inline(always)]
    pub fn new(ifindex: u32, mtu: u16, destination: [u8; 6], source: [u8; 6]) -> Option<Self> {
        if ifindex > 0xffff || mtu == 0 {
            return None;
        }
        Some(Self([word(destination, mtu), word(source, ifindex as u16)]))
    }

    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0[0] == 0
    }

    #[inline(always)]
    pub const fn mtu(self) -> u16 {
        self.0[0] as u16
    }

    #[inline(always)]
    pub const fn ifindex(self) -> u32 {
        self.0[1] as u32 & 0xffff
    }

    #[inline(always)]
    pub const fn destination(self) -> [u8; 6] {
        address(self.0[0])
    }

    #[inline(always)]
    pub const fn source(self) -> [u8; 6] {
        address(self.0[1])
    }
}

impl ClientHops {
    /// None for number 0, and for one whose hop has left.
    #[inline(always)]
    pub fn get(&self, number: u32) -> Option<ClientHop> {
        let hop = self.0[number as usize % CLIENT_HOPS];
        (!hop.is_none()).then_some(hop)
    }

    /// The number of exactly this hop; 0 if it has none.
    #[inline(always)]
    pub fn number(&self, hop: ClientHop) -> u32 {
        let mut number = 1;
        while number < CLIENT_HOPS {
            let known = self.0[number];
            if known.0[0] == hop.0[0] && known.0[1] == hop.0[1] {
                return number as u32;
            }
            number += 1;
        }
        0
    }
}

#[inline(always)]
const fn word(address: [u8; 6], low: u16) -> u64 {
    let [a, b, c, d, e, f] = address;
    u64::from_le_bytes([0, 0, a, b, c, d, e, f]) | low as u64
}

#[inline(always)]
const fn address(word: u64) -> [u8; 6] {
    let [_, _, a, b, c, d, e, f] = word.to_le_bytes();
    [a, b, c, d, e, f]
}

const _: () = assert!(size_of::<ClientHops>() == 16 * CLIENT_HOPS);

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn round_trip(ifindex in 1..=0xffff_u32, mtu in 1..=u16::MAX, destination: [u8; 6], source: [u8; 6]) {
            let hop = ClientHop::new(ifindex, mtu, destination, source).unwrap();
            assert_eq!((hop.ifindex(), hop.mtu(), hop.destination(), hop.source()), (ifindex, mtu, destination, source));
            assert!(!hop.is_none());
            let mut hops = ClientHops([ClientHop::default(); CLIENT_HOPS]);
            assert_eq!(hops.number(hop), 0);
            hops.0[7] = hop;
            assert_eq!((hops.number(hop), hops.get(7), hops.get(0)), (7, Some(hop), None));
        }
    }

    #[test]
    fn what_has_no_place_is_none() {
        assert_eq!(ClientHop::new(0x1_0000, 1500, [2; 6], [2; 6]), None);
        assert_eq!(ClientHop::new(1, 0, [2; 6], [2; 6]), None);
    }
}
