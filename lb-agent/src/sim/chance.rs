//! Chance that is the same on every machine: streams from PCG, and numbers by hash where the order of asking must not matter.
//! Transcendental functions are `libm`'s for the same reason ([`crate::policy::math`]).

use rand::Rng as _;
use rand_pcg::Pcg64;

use crate::policy::math::{exp, ln};

/// SplitMix64's finaliser over two words.
#[inline]
pub(super) fn hash(a: u64, b: u64) -> u64 {
    let mut x = a
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(b.wrapping_mul(0xbf58_476d_1ce4_e5b9))
        .wrapping_add(0x94d0_49bb_1331_11eb);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The hash of a name (FNV-1a), so that scenarios have worlds of their own.
pub(super) fn hash_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Between 0 and 1, neither of them.
#[inline]
pub(super) fn unit(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / 9_007_199_254_740_992.0
}

pub(super) fn exponential(chance: &mut Pcg64, mean: f64) -> f64 {
    -mean * ln(unit(chance.random()))
}

/// Box and Muller, one of the pair.
pub(super) fn normal_of(first: f64, second: f64) -> f64 {
    (-2.0 * ln(first)).sqrt() * libm::cos(std::f64::consts::TAU * second)
}

pub(super) fn normal(chance: &mut Pcg64) -> f64 {
    normal_of(unit(chance.random()), unit(chance.random()))
}

pub(super) fn lognormal_error(chance: &mut Pcg64, sigma: f64) -> f64 {
    exp(sigma * normal(chance))
}
