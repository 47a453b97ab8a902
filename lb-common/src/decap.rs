//! What the program at a backend that takes packets out of tunnels shares with the agent: map names, keys, counters; and what
//! becomes of congestion marks.
//!
//! Addresses of both families are one kind of key here: IPv4 as IPv4-mapped IPv6 (RFC 4291, section 2.5.5.2), which no
//! packet carries.

/// The program.
pub const PROGRAM: &str = "decap";
/// Prefixes of outer sources that are believed: a trie.
pub const SOURCES: &str = "SOURCES";
/// This host's own addresses.
pub const ADDRESSES: &str = "ADDRESSES";
pub const COUNTERS: &str = "COUNTERS";

/// Prefixes, and addresses, that there is room for.
pub const MAX_SOURCES: u32 = 1024;
pub const MAX_ADDRESSES: u32 = 16_384;

/// Bits in front of an IPv4 address in a key.
pub const MAPPED_BITS: u32 = 96;

/// An IPv4 address as a key.
#[inline(always)]
pub const fn mapped(address: u32) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), address]
}

macro_rules! counters {
    ($($(#[$meta:meta])* $variant:ident = $number:literal $name:literal),+ $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter { $($(#[$meta])* $variant = $number),+ }

        impl Counter {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in output.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

counters! {
    /// Packets taken out of IP in IP.
    Ipip = 0 "ipip",
    /// Packets taken out of GUE.
    Gue = 1 "gue",
    /// Bytes of them, outer headers not among them.
    Bytes = 2 "bytes",
    /// Passed as it is: the outer source is not allowed.
    ForeignSource = 3 "foreign_source",
    /// Passed as it is: what is inside is for somebody else.
    Elsewhere = 4 "elsewhere",
    /// Passed as it is: lengths or headers contradict each other.
    Malformed = 5 "malformed",
    /// Dropped: a router on the way has marked it as congested, and its sender would not understand the mark.
    Congestion = 6 "congestion",
}

const ECN: u8 = 3;
const ECT_1: u8 = 1;
const CE: u8 = 3;

/// The class that a packet leaves a tunnel with (RFC 6040, figure 4): its own, but for marks that it has got on the way. None: it
/// must be dropped.
#[inline(always)]
pub const fn class_after(outer: u8, inner: u8) -> Option<u8> {
    match (outer & ECN, inner & ECN) {
        (CE, 0) => None,
        (_, 0 | CE) => Some(inner),
        (CE, _) => Some(inner | CE),
        (ECT_1, _) => Some(inner & !ECN | ECT_1),
        _ => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figure, row by row: inner not-ECT, ECT(0), ECT(1), CE; outer the same.
    #[test]
    fn marks_of_the_way_are_kept() {
        const NOT: u8 = 0;
        const ECT_0: u8 = 2;
        let figure = [
            (NOT, [Some(NOT), Some(NOT), Some(NOT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE); 4]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in [NOT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                // DSCPs are each packet's own.
                let expected = expected.map(|ecn| 0xb8 | ecn);
                assert_eq!(class_after(0x48 | outer, 0xb8 | inner), expected, "inner {inner}, outer {outer}");
            }
        }
    }
}
