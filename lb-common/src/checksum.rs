//! Incremental update of the Internet checksum (RFC 1624, equation 3: HC' = ~(~HC + ~m + m')).
//!
//! Of others' packets nothing is ever recomputed: a checksum that was wrong before stays wrong, so a damaged packet cannot be made to look
//! whole. The one's complement sum does not care for byte order as long as both sides use the same, so all
//! words are taken as they stand in memory.

/// The sum of what was taken out and put in, not yet folded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change(u64);

impl Change {
    pub const NONE: Self = Self(0);

    #[inline(always)]
    pub const fn u16(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// Two adjacent 16-bit words at once: folding adds the halves.
    #[inline(always)]
    pub const fn u32(self, old: u32, new: u32) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    #[inline(always)]
    pub const fn u128(self, old: [u32; 4], new: [u32; 4]) -> Self {
        self.u32(old[0], new[0]).u32(old[1], new[1]).u32(old[2], new[2]).u32(old[3], new[3])
    }

    /// Words that were not there before.
    #[inline(always)]
    pub const fn words<const N: usize>(self, words: [u32; N]) -> Self {
        let mut sum = self.0;
        let mut i = 0;
        while i < N {
            sum += words[i] as u64;
            i += 1;
        }
        Self(sum)
    }

    /// The checksum of something that consists of what was put in: of a header that is made here.
    #[inline(always)]
    pub const fn checksum(self) -> u16 {
        !fold(self.0)
    }

    /// As a one's complement sum, for the kernel's helpers: 0 and 0xffff change nothing.
    #[inline(always)]
    pub const fn sum(self) -> u16 {
        fold(self.0)
    }

    /// Both changes.
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The new checksum for the old one.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + (!checksum) as u64)
    }

    /// For UDP: a checksum of zero means none (IPv4), and stays so; one that becomes zero is sent as all ones (RFC 768).
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            new => new,
        }
    }
}

#[inline(always)]
const fn fold(sum: u64) -> u16 {
    // Far less than 2^63 arrives here; the first step leaves 33 bits, the others bring the carries home.
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition (RFC 1071), written plainly.
    fn full(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|word| u32::from(*word)).sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }

    fn halves(word: u32) -> [u16; 2] {
        let bytes = word.to_ne_bytes();
        [u16::from_ne_bytes([bytes[0], bytes[1]]), u16::from_ne_bytes([bytes[2], bytes[3]])]
    }

    proptest! {
        #[test]
        fn equals_full_recompute(rest in proptest::collection::vec(any::<u16>(), 1..40), old: u32, new: u32, old_port: u16, new_port: u16) {
            // All-zero data is the one case in which the two forms of zero differ; no packet has it, version is never 0.
            prop_assume!(rest.iter().any(|word| *word != 0));
            let words = |address: u32, port: u16| {
                let mut words = rest.clone();
                words.extend(halves(address));
                words.push(port);
                words
            };
            let before = full(&words(old, old_port));
            let after = Change::NONE.u32(old, new).u16(old_port, new_port).apply(before);
            prop_assert_eq!(after, full(&words(new, new_port)));
        }

        #[test]
        fn ipv6_addresses(old: [u32; 4], new: [u32; 4], rest in 1u16..) {
            let words = |address: [u32; 4]| {
                let mut words = std::vec![rest];
                address.iter().for_each(|word| words.extend(halves(*word)));
                words
            };
            let after = Change::NONE.u128(old, new).apply(full(&words(old)));
            prop_assert_eq!(after, full(&words(new)));
        }

        #[test]
        fn a_wrong_checksum_stays_wrong(old: u32, new: u32, right: u16, error in 1u16..0xffff) {
            let change = Change::NONE.u32(old, new);
            let wrong = right.wrapping_add(error);
            // 0 and 0xffff are the same number in one's complement.
            prop_assume!(!(right == 0 && wrong == 0xffff || right == 0xffff && wrong == 0));
            prop_assert_ne!(change.apply(right), change.apply(wrong));
        }

        #[test]
        fn udp_zero(old: u32, new: u32, checksum in 1u16..) {
            let change = Change::NONE.u32(old, new);
            prop_assert_eq!(change.apply_udp(0), 0);
            prop_assert_ne!(change.apply_udp(checksum), 0);
        }

        #[test]
        fn fold_is_the_plain_one(sum in 0u64..1 << 63) {
            let mut plain = sum;
            while plain > 0xffff {
                plain = (plain >> 16) + (plain & 0xffff);
            }
            prop_assert_eq!(u64::from(fold(sum)), plain);
        }
    }
}
