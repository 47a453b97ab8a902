//! The traffic of one phase: the load generator on a thread in the client's namespace, a new connection per request,
//! with what it has seen each second, and its report in the end.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_agent::load::{LoadOptions, Report, Snapshot, generate_until};
use lb_tests::lab::Lab;
use lb_tests::lab::address::Family;
use lb_tests::programs::HTTP_PORT;
use tokio::sync::oneshot;

/// One a second; whoever looks less often than once a minute misses some.
const UNSEEN_SNAPSHOTS: usize = 60;

/// A run of the generator that goes on. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Traffic {
    stop: Option<oneshot::Sender<()>>,
    snapshots: Receiver<Snapshot>,
    thread: Option<JoinHandle<Result<Report>>>,
}

impl Traffic {
    /// `rate` requests per second to the VIP, for `duration` at most.
    pub(super) fn start(lab: &Lab, rate: f64, duration: Duration) -> Result<Self> {
        let mut options = LoadOptions::new(&url())?;
        options.rate = rate;
        options.duration = Some(duration);
        // Each request is a decision of the balancer.
        options.new_connections = true;
        let (stop, stopped) = oneshot::channel();
        let (seen, snapshots) = sync_channel(UNSEEN_SNAPSHOTS);
        let thread = lab.client.tokio_thread(move || async move {
            // Whether it was told to stop or its owner is gone comes to the same.
            let stopped = async {
                let _ = stopped.await;
            };
            let progress = |snapshot: &Snapshot| {
                // Nobody has to look.
                let _ = seen.try_send(snapshot.clone());
            };
            generate_until(&options, stopped, progress).await
        });
        Ok(Self { stop: Some(stop), snapshots, thread: Some(thread) })
    }

    /// What was seen in the last second, if that second ends within the given time.
    pub(super) fn next(&self, within: Duration) -> Option<Snapshot> {
        match self.snapshots.recv_timeout(within) {
            Ok(snapshot) => Some(snapshot),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                // The run is over; whoever polls must not spin.
                std::thread::sleep(within);
                None
            }
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// The report of a run that has come to its end.
    pub(super) fn finish(mut self) -> Result<Report> {
        self.join()
    }

    /// Ends the run now; requests under way are in no figure but [`Report::unfinished`].
    pub(super) fn cut(mut self) -> Result<Report> {
        self.stop = None;
        self.join()
    }

    fn join(&mut self) -> Result<Report> {
        let thread = self.thread.take().context("the load generator has been waited for already")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("generating traffic")
    }
}

/// Where it goes to: the VIP.
pub(super) fn url() -> String {
    format!("http://{}:{HTTP_PORT}/", Family::V4.vip())
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // Whoever drops it has no use for the report, or has failed for another reason.
            let _ = thread.join();
        }
    }
}
