//! What the programs measure of how long backends take: of some flows, from a client's packet to the backend's answer to it.
//!
//! Which flows is decided by their hash, by the backend that they go to: one in 2^n, so that a busy backend costs no more than an
//! idle one. A packet that is waited for stands in [`Sample`]; what came of it is counted in [`Latencies`].

use crate::hash::FlowHash;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Kind {
    /// From the client's SYN to the backend's SYN-ACK.
    Handshake = 0,
    /// From a request (the first data after an answer; a datagram) to the first byte of its answer.
    FirstByte = 1,
}

pub const KINDS: usize = 2;

impl Kind {
    pub const ALL: [Self; KINDS] = [Self::Handshake, Self::FirstByte];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::FirstByte => "first_byte",
        }
    }
}

/// Flows that can be waited for at a time: 64 KiB, of which as much is in the caches as there are sampled flows.
pub const SAMPLES: usize = 4096;

/// The latest packet that an answer is waited for, of the flows that share this place.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Sample {
    /// [`awaited`]; 0: nothing is.
    pub awaited: u64,
    /// When the packet passed, nanoseconds of CLOCK_MONOTONIC.
    pub since: u64,
}

/// The flow's tag, its backend and what is waited for; never 0.
#[inline(always)]
pub const fn awaited(hash: FlowHash, backend: u16, kind: Kind) -> u64 {
    (hash.0 >> 32) << 32 | (backend as u64) << 16 | (kind as u64 + 1)
}

/// Backend and kind of what is waited for.
pub const fn of(awaited: u64) -> Option<(u16, Kind)> {
    match awaited as u16 {
        1 => Some(((awaited >> 16) as u16, Kind::Handshake)),
        2 => Some(((awaited >> 16) as u16, Kind::FirstByte)),
        _ => None,
    }
}

/// Where a flow's sample stands.
#[inline(always)]
pub const fn place(hash: FlowHash) -> u32 {
    (hash.0 as u32 >> 8) % SAMPLES as u32
}

/// Whether it is one of the flows that are measured, one in 2^`shift`. By bits that say nothing of the flow's place.
#[inline(always)]
pub const fn is_sampled(hash: FlowHash, shift: u32) -> bool {
    let bits = (hash.0 >> 36) as u32;
    bits & ((1 << (shift & MAX_SHIFT)) - 1) == 0
}

/// One in 32,768.
pub const MAX_SHIFT: u32 = 15;
/// One in 64, until the agent knows how busy a backend is.
pub const DEFAULT_SHIFT: u32 = 6;

/// Buckets to a doubling: a bucket's bounds are an eighth of its octave apart.
const SUB_BITS: u32 = 3;
/// The first octave, 1,024 ns, and how many there are: up to 69 s.
const FIRST_OCTAVE: u32 = 10;
const OCTAVES: u32 = 26;
pub const BUCKETS: usize = (OCTAVES << SUB_BITS) as usize;

/// How many of a backend's answers took how long, and all of them together. Written by any processor; two that count in one bucket at
/// the same moment may lose one of their answers.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Latencies {
    /// By kind and [`bucket`]; wrapping.
    pub counts: [[u32; BUCKETS]; KINDS],
    /// By kind, nanoseconds; wrapping.
    pub sums: [u64; KINDS],
    pub zero: [u64; 6],
}

/// Log-linear, as in HdrHistogram.
#[inline(always)]
pub const fn bucket(nanoseconds: u64) -> usize {
    let octave = 63 - (nanoseconds | 1).leading_zeros();
    if octave < FIRST_OCTAVE {
        return 0;
    }
    let within = (nanoseconds >> (octave - SUB_BITS)) as u32 & ((1 << SUB_BITS) - 1);
    let bucket = ((octave - FIRST_OCTAVE) << SUB_BITS | within) as usize;
    if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
}

/// The shortest latency of a bucket, nanoseconds; of the one behind the last, where the last ends.
pub const fn lower_bound(bucket: usize) -> u64 {
    let (octave, within) = (bucket as u32 >> SUB_BITS, bucket as u64 & ((1 << SUB_BITS) - 1));
    ((1 << SUB_BITS) | within) << (octave + FIRST_OCTAVE - SUB_BITS)
}

const _: () = {
    assert!(size_of::<Sample>() == 16);
    assert!(size_of::<Latencies>() == 1728);
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_latency_is_in_its_bucket(nanoseconds in 1024_u64..1 << 36) {
            let bucket = bucket(nanoseconds);
            prop_assert!((lower_bound(bucket)..lower_bound(bucket + 1)).contains(&nanoseconds));
        }

        #[test]
        fn what_is_awaited_is_read_back(hash: u64, backend in 1_u16..0x8000) {
            for kind in Kind::ALL {
                prop_assert_eq!(of(awaited(FlowHash(hash), backend, kind)), Some((backend, kind)));
            }
        }
    }

    #[test]
    fn what_is_out_of_range_is_in_the_last_buckets() {
        assert_eq!([bucket(0), bucket(1), bucket(1023), bucket(1024)], [0; 4]);
        assert_eq!([bucket(1 << 36), bucket(u64::MAX)], [BUCKETS - 1; 2]);
        assert_eq!(of(0), None);
    }

    #[test]
    fn bounds_are_an_eighth_apart() {
        for bucket in 0..BUCKETS {
            let (low, high) = (lower_bound(bucket), lower_bound(bucket + 1));
            assert!(high > low && (high - low) * 8 <= low, "{low} to {high}");
        }
    }

    #[test]
    fn so_many_flows_are_measured() {
        let sampled = |shift| (0..1 << 16).filter(|flow| is_sampled(FlowHash(flow << 36), shift)).count();
        assert_eq!([sampled(0), sampled(4), sampled(15)], [1 << 16, 1 << 12, 2]);
    }
}
