//! Whether an observation may be believed. What cannot be true of one backend is blanked there; what makes the whole interval
//! meaningless freezes everything.

use super::interventions::Intervention;
use crate::policy::observation::{Observation, Seen};

/// Longer intervals are not averaged over: the state in them is not the state now.
const LONGEST: f64 = 60.0;
/// An interval so many times the usual one means that the agent did not get to run.
const LATE_TIMES: f64 = 4.0;
/// Requests that a backend can have ended in one second, bounded by what the flow table can hold.
const MOST_PER_SECOND: f64 = 50e6;
/// Latencies beyond these are not latencies, seconds.
const LATENCY: std::ops::RangeInclusive<f64> = 1e-7..=86_400.0;

/// Why nothing may be learned from the interval; none: it is sound as a whole.
pub(super) fn refuse(
    observation: &Observation,
    last: Option<f64>,
    usual: Option<f64>,
    pool: usize,
) -> Option<Intervention> {
    let Observation { now, interval, backends, .. } = observation;
    if backends.len() != pool {
        return Some(Intervention::Missing);
    }
    if !now.is_finite() || last.is_some_and(|last| *now <= last) {
        return Some(Intervention::TimeWentBack);
    }
    if !interval.is_finite() || *interval <= 0.0 {
        return Some(Intervention::TimeWentBack);
    }
    if *interval > LONGEST || usual.is_some_and(|usual| *interval > LATE_TIMES * usual) {
        return Some(Intervention::Late);
    }
    None
}

/// Whether what is said of one backend can be true.
pub(super) fn is_sound(seen: &Seen, interval: f64) -> bool {
    let times_are_possible = seen.time_at.iter().all(|time| time.is_finite() && *time >= 0.0)
        // Clocks of counters and agent differ; a backend is in one state at a time all the same.
        && seen.time_at.iter().sum::<f64>() <= 2.0 * interval + 1.0;
    let ended = seen.departures.iter().map(|count| f64::from(*count)).sum::<f64>();
    let rate_is_possible = (ended + seen.finished()) / interval <= MOST_PER_SECOND;
    let latencies_are_possible = seen.answers.iter().zip(&seen.log_latency).all(|(count, sum)| {
        let (count, ln) = (f64::from(*count), libm::log);
        if count == 0.0 { *sum == 0.0 } else { (ln(*LATENCY.start())..=ln(*LATENCY.end())).contains(&(sum / count)) }
    });
    let mean_is_possible = match seen.mean_latency() {
        Some(mean) => LATENCY.contains(&mean),
        None => seen.latency == 0.0,
    };
    times_are_possible && rate_is_possible && latencies_are_possible && mean_is_possible
}
