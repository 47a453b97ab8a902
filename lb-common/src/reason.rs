//! Why a packet of ours was not forwarded. Numbers are for ever: a reason that goes out of use keeps its number, so
//! that counters, dashboards and old notes stay comparable.

/// What happens to a packet for a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It ends here.
    Drop,
    /// The kernel's stack gets it, unchanged.
    Pass,
}

macro_rules! reasons {
    ($($(#[$meta:meta])* $variant:ident = $number:literal $name:literal $outcome:ident),+ $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Reason { $($(#[$meta])* $variant = $number),+ }

        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in counters, CLI and documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$variant => Outcome::$outcome),+ }
            }

            /// The reason with this number, if there is one.
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| *reason as u32 == number)
            }
        }
    };
}

reasons! {
    /// No backend of the service takes new flows.
    NoBackend = 1 "no-backend" Drop,
    /// A length in the packet contradicts another one or the frame.
    Malformed = 2 "malformed" Drop,
    /// Flags that no TCP implementation sends together, such as SYN with FIN.
    TcpFlags = 3 "tcp-flags" Drop,
    /// The TTL or hop limit ends here.
    TtlExpired = 4 "ttl-expired" Drop,
    /// A fragment for a VIP: the ports of the others are not known.
    Fragment = 5 "fragment" Pass,
    /// A VLAN tag in the frame of a packet for a VIP.
    Vlan = 6 "vlan" Pass,
    /// The agent has not resolved the next hop and the kernel's routing table does not know it either.
    NoRoute = 7 "no-route" Pass,
    /// The routing table knows the next hop, the neighbour table does not; the stack is asked to resolve it.
    NoNeighbour = 8 "no-neighbour" Pass,
    /// The kernel does not forward on this interface (sysctl `forwarding` is 0).
    ForwardingOff = 9 "forwarding-off" Pass,
    /// With what is put in front of it, the packet is larger than the MTU of the way to its backend. Its sender is told.
    TooBig = 10 "too-big" Drop,
    /// A slot or backend entry that ought to be in a map is not.
    MapMiss = 11 "map-miss" Drop,
    /// Counted beside a verdict: the flow's bucket holds only live flows, so this one goes unrecorded.
    FlowTableFull = 12 "flow-table-full" Pass,
    /// The sender claims to be the receiver (CERT CA-1997-28, "land"): an answer would come back here.
    Land = 13 "land" Drop,
    /// The agent has not resolved the next hop of a backend that only its own entry can reach (dsr, ipip, gue).
    Unresolved = 20 "unresolved" Drop,
    /// The driver has no room in front of the frame for an outer header.
    NoHeadroom = 21 "no-headroom" Drop,
    /// An answer is larger than the MTU of the way to its client; the stack tells the backend.
    ReplyTooBig = 22 "reply-too-big" Pass,
    /// Every source port towards the backend is in use (snat). The client is told.
    NoPort = 38 "no-port" Drop,
    /// In the midst of a TCP connection that has no source port towards a backend (snat). The client is reset.
    NoMapping = 39 "no-mapping" Drop,
    /// Counted beside a verdict: the sender was to be told, but enough has been told for now.
    AnswerLimit = 46 "answer-limit" Drop,
    /// The backend that calls a VIP would get its own call.
    Hairpin = 47 "hairpin" Drop,
    /// The source is no host's address: nobody could be answered (RFC 1812, section 5.3.7).
    Martian = 48 "martian" Drop,
}

/// Size of the map that counts by reason: room for reasons to come, so that its layout need not change.
pub const REASON_CAPACITY: u32 = 64;

const _: () = {
    let mut i = 0;
    while i < Reason::ALL.len() {
        assert!((Reason::ALL[i] as u32) < REASON_CAPACITY);
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_and_names_are_unique_and_round_trip() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        let numbers: BTreeSet<_> = Reason::ALL.iter().map(|reason| *reason as u32).collect();
        assert_eq!((names.len(), numbers.len()), (Reason::ALL.len(), Reason::ALL.len()));
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(*reason as u32), Some(*reason));
        }
        assert_eq!(Reason::from_number(0), None);
    }
}
