//! What one more flow costs at a backend, by how many are there, and which backend a new flow is given for it. The agent
//! learns the prices and writes them; the kernel reads them for each new flow; the simulator runs this very code.
//!
//! Integers only, no division and no loop of unknown length: a program that the verifier takes can call all of it.

/// Occupancies are told apart in this many buckets: 0 to 15 exactly, then in steps of a third.
pub const BUCKETS: usize = 32;
/// The first bucket that holds more than one occupancy.
const FIRST_WIDE: usize = 16;
/// The lowest occupancy of each bucket: `round(16 · 1.33^k)` from the seventeenth on.
pub const EDGES: [u32; BUCKETS] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 21, 28, 38, 50, 67, 89, 118, 157, 208, 277, 369, 490,
    652, 867, 1153,
];
/// Prices are delays: this many units are a second, so that a word reaches from 62 ns to 268 s.
pub const UNITS_PER_SECOND: u32 = 16_000_000;
/// Occupancy has eight fractional bits, so that it can be an expected value.
pub const OCCUPANCY_ONE: u32 = 1 << 8;
/// A backend that is passed over gets one flow in this time, to see whether it is well again.
pub const TRIAL_EVERY_MS: u32 = 1_000;
/// So many flows without a word from the backend are needed before its silence means something.
pub const STALL_FLOWS: u32 = 3;
/// So many answers in a row that are quicker than usual mean that the work is not being done. Of answers that are, about a third
/// are so quick, and of such a run would be chance once in 10^12; of a half, once in 10^7.
pub const QUICK_RUN: u32 = 24;
/// Up to this size every backend of a pool is looked at, beyond it [`CANDIDATES`] from the slot table.
pub const SMALL_POOL: usize = 16;
pub const CANDIDATES: usize = 4;

/// 2^24 / width of each bucket: interpolation multiplies instead of dividing.
const RECIPROCALS: [u32; BUCKETS] = reciprocals();

const fn reciprocals() -> [u32; BUCKETS] {
    let mut out = [0; BUCKETS];
    let mut bucket = 0;
    while bucket + 1 < BUCKETS {
        out[bucket] = (1 << 24) / (EDGES[bucket + 1] - EDGES[bucket]);
        bucket += 1;
    }
    out
}

/// The bucket of an occupancy: four comparisons for the wide ones.
#[inline(always)]
pub const fn bucket(occupancy: u32) -> usize {
    if occupancy < FIRST_WIDE as u32 {
        return occupancy as usize;
    }
    let mut at = FIRST_WIDE;
    let mut step = 8;
    while step > 0 {
        if occupancy >= EDGES[(at + step) & (BUCKETS - 1)] {
            at += step;
        }
        step /= 2;
    }
    at & (BUCKETS - 1)
}

/// What one more flow costs at the lower edge of each bucket; two cache lines a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Prices(pub [u32; BUCKETS]);

impl Prices {
    /// The price at an occupancy with eight fractional bits, linear between the edges. A table that falls where it should rise
    /// counts as flat there.
    #[inline(always)]
    pub const fn at(&self, occupancy: u32) -> u32 {
        let bucket = bucket(occupancy / OCCUPANCY_ONE);
        let low = self.0[bucket];
        if bucket + 1 >= BUCKETS {
            return low;
        }
        let rise = self.0[(bucket + 1) & (BUCKETS - 1)].saturating_sub(low) as u64;
        let beyond = (occupancy - EDGES[bucket] * OCCUPANCY_ONE) as u64;
        // Sixteen fractional bits of the way to the next edge.
        let way = (beyond * RECIPROCALS[bucket] as u64) >> 16;
        low.saturating_add(((rise * way) >> 16) as u32)
    }
}

/// What the agent says of a backend beside its prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Without a completion for so long, and [`STALL_FLOWS`] waiting, it is passed over; 0: never.
    pub stall_ms: u32,
    /// After so many failures in a row it is passed over; 0: never.
    pub trip: u32,
    /// An open flow stands for this many requests in flight (16 fractional bits), where flows carry many requests: then a
    /// quarter of the occupancy is what open flows let expect. 0: only requests in flight count.
    pub duty: u32,
    /// Answers below so many microseconds are quick ([`QUICK_RUN`]); 0: none is.
    pub quick_us: u32,
}

/// What the kernel knows of a backend now. Times are milliseconds of any clock that does not go backwards, and wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Live {
    /// Requests that have no answer yet; where answers do not pass, open flows.
    pub in_flight: u32,
    pub open: u32,
    /// Failures since the last success.
    pub failures: u32,
    /// Quick answers in a row.
    pub quick: u32,
    /// When it last answered, or was given the first flow after having none.
    pub heard_ms: u32,
    /// When it last got a flow although it is passed over.
    pub trial_ms: u32,
}

impl Live {
    /// Whether it is passed over: it fails, it answers without doing the work, or it holds flows and nothing comes back. Failures count as flows that nothing
    /// came back of, so that one that hangs stays passed over when its flows have timed out.
    #[inline(always)]
    pub const fn is_out(&self, terms: &Terms, now_ms: u32) -> bool {
        let failing = terms.trip > 0 && self.failures >= terms.trip || self.quick >= QUICK_RUN;
        let unheard = self.in_flight.saturating_add(self.failures);
        let stalled =
            terms.stall_ms > 0 && unheard >= STALL_FLOWS && now_ms.wrapping_sub(self.heard_ms) > terms.stall_ms;
        failing || stalled
    }

    /// The occupancy that prices go by, with eight fractional bits.
    #[inline(always)]
    pub const fn occupancy(&self, terms: &Terms) -> u32 {
        // Beyond the last edge all occupancies are the same, and nothing below can overflow.
        const MOST: u32 = 1 << 12;
        let now = (if self.in_flight < MOST { self.in_flight } else { MOST }) * OCCUPANCY_ONE;
        if terms.duty == 0 {
            return now;
        }
        let open = if self.open < 4 * MOST { self.open } else { 4 * MOST };
        let expected = (open as u64 * terms.duty as u64) >> 8;
        let expected = if expected < (MOST * OCCUPANCY_ONE) as u64 { expected as u32 } else { MOST * OCCUPANCY_ONE };
        (3 * now + expected) / 4
    }

    /// What it asks for a new flow; none: it is passed over and no trial is due.
    #[inline(always)]
    pub const fn offer(&self, prices: &Prices, terms: &Terms, now_ms: u32) -> Option<u32> {
        if self.is_out(terms, now_ms) && now_ms.wrapping_sub(self.trial_ms) < TRIAL_EVERY_MS {
            return None;
        }
        Some(prices.at(self.occupancy(terms)))
    }

    /// Notes a new flow that it was given, before it is counted.
    #[inline(always)]
    pub const fn picked(&mut self, terms: &Terms, now_ms: u32) {
        if self.is_out(terms, now_ms) {
            self.trial_ms = now_ms;
        }
    }

    /// A request, or where answers do not pass, a flow.
    #[inline(always)]
    pub const fn began(&mut self, now_ms: u32) {
        // One that had nothing to do was not silent. One that fails is: its flows only time out.
        if self.in_flight == 0 && self.failures == 0 {
            self.heard_ms = now_ms;
        }
        self.in_flight = self.in_flight.saturating_add(1);
    }

    #[inline(always)]
    pub const fn succeeded(&mut self, terms: &Terms, now_ms: u32, latency_us: u32) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.failures = 0;
        self.heard_ms = now_ms;
        self.quick = if latency_us < terms.quick_us { self.quick.saturating_add(1) } else { 0 };
    }

    #[inline(always)]
    pub const fn failed(&mut self, now_ms: u32) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.failures = self.failures.saturating_add(1);
        // The next trial is a while after the last failure.
        self.trial_ms = now_ms;
    }
}

/// The cheapest of the offers so far; equal ones are decided by `lot`, which the caller draws for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cheapest {
    key: u64,
    backend: u32,
}

impl Cheapest {
    pub const NONE: Self = Self { key: u64::MAX, backend: u32::MAX };

    #[inline(always)]
    pub const fn hear(&mut self, backend: u32, price: u32, lot: u32) {
        let key = (price as u64) << 32 | lot as u64;
        // `<=` so that the dearest price with the highest lot is still an offer.
        if key <= self.key {
            self.key = key;
            self.backend = backend;
        }
    }

    #[inline(always)]
    pub const fn backend(&self) -> Option<u32> {
        if self.backend == u32::MAX { None } else { Some(self.backend) }
    }
}

/// A lot for each candidate from one hash of the flow (SplitMix64's finaliser).
#[inline(always)]
pub const fn lot(flow_hash: u64, candidate: u32) -> u32 {
    let mut x = flow_hash.wrapping_add((candidate as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) as u32
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wide_buckets_are_a_third_wider_each() {
        let mut exact = 16.0_f64;
        for edge in &EDGES[FIRST_WIDE..] {
            assert_eq!(f64::from(*edge), exact.round(), "{exact}");
            exact *= 1.33;
        }
    }

    #[test]
    fn every_occupancy_is_in_the_bucket_whose_edges_hold_it() {
        for occupancy in 0..5_000 {
            let at = bucket(occupancy);
            assert!(EDGES[at] <= occupancy && EDGES.get(at + 1).is_none_or(|next| occupancy < *next), "{occupancy}");
        }
        assert_eq!(bucket(u32::MAX), BUCKETS - 1);
    }

    fn rising(steps: &[u32]) -> Prices {
        let mut sum = 0_u32;
        let values: Vec<u32> = steps
            .iter()
            .map(|step| {
                sum = sum.saturating_add(*step);
                sum
            })
            .collect();
        Prices(values.try_into().expect("one a bucket"))
    }

    proptest! {
        #[test]
        fn prices_rise_with_occupancy_and_stay_between_their_edges(
            steps in prop::collection::vec(0u32..200_000_000, BUCKETS),
            occupancy in 0u32..(1 << 12) * OCCUPANCY_ONE,
        ) {
            let prices = rising(&steps);
            let (here, next) = (prices.at(occupancy), prices.at(occupancy + 1));
            prop_assert!(here <= next, "{here} {next}");
            let bucket = bucket(occupancy / OCCUPANCY_ONE);
            prop_assert!(prices.0[bucket] <= here && here <= prices.0[(bucket + 1).min(BUCKETS - 1)]);
        }

        #[test]
        fn any_table_and_any_state_give_an_answer(
            table in prop::collection::vec(any::<u32>(), BUCKETS),
            live in any::<(u32, u32, u32, u32, u32)>(),
            terms in any::<(u32, u32, u32, u32)>(),
            now in any::<u32>(),
        ) {
            let prices = Prices(table.try_into().expect("one a bucket"));
            let (in_flight, open, failures, heard_ms, trial_ms) = live;
            let mut live = Live { in_flight, open, failures, quick: 0, heard_ms, trial_ms };
            let terms = Terms { stall_ms: terms.0, trip: terms.1, duty: terms.2, quick_us: terms.3 };
            if let Some(price) = live.offer(&prices, &terms, now) {
                prop_assert!(price >= *prices.0.iter().min().unwrap());
            }
            live.picked(&terms, now);
            live.began(now);
            live.failed(now);
            live.succeeded(&terms, now, 5);
            prop_assert_eq!(live.failures, 0);
        }
    }

    #[test]
    fn the_middle_of_a_wide_bucket_costs_the_mean_of_its_edges() {
        let mut table = [1_000; BUCKETS];
        table[17..].fill(3_000);
        // Bucket 16 is 16 to 20; 18.5 is half way.
        let price = Prices(table).at(18 * OCCUPANCY_ONE + OCCUPANCY_ONE / 2);
        assert!((1_999..=2_000).contains(&price), "{price}");
    }

    const TERMS: Terms = Terms { stall_ms: 20, trip: 6, duty: 0, quick_us: 0 };

    #[test]
    fn silence_and_failures_pass_a_backend_over_but_for_a_trial_each_second() {
        let prices = Prices([5; BUCKETS]);
        let mut live = Live { heard_ms: 1_000, trial_ms: 1_000, in_flight: 3, ..Live::default() };
        assert_eq!(live.offer(&prices, &TERMS, 1_020), Some(5), "not yet silent for long enough");
        assert_eq!(live.offer(&prices, &TERMS, 1_021), None);
        live.in_flight = 2;
        assert_eq!(live.offer(&prices, &TERMS, 1_500), Some(5), "two flows prove nothing");
        live.began(1_550);
        live.failed(1_600);
        assert_eq!(live.offer(&prices, &TERMS, 1_601), None, "a failure is a flow that nothing came back of");
        assert_eq!(live.offer(&prices, &TERMS, 2_600), Some(5), "a trial is due");
        live.picked(&TERMS, 2_600);
        assert_eq!(live.offer(&prices, &TERMS, 2_601), None, "one is enough");
        live.succeeded(&TERMS, 2_650, 1);
        assert_eq!(live.offer(&prices, &TERMS, 2_651), Some(5));
        for _ in 0..6 {
            live.failed(2_700);
        }
        assert_eq!(live.offer(&prices, &Terms { stall_ms: 0, ..TERMS }, 2_701), None, "six failures in a row");
    }

    #[test]
    fn a_run_of_answers_that_are_too_quick_passes_a_backend_over_until_one_is_not() {
        let terms = Terms { quick_us: 2_000, ..TERMS };
        let mut live = Live::default();
        for answer in 0..QUICK_RUN {
            assert!(!live.is_out(&terms, 50), "after {answer}");
            live.began(50);
            live.succeeded(&terms, 50, 1_999);
        }
        assert!(live.is_out(&terms, 50));
        live.began(1_100);
        live.succeeded(&terms, 1_100, 2_000);
        assert!(!live.is_out(&terms, 1_100));
    }

    #[test]
    fn time_may_wrap() {
        let live = Live { heard_ms: u32::MAX - 5, in_flight: 3, ..Live::default() };
        assert!(!live.is_out(&TERMS, 10));
        assert!(live.is_out(&TERMS, 20));
    }

    #[test]
    fn open_flows_count_by_their_duty() {
        let live = Live { in_flight: 6, open: 40, ..Live::default() };
        assert_eq!(live.occupancy(&TERMS), 6 * OCCUPANCY_ONE);
        // Busy a quarter of the time, forty flows let expect ten requests.
        assert_eq!(live.occupancy(&Terms { duty: 1 << 14, ..TERMS }), 7 * OCCUPANCY_ONE);
    }

    #[test]
    fn equal_prices_are_shared_evenly() {
        let mut wins = [0_u32; 4];
        for flow in 0..4_000_u64 {
            let mut cheapest = Cheapest::NONE;
            for candidate in 0..4 {
                cheapest.hear(candidate, 7, lot(flow.wrapping_mul(0x2545_f491_4f6c_dd1d), candidate));
            }
            wins[cheapest.backend().expect("four offers") as usize] += 1;
        }
        assert!(wins.iter().all(|n| (900..1_100).contains(n)), "{wins:?}");
        assert_eq!(Cheapest::NONE.backend(), None);
    }
}
