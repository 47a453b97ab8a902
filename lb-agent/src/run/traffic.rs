//! From counters that only grow to totals and rates: pure, fed with readings and their times.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::view;
use lb_common::counters::BackendCounters;

/// Readings of every backend's counters, by its number.
#[derive(Debug, Default)]
pub(super) struct Meter {
    last: BTreeMap<u16, Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Duration,
    counters: BackendCounters,
    rates: Rates,
}

#[derive(Debug, Clone, Copy, Default)]
struct Rates {
    packets: f64,
    bytes: f64,
    new_flows: f64,
}

impl Meter {
    /// Takes a reading in; rates are over the time since the one before.
    pub(super) fn read(&mut self, at: Duration, backend: u16, counters: BackendCounters) {
        let rates = match self.last.get(&backend) {
            Some(before) => rates(before, at, &counters),
            None => Rates::default(),
        };
        self.last.insert(backend, Reading { at, counters, rates });
    }

    /// For a backend that is gone.
    pub(super) fn forget(&mut self, backend: u16) {
        self.last.remove(&backend);
    }

    pub(super) fn counters(&self, backend: u16) -> BackendCounters {
        self.last.get(&backend).map_or_else(BackendCounters::default, |reading| reading.counters)
    }

    pub(super) fn traffic(&self, backend: u16) -> view::Traffic {
        let Some(Reading { counters, rates, .. }) = self.last.get(&backend) else {
            return view::Traffic::default();
        };
        view::Traffic {
            packets: counters.packets,
            bytes: counters.bytes,
            reply_packets: counters.reply_packets,
            reply_bytes: counters.reply_bytes,
            new_flows: counters.new_flows,
            packets_per_second: rates.packets,
            bytes_per_second: rates.bytes,
            new_flows_per_second: rates.new_flows,
        }
    }
}

pub(super) fn sum(parts: impl Iterator<Item = view::Traffic>) -> view::Traffic {
    parts.fold(view::Traffic::default(), |total, part| view::Traffic {
        packets: total.packets + part.packets,
        bytes: total.bytes + part.bytes,
        reply_packets: total.reply_packets + part.reply_packets,
        reply_bytes: total.reply_bytes + part.reply_bytes,
        new_flows: total.new_flows + part.new_flows,
        packets_per_second: total.packets_per_second + part.packets_per_second,
        bytes_per_second: total.bytes_per_second + part.bytes_per_second,
        new_flows_per_second: total.new_flows_per_second + part.new_flows_per_second,
    })
}

fn rates(before: &Reading, at: Duration, now: &BackendCounters) -> Rates {
    let seconds = at.saturating_sub(before.at).as_secs_f64();
    if seconds <= 0.0 {
        return before.rates;
    }
    // Saturating: a number that was given to another backend starts again.
    let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
    Rates {
        packets: rate(now.packets, before.counters.packets),
        bytes: rate(now.bytes, before.counters.bytes),
        new_flows: rate(now.new_flows, before.counters.new_flows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(packets: u64) -> BackendCounters {
        BackendCounters { packets, ..BackendCounters::default() }
    }

    #[test]
    fn rates_are_over_the_last_interval() {
        let mut meter = Meter::default();
        meter.read(Duration::from_secs(1), 7, packets(100));
        assert_eq!(meter.traffic(7).packets_per_second, 0.0, "one reading is no rate");
        meter.read(Duration::from_secs(3), 7, packets(300));
        assert_eq!(meter.traffic(7).packets_per_second, 100.0);
        meter.read(Duration::from_secs(3), 7, packets(300));
        assert_eq!(meter.traffic(7).packets_per_second, 100.0, "no time has passed");
        meter.read(Duration::from_secs(4), 7, packets(0));
        assert_eq!(meter.traffic(7).packets_per_second, 0.0, "the counter started again");
        meter.forget(7);
        assert_eq!(meter.traffic(7), view::Traffic::default());
    }
}
