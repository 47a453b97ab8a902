//! The table of a service whose backends take turns: each has its share of the slots, spread as evenly as whole slots can be, so
//! that whoever walks through it gives every backend its turn.
//!
//! The k-th of a backend's n slots wants to stand at (k + ½) / n of the table; sorted by that, no two turns of a backend are further
//! apart than its share asks for, by more than a slot for each other backend.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::NONE;

/// By slot, the index of its backend in the ascending order of those that weigh anything, or [`NONE`] if there is none.
pub fn rotation(slots: u32, weights: &BTreeMap<SocketAddr, u16>) -> Vec<u16> {
    let weights: Vec<u64> = weights.values().filter(|weight| **weight > 0).map(|weight| u64::from(*weight)).collect();
    if weights.is_empty() {
        return vec![NONE; slots as usize];
    }
    let mut places: Vec<(u64, u16)> = Vec::with_capacity(slots as usize);
    for (index, count) in (0..NONE).zip(shares(u64::from(slots), &weights)) {
        places.extend((0..count).map(|k| (((2 * k + 1) << 32) / (2 * count), index)));
    }
    places.sort_unstable();
    places.into_iter().map(|(_, index)| index).collect()
}

/// Whole slots by weight; what is left over goes to those that have lost most by rounding (largest remainder).
fn shares(slots: u64, weights: &[u64]) -> Vec<u64> {
    let total: u64 = weights.iter().sum();
    let mut counts: Vec<u64> = weights.iter().map(|weight| weight * slots / total).collect();
    let mut by_loss: Vec<usize> = (0..weights.len()).collect();
    by_loss.sort_by_key(|index| (std::cmp::Reverse(weights[*index] * slots % total), *index));
    let missing = slots - counts.iter().sum::<u64>();
    by_loss.into_iter().cycle().take(missing as usize).for_each(|index| counts[index] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(weights: &[u16]) -> BTreeMap<SocketAddr, u16> {
        (1..).zip(weights).map(|(n, weight)| (SocketAddr::from(([10, 0, 0, n], 80)), *weight)).collect()
    }

    #[test]
    fn equals_take_turns_and_weights_are_spread() {
        assert_eq!(rotation(7, &pool(&[1, 1, 1])), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(rotation(8, &pool(&[2, 1, 0, 1])), [0, 1, 2, 0, 0, 1, 2, 0]);
        assert_eq!(rotation(3, &pool(&[0])), [NONE; 3]);
    }

    proptest! {
        /// In any stretch of the table a backend has its share, give or take a slot or two.
        #[test]
        fn every_stretch_is_fair(weights in prop::collection::vec(0_u16..50, 1..9), start in 0_usize..500, length in 1_usize..500) {
            let pool = pool(&weights);
            let weights: Vec<u16> = weights.into_iter().filter(|weight| *weight > 0).collect();
            prop_assume!(!weights.is_empty());
            let table = rotation(1009, &pool);
            prop_assert_eq!(table.len(), 1009);
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let stretch: Vec<u16> = table.iter().copied().skip(start).take(length).collect();
            for (index, weight) in (0_u16..).zip(&weights) {
                let has = stretch.iter().filter(|holder| **holder == index).count() as f64;
                let due = stretch.len() as f64 * f64::from(*weight) / total;
                prop_assert!((has - due).abs() <= 2.0 + weights.len() as f64 / 2.0, "{index}: {has} of {due}");
            }
        }
    }
}
