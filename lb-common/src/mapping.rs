//! Source ports that are lent to flows (`snat`): what the balancer remembers of each port towards one backend, so that an
//! answer to it finds the client again.
//!
//! A backend's ports are a pool of [`Mapping`]s, by port. A mapping says itself until when it holds, so nobody has to
//! take a port back: whoever needs one takes the first that has expired, with one compare-and-swap of [`Control`]. Pools need
//! no agent for that, and no two processors ever lend the same port.
//!
//! Towards the client the flow table remembers the port: in the entries of these flows the lower sixteen bits of the tag are
//! the port's number ([`port_tag`]). The mapping knows the client exactly, so what the shorter tag confuses is told apart.

use crate::flow::{Flags, FlowState, TAG_MASK, UPPER_TAG};

/// Ports whose mappings lie side by side in one value of a pool's map.
pub const BLOCK: usize = 16;

/// Blocks that are searched for a port, so that a search ends: 128 ports in turn.
pub const BLOCKS_SEARCHED: u32 = 8;

/// What an answer to one port needs to know. In a pool's first block the first mapping is the pool's own: its `address` is
/// this host's, which the pool's ports belong to.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Mapping {
    /// [`Control`]. The other fields are valid while it has not expired.
    pub control: u64,
    /// The client's; IPv4 in the first word.
    pub address: [u32; 4],
    /// The client's, as it stands in packets.
    pub port: u16,
    pub zero: [u16; 3],
}

impl Mapping {
    /// Read once, whatever the compiler thinks of memory that only others change.
    #[inline(always)]
    pub fn control(&self) -> Control {
        // SAFETY: a reference is valid to read.
        Control(unsafe { core::ptr::read_volatile(&raw const self.control) })
    }
}

#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Block(pub [Mapping; BLOCK]);

const _: () = assert!(size_of::<Mapping>() == 32 && size_of::<Block>() == 512);

/// Values of a pool's map: one block of its own, and those of its ports.
pub const fn blocks(ports: u32) -> u32 {
    1 + ports.div_ceil(BLOCK as u32)
}

/// Block and place of the port with this number in its pool.
#[inline(always)]
pub const fn place(port: u32) -> (u32, usize) {
    (1 + port / BLOCK as u32, port as usize % BLOCK)
}

/// The tag of a flow with a port: the upper bits of its own, and the port's number in its pool.
#[inline(always)]
pub const fn port_tag(tag: u32, port: u16) -> u32 {
    tag & UPPER_TAG | (port as u32) << TAG_SHIFT
}

/// The number of the port that a flow entry's tag names.
#[inline(always)]
pub const fn port_of_tag(tag: u32) -> u16 {
    (tag >> TAG_SHIFT) as u16
}

const TAG_SHIFT: u32 = TAG_MASK.trailing_zeros();
const _: () = assert!(UPPER_TAG | 0xffff << TAG_SHIFT == TAG_MASK);

/// | bits | field |
/// |---|---|
/// | 63–32 | coarse time from which on the port may be lent to another flow; 0: it never was |
/// | 31–16 | number of the backend that the flow was given to |
/// | 15–8 | endings seen |
/// | 7–0 | state, as in flow entries |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Control(pub u64);

/// Silence after which a flow has no port any more, units of coarse time (about a second).
const UNANSWERED: u32 = 16;
const UNANSWERED_UDP: u32 = 30;
/// A datagram and its answer, as a resolver has them; the time-out of Linux's connection tracking (nf_conntrack_udp_timeout).
const ANSWERED_UDP: u32 = 30;
/// More than one of each (nf_conntrack_udp_timeout_stream is 120).
const ESTABLISHED_UDP: u32 = 180;
/// As long as the flow table remembers it, and a little longer.
const ESTABLISHED: u32 = 3700;
/// One side has ended (nf_conntrack_tcp_timeout_fin_wait).
const HALF_CLOSED: u32 = 120;
/// Both have, the backend first: it keeps the pair of ports in TIME-WAIT for a minute (tcp(7), TCP_TIMEWAIT_LEN).
const TIME_WAIT: u32 = 60;
/// Both have, the client first: the backend forgets the connection with the last acknowledgement, which may be repeated.
const CLOSED: u32 = 4;
/// A reset ends it at once, if it was a valid one: then nothing follows.
const RESET: u32 = 2;

impl Control {
    const CLIENT_FIN: u32 = 1;
    const BACKEND_FIN: u32 = 2;
    const BACKEND_FIRST: u32 = 4;
    const RST: u32 = 8;

    #[inline(always)]
    const fn new(expires: u32, backend: u16, endings: u32, state: u32) -> Self {
        Self((expires as u64) << 32 | (backend as u64) << 16 | (endings as u64) << 8 | state as u64)
    }

    /// For a flow of which one packet of its client was seen.
    #[inline(always)]
    pub const fn opened(backend: u16, now: u32, udp: bool) -> Self {
        let limit = if udp { UNANSWERED_UDP } else { UNANSWERED };
        Self::new(now.wrapping_add(limit), backend, 0, FlowState::HalfOpen as u32)
    }

    #[inline(always)]
    pub const fn backend(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline(always)]
    pub const fn expires(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The port may be lent.
    #[inline(always)]
    pub const fn is_free(self, now: u32) -> bool {
        self.expires() <= now
    }

    #[inline(always)]
    const fn endings(self) -> u32 {
        self.0 as u32 >> 8 & 0xff
    }

    #[inline(always)]
    const fn state(self) -> u32 {
        self.0 as u32 & 0xff
    }

    /// After a packet of the client.
    #[inline(always)]
    pub const fn after_request(self, flags: Flags, now: u32, udp: bool) -> Self {
        let mut endings = self.endings();
        if flags.fin() {
            endings |= Self::CLIENT_FIN;
        }
        let state = match self.state() {
            ANSWERED if !flags.syn() => FlowState::Established as u32,
            state => state,
        };
        self.after(endings, state, flags, now, udp)
    }

    /// After a packet of the backend.
    #[inline(always)]
    pub const fn after_reply(self, flags: Flags, now: u32, udp: bool) -> Self {
        let mut endings = self.endings();
        if flags.fin() {
            let first = if endings & Self::CLIENT_FIN == 0 { Self::BACKEND_FIRST } else { 0 };
            endings |= Self::BACKEND_FIN | first;
        }
        let state = match self.state() {
            HALF_OPEN => FlowState::Answered as u32,
            state => state,
        };
        self.after(endings, state, flags, now, udp)
    }

    #[inline(always)]
    const fn after(self, endings: u32, state: u32, flags: Flags, now: u32, udp: bool) -> Self {
        let endings = if flags.rst() { endings | Self::RST } else { endings };
        const BOTH: u32 = Control::CLIENT_FIN | Control::BACKEND_FIN;
        let limit = if endings & Self::RST != 0 {
            RESET
        } else if endings & BOTH == BOTH {
            if endings & Self::BACKEND_FIRST != 0 { TIME_WAIT } else { CLOSED }
        } else if endings != 0 {
            HALF_CLOSED
        } else if state == FlowState::Established as u32 {
            if udp { ESTABLISHED_UDP } else { ESTABLISHED }
        } else if state == ANSWERED && udp {
            ANSWERED_UDP
        } else if udp {
            UNANSWERED_UDP
        } else {
            UNANSWERED
        };
        Self::new(now.wrapping_add(limit), self.backend(), endings, state)
    }
}

const HALF_OPEN: u32 = FlowState::HalfOpen as u32;
const ANSWERED: u32 = FlowState::Answered as u32;

/// The first place in the block whose port may be lent; `valid` places of it belong to ports.
#[inline(always)]
pub fn first_free(block: &[Mapping; BLOCK], valid: u32, now: u32) -> Option<usize> {
    // Arithmetic, because of a branch for each place the verifier would follow every combination.
    let mut free = 0;
    let mut i = 0;
    while i < BLOCK {
        // Bit 32 is set where the mapping has expired.
        let expired = (1_u64 << 32 | u64::from(now)) - (block[i].control >> 32);
        free |= (expired >> 32) << i;
        i += 1;
    }
    let free = free as u32 & ((1 << valid) - 1);
    // Ones below the lowest one, which are as many as its place says: of all sixteen where there is none.
    let below = !free & free.wrapping_sub(1) & 0xffff;
    let pairs = below - (below >> 1 & 0x5555);
    let fours = (pairs & 0x3333) + (pairs >> 2 & 0x3333);
    let eights = (fours + (fours >> 4)) & 0x0f0f;
    let place = (eights + (eights >> 8)) & 0x1f;
    (place < BLOCK as u32).then_some(place as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u32 = 5_000_000;
    const FIN: Flags = Flags(Flags::FIN | Flags::ACK);
    const ACK: Flags = Flags(Flags::ACK);
    const SYN: Flags = Flags(Flags::SYN);
    const SYN_ACK: Flags = Flags(Flags::SYN | Flags::ACK);
    const RST: Flags = Flags(Flags::RST);

    /// A packet: of the client or of the backend.
    #[derive(Debug, Clone, Copy)]
    enum Sent {
        Client(Flags),
        Backend(Flags),
    }
    use Sent::{Backend, Client};

    /// Units for which the port is held after these packets, all of them at once.
    fn held(packets: &[Sent], udp: bool) -> u32 {
        let start = Control::opened(7, NOW, udp);
        let end = packets.iter().fold(start, |control, packet| match packet {
            Client(flags) => control.after_request(*flags, NOW, udp),
            Backend(flags) => control.after_reply(*flags, NOW, udp),
        });
        assert_eq!(end.backend(), 7);
        end.expires() - NOW
    }

    #[test]
    fn a_connection_holds_its_port_as_long_as_it_must() {
        let open = [Client(SYN), Backend(SYN_ACK), Client(ACK)];
        let after = |packets: &[Sent]| held(&[&open, packets].concat(), false);
        assert_eq!(held(&[], false), UNANSWERED);
        assert_eq!(held(&[Client(SYN)], false), UNANSWERED);
        assert_eq!(held(&[Client(SYN), Backend(SYN_ACK)], false), UNANSWERED);
        assert_eq!(held(&[Client(SYN), Backend(SYN_ACK), Client(SYN)], false), UNANSWERED);
        assert_eq!(after(&[]), ESTABLISHED);
        assert_eq!(after(&[Client(FIN)]), HALF_CLOSED);
        assert_eq!(after(&[Backend(FIN)]), HALF_CLOSED);
        assert_eq!(after(&[Client(FIN), Backend(ACK)]), HALF_CLOSED);
        assert_eq!(after(&[Client(FIN), Backend(FIN), Client(ACK)]), CLOSED);
        assert_eq!(after(&[Backend(FIN), Client(FIN), Backend(ACK)]), TIME_WAIT);
        assert_eq!(after(&[Client(RST)]), RESET);
        assert_eq!(after(&[Backend(FIN), Client(RST)]), RESET);
        assert_eq!(held(&[Client(SYN), Backend(Flags(Flags::RST | Flags::ACK))], false), RESET);
    }

    #[test]
    fn a_question_and_its_answer_hold_a_port_for_less_than_a_conversation() {
        let one = [Client(Flags::NONE), Backend(Flags::NONE)];
        assert_eq!(held(&[], true), UNANSWERED_UDP);
        assert_eq!(held(&one, true), ANSWERED_UDP);
        assert_eq!(held(&[one, one].concat(), true), ESTABLISHED_UDP);
    }

    #[test]
    fn ports_have_places_of_their_own() {
        assert_eq!((place(0), place(15), place(16), place(99)), ((1, 0), (1, 15), (2, 0), (7, 3)));
        assert_eq!((blocks(1), blocks(16), blocks(17), blocks(100)), (2, 2, 3, 8));
        assert!(blocks(100) - 1 <= BLOCKS_SEARCHED, "of a pool of a hundred ports none is overlooked");
    }

    proptest! {
        #[test]
        fn the_first_free_one_is_found(expires in proptest::array::uniform16(NOW - 3..NOW + 3), valid in 1u32..=16) {
            let block = expires.map(|expires| Mapping { control: Control::new(expires, 1, 0, 1).0, ..Mapping::default() });
            let expected = expires.iter().take(valid as usize).position(|expires| *expires <= NOW);
            prop_assert_eq!(first_free(&block, valid, NOW), expected);
        }

        #[test]
        fn tags_carry_ports(tag: u32, port: u16) {
            prop_assert_eq!(port_of_tag(port_tag(tag, port)), port);
            prop_assert_eq!(port_tag(tag, port) & UPPER_TAG, tag & UPPER_TAG);
            prop_assert_eq!(port_tag(tag, port) & !TAG_MASK, 0);
        }
    }
}
