//! Which of the addresses that the data plane asks about are passed on to the kernel, and when. A client's address
//! is the client's choice, so the number kept and the rate are bounded, and one address is asked for once at a time.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses that wait for their turn; more are refused.
pub(super) const PENDING_MAX: usize = 1024;

/// Passed on per second, at most.
pub(super) const PER_SECOND: u32 = 64;

/// The kernel asks three times, a second apart: asking again sooner changes nothing.
const REPEAT_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Solicitations {
    pending: VecDeque<IpAddr>,
    /// Passed on lately, oldest first. The rate bounds it.
    recent: VecDeque<(Instant, IpAddr)>,
    /// Members of `pending` and `recent`.
    known: HashSet<IpAddr>,
    window_start: Instant,
    window_used: u32,
}

impl Solicitations {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            pending: VecDeque::new(),
            recent: VecDeque::new(),
            known: HashSet::new(),
            window_start: now,
            window_used: 0,
        }
    }

    /// False if nothing will be done for this request: the address is known already, or the queue is full.
    pub(super) fn request(&mut self, address: IpAddr, now: Instant) -> bool {
        self.forget(now);
        if self.pending.len() >= PENDING_MAX || !self.known.insert(address) {
            return false;
        }
        self.pending.push_back(address);
        true
    }

    /// The next address to pass on, if there is one and the rate allows it.
    pub(super) fn next(&mut self, now: Instant) -> Option<IpAddr> {
        self.forget(now);
        if now.duration_since(self.window_start) >= Duration::from_secs(1) {
            self.window_start = now;
            self.window_used = 0;
        }
        if self.window_used >= PER_SECOND {
            return None;
        }
        let address = self.pending.pop_front()?;
        self.window_used += 1;
        self.recent.push_back((now, address));
        Some(address)
    }

    /// When [`Self::next`] has something again; none if nothing waits.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.pending.is_empty() {
            return None;
        }
        Some(if self.window_used < PER_SECOND { now } else { (self.window_start + Duration::from_secs(1)).max(now) })
    }

    fn forget(&mut self, now: Instant) {
        while let Some((_, address)) =
            self.recent.pop_front_if(|(passed, _)| now.duration_since(*passed) >= REPEAT_AFTER)
        {
            self.known.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn one_address_is_passed_on_once_until_the_kernel_has_given_up() {
        let start = Instant::now();
        let mut queue = Solicitations::new(start);
        assert!(queue.request(address(1), start));
        assert!(!queue.request(address(1), start), "it waits already");
        assert_eq!(queue.next(start), Some(address(1)));
        assert!(!queue.request(address(1), start + Duration::from_secs(2)), "the kernel is at it");
        assert_eq!(queue.next(start + Duration::from_secs(2)), None);
        assert!(queue.request(address(1), start + REPEAT_AFTER));
        assert_eq!(queue.next(start + REPEAT_AFTER), Some(address(1)));
    }

    #[test]
    fn the_rate_is_held_and_the_rest_waits() {
        let start = Instant::now();
        let mut queue = Solicitations::new(start);
        for number in 0..2 * PER_SECOND {
            assert!(queue.request(address(number), start));
        }
        let first: Vec<_> = std::iter::from_fn(|| queue.next(start)).collect();
        assert_eq!(first.len(), PER_SECOND as usize);
        let due = queue.next_due(start).unwrap();
        assert_eq!(due, start + Duration::from_secs(1));
        let second: Vec<_> = std::iter::from_fn(|| queue.next(due)).collect();
        assert_eq!(second.len(), PER_SECOND as usize);
        assert_eq!(queue.next_due(due), None);
    }

    proptest! {
        #[test]
        fn memory_and_rate_are_bounded_whatever_is_asked(
            steps in proptest::collection::vec((any::<u32>(), 0u64..50, any::<bool>()), 1..4000)
        ) {
            let mut now = Instant::now();
            let mut queue = Solicitations::new(now);
            let mut passed: Vec<Instant> = Vec::new();
            for (number, pause_ms, drain) in steps {
                now += Duration::from_millis(pause_ms);
                queue.request(address(number), now);
                while drain && queue.next(now).is_some() {
                    passed.push(now);
                }
                prop_assert!(queue.pending.len() <= PENDING_MAX);
                // Two windows can lie within any one second, four within three.
                prop_assert!(queue.recent.len() <= 4 * PER_SECOND as usize);
                prop_assert_eq!(queue.known.len(), queue.pending.len() + queue.recent.len());
            }
            for pair in passed.windows(2 * PER_SECOND as usize + 1) {
                prop_assert!(pair[pair.len() - 1] - pair[0] >= Duration::from_secs(1));
            }
        }
    }
}
