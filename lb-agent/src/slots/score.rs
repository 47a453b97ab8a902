//! The cost of a slot to a backend: `-log2(u)`, where `u` is a keyed, uniform number of (service, backend, slot).
//!
//! Everything is integer arithmetic. `f64::ln` is whatever the platform's libm makes of it, and two nodes that
//! disagree in the last bit of one logarithm disagree about where a flow goes. The logarithm is therefore
//! a table, computed by the compiler bit by bit, with linear interpolation (error below 2⁻²², monotone); the base
//! does not matter, because only ratios of costs are ever compared.

use std::net::{IpAddr, SocketAddr};

use sha2::{Digest, Sha256};

use super::Seed;
use crate::model::config::Protocol;
use crate::model::pool::ServiceAddress;

/// Costs are fixed-point numbers with this many binary places: below 2⁴⁶, so that a cost times a `u16` fits `u64`.
const FRACTION_BITS: u32 = 40;
/// The table holds log2 at 2^10 + 1 points of [1, 2].
const INDEX_BITS: u32 = 10;
const LOG2: [u64; (1 << INDEX_BITS) + 1] = log2_table();

const fn log2_table() -> [u64; (1 << INDEX_BITS) + 1] {
    let mut table = [0; (1 << INDEX_BITS) + 1];
    let mut i = 0;
    while i < 1 << INDEX_BITS {
        // 1 + i/2^INDEX_BITS with 63 binary places. Squaring doubles the logarithm: each time the square passes 2,
        // the next binary digit of the logarithm is 1.
        let mut x = (1_u128 << 63) + ((i as u128) << (63 - INDEX_BITS));
        let mut bit = FRACTION_BITS;
        while bit > 0 {
            bit -= 1;
            x = (x * x) >> 63;
            if x >= 1 << 64 {
                x >>= 1;
                table[i] |= 1 << bit;
            }
        }
        i += 1;
    }
    table[1 << INDEX_BITS] = 1 << FRACTION_BITS;
    table
}

/// Names the stream of numbers that one backend has in one service's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ColumnKey(u64);

impl ColumnKey {
    /// A keyed digest, so that nobody without the seed can tell which slots a backend will hold.
    pub(super) fn new(seed: &Seed, service: &ServiceAddress, backend: &SocketAddr) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"lb slot column 1");
        digest.update(seed.0);
        add_address(&mut digest, service.vip, service.port);
        digest.update([match service.protocol {
            Protocol::Tcp => 6_u8,
            Protocol::Udp => 17,
        }]);
        add_address(&mut digest, backend.ip(), backend.port());
        let mut key = [0; 8];
        key.copy_from_slice(&digest.finalize()[..8]);
        Self(u64::from_le_bytes(key))
    }

    /// What `slot` costs this backend before its weight is taken into account; at least 1.
    #[inline]
    pub(super) fn cost(self, slot: u32) -> u64 {
        negative_log2(split_mix(self.0, slot))
    }
}

fn add_address(digest: &mut Sha256, address: IpAddr, port: u16) {
    // The family comes first: no IPv4 address may ever read like part of an IPv6 one.
    match address {
        IpAddr::V4(v4) => {
            digest.update([4]);
            digest.update(v4.octets());
        }
        IpAddr::V6(v6) => {
            digest.update([6]);
            digest.update(v6.octets());
        }
    }
    digest.update(port.to_be_bytes());
}

/// The `slot`-th number of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
/// By hand because a slot's number is needed without those before it, and because it must never change.
#[inline]
fn split_mix(key: u64, slot: u32) -> u64 {
    let mut x = key.wrapping_add((u64::from(slot) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `-log2(x / 2^64)` as fixed point, at least 1.
#[inline]
fn negative_log2(x: u64) -> u64 {
    let x = x | 1;
    let zeros = x.leading_zeros();
    let mantissa = x << zeros;
    let index = ((mantissa << 1) >> (64 - INDEX_BITS)) as usize;
    let rest = (mantissa << (1 + INDEX_BITS)) >> 32;
    let step = LOG2[index + 1] - LOG2[index];
    let fraction = LOG2[index] + ((step * rest) >> 32);
    // 64 - (63 - zeros + fraction)
    (((u64::from(zeros) + 1) << FRACTION_BITS) - fraction).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_logarithm_is_right_and_monotone(x in 1_u64.., shift in 0_u32..64) {
            let x = (x >> shift).max(1);
            let expected = 64.0 - (x as f64).log2();
            let got = negative_log2(x) as f64 / (1_u64 << FRACTION_BITS) as f64;
            // An even x counts as x + 1, which matters only where x is tiny.
            let tolerance = if x < 1 << 24 { 1.0 } else { 1e-6 };
            prop_assert!((got - expected).abs() <= tolerance, "{x}: {got} instead of {expected}");
            prop_assert!(negative_log2(x) >= negative_log2(x.saturating_add(1)));
        }
    }

    #[test]
    fn the_ends_of_the_range_fit() {
        assert_eq!(negative_log2(0), 64 << FRACTION_BITS);
        assert!((1..4).contains(&negative_log2(u64::MAX)));
        assert!((64_u64 << FRACTION_BITS).checked_mul(u64::from(u16::MAX)).is_some());
    }

    #[test]
    fn split_mix_gives_the_published_sequence() {
        // First outputs of the reference implementation seeded with 1234567.
        let got: Vec<u64> = (0..3).map(|slot| split_mix(1_234_567, slot)).collect();
        assert_eq!(got, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
