//! The flow hash: 64 bits that decide a flow's slot, its bucket and its tag.
//!
//! NH of UMAC (RFC 4418, section 5.2) under a secret key, then the finaliser of MurmurHash3. NH makes two flows collide
//! with probability 2^-32 over the choice of the key, whatever an attacker chooses; the finaliser is a bijection, so
//! it keeps that and spreads the result over all bits. A cryptographic hash (SipHash) would cost about four times as
//! much on the packet path, two 32-bit multiplications cost about three nanoseconds.

use crate::flow::TAG_MASK;

/// Words of the key: one for each input word of an IPv6 flow, then two for the finaliser.
pub const KEY_WORDS: usize = 12;

/// Gives the words of the secret key; in the programs they are constants that the verifier folds.
pub trait Key {
    fn word(&self, index: usize) -> u32;
}

impl Key for [u32; KEY_WORDS] {
    #[inline(always)]
    fn word(&self, index: usize) -> u32 {
        self[index]
    }
}

/// The hash of one flow, and what is derived from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowHash(pub u64);

impl FlowHash {
    /// An IPv4 flow from the client's side: addresses and ports as they stand in the packet.
    #[inline(always)]
    pub fn v4(key: &impl Key, source: u32, destination: u32, ports: u32, protocol: u8) -> Self {
        let sum = pair(key, 0, source, destination).wrapping_add(pair(key, 2, ports, u32::from(protocol)));
        Self(finish(key, sum))
    }

    #[inline(always)]
    pub fn v6(key: &impl Key, source: [u32; 4], destination: [u32; 4], ports: u32, protocol: u8) -> Self {
        let sum = pair(key, 0, source[0], source[1])
            .wrapping_add(pair(key, 2, source[2], source[3]))
            .wrapping_add(pair(key, 4, destination[0], destination[1]))
            .wrapping_add(pair(key, 6, destination[2], destination[3]))
            .wrapping_add(pair(key, 8, ports, u32::from(protocol)));
        Self(finish(key, sum))
    }

    /// The same flow where all flows of a client are to share a slot: the half that the slot is made of comes from `client`, the
    /// client's own hash. Two of its flows that fall on one bucket then share an entry, and have one backend anyway.
    #[inline(always)]
    pub const fn of_client(self, client: Self) -> Self {
        Self(client.0 & !0xffff_ffff | self.0 & 0xffff_ffff)
    }

    /// Another slot than [`FlowHash::slot`], as good as independent of it.
    #[inline(always)]
    pub const fn second_slot(self, slots: u32) -> u32 {
        // The bucket's half has its best bits above those that most tables use.
        slot_of_tag((self.0 as u32).wrapping_mul(0x9e37_79b1), slots)
    }

    /// What a flow entry keeps of the hash.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.0 >> 32) as u32 & TAG_MASK
    }

    /// The flow's bucket in a table of `mask + 1` buckets. Independent of the tag.
    #[inline(always)]
    pub const fn bucket(self, mask: u32) -> u32 {
        self.0 as u32 & mask
    }

    #[inline(always)]
    pub const fn slot(self, slots: u32) -> u32 {
        slot_of_tag(self.tag(), slots)
    }
}

/// The slot of a flow, from its tag alone: this is how a sweep of the flow table knows whose flows a slot still has.
/// Multiply and shift (Lemire, "Fast random integer generation in an interval", 2019) instead of a division.
#[inline(always)]
pub const fn slot_of_tag(tag: u32, slots: u32) -> u32 {
    ((tag as u64 * slots as u64) >> 32) as u32
}

#[inline(always)]
fn pair(key: &impl Key, index: usize, first: u32, second: u32) -> u64 {
    let first = u64::from(first.wrapping_add(key.word(index)));
    let second = u64::from(second.wrapping_add(key.word(index + 1)));
    first.wrapping_mul(second)
}

#[inline(always)]
fn finish(key: &impl Key, sum: u64) -> u64 {
    let secret = u64::from(key.word(KEY_WORDS - 2)) << 32 | u64::from(key.word(KEY_WORDS - 1));
    let mut hash = sum ^ secret;
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::vec;

    const KEY: [u32; KEY_WORDS] = [
        0x9e37_79b9,
        0x7f4a_7c15,
        0xf39c_c060,
        0x5ced_c834,
        0x1082_276b,
        0xf3a2_7251,
        0xf86c_6a11,
        0xd0c1_8e95,
        0x2767_f0b1,
        0x53d2_7b6e,
        0x91af_5c31,
        0x0b5d_c8f2,
    ];

    /// A change here moves every flow of every running balancer: it needs a new map layout version.
    #[test]
    fn frozen_vectors() {
        let v4 = FlowHash::v4(&KEY, 0x0a4d_0102, 0x0a4d_0064, 0xc000_0050, 6);
        let v6 = FlowHash::v6(&KEY, [0xfd77, 1, 0, 2], [0xfd77, 0, 0, 0x100], 0xc000_0050, 17);
        assert_eq!((v4.0, v6.0), (FROZEN_V4, FROZEN_V6));
    }

    const FROZEN_V4: u64 = 9_555_361_092_215_566_301;
    const FROZEN_V6: u64 = 8_410_610_274_937_816_015;

    /// Consecutive ports from one client must spread over slots like random draws: chi-squared over 64 groups.
    #[test]
    fn consecutive_flows_spread() {
        let mut groups = vec![0u32; 64];
        for port in 0..64_000u32 {
            let hash = FlowHash::v4(&KEY, 0x0201_000a, 0x6400_000a, port << 16 | 0x5000, 6);
            groups[hash.slot(64) as usize] += 1;
        }
        let expected = 1000.0;
        let chi: f64 = groups.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        // 63 degrees of freedom: 99.99 % of random tables lie below 116.
        assert!(chi < 116.0, "chi-squared {chi}");
    }

    #[test]
    fn each_input_word_matters() {
        let mut seen = HashSet::new();
        seen.insert(FlowHash::v6(&KEY, [0; 4], [0; 4], 0, 6));
        for word in 0..4 {
            let mut address = [0; 4];
            address[word] = 1;
            assert!(seen.insert(FlowHash::v6(&KEY, address, [0; 4], 0, 6)));
            assert!(seen.insert(FlowHash::v6(&KEY, [0; 4], address, 0, 6)));
        }
        assert!(seen.insert(FlowHash::v6(&KEY, [0; 4], [0; 4], 1, 6)));
        assert!(seen.insert(FlowHash::v6(&KEY, [0; 4], [0; 4], 0, 17)));
    }

    proptest::proptest! {
        #[test]
        fn slot_is_in_range(tag: u32, slots in 1u32..=crate::limits::SLOTS) {
            assert!(slot_of_tag(tag, slots) < slots);
        }
    }

    impl core::hash::Hash for FlowHash {
        fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }
}
