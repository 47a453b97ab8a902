//! Sleeping to within tens of microseconds. The runtime's own timers round up to whole milliseconds, which would
//! add up to a millisecond to every measured latency and to every simulated service time; a timerfd does not.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::time::Instant;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One timer, for one sleeper at a time.
#[derive(Debug)]
pub(crate) struct PreciseTimer {
    timer: AsyncFd<Descriptor>,
}

#[derive(Debug)]
struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl PreciseTimer {
    /// Needs a runtime with I/O enabled.
    pub(crate) fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // SAFETY: `Descriptor` owns an open timerfd, always names that one, and closes it only when it is dropped,
        // which happens together with the `AsyncFd` that takes it over here.
        let timer = unsafe { AsyncFd::register_with_interest(Descriptor(timer), Interest::READABLE) }?;
        Ok(Self { timer })
    }

    /// Returns at `when`, or at once if that has passed. Dropping the future before it is done is harmless.
    pub(crate) async fn sleep_until(&mut self, when: Instant) -> io::Result<()> {
        let remaining = when.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Ok(());
        }
        // Setting the timer also withdraws an expiration that an earlier, dropped sleep left behind.
        let expiration = Expiration::OneShot(TimeSpec::from_duration(remaining));
        self.timer.get_ref().0.set(expiration, TimerSetTimeFlags::empty())?;
        loop {
            let mut ready = self.timer.readable().await?;
            // `WouldBlock` means that readiness was a leftover: go on waiting.
            if let Ok(result) = ready.try_io(|timer| timer.get_ref().0.wait().map_err(io::Error::from)) {
                return result;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn sleeps_at_least_as_long_as_asked_and_can_be_dropped_half_way() {
        let mut timer = PreciseTimer::new().expect("a timer");
        let start = Instant::now();
        timer.sleep_until(start + Duration::from_micros(300)).await.expect("sleep");
        assert!(start.elapsed() >= Duration::from_micros(300));

        // A dropped sleep that expires meanwhile must not end the next one early.
        let dropped =
            tokio::time::timeout(Duration::ZERO, timer.sleep_until(Instant::now() + Duration::from_millis(2)));
        let _ = dropped.await;
        std::thread::sleep(Duration::from_millis(4));
        let start = Instant::now();
        timer.sleep_until(start + Duration::from_millis(20)).await.expect("sleep");
        assert!(start.elapsed() >= Duration::from_millis(20));

        timer.sleep_until(start).await.expect("a time that has passed");
    }
}
