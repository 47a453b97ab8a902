//! What administrators have ordered against the configuration: kept across reloads and restarts, and undone by itself
//! where a time was given.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::config::MAX_WEIGHT;
use crate::model::pool::ServiceAddress;

/// An order that stays, and on top of it one that ends by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held<T> {
    lasting: T,
    timed: Option<Timed<T>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Timed<T> {
    value: T,
    until: Duration,
}

impl<T: Copy + Default + PartialEq> Held<T> {
    pub(super) fn value(&self) -> T {
        self.timed.map_or(self.lasting, |timed| timed.value)
    }

    /// The last word counts: an order that stays ends one that would have ended by itself.
    pub(super) fn set(&mut self, value: T, until: Option<Duration>) {
        match until {
            None => *self = Self { lasting: value, timed: None },
            Some(until) => self.timed = Some(Timed { value, until }),
        }
    }

    /// Ends what has had its time; says whether it did.
    fn expire(&mut self, now: Duration) -> bool {
        self.timed.take_if(|timed| timed.until <= now).is_some()
    }

    fn moved(mut self, time: impl Fn(Duration) -> Duration) -> Self {
        if let Some(timed) = &mut self.timed {
            timed.until = time(timed.until);
        }
        self
    }
}

/// The orders about one backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    pub drain: Held<bool>,
    pub disable: Held<bool>,
    pub weight: Held<Option<u16>>,
}

impl Holds {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn expire(&mut self, now: Duration) -> bool {
        // `|`, not `||`: all of them are to be looked at.
        self.drain.expire(now) | self.disable.expire(now) | self.weight.expire(now)
    }

    fn moved(self, time: impl Fn(Duration) -> Duration) -> Self {
        Self { drain: self.drain.moved(&time), disable: self.disable.moved(&time), weight: self.weight.moved(&time) }
    }

    pub(super) fn counted_from(self, now: Duration) -> Self {
        self.moved(|until| until.saturating_sub(now))
    }

    pub(super) fn restored_at(self, now: Duration) -> Self {
        self.moved(|remaining| remaining.saturating_add(now))
    }

    /// A weight that no command could have set is not believed: the file may have been edited.
    pub(super) fn believed(mut self) -> Self {
        let too_large = |weight: Option<u16>| weight.is_some_and(|weight| weight > MAX_WEIGHT);
        if too_large(self.weight.lasting) || self.weight.timed.is_some_and(|timed| too_large(timed.value)) {
            self.weight = Held::default();
        }
        self
    }
}

/// All orders, to be saved. Times are what was left of them at the moment of saving: the engine's own clock means
/// nothing to the next agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    pub backends: Vec<Override>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    pub service: ServiceAddress,
    pub backend: SocketAddr,
    #[serde(flatten)]
    pub holds: Holds,
}

impl Overrides {
    /// Takes off the time that has passed since the moment of saving.
    pub fn aged(mut self, by: Duration) -> Self {
        for saved in &mut self.backends {
            saved.holds = saved.holds.counted_from(by);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_timed_order_covers_a_lasting_one_and_uncovers_it() {
        let mut weight = Held::default();
        weight.set(Some(5), None);
        weight.set(Some(10), Some(at(60)));
        assert_eq!(weight.value(), Some(10));
        assert!(!weight.expire(at(59)));
        assert!(weight.expire(at(60)) && !weight.expire(at(60)));
        assert_eq!(weight.value(), Some(5));
        weight.set(Some(10), Some(at(90)));
        weight.set(Some(7), None);
        assert!(!weight.expire(at(100)));
        assert_eq!(weight.value(), Some(7));
    }

    #[test]
    fn what_is_saved_comes_back_with_the_time_that_is_left() {
        let mut holds = Holds::default();
        holds.drain.set(true, Some(at(100)));
        holds.weight.set(Some(3), None);
        let service = ServiceAddress {
            vip: "2001:db8::1".parse().unwrap(),
            port: 53,
            protocol: crate::model::config::Protocol::Udp,
        };
        let backend = "[fd00::1]:53".parse().unwrap();
        let overrides = Overrides { backends: vec![Override { service, backend, holds: holds.counted_from(at(40)) }] };
        let text = serde_json::to_string(&overrides).unwrap();
        let read: Overrides = serde_json::from_str(&text).unwrap();
        assert_eq!(read, overrides);
        let mut back = read.aged(at(20)).backends[0].holds.restored_at(at(5));
        assert!(back.drain.value() && !back.expire(at(44)));
        assert!(back.expire(at(45)) && !back.drain.value());
        assert_eq!(back.weight.value(), Some(3));
    }

    #[test]
    fn a_weight_out_of_range_is_not_believed() {
        let mut holds = Holds::default();
        holds.drain.set(true, None);
        holds.weight.set(Some(MAX_WEIGHT + 1), Some(at(1)));
        let believed = holds.believed();
        assert_eq!((believed.weight.value(), believed.drain.value()), (None, true));
    }
}
