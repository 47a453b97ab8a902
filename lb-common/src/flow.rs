//! Flow entries: what the balancer remembers of a flow, in eight bytes, eight entries to a cache line.
//!
//! | bits | field |
//! |---|---|
//! | 63–36 | tag: upper bits of the flow hash; under `snat` the lower sixteen of them are a port ([`crate::mapping`]) |
//! | 35–32 | number of the next hop that answers take ([`crate::client_hop`]), as of the time last seen; 0: not known |
//! | 31–16 | backend number |
//! | 15–4 | time last seen, coarse units, wrapping |
//! | 3–0 | state |
//!
//! An entry is read and written as one word, so no reader sees half of it. Two CPUs that write the same place at the same
//! time lose one entry; its flow is recorded again by its next packet.

/// Entries in a bucket: one cache line.
pub const BUCKET_ENTRIES: usize = 8;

/// A bucket of the flow table's map.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Bucket(pub [u64; BUCKET_ENTRIES]);

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

/// What is known of a flow's life. Only the backend's own words make a flow established, so that nobody who merely
/// sends packets can make the table keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum FlowState {
    /// A client's packet was seen, the backend has not answered.
    HalfOpen = 1,
    /// The backend answered a SYN.
    Answered = 2,
    /// Both sides have spoken.
    Established = 3,
    /// A FIN or RST was seen.
    Closing = 4,
    /// Only the client has been heard: it went on after its first packet where the backend's answers do not pass, or it was
    /// recorded in the midst of its life because its slot moved. Most likely it was answered, but it alone says so.
    Heard = 5,
}

impl FlowState {
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            1 => Some(Self::HalfOpen),
            2 => Some(Self::Answered),
            3 => Some(Self::Established),
            4 => Some(Self::Closing),
            5 => Some(Self::Heard),
            _ => None,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half-open",
            Self::Answered => "answered",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Heard => "heard",
        }
    }

    /// After a packet of the client.
    #[inline(always)]
    pub const fn after_request(self, flags: Flags) -> Self {
        if flags.ends() {
            return Self::Closing;
        }
        match self {
            Self::Answered if flags.ack() && !flags.syn() => Self::Established,
            state => state,
        }
    }

    /// After a packet of the client, where the backend's answers go past us. Whoever sends two packets gets this far, so it
    /// keeps nobody out: such an entry lives as long as an established one, but makes room for any new flow.
    #[inline(always)]
    pub const fn after_lone_request(self, flags: Flags) -> Self {
        if flags.ends() {
            return Self::Closing;
        }
        match self {
            Self::HalfOpen if !flags.syn() => Self::Heard,
            state => state,
        }
    }

    /// After a packet of the backend.
    #[inline(always)]
    pub const fn after_reply(self, flags: Flags) -> Self {
        if flags.ends() {
            return Self::Closing;
        }
        match self {
            Self::HalfOpen if flags.syn() => Self::Answered,
            Self::HalfOpen | Self::Answered | Self::Heard if !flags.syn() => Self::Established,
            state => state,
        }
    }
}

/// The TCP flags byte; for UDP no flag is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
    /// What a datagram has.
    pub const NONE: Self = Self(0);

    #[inline(always)]
    pub const fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    #[inline(always)]
    pub const fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    #[inline(always)]
    pub const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    #[inline(always)]
    pub const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Opens a connection: SYN without ACK.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN
    }

    /// Ends a connection, or one direction of it.
    #[inline(always)]
    pub const fn ends(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }

    /// Combinations that no TCP implementation sends: none of the flags, or SYN with FIN or RST.
    #[inline(always)]
    pub const fn nonsense(self) -> bool {
        self.0 & (Self::FIN | Self::SYN | Self::RST | Self::ACK) == 0 || self.syn() && self.ends()
    }
}

/// Coarse time of flow entries: 12 bits, in units that the agent chooses close to one second.
pub const TIME_MASK: u32 = 0xfff;

/// Units since `then`, both wrapping. What looks like the last few units before a whole turn is no age: clocks are read a
/// moment before they are compared, so an entry may have been refreshed since, or on a processor that is ahead.
#[inline(always)]
pub const fn age(now: u32, then: u32) -> u32 {
    let age = now.wrapping_sub(then) & TIME_MASK;
    if age > TIME_MASK - CLOCK_SLACK { 0 } else { age }
}

/// Units by which an entry may be ahead of the clock that it is compared with. A sweep takes milliseconds, but the agent may
/// be stopped in the midst of one.
const CLOCK_SLACK: u32 = 256;

/// An established flow that was silent for this long (units, about half an hour) may make room for a new one.
pub const STALE_AFTER: u32 = 1800;

/// Bits of the hash's upper half that are kept. Two flows of one bucket have the same ones once in 2²⁸ pairs; then they share an
/// entry, and so a backend.
pub const TAG_MASK: u32 = 0xffff_fff0;

/// What is left of it beside a port.
pub const UPPER_TAG: u32 = 0xfff0_0000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry(pub u64);

impl FlowEntry {
    #[inline(always)]
    pub const fn new(tag: u32, backend: u16, seen: u32, state: FlowState) -> Self {
        let tag = tag & TAG_MASK;
        Self((tag as u64) << 32 | (backend as u64) << 16 | ((seen & TIME_MASK) as u64) << 4 | state as u64)
    }

    /// The same flow, seen now. The way of its answers is known as long as the unit of time in which it was asked for.
    #[inline(always)]
    pub const fn seen_again(self, now: u32, state: FlowState) -> Self {
        Self::new(self.tag(), self.backend(), now, state).with_client_hop(self.client_hop(now))
    }

    /// `hop` is a number of [`crate::client_hop`].
    #[inline(always)]
    pub const fn with_client_hop(self, hop: u32) -> Self {
        Self(self.0 & !(0xf << 32) | ((hop & 0xf) as u64) << 32)
    }

    /// The number of the hop that answers take now; 0: it must be asked for.
    #[inline(always)]
    pub const fn client_hop(self, now: u32) -> u32 {
        if self.seen() == now & TIME_MASK { (self.0 >> 32) as u32 & 0xf } else { 0 }
    }

    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.0 >> 32) as u32 & TAG_MASK
    }

    #[inline(always)]
    pub const fn backend(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline(always)]
    pub const fn seen(self) -> u32 {
        (self.0 >> 4) as u32 & TIME_MASK
    }

    /// None: the place is free.
    #[inline(always)]
    pub const fn state(self) -> Option<FlowState> {
        FlowState::from_bits(self.0 as u32 & 0xf)
    }

    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.0 as u32 & 0xf == 0
    }

    #[inline(always)]
    pub const fn matches(self, tag: u32) -> bool {
        self.tag() == tag & TAG_MASK && !self.is_free()
    }

    /// How much it would hurt to lose this entry: free places come first, then closing flows, stale ones, half-open ones, then
    /// answered and heard ones, each the longest silent first. From [`KEEP`] on are live established flows: nothing takes their place.
    #[inline(always)]
    pub const fn worth(self, now: u32) -> u32 {
        let age = age(now, self.seen());
        // Bit 12 of the sum is set where the age is above STALE_AFTER. Arithmetic, because a branch for each of eight entries
        // could neither be predicted by the processor nor cheaply be verified.
        let stale = (age + (TIME_MASK - STALE_AFTER)) >> 12;
        let rank = (RANKS >> (stale << 5 | (self.0 as u32 & 7) << 2)) as u32 & 0xf;
        rank << 12 | (TIME_MASK - age)
    }
}

/// Ranks by state, four bits each; in the upper half those of entries that are stale.
const RANKS: u64 = rank(FlowState::Closing, 1)
    | rank(FlowState::HalfOpen, 3)
    | rank(FlowState::Answered, 4)
    | rank(FlowState::Heard, 4)
    | (RANK_KEEP << (4 * FlowState::Established as u32))
    | (2 << (32 + 4 * FlowState::Established as u32));
const RANK_KEEP: u64 = 5;

/// The same whether stale or not.
const fn rank(state: FlowState, rank: u64) -> u64 {
    (rank << 32 | rank) << (4 * state as u32)
}

/// The least worth of an entry that must not be replaced.
pub const KEEP: u32 = (RANK_KEEP as u32) << 12;

/// Where in the bucket the flow with this tag stands.
#[inline(always)]
pub fn find(bucket: &[u64; BUCKET_ENTRIES], tag: u32) -> Option<usize> {
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        if FlowEntry(bucket[i]).matches(tag) {
            return Some(i);
        }
        i += 1;
    }
    None
}

/// The same for a flow with a port, of whose tag only the upper bits are its own; not at the places that `skipped` has bits for.
#[inline(always)]
pub fn find_upper(bucket: &[u64; BUCKET_ENTRIES], tag: u32, skipped: u32) -> Option<usize> {
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        let entry = FlowEntry(bucket[i]);
        if entry.tag() & UPPER_TAG == tag & UPPER_TAG && !entry.is_free() && skipped >> i & 1 == 0 {
            return Some(i);
        }
        i += 1;
    }
    None
}

/// The place that a new flow takes: the first one of least worth; none if every entry is a live established flow.
#[inline(always)]
pub fn place(bucket: &[u64; BUCKET_ENTRIES], now: u32) -> Option<usize> {
    // The place in the lowest bits: the least worth brings its place along.
    let mut least = u32::MAX;
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        let worth = FlowEntry(bucket[i]).worth(now) << PLACE_BITS | i as u32;
        if worth < least {
            least = worth;
        }
        i += 1;
    }
    if least >> PLACE_BITS >= KEEP { None } else { Some(least as usize & (BUCKET_ENTRIES - 1)) }
}

const PLACE_BITS: u32 = BUCKET_ENTRIES.ilog2();

/// Whether some place is free: then a flow of ours cannot have been pushed out of this bucket.
#[inline(always)]
pub fn has_room(bucket: &[u64; BUCKET_ENTRIES]) -> bool {
    let mut i = 0;
    while i < BUCKET_ENTRIES {
        if FlowEntry(bucket[i]).is_free() {
            return true;
        }
        i += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn state() -> impl Strategy<Value = FlowState> {
        prop_oneof![
            Just(FlowState::HalfOpen),
            Just(FlowState::Answered),
            Just(FlowState::Established),
            Just(FlowState::Closing),
            Just(FlowState::Heard)
        ]
    }

    fn entry() -> impl Strategy<Value = u64> {
        let used = (any::<u32>(), any::<u16>(), 0..=TIME_MASK, state())
            .prop_map(|(tag, backend, seen, state)| FlowEntry::new(tag, backend, seen, state).0);
        prop_oneof![1 => Just(0), 4 => used]
    }

    proptest! {
        #[test]
        fn round_trip(tag: u32, backend: u16, seen in 0..=TIME_MASK, state in state()) {
            let entry = FlowEntry::new(tag, backend, seen, state);
            let tag = tag & TAG_MASK;
            prop_assert_eq!((entry.tag(), entry.backend(), entry.seen(), entry.state()), (tag, backend, seen, Some(state)));
            prop_assert!(entry.matches(tag) && !entry.is_free());
        }

        /// What was found out about a flow's way back is believed in the same unit of time only.
        #[test]
        fn a_client_hop_is_known_for_a_unit(raw in entry(), hop in 0..16_u32, now in 0..=TIME_MASK, state in state()) {
            let entry = FlowEntry(raw).with_client_hop(hop);
            let again = entry.seen_again(now, state);
            prop_assert_eq!((again.tag(), again.backend(), again.seen(), again.state()), (entry.tag(), entry.backend(), now, Some(state)));
            prop_assert_eq!(again.client_hop(now), if entry.seen() == now { hop } else { 0 });
            prop_assert_eq!(again.client_hop((now + 1) & TIME_MASK), 0);
        }

        /// Whatever a bucket holds, a live established flow is never the one to go.
        #[test]
        fn live_established_flows_stay(bucket in proptest::array::uniform8(entry()), now in 0..=TIME_MASK) {
            match place(&bucket, now) {
                Some(index) => prop_assert!(FlowEntry(bucket[index]).worth(now) < KEEP),
                None => prop_assert!(bucket.iter().all(|entry| FlowEntry(*entry).worth(now) >= KEEP)),
            }
        }

        /// The table of ranks says what the words say.
        #[test]
        fn worth_in_words(raw in entry(), now in 0..=TIME_MASK) {
            let entry = FlowEntry(raw);
            let age = age(now, entry.seen());
            let rank = match entry.state() {
                None => 0,
                Some(FlowState::Closing) => 1,
                Some(FlowState::Established) if age > STALE_AFTER => 2,
                Some(FlowState::HalfOpen) => 3,
                Some(FlowState::Answered | FlowState::Heard) => 4,
                Some(FlowState::Established) => 5,
            };
            prop_assert_eq!(entry.worth(now), rank << 12 | (TIME_MASK - age));
        }

        #[test]
        fn the_first_of_least_worth_goes(bucket in proptest::array::uniform8(entry()), now in 0..=TIME_MASK) {
            let worth = |index: usize| FlowEntry(bucket[index]).worth(now);
            let least = (0..BUCKET_ENTRIES).min_by_key(|index| worth(*index)).filter(|index| worth(*index) < KEEP);
            prop_assert_eq!(place(&bucket, now), least);
        }

        #[test]
        fn free_places_are_taken_first(bucket in proptest::array::uniform8(entry()), now in 0..=TIME_MASK) {
            if has_room(&bucket) {
                prop_assert!(FlowEntry(bucket[place(&bucket, now).unwrap()]).is_free());
            }
        }

        /// A flood of SYNs, each answered or not, leaves every live established flow where it is.
        #[test]
        fn a_flood_breaks_nobody(live in proptest::collection::vec(any::<u32>(), 0..=8), flood in proptest::collection::vec(any::<(u32, bool)>(), 0..200)) {
            let mut bucket = [0; BUCKET_ENTRIES];
            for (entry, tag) in bucket.iter_mut().zip(&live) {
                *entry = FlowEntry::new(*tag, 1, 100, FlowState::Established).0;
            }
            for (tag, answered) in flood {
                if let Some(index) = place(&bucket, 110) {
                    let state = if answered { FlowState::Answered } else { FlowState::HalfOpen };
                    bucket[index] = FlowEntry::new(tag, 2, 110, state).0;
                }
            }
            let kept: Vec<_> = bucket.iter().filter(|entry| FlowEntry(**entry).backend() == 1).collect();
            prop_assert_eq!(kept.len(), live.len().min(BUCKET_ENTRIES));
        }
    }

    #[test]
    fn a_handshake_as_both_sides_send_it() {
        let mut state = FlowState::HalfOpen;
        state = state.after_reply(Flags(Flags::SYN | Flags::ACK));
        assert_eq!(state, FlowState::Answered);
        state = state.after_request(Flags(Flags::ACK));
        assert_eq!(state, FlowState::Established);
        state = state.after_request(Flags(Flags::FIN | Flags::ACK));
        assert_eq!(state, FlowState::Closing);
        assert_eq!(state.after_reply(Flags(Flags::ACK)), FlowState::Closing);
    }

    #[test]
    fn clients_alone_establish_nothing() {
        let state = FlowState::HalfOpen.after_request(Flags(Flags::ACK)).after_request(Flags::NONE);
        assert_eq!(state, FlowState::HalfOpen);
        assert_eq!(state.after_reply(Flags::NONE), FlowState::Established, "a datagram's answer does");
    }

    #[test]
    fn a_client_that_is_heard_alone() {
        let opened = FlowState::HalfOpen.after_lone_request(Flags(Flags::SYN));
        assert_eq!(opened, FlowState::HalfOpen, "a SYN again says nothing");
        let heard = opened.after_lone_request(Flags(Flags::ACK));
        assert_eq!(heard, FlowState::Heard);
        assert_eq!(FlowState::HalfOpen.after_lone_request(Flags::NONE), FlowState::Heard, "a second datagram");
        assert_eq!(heard.after_lone_request(Flags(Flags::FIN | Flags::ACK)), FlowState::Closing);
        assert!(FlowEntry::new(7, 1, 9, heard).worth(9) < KEEP, "it keeps nobody out");
    }

    #[test]
    fn time_wraps() {
        assert_eq!(age(2, TIME_MASK), 3);
        assert_eq!(age(5, 5), 0);
        assert_eq!(age(10, 11), 0, "refreshed after the clock was read");
        assert_eq!(age(TIME_MASK, 0), 0, "and across the turn");
        assert_eq!(age(3600, 0), 3600);
    }

    #[test]
    fn flag_nonsense() {
        for good in [
            Flags::SYN,
            Flags::ACK,
            Flags::SYN | Flags::ACK,
            Flags::RST,
            Flags::FIN | Flags::ACK,
            Flags::RST | Flags::ACK,
        ] {
            assert!(!Flags(good).nonsense(), "{good:#x}");
        }
        for bad in [0, 0x28, Flags::SYN | Flags::FIN, Flags::SYN | Flags::RST, 0xff] {
            assert!(Flags(bad).nonsense(), "{bad:#x}");
        }
    }
}
