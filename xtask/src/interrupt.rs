//! Being asked to end: ctrl-C, SIGTERM and a terminal that goes away become one flag, so that whatever was built up is
//! taken down by the same code that does it at the ordinary end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// How soon somebody who waits notices.
const STEP: Duration = Duration::from_millis(10);

/// Whether this process has been asked to end. Clones share the answer.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on the signals do nothing but set the flag.
    pub(crate) fn watch() -> Result<Self> {
        let interrupt = Self(Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("starting a runtime for signals")?;
        let mut signals = {
            let _inside = runtime.enter();
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            kinds.map(signal).into_iter().collect::<std::io::Result<Vec<_>>>().context("listening for signals")?
        };
        let watched = interrupt.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                let [interrupted, terminated, hung_up] = &mut signals[..] else { return };
                loop {
                    tokio::select! {
                        _ = interrupted.recv() => {}
                        _ = terminated.recv() => {}
                        _ = hung_up.recv() => {}
                    }
                    watched.request();
                }
            });
        });
        Ok(interrupt)
    }

    /// For tests, which nobody interrupts.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self(Arc::default())
    }

    /// As a signal does.
    pub(crate) fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once the end has been asked for.
    pub(crate) fn check(&self) -> Result<()> {
        if self.requested() { bail!("interrupted") } else { Ok(()) }
    }

    /// Calls `attempt` until it succeeds, the limit has passed or the end is asked for.
    pub(crate) fn wait_until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            self.check()?;
            match attempt() {
                Ok(found) => return Ok(found),
                Err(reason) if start.elapsed() >= limit => {
                    return Err(reason.context(format!("waited {limit:?} in vain until {what}")));
                }
                Err(_) => std::thread::sleep(STEP),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_success_with_the_limit_or_with_the_interruption() {
        let interrupt = Interrupt::never();
        let mut calls = 0;
        let found = interrupt.wait_until("three calls", Duration::from_secs(5), || {
            calls += 1;
            if calls < 3 { bail!("only {calls}") } else { Ok(calls) }
        });
        assert_eq!(found.expect("the third call succeeds"), 3);
        let error = interrupt.wait_until::<()>("the moon is blue", Duration::ZERO, || bail!("it is white"));
        assert_eq!(format!("{:#}", error.unwrap_err()), "waited 0ns in vain until the moon is blue: it is white");
        interrupt.request();
        let error = interrupt.wait_until("never", Duration::from_secs(5), || Ok(()));
        assert_eq!(error.unwrap_err().to_string(), "interrupted");
    }
}
