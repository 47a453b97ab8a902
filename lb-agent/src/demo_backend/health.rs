//! What a demo backend says about itself: the status rule, the averages behind it, and the JSON of `/health`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Healthy,
    /// Serves, but requests wait for a place.
    Degraded,
    Unhealthy,
}

impl Status {
    /// Told to be unhealthy wins; a queue is the sign of a backend at its limit.
    pub(super) fn of(told_healthy: bool, waiting: usize) -> Self {
        match (told_healthy, waiting) {
            (false, _) => Self::Unhealthy,
            (true, 0) => Self::Healthy,
            (true, _) => Self::Degraded,
        }
    }
}

/// `GET /health`: 503 if unhealthy, else 200.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthReport {
    pub status: Status,
    /// CPU that this process used lately, of one CPU; at most 100.
    pub cpu_percent: f64,
    /// Being served or waiting.
    pub active_requests: u64,
    /// Moving average from arrival to answer, waiting included.
    pub response_time_ms: f64,
    pub queued_requests: u64,
    pub name: String,
}

/// An exponentially weighted moving average; the first value counts whole.
#[derive(Debug, Clone, Default)]
pub(super) struct Average {
    value: Option<f64>,
}

impl Average {
    /// About the last ten values make two thirds of the average.
    const WEIGHT: f64 = 0.1;

    pub(super) fn record(&mut self, value: f64) {
        self.value = Some(self.value.map_or(value, |mean| mean + Self::WEIGHT * (value - mean)));
    }

    /// 0 before the first value.
    pub(super) fn value(&self) -> f64 {
        self.value.unwrap_or(0.0)
    }
}

/// Turns readings of a CPU clock into a percentage. Readings that follow each other closely give the figure of the
/// last full interval, so that two askers do not disturb each other.
#[derive(Debug, Clone)]
pub(super) struct CpuMeter {
    cpu: Duration,
    at: Duration,
    percent: f64,
}

impl CpuMeter {
    const INTERVAL: Duration = Duration::from_millis(200);

    pub(super) fn new(cpu: Duration, now: Duration) -> Self {
        Self { cpu, at: now, percent: 0.0 }
    }

    /// `cpu` is what the process has used so far, `now` any clock that runs evenly.
    pub(super) fn sample(&mut self, cpu: Duration, now: Duration) -> f64 {
        let elapsed = now.saturating_sub(self.at);
        if elapsed >= Self::INTERVAL {
            let used = cpu.saturating_sub(self.cpu).as_secs_f64();
            self.percent = (used / elapsed.as_secs_f64() * 100.0).min(100.0);
            (self.cpu, self.at) = (cpu, now);
        }
        self.percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_rule() {
        let check = |healthy, waiting, expected| assert_eq!(Status::of(healthy, waiting), expected);
        check(true, 0, Status::Healthy);
        check(true, 1, Status::Degraded);
        check(false, 0, Status::Unhealthy);
        check(false, 9, Status::Unhealthy);
    }

    #[test]
    fn the_average_starts_at_the_first_value_and_follows() {
        let mut average = Average::default();
        assert_eq!(average.value(), 0.0);
        average.record(10.0);
        assert_eq!(average.value(), 10.0);
        average.record(20.0);
        assert_eq!(average.value(), 11.0);
        for _ in 0..200 {
            average.record(20.0);
        }
        assert!((average.value() - 20.0).abs() < 1e-6);
    }

    #[test]
    fn cpu_is_measured_over_whole_intervals() {
        let ms = Duration::from_millis;
        let mut meter = CpuMeter::new(ms(1_000), ms(0));
        assert_eq!(meter.sample(ms(1_050), ms(100)), 0.0, "too early");
        assert_eq!(meter.sample(ms(1_250), ms(500)), 50.0);
        assert_eq!(meter.sample(ms(1_260), ms(510)), 50.0, "the last full interval's");
        assert_eq!(meter.sample(ms(9_000), ms(1_000)), 100.0, "several CPUs are capped");
        assert_eq!(meter.sample(ms(0), ms(2_000)), 0.0, "a clock that went back");
    }
}
