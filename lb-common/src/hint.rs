//! Whose an address and a port are, by one read: a number for each hash of them, that is asked before the hash maps. Most packets
//! that are ours belong to what alone has its hash; those that are not meet a zero. Only where several keys have the same hash is
//! the hash map looked up, which costs ten times as much.
//!
//! Whoever meets that goes on in a program that asks hash maps only (`crowded`): the verifier would follow both ways through all that
//! comes after them.
//!
//! A hint may be another's: it names the only key of the map that has this hash, and who asks may have one that is not in it. So the
//! key is compared where the hint leads.

use crate::limits::MAX_BACKEND_ID;

/// Hints by 15 bits of a hash: 64 KiB, of which as much is in the caches as there are keys in use.
pub const HINTS: usize = 1 << 15;

/// No key has this hash.
pub const NOBODY: u16 = 0;
/// Several keys have this hash: the hash map knows them.
pub const SEVERAL: u16 = u16::MAX;
/// Of an endpoint: several services share it, or ports are lent towards it.
pub const SHARED: u16 = SEVERAL - 1;

/// Value of the map of hints.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Hints(pub [u16; HINTS]);

/// Place of each kind in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Of {
    /// Numbers of services, by their addresses and ports.
    Services = 0,
    /// Numbers of backends that answer through us, by theirs.
    Endpoints = 1,
}

pub const KINDS: u32 = 2;

/// Where an address, a port and a protocol stand, as they are in packets.
#[inline(always)]
pub const fn place_v4(address: u32, port: u16, protocol: u8) -> usize {
    // Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4): the upper bits are the mixed ones.
    let hash = (address ^ (port as u32) << 16 ^ port as u32 ^ (protocol as u32) << 8).wrapping_mul(0x9e37_79b1);
    (hash >> (32 - HINTS.ilog2())) as usize
}

#[inline(always)]
pub const fn place_v6(address: [u32; 4], port: u16, protocol: u8) -> usize {
    let [a, b, c, d] = address;
    place_v4(a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d.rotate_left(24), port, protocol)
}

impl Hints {
    #[inline(always)]
    pub const fn at(&self, place: usize) -> u16 {
        self.0[place % HINTS]
    }
}

const _: () = assert!(size_of::<Hints>() == 1 << 16 && HINTS.is_power_of_two() && MAX_BACKEND_ID < SHARED);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ip::{TCP, UDP};
    use std::collections::BTreeSet;

    proptest::proptest! {
        #[test]
        fn every_place_is_one(address: [u32; 4], port: u16, protocol: u8) {
            assert!(place_v4(address[0], port, protocol) < HINTS && place_v6(address, port, protocol) < HINTS);
        }
    }

    #[test]
    fn both_protocols_of_a_port_have_hashes_of_their_own() {
        for port in [53_u16, 80, 443, 8080].map(u16::to_be) {
            assert_ne!(place_v4(0x0100_000a, port, TCP), place_v4(0x0100_000a, port, UDP));
        }
    }

    #[test]
    fn neighbours_have_hashes_of_their_own() {
        let ports = (1..=1000_u16).map(|port| place_v4(0x0a00_0001, port.to_be(), TCP));
        let hosts = (1..=1000_u32).map(|host| place_v6([0xfd, 0, 0, host.to_be()], 80, UDP));
        for places in [ports.collect::<BTreeSet<_>>(), hosts.collect()] {
            assert!(places.len() > 950, "{} of 1000", places.len());
        }
    }
}
