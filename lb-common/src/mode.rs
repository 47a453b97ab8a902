//! How a service's packets are treated, packed into one half-word of [`crate::maps::Service`], so that the look-up that finds
//! a service brings all of it along.

/// Whose flows are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Tracking {
    /// Every flow.
    Full = 0,
    /// Flows of slots that a change has touched (ARCHITECTURE.md, "Just-enough tracking").
    Minimal = 1,
    /// Nobody's: a flow goes wherever its slot points.
    Off = 2,
}

/// What is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Forwarding {
    /// Destination address and port; the reply's source, back to the VIP.
    Nat = 0,
    /// Both ends, with a port of our own.
    Snat = 1,
    /// Destination MAC address only; replies go straight to the client.
    Dsr = 2,
    /// An outer IP header (RFC 2003, RFC 2473).
    Ipip = 3,
    /// Outer IP and UDP headers (Generic UDP Encapsulation, draft-ietf-intarea-gue).
    Gue = 4,
}

/// Which backend a new flow gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Scheduler {
    /// That of the flow's slot.
    Consistent = 0,
    /// That of the next slot; the agent orders the table so that backends take turns.
    RoundRobin = 1,
    /// That of some slot.
    Random = 2,
    /// Of two slots' backends the one with fewer active flows for its weight (Mitzenmacher, "The power of two choices in randomized
    /// load balancing", 2001).
    LeastConnections = 3,
}

/// | bits | field |
/// |---|---|
/// | 0–1 | tracking |
/// | 2–4 | forwarding |
/// | 5–6 | scheduler |
/// | 7 | client affinity |
/// | 8–15 | zero |
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct ServiceMode(pub u16);

impl ServiceMode {
    pub const fn new(tracking: Tracking, forwarding: Forwarding) -> Self {
        Self(tracking as u16 | (forwarding as u16) << 2)
    }

    #[must_use]
    pub const fn with_scheduler(self, scheduler: Scheduler) -> Self {
        Self(self.0 & !(3 << 5) | (scheduler as u16) << 5)
    }

    /// All flows of a client go to one backend.
    #[must_use]
    pub const fn with_client_affinity(self, on: bool) -> Self {
        Self(self.0 & !(1 << 7) | (on as u16) << 7)
    }

    #[inline(always)]
    pub const fn scheduler(self) -> Scheduler {
        match self.0 >> 5 & 3 {
            1 => Scheduler::RoundRobin,
            2 => Scheduler::Random,
            3 => Scheduler::LeastConnections,
            _ => Scheduler::Consistent,
        }
    }

    #[inline(always)]
    pub const fn has_client_affinity(self) -> bool {
        self.0 >> 7 & 1 != 0
    }

    /// `Full` is 0, so that an unknown number remembers too much rather than too little.
    #[inline(always)]
    pub const fn tracking(self) -> Tracking {
        match self.0 & 3 {
            1 => Tracking::Minimal,
            2 => Tracking::Off,
            _ => Tracking::Full,
        }
    }

    #[inline(always)]
    pub const fn forwarding(self) -> Forwarding {
        Forwarding::from_number(self.0 >> 2 & 7)
    }
}

impl Forwarding {
    /// Nat for numbers that mean nothing.
    #[inline(always)]
    pub const fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Snat,
            2 => Self::Dsr,
            3 => Self::Ipip,
            4 => Self::Gue,
            _ => Self::Nat,
        }
    }

    /// Whether the backends' answers come by here; otherwise only clients are heard.
    #[inline(always)]
    pub const fn answers_pass(self) -> bool {
        matches!(self, Self::Nat | Self::Snat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for tracking in [Tracking::Full, Tracking::Minimal, Tracking::Off] {
            for forwarding in [Forwarding::Nat, Forwarding::Snat, Forwarding::Dsr, Forwarding::Ipip, Forwarding::Gue] {
                for scheduler in
                    [Scheduler::Consistent, Scheduler::RoundRobin, Scheduler::Random, Scheduler::LeastConnections]
                {
                    for affinity in [false, true] {
                        let mode = ServiceMode::new(tracking, forwarding);
                        let mode = mode.with_client_affinity(affinity).with_scheduler(scheduler);
                        assert_eq!((mode.tracking(), mode.forwarding()), (tracking, forwarding));
                        assert_eq!((mode.scheduler(), mode.has_client_affinity()), (scheduler, affinity));
                    }
                }
            }
        }
    }
}
