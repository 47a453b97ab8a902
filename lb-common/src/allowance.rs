//! A token bucket in one word: how many answers of its own a processor may still give. Without it whoever sends packets that
//! need an answer would decide how busy we are, and whom we send to.

use crate::flow::age;
use crate::limits::{ERRORS_PER_UNIT, RESETS_PER_UNIT};

/// Kinds of answers. Each has an allowance of its own, so that nobody who asks for the one keeps others from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Answer {
    /// An ICMP error.
    Error = 0,
    /// A TCP reset.
    Reset = 1,
}

impl Answer {
    pub const ALL: [Self; 2] = [Self::Error, Self::Reset];

    /// In each unit of time, and at once.
    #[inline(always)]
    pub const fn per_unit(self) -> u32 {
        match self {
            Self::Error => ERRORS_PER_UNIT,
            Self::Reset => RESETS_PER_UNIT,
        }
    }
}

/// Tokens in the lower half, the coarse time ([`crate::flow::TIME_MASK`]) of the last look in the upper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowance(pub u64);

impl Allowance {
    /// What is left after one answer, if there may be one.
    #[inline(always)]
    pub const fn take(self, kind: Answer, now: u32) -> Option<Self> {
        let most = kind.per_unit();
        // At most 4,095 units have passed, so that nothing overflows.
        let earned = self.0 as u32 + age(now, (self.0 >> 32) as u32) * most;
        let tokens = if earned > most { most } else { earned };
        if tokens == 0 {
            return None;
        }
        Some(Self((now as u64) << 32 | (tokens - 1) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::TIME_MASK;

    /// So many of `asked` answers are given at this time.
    fn given(allowance: &mut Allowance, now: u32, asked: u32) -> u32 {
        let mut count = 0;
        for _ in 0..asked {
            if let Some(left) = allowance.take(Answer::Error, now) {
                *allowance = left;
                count += 1;
            }
        }
        count
    }

    #[test]
    fn it_is_spent_and_earned_again() {
        let mut allowance = Allowance::default();
        let many = ERRORS_PER_UNIT * 3;
        assert_eq!(given(&mut allowance, 100, many), ERRORS_PER_UNIT);
        assert_eq!(given(&mut allowance, 100, many), 0);
        assert_eq!(given(&mut allowance, 101, many), ERRORS_PER_UNIT);
        assert_eq!(given(&mut allowance, 90, many), 0, "a processor whose clock is behind");
        assert_eq!(given(&mut allowance, 3000, many), ERRORS_PER_UNIT, "no more than at once, however long it waits");
    }

    proptest::proptest! {
        /// Over any times, no more answers than were there and than time has earned.
        #[test]
        fn the_rate_is_kept(steps in proptest::collection::vec((0u32..5, 0u32..300), 1..40)) {
            let (mut allowance, mut now, mut total, mut units) = (Allowance::default(), 1000, 0, 0);
            for (passed, asked) in steps {
                now = (now + passed) & TIME_MASK;
                units += passed;
                total += given(&mut allowance, now, asked);
                proptest::prop_assert!(total <= ERRORS_PER_UNIT + units * ERRORS_PER_UNIT);
            }
        }
    }
}
