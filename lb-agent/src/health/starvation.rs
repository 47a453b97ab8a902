//! Tells a backend that does not answer from an agent that does not get to run. It owns the lag monitor, a heartbeat
//! on the probers' own runtime, and the pure decision what a probe's result is worth given how late its clock was.
//!
//! A stopped, swapped-out or overloaded agent sees every time-out of its probes fire at once. Such a time-out says
//! nothing about the backend, and taking a whole pool out because of it would turn a pause of the agent into an outage.

use std::time::{Duration, Instant};

use crate::model::pool::{ProbeOutcome, ReportedLoad};

/// How often the heartbeat wants to run.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(50);
/// A timer that is less late than this is ordinary scheduling, however short the time-out is.
const LATENESS_TOLERATED: Duration = Duration::from_millis(100);

/// Adds up for how long the runtime was kept from running its tasks.
#[derive(Debug)]
pub(super) struct LagMonitor {
    last_beat: Instant,
    stalled: Duration,
}

impl LagMonitor {
    pub(super) fn new(now: Instant) -> Self {
        Self { last_beat: now, stalled: Duration::ZERO }
    }

    /// The heartbeat ran.
    pub(super) fn beat(&mut self, now: Instant) {
        self.stalled = self.stalled(now);
        self.last_beat = now;
    }

    /// Time lost since the start. A heartbeat that is overdue counts already: after a pause, the time-out of a probe
    /// may be handled before the heartbeat is.
    pub(super) fn stalled(&self, now: Instant) -> Duration {
        self.stalled + now.saturating_duration_since(self.last_beat).saturating_sub(HEARTBEAT)
    }
}

/// Why a probe got no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The backend said so itself (refused, status 503): true however late the agent heard it.
    Said(String),
    /// It did not answer in time, or gave up on us: true only if the agent was there to hear it.
    Silent(String),
    /// The agent could not probe (no file descriptors, no local ports): says nothing about the backend.
    Local(String),
}

/// How a probe's clock ran.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) timeout: Duration,
    /// From the probe's first step to its result.
    pub(super) elapsed: Duration,
    /// By how much the timer that starts the probe was late.
    pub(super) woke_late: Duration,
    /// For how long the runtime stood still during the probe.
    pub(super) stalled: Duration,
}

/// The worth of a result.
pub(super) fn judge(result: Result<Option<ReportedLoad>, Fault>, timing: &Timing) -> ProbeOutcome {
    match result {
        // An answer that lay in the socket while the agent stood still took at most as long as it was waited for.
        Ok(load) => ProbeOutcome::Success { latency: timing.elapsed.min(timing.timeout), load },
        Err(Fault::Said(reason)) => ProbeOutcome::Failure { reason },
        Err(Fault::Silent(reason)) => match starved_by(timing) {
            Some(late_by) => ProbeOutcome::Starved { late_by },
            None => ProbeOutcome::Failure { reason },
        },
        Err(Fault::Local(_)) => ProbeOutcome::Starved { late_by: timing.elapsed },
    }
}

/// The largest lateness that was too much for a probe with this time-out, if any was.
fn starved_by(timing: &Timing) -> Option<Duration> {
    let half = timing.timeout / 2;
    let tolerated = half.max(LATENESS_TOLERATED);
    let overdue = timing.elapsed.saturating_sub(timing.timeout);
    let too_late = [(timing.woke_late, tolerated), (overdue, tolerated), (timing.stalled, half)];
    too_late.into_iter().filter(|(late, limit)| late > limit).map(|(late, _)| late).max()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn silent() -> Result<Option<ReportedLoad>, Fault> {
        Err(Fault::Silent("no answer".to_owned()))
    }

    /// Milliseconds: time-out, elapsed, woke late, stalled; and the lateness that excuses a time-out.
    fn check(timeout: u64, elapsed: u64, woke_late: u64, stalled: u64, expected: Option<u64>) {
        let timing =
            Timing { timeout: ms(timeout), elapsed: ms(elapsed), woke_late: ms(woke_late), stalled: ms(stalled) };
        let expected = match expected {
            Some(late_by) => ProbeOutcome::Starved { late_by: ms(late_by) },
            None => ProbeOutcome::Failure { reason: "no answer".to_owned() },
        };
        assert_eq!(judge(silent(), &timing), expected, "{timing:?}");
    }

    #[test]
    fn time_outs() {
        check(500, 500, 0, 0, None);
        check(500, 502, 3, 10, None);
        check(500, 501, 250, 250, None);
        check(500, 501, 251, 0, Some(251));
        check(500, 501, 0, 251, Some(251));
        check(500, 751, 0, 0, Some(251));
        // Stopped for 30 s in mid-probe, and before a probe.
        check(500, 30_200, 0, 29_950, Some(29_950));
        check(500, 501, 29_800, 0, Some(29_800));
        // A short time-out does not make ordinary lateness an excuse; a stall of most of it does.
        check(20, 25, 90, 0, None);
        check(20, 21, 0, 11, Some(11));
        // The worst of several is named.
        check(500, 900, 300, 350, Some(400));
    }

    #[test]
    fn what_the_backend_said_counts_however_late() {
        let timing = Timing { timeout: ms(500), elapsed: ms(30_000), woke_late: ms(30_000), stalled: ms(30_000) };
        let refused = Err(Fault::Said("connection refused".to_owned()));
        assert_eq!(judge(refused, &timing), ProbeOutcome::Failure { reason: "connection refused".to_owned() });
        let success = ProbeOutcome::Success { latency: ms(500), load: None };
        assert_eq!(judge(Ok(None), &timing), success);
    }

    #[test]
    fn local_trouble_says_nothing_about_the_backend() {
        let timing = Timing { timeout: ms(500), elapsed: ms(1), woke_late: ms(0), stalled: ms(0) };
        let result = Err(Fault::Local("too many open files".to_owned()));
        assert_eq!(judge(result, &timing), ProbeOutcome::Starved { late_by: ms(1) });
    }

    #[test]
    fn a_stall_counts_before_and_after_its_heartbeat() {
        let start = Instant::now();
        let mut monitor = LagMonitor::new(start);
        monitor.beat(start + ms(50));
        assert_eq!(monitor.stalled(start + ms(80)), ms(0));
        assert_eq!(monitor.stalled(start + ms(1100)), ms(1000));
        monitor.beat(start + ms(1100));
        assert_eq!(monitor.stalled(start + ms(1100)), ms(1000));
        assert_eq!(monitor.stalled(start + ms(1150)), ms(1000));
        monitor.beat(start + ms(1160));
        assert_eq!(monitor.stalled(start + ms(1160)), ms(1010));
    }

    proptest! {
        /// Whatever the beats: time lost never shrinks, never exceeds the time that passed, and a gap in the beats is
        /// seen up to one heartbeat.
        #[test]
        fn the_monitor_is_monotone_and_exact(gaps in proptest::collection::vec((0u64..3_000, any::<bool>()), 1..60)) {
            let start = Instant::now();
            let mut monitor = LagMonitor::new(start);
            let (mut now, mut seen, mut beat_at, mut lost) = (start, Duration::ZERO, start, Duration::ZERO);
            for (gap, beats) in gaps {
                now += ms(gap);
                if beats {
                    monitor.beat(now);
                    lost += (now - beat_at).saturating_sub(HEARTBEAT);
                    beat_at = now;
                    prop_assert_eq!(monitor.stalled(now), lost);
                }
                prop_assert!(monitor.stalled(now) >= seen);
                prop_assert!(monitor.stalled(now) <= now - start);
                seen = monitor.stalled(now);
            }
        }

        /// An agent that was stopped for at least its time-out and some never blames the backend's silence.
        #[test]
        fn a_stopped_agent_blames_nobody(timeout in 20u64..10_000, stop in 0u64..100_000, before in 0u64..10_000) {
            let stop = timeout + 100 + 50 + stop;
            let before = before.min(timeout - 1);
            let timing = Timing {
                timeout: ms(timeout),
                elapsed: ms(before + stop),
                woke_late: ms(0),
                stalled: ms(stop) - HEARTBEAT,
            };
            let starved = matches!(judge(silent(), &timing), ProbeOutcome::Starved { .. });
            prop_assert!(starved, "{:?}", timing);
        }

        /// An agent that runs as it should always reports silence.
        #[test]
        fn an_agent_that_runs_reports_silence(timeout in 20u64..10_000, woke_late in 0u64..100, stalled in 0u64..10) {
            let timing =
                Timing { timeout: ms(timeout), elapsed: ms(timeout + 5), woke_late: ms(woke_late), stalled: ms(stalled) };
            let failed = matches!(judge(silent(), &timing), ProbeOutcome::Failure { .. });
            prop_assert!(failed, "{:?}", timing);
        }
    }
}
