//! The properties of the slot table, by generated cases; the frozen vectors; the figures that the module promises.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::balance::Band;
use super::*;
use crate::model::config::Protocol;

const SEED: Seed = Seed(*b"0123456789abcdef");
const SMALL: u32 = 4_099;

fn service() -> ServiceAddress {
    ServiceAddress { vip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), port: 80, protocol: Protocol::Tcp }
}

fn backend(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 8080)
}

fn table(slots: u32, weights: &BTreeMap<SocketAddr, u16>) -> Table {
    let mut table = Table::new(SEED, service(), slots);
    table.update(weights);
    table
}

/// By slot, the backend itself: comparable between tables with different columns.
fn owners(table: &Table, indices: &[u16]) -> Vec<Option<SocketAddr>> {
    let backends: Vec<SocketAddr> = table.backends().collect();
    indices.iter().map(|&index| backends.get(usize::from(index)).copied()).collect()
}

fn corrections(table: &Table) -> usize {
    table.plain.iter().zip(&table.corrected).filter(|(plain, corrected)| plain != corrected).count()
}

/// Slots that changed hands although neither their old nor their new holder is the backend that the change was about.
fn needless(before: &[Option<SocketAddr>], after: &[Option<SocketAddr>], changed: SocketAddr, rises: bool) -> usize {
    let justified = |old: &Option<SocketAddr>, new: &Option<SocketAddr>| {
        old == new || if rises { *new == Some(changed) } else { *old == Some(changed) }
    };
    before.iter().zip(after).filter(|(old, new)| !justified(old, new)).count()
}

fn assert_shares(table: &Table) {
    let total: u64 = table.columns.iter().map(|column| u64::from(column.weight)).sum();
    for (index, column) in (0_u16..).zip(&table.columns) {
        let count = table.corrected.iter().filter(|&&holder| holder == index).count() as f64;
        let exact = table.plain.len() as f64 * f64::from(column.weight) / total as f64;
        let allowed = (exact * 0.01 + 1e-9).max(if exact < 100.0 { 1.0 } else { 0.0 });
        assert!((count - exact).abs() <= allowed, "{} has {count} slots instead of {exact}", column.backend);
    }
}

fn weights() -> impl Strategy<Value = BTreeMap<SocketAddr, u16>> {
    let weight = prop_oneof![Just(0_u16), Just(1), 1_u16..=1000, Just(u16::MAX)];
    prop::collection::btree_map((0_u16..300).prop_map(backend), weight, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn shares_are_within_one_per_cent_and_the_correction_is_the_smallest(weights in weights()) {
        let table = table(SMALL, &weights);
        assert_shares(&table);
        let total: u64 = table.columns.iter().map(|column| u64::from(column.weight)).sum();
        let (mut surplus, mut lack) = (0, 0);
        for (index, column) in (0_u16..).zip(&table.columns) {
            let count = table.plain.iter().filter(|&&holder| holder == index).count();
            let band = Band::new(SMALL, column.weight, total);
            surplus += count.saturating_sub(band.high as usize);
            lack += (band.low as usize).saturating_sub(count);
        }
        prop_assert_eq!(corrections(&table), surplus.max(lack));
        let empty = weights.values().all(|&weight| weight == 0);
        prop_assert!(table.assignments().iter().all(|&holder| (holder == NONE) == empty));
    }

    /// One weight changes: the plain table moves slots only to or from that backend, and the table that is handed out
    /// does not move more beside that than the two corrections touch.
    #[test]
    fn a_weight_that_rises_only_pulls_and_one_that_falls_only_lets_go(
        mut weights in weights(), who in 0_u16..300, low in 0_u16..1000, more in 1_u16..1000,
    ) {
        let who = backend(who);
        weights.insert(who, low);
        let before = table(SMALL, &weights);
        weights.insert(who, low + more);
        let after = table(SMALL, &weights);
        let (plain_before, plain_after) = (owners(&before, &before.plain), owners(&after, &after.plain));
        prop_assert_eq!(needless(&plain_before, &plain_after, who, true), 0);
        prop_assert_eq!(needless(&plain_after, &plain_before, who, false), 0);
        let bound = corrections(&before) + corrections(&after);
        let (given_before, given_after) = (owners(&before, &before.corrected), owners(&after, &after.corrected));
        prop_assert!(needless(&given_before, &given_after, who, true) <= bound);
        prop_assert!(needless(&given_after, &given_before, who, false) <= bound);
    }

    /// Whatever way a table came by its weights, it is the table of those weights: order does not matter, an update is
    /// as good as a build, and what returns gets the same slots back.
    #[test]
    fn only_the_present_weights_count(
        steps in prop::collection::vec(weights(), 1..4), one in any::<prop::sample::Index>(), weight in 0_u16..1200,
    ) {
        let mut table = Table::new(SEED, service(), SMALL);
        for step in &steps {
            table.update(step);
            prop_assert_eq!(table.assignments(), build(SEED, service(), SMALL, step));
            // One that is there, or one that is not.
            let mut other = step.clone();
            let known = step.keys().copied().chain([backend(999)]).collect::<Vec<_>>();
            other.insert(known[one.index(known.len())], weight);
            table.update(&other);
            prop_assert_eq!(table.assignments(), build(SEED, service(), SMALL, &other));
            table.update(step);
            prop_assert_eq!(table.assignments(), build(SEED, service(), SMALL, step));
            prop_assert!(!table.update(step));
            // One backend after the other, the last address first.
            let mut slowly = Table::new(SEED, service(), SMALL);
            let mut some = BTreeMap::new();
            for (&backend, &weight) in step.iter().rev() {
                some.insert(backend, weight);
                slowly.update(&some);
            }
            prop_assert_eq!(slowly.assignments(), table.assignments());
        }
    }
}

#[test]
fn the_bands_are_one_per_cent_or_the_next_whole_slot() {
    for (slots, weight, total, low, high) in [
        (65_537, 1, 1, 64_882, 66_192),
        (65_537, 1, 3, 21_628, 22_064),
        (65_537, 1, 1000, 65, 66),
        (65_537, 1, 100_000, 0, 1),
        (65_536, 1, 65_536, 1, 1),
        (4_099, 1000, 3000, 1353, 1379),
    ] {
        assert_eq!(Band::new(slots, weight, total), Band { low, high }, "{slots} slots, weight {weight} of {total}");
    }
}

/// Users' flows depend on this mapping (every node of a cluster, before and after an upgrade): it must never change.
#[test]
fn frozen_vectors() {
    let digest = |table: &Table| {
        use sha2::Digest;
        let bytes: Vec<u8> = table.assignments().iter().flat_map(|index| index.to_le_bytes()).collect();
        sha2::Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let equal = table(DEFAULT_SLOTS, &(1..=3).map(|n| (backend(n), 1)).collect());
    let unequal = table(DEFAULT_SLOTS, &(1..=10).map(|n| (backend(n), n * 100)).collect());
    let v6 = ServiceAddress { vip: "2001:db8::1".parse().unwrap(), port: 53, protocol: Protocol::Udp };
    let hosts = (1..=4).map(|n| (SocketAddr::new(Ipv6Addr::from(0xfd00_u128 << 112 | n).into(), 5353), n as u16));
    let mut over_v6 = Table::new(SEED, v6, SMALL);
    over_v6.update(&hosts.collect());
    assert_eq!(equal.assignments()[..16], [1, 2, 1, 0, 0, 1, 0, 0, 2, 2, 1, 2, 2, 0, 2, 2]);
    assert_eq!(digest(&equal), "355d8ec84a7fa9c0");
    assert_eq!(digest(&unequal), "882a8d1c5f80470f");
    assert_eq!(digest(&over_v6), "936b201e7456f006");
}

#[test]
fn service_and_seed_each_give_another_table() {
    let weights: BTreeMap<_, _> = (1..=3).map(|n| (backend(n), 1)).collect();
    let base = build(SEED, service(), SMALL, &weights);
    let others = [
        build(Seed(*b"0123456789abcdeg"), service(), SMALL, &weights),
        build(SEED, ServiceAddress { port: 81, ..service() }, SMALL, &weights),
        build(SEED, ServiceAddress { protocol: Protocol::Udp, ..service() }, SMALL, &weights),
        build(SEED, ServiceAddress { vip: "192.0.2.11".parse().unwrap(), ..service() }, SMALL, &weights),
    ];
    for other in others {
        let same = base.iter().zip(&other).filter(|(a, b)| a == b).count();
        // Independent tables agree on a third of the slots.
        assert!(same * 100 < SMALL as usize * 40, "{same} of {SMALL} slots agree");
    }
}

/// The figures in the module's documentation, with room for another seed.
#[test]
fn little_is_corrected_and_little_moves_needlessly() {
    for (backends, corrected_limit, needless_limit) in [(3, 0.001, 0.001), (10, 0.004, 0.002)] {
        let mut weights: BTreeMap<_, _> = (1..=backends).map(|n| (backend(n), 100)).collect();
        let mut table = table(DEFAULT_SLOTS, &weights);
        assert_shares(&table);
        let before = owners(&table, table.assignments());
        let limit = |share: f64| (share * f64::from(DEFAULT_SLOTS)) as usize;
        assert!(corrections(&table) <= limit(corrected_limit), "{backends}: {} corrected", corrections(&table));
        weights.remove(&backend(1));
        table.update(&weights);
        let moved = needless(&before, &owners(&table, table.assignments()), backend(1), false);
        assert!(moved <= limit(needless_limit), "{backends}: {moved} moved needlessly");
    }
}
