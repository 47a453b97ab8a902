//! Which addresses and ports may be in a hash map: a bitmap that is asked first, because a look-up that finds nothing costs ten
//! times as much. Most packets of a host are for none of its services, and each answer of a backend is for none either.
//!
//! A bit that is set promises nothing; one that is not means that the map has no such key. Who sends packets that fall on set
//! bits has the map asked in vain, which is what it would cost without the filter.

/// Bits by 16 bits of a hash: 8 KiB, which stay in the first cache as far as packets touch them.
const BITS: u32 = 1 << 16;
pub const WORDS: usize = BITS as usize / 64;

/// Value of the map of filters.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Filter(pub [u64; WORDS]);

/// Place of a filter in its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Of {
    /// Addresses and ports of services.
    Services = 0,
    /// Addresses and ports of backends that answer through us.
    Endpoints = 1,
}

pub const FILTERS: u32 = 2;

/// Where an address and a port stand, both as they are in packets. The protocol does not count.
#[inline(always)]
pub const fn bit_v4(address: u32, port: u16) -> u32 {
    // Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4): the upper bits are the mixed ones.
    (address ^ (port as u32) << 16 ^ port as u32).wrapping_mul(0x9e37_79b1) >> (32 - BITS.ilog2())
}

#[inline(always)]
pub const fn bit_v6(address: [u32; 4], port: u16) -> u32 {
    bit_v4(address[0] ^ address[1].rotate_left(8) ^ address[2].rotate_left(16) ^ address[3].rotate_left(24), port)
}

impl Filter {
    #[inline(always)]
    pub const fn may_have(&self, bit: u32) -> bool {
        self.0[word_of(bit)] & mask_of(bit) != 0
    }
}

#[inline(always)]
pub const fn word_of(bit: u32) -> usize {
    (bit / 64) as usize % WORDS
}

#[inline(always)]
pub const fn mask_of(bit: u32) -> u64 {
    1 << (bit % 64)
}

const _: () = assert!(size_of::<Filter>() == 8192 && BITS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    proptest::proptest! {
        #[test]
        fn what_is_set_is_found(address: [u32; 4], port: u16, others: std::vec::Vec<(u32, u16)>) {
            let bits = [bit_v4(address[0], port), bit_v6(address, port)];
            let mut filter = Filter([0; WORDS]);
            for bit in bits.into_iter().chain(others.iter().map(|(address, port)| bit_v4(*address, *port))) {
                assert!(bit < BITS);
                filter.0[word_of(bit)] |= mask_of(bit);
            }
            assert!(bits.iter().all(|bit| filter.may_have(*bit)));
        }
    }

    #[test]
    fn neighbours_fall_on_bits_of_their_own() {
        let ports = (1..=1000_u16).map(|port| bit_v4(0x0a00_0001, port.to_be()));
        let hosts = (1..=1000_u32).map(|host| bit_v6([0xfd, 0, 0, host.to_be()], 80));
        for bits in [ports.collect::<BTreeSet<_>>(), hosts.collect()] {
            assert!(bits.len() > 950, "{} of 1000", bits.len());
        }
    }
}
