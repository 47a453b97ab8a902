//! One slot of a service's table: which backend new flows of this slot get, which one had it before, and what that
//! means for flows that nobody recorded (ARCHITECTURE.md, "Just-enough tracking").
//!
//! A slot is one `u32`, so each write is a complete, valid decision for whoever reads it meanwhile.

/// Backends in the two upper fields, 15 bits each, and the state in the lowest two bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot(pub u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum SlotState {
    /// Everything goes to the current backend; nothing is looked up or recorded.
    Stable = 0,
    /// It changed hands less than an idle time-out ago: an unrecorded flow is older than that.
    Moving = 1,
    /// An unrecorded flow is new; recorded ones are honoured.
    Tracked = 2,
}

impl Slot {
    #[inline(always)]
    pub const fn new(current: u16, previous: u16, state: SlotState) -> Self {
        Self((current as u32 & 0x7fff) << 17 | (previous as u32 & 0x7fff) << 2 | state as u32)
    }

    /// The backend for new flows; 0 if the service has none.
    #[inline(always)]
    pub const fn current(self) -> u16 {
        (self.0 >> 17) as u16
    }

    /// The backend before the last move; 0 if there was none.
    #[inline(always)]
    pub const fn previous(self) -> u16 {
        (self.0 >> 2) as u16 & 0x7fff
    }

    /// Whose a flow is that nobody recorded: while the slot moves, a flow that does not just open is older than the move.
    #[inline(always)]
    pub const fn owner_of_unrecorded(self, opens: bool) -> u16 {
        match (self.state(), self.previous()) {
            (SlotState::Moving, 1..) if !opens => self.previous(),
            _ => self.current(),
        }
    }

    #[inline(always)]
    pub const fn state(self) -> SlotState {
        match self.0 & 3 {
            0 => SlotState::Stable,
            1 => SlotState::Moving,
            _ => SlotState::Tracked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_BACKEND_ID;

    proptest::proptest! {
        #[test]
        fn round_trip(current in 0..=MAX_BACKEND_ID, previous in 0..=MAX_BACKEND_ID, state in 0u32..3) {
            let state = [SlotState::Stable, SlotState::Moving, SlotState::Tracked][state as usize];
            let slot = Slot::new(current, previous, state);
            assert_eq!((slot.current(), slot.previous(), slot.state()), (current, previous, state));
        }
    }
}
