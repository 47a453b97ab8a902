//! Decides which followed addresses to look at, when to make the kernel ask for them, and what has changed.
//! No I/O and no clock: the task in [`super`] does what this says and reports back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::NeighbourEvent;
use crate::model::pool::NextHop;
use crate::os::next_hop::{Entry, Error, Hop, Look, PATIENCE};

/// Everything is looked at this often, and stale entries are confirmed: an entry that only the XDP program uses
/// is never confirmed by the kernel's own traffic, so a host that moved to another MAC would go unnoticed.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// Shortest time between two looks at one address: events come in bursts (and a neighbour can send them at will).
const LOOK_SPACING: Duration = Duration::from_millis(50);

/// While the kernel asks, the entry is looked at this often even if no event comes.
const ASKING_INTERVAL: Duration = Duration::from_secs(1);

/// Wait before asking again for an address that did not answer; doubled each time, up to the refresh interval.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// What an event may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    Neighbour {
        ifindex: u32,
        address: IpAddr,
    },
    Link {
        ifindex: u32,
    },
    Route {
        destination: IpAddr,
        prefix_length: u8,
    },
    /// Events were lost.
    Everything,
}

/// What a look leads to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) event: Option<NeighbourEvent>,
    pub(super) solicit: Option<Hop>,
}

#[derive(Debug)]
struct Target {
    /// What was last reported.
    reported: Option<Result<NextHop, String>>,
    hop: Option<Hop>,
    looked_at: Option<Instant>,
    look_at: Instant,
    /// The kernel was asked and may answer until then.
    asking_until: Option<Instant>,
    /// The next look may confirm a stale entry.
    refresh: bool,
    retry_after: Duration,
    /// Not asked for again before then.
    ask_at: Instant,
}

#[derive(Debug)]
pub(super) struct Tracker {
    targets: HashMap<IpAddr, Target>,
    refresh_at: Instant,
}

impl Tracker {
    pub(super) fn new(now: Instant) -> Self {
        Self { targets: HashMap::new(), refresh_at: now + REFRESH_INTERVAL }
    }

    /// The set to follow from now on. What stays keeps its state and is not reported again.
    pub(super) fn set_addresses(&mut self, addresses: &[IpAddr], now: Instant) {
        let mut old = std::mem::take(&mut self.targets);
        for address in addresses {
            let target = old.remove(address).unwrap_or_else(|| Target::new(now));
            self.targets.entry(*address).or_insert(target);
        }
    }

    pub(super) fn touch(&mut self, touch: Touch, now: Instant) {
        for (address, target) in &mut self.targets {
            let touched = match touch {
                Touch::Everything => true,
                Touch::Neighbour { ifindex, address } => {
                    target.hop.is_some_and(|hop| hop.ifindex == ifindex && hop.address == address)
                }
                // An interface that comes up may carry what had no way before.
                Touch::Link { ifindex } => target.hop.is_none_or(|hop| hop.ifindex == ifindex),
                Touch::Route { destination, prefix_length } => contains(destination, prefix_length, *address),
            };
            if touched {
                target.look_soon(now);
            }
        }
    }

    /// The addresses to look at now. Each must be answered with [`Self::looked`].
    pub(super) fn due(&mut self, now: Instant) -> Vec<IpAddr> {
        if now >= self.refresh_at {
            self.refresh_at = now + REFRESH_INTERVAL;
            for target in self.targets.values_mut() {
                target.refresh = true;
                target.look_soon(now);
            }
        }
        let mut due: Vec<IpAddr> =
            self.targets.iter().filter(|(_, target)| target.look_at <= now).map(|(address, _)| *address).collect();
        due.sort_unstable();
        due
    }

    /// When [`Self::due`] has something to say again, if nothing happens before.
    pub(super) fn next_due(&self) -> Instant {
        self.targets.values().map(|target| target.look_at).fold(self.refresh_at, Instant::min)
    }

    /// Takes what a look at `address` showed.
    pub(super) fn looked(&mut self, address: IpAddr, look: &Result<Look, Error>, now: Instant) -> Outcome {
        let Some(target) = self.targets.get_mut(&address) else {
            return Outcome::default();
        };
        target.looked_at = Some(now);
        target.look_at = self.refresh_at;
        target.hop = look.as_ref().ok().map(|look| look.hop);
        let outcome = match look {
            Err(error) => {
                target.look_at = self.refresh_at.min(now + target.back_off());
                target.asking_until = None;
                Outcome { event: target.report(address, Err(error.to_string())), solicit: None }
            }
            Ok(look) => target.decide(address, look, now),
        };
        target.look_at = target.look_at.max(now + LOOK_SPACING);
        outcome
    }
}

impl Target {
    fn new(now: Instant) -> Self {
        Self {
            reported: None,
            hop: None,
            looked_at: None,
            look_at: now,
            asking_until: None,
            refresh: false,
            retry_after: RETRY_FIRST,
            ask_at: now,
        }
    }

    fn look_soon(&mut self, now: Instant) {
        let earliest = self.looked_at.map_or(now, |looked| (looked + LOOK_SPACING).max(now));
        self.look_at = self.look_at.min(earliest);
    }

    fn decide(&mut self, address: IpAddr, look: &Look, now: Instant) -> Outcome {
        if let Some(next_hop) = look.next_hop() {
            let stale = matches!(look.entry, Entry::Resolved { stale: true, .. });
            let solicit = (stale && std::mem::take(&mut self.refresh)).then_some(look.hop);
            self.refresh = false;
            self.asking_until = None;
            self.retry_after = RETRY_FIRST;
            self.ask_at = now;
            return Outcome { event: self.report(address, Ok(next_hop)), solicit };
        }
        let failed = || Err(look.no_answer().to_string());
        match (self.asking_until, look.entry) {
            // Asking takes a failed entry out of that state at once: failed now means failed again.
            (Some(_), Entry::Failed) => self.give_up(address, failed(), now),
            (Some(until), _) if now >= until => self.give_up(address, failed(), now),
            (Some(_), _) => self.wait(now),
            // Somebody else's packet made the kernel ask.
            (None, Entry::Asking) => {
                self.asking_until = Some(now + PATIENCE);
                self.wait(now)
            }
            (None, _) if now < self.ask_at => {
                self.look_at = self.look_at.min(self.ask_at);
                Outcome { event: self.report(address, failed()), solicit: None }
            }
            // An entry that was good is given this second chance before it is reported as lost: a host that moved
            // to another MAC does not answer the kernel's confirmation, sent to the old one, but answers a broadcast.
            (None, _) => {
                self.asking_until = Some(now + PATIENCE);
                Outcome { solicit: Some(look.hop), ..self.wait(now) }
            }
        }
    }

    fn wait(&mut self, now: Instant) -> Outcome {
        self.look_at = self.look_at.min(now + ASKING_INTERVAL);
        Outcome::default()
    }

    fn give_up(&mut self, address: IpAddr, failure: Result<NextHop, String>, now: Instant) -> Outcome {
        self.asking_until = None;
        self.refresh = false;
        self.ask_at = now + self.back_off();
        self.look_at = self.look_at.min(self.ask_at);
        Outcome { event: self.report(address, failure), solicit: None }
    }

    fn back_off(&mut self) -> Duration {
        let wait = self.retry_after;
        self.retry_after = (wait * 2).min(REFRESH_INTERVAL);
        wait
    }

    fn report(&mut self, address: IpAddr, resolution: Result<NextHop, String>) -> Option<NeighbourEvent> {
        if self.reported.as_ref() == Some(&resolution) {
            return None;
        }
        self.reported = Some(resolution.clone());
        Some(NeighbourEvent { address, resolution })
    }
}

fn contains(network: IpAddr, prefix_length: u8, address: IpAddr) -> bool {
    let (network, address, bits) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let shift = bits - u32::from(prefix_length).min(bits);
    // Shifting a number by its whole width is an overflow; a prefix of no bits contains everything.
    (network ^ address).checked_shr(shift).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests;
