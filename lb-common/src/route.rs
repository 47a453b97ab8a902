//! The answer to "where would this packet go?", as the dry run of the program returns it: one `u32`.

use crate::reason::Reason;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// To no VIP of ours.
    NotOurs,
    /// The flow table remembers it.
    Remembered {
        backend: u16,
    },
    /// The slot table says so, as for a new flow.
    Chosen {
        backend: u16,
    },
    /// A new flow: its service's scheduler decides when it comes, and not by what is known of it now.
    Undetermined {
        service: u16,
    },
    Refused(Reason),
}

impl Route {
    /// The kind in the upper half, backend or reason in the lower.
    #[inline(always)]
    pub const fn pack(self) -> u32 {
        match self {
            Self::NotOurs => 0,
            Self::Remembered { backend } => 1 << 16 | backend as u32,
            Self::Chosen { backend } => 2 << 16 | backend as u32,
            Self::Refused(reason) => 3 << 16 | reason as u32,
            Self::Undetermined { service } => 4 << 16 | service as u32,
        }
    }

    /// None for what [`Route::pack`] never makes.
    pub fn unpack(packed: u32) -> Option<Self> {
        let low = packed & 0xffff;
        match packed >> 16 {
            0 if low == 0 => Some(Self::NotOurs),
            1 => Some(Self::Remembered { backend: low as u16 }),
            2 => Some(Self::Chosen { backend: low as u16 }),
            3 => Reason::from_number(low).map(Self::Refused),
            4 => Some(Self::Undetermined { service: low as u16 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn round_trip(backend: u16) {
            for route in
                [Route::Remembered { backend }, Route::Chosen { backend }, Route::Undetermined { service: backend }]
            {
                assert_eq!(Route::unpack(route.pack()), Some(route));
            }
        }

        #[test]
        fn whatever_unpacks_packs_to_the_same(packed: u32) {
            if let Some(route) = Route::unpack(packed) {
                assert_eq!(route.pack(), packed);
            }
        }
    }

    #[test]
    fn reasons_round_trip() {
        for reason in Reason::ALL {
            assert_eq!(Route::unpack(Route::Refused(*reason).pack()), Some(Route::Refused(*reason)));
        }
        assert_eq!(Route::unpack(Route::NotOurs.pack()), Some(Route::NotOurs));
    }
}
