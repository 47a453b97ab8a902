//! The dense numbers that stand for services and backends in the kernel's maps, and who hands them out.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $max:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "u16", into = "u16")]
        pub struct $name(u16);

        impl $name {
            pub const MAX: u16 = $max;

            /// None outside 1..=MAX.
            pub fn new(raw: u16) -> Option<Self> {
                (1..=Self::MAX).contains(&raw).then_some(Self(raw))
            }

            pub fn get(self) -> u16 {
                self.0
            }
        }

        impl TryFrom<u16> for $name {
            type Error = String;

            fn try_from(raw: u16) -> Result<Self, String> {
                Self::new(raw).ok_or_else(|| format!("{raw} is not in 1..={}", Self::MAX))
            }
        }

        impl From<$name> for u16 {
            fn from(id: $name) -> u16 {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A backend of one service. 0 means none in slots and flow entries; 15 bits, so that an entry has a bit to spare.
    BackendId, 32_767
);
id!(
    /// A service.
    ServiceId, 4_095
);

/// Hands out the lowest free number, so that the kernel's arrays stay dense.
#[derive(Debug, Clone)]
pub(super) struct Allocator {
    used: BTreeSet<u16>,
    max: u16,
    /// Everything below is in use.
    lowest: u16,
}

impl Allocator {
    pub(super) fn new(max: u16) -> Self {
        Self { used: BTreeSet::new(), max, lowest: 1 }
    }

    pub(super) fn available(&self) -> usize {
        usize::from(self.max) - self.used.len()
    }

    /// Takes a number that is known to be in use already; false if somebody has it.
    pub(super) fn claim(&mut self, raw: u16) -> bool {
        self.used.insert(raw)
    }

    pub(super) fn take(&mut self) -> Option<u16> {
        while self.used.contains(&self.lowest) {
            self.lowest += 1;
        }
        (self.lowest <= self.max).then(|| {
            self.used.insert(self.lowest);
            self.lowest
        })
    }

    pub(super) fn release(&mut self, raw: u16) {
        self.used.remove(&raw);
        self.lowest = self.lowest.min(raw);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_comes_next_and_the_end_is_an_end() {
        let mut ids = Allocator::new(4);
        assert!(ids.claim(2) && !ids.claim(2));
        assert_eq!([ids.take(), ids.take(), ids.take(), ids.take()], [Some(1), Some(3), Some(4), None]);
        assert_eq!(ids.available(), 0);
        ids.release(3);
        assert_eq!([ids.take(), ids.take()], [Some(3), None]);
    }

    #[test]
    fn zero_and_what_does_not_fit_are_no_ids() {
        assert_eq!([BackendId::new(0), BackendId::new(32_768)], [None, None]);
        assert_eq!(BackendId::new(32_767).map(BackendId::get), Some(32_767));
        assert_eq!([ServiceId::new(0), ServiceId::new(4_096)], [None, None]);
    }
}
