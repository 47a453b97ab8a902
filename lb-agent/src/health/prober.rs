//! Probes every target on its own schedule and reports the outcomes. It owns one thread with a runtime of its own, so
//! that a busy agent delays no probe, the limits on how many probes are under way, and the heartbeat by which a
//! starved agent is told from a silent backend.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, panic, thread};

use tokio::runtime::Builder;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::probe::{Target, probe};
use super::schedule::Schedule;
use super::starvation::{Fault, HEARTBEAT, LagMonitor, Timing, judge};
use crate::model::config::HealthKind;
use crate::model::pool::{BackendKey, ProbeOutcome};

/// How many probes may be under way.
#[derive(Debug, Clone, Copy)]
struct Limits {
    in_flight: usize,
    per_service: usize,
}

/// Half of the 1,024 file descriptors that a process may open where nobody raised the limit. A service gets a quarter,
/// so that one whose backends all hang holds up neither the others nor all that is left.
const LIMITS: Limits = Limits { in_flight: 512, per_service: 128 };

/// Trouble of the agent's own comes with every probe: it is logged no more often than this.
const LOCAL_TROUBLE_EVERY: Duration = Duration::from_secs(10);

/// What one probe of a target gave.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeReport {
    pub key: BackendKey,
    pub outcome: ProbeOutcome,
}

/// The running probes. Dropping it ends them too; [`Prober::stop`] also waits for the end.
#[derive(Debug)]
pub struct Prober {
    targets: watch::Sender<Vec<Target>>,
    finished: oneshot::Receiver<()>,
    thread: thread::JoinHandle<()>,
}

impl Prober {
    /// Starts without targets. The receiver sees the end of the channel when the probes have ended, for whatever
    /// reason; one that does not keep up slows the probes down, and loses none of their results.
    pub fn spawn(reports: mpsc::Sender<ProbeReport>) -> io::Result<Self> {
        Self::spawn_with(LIMITS, reports)
    }

    fn spawn_with(limits: Limits, reports: mpsc::Sender<ProbeReport>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (targets, wanted) = watch::channel(Vec::new());
        let (running, finished) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("lb-prober".to_owned()).spawn(move || {
            runtime.block_on(Probes::new(limits, reports).run(wanted));
            drop(runtime);
            drop(running);
        })?;
        Ok(Self { targets, finished, thread })
    }

    /// Makes these the targets. One that stays as it was keeps its schedule, one whose settings changed starts anew,
    /// one that is gone is not probed any more. Once the prober has taken the change up, nothing is reported from a
    /// probe that it ended; what was reported before may still be in the channel.
    pub fn set_targets(&self, targets: Vec<Target>) {
        self.targets.send_replace(targets);
    }

    /// Ends all probes and waits for that.
    pub async fn stop(self) {
        let Self { targets, finished, thread } = self;
        drop(targets);
        // Nothing is ever sent: the thread drops its end as the last thing it does, after which joining does not block.
        let _ended = finished.await;
        if thread.join().is_err() {
            tracing::error!("the thread that probes backends had ended in a panic");
        }
    }
}

/// What the tasks of all targets share.
#[derive(Debug)]
struct Shared {
    reports: mpsc::Sender<ProbeReport>,
    in_flight: Semaphore,
    lag: Mutex<LagMonitor>,
    trouble_logged: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Running {
    target: Target,
    task: AbortHandle,
}

/// Runs on the prober's thread: keeps one task per target.
#[derive(Debug)]
struct Probes {
    limits: Limits,
    shared: Arc<Shared>,
    bulkheads: HashMap<String, Arc<Semaphore>>,
    running: HashMap<BackendKey, Running>,
    tasks: JoinSet<()>,
}

impl Probes {
    fn new(limits: Limits, reports: mpsc::Sender<ProbeReport>) -> Self {
        let shared = Arc::new(Shared {
            reports,
            in_flight: Semaphore::new(limits.in_flight),
            lag: Mutex::new(LagMonitor::new(Instant::now())),
            trouble_logged: Mutex::new(None),
        });
        Self { limits, shared, bulkheads: HashMap::new(), running: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Until the [`Prober`] is gone.
    async fn run(mut self, mut wanted: watch::Receiver<Vec<Target>>) {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = wanted.changed() => match changed {
                    Ok(()) => {
                        let targets = wanted.borrow_and_update().clone();
                        self.adopt(targets);
                    }
                    Err(_) => return,
                },
                _ = heartbeat.tick() => lock(&self.shared.lag).beat(Instant::now()),
                Some(ended) = self.tasks.join_next() => match ended {
                    // A target whose probes stopped for ever would keep its last state for ever: rather fail aloud.
                    Err(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
                    _ => {}
                },
            }
        }
    }

    fn adopt(&mut self, targets: Vec<Target>) {
        let probed = targets.into_iter().filter(|target| target.health.kind != HealthKind::None);
        let mut wanted: HashMap<BackendKey, Target> = probed.map(|target| (target.key.clone(), target)).collect();
        let services: HashSet<&str> = wanted.keys().map(|key| key.service.as_str()).collect();
        self.bulkheads.retain(|service, _| services.contains(service.as_str()));
        self.running.retain(|key, running| {
            let unchanged = wanted.get(key) == Some(&running.target);
            if unchanged {
                wanted.remove(key);
            } else {
                running.task.abort();
            }
            unchanged
        });
        let (now, batch) = (Instant::now(), wanted.len());
        for (key, target) in wanted {
            let schedule = Schedule::new(&key, target.health.interval, batch, now);
            let bulkhead = self.bulkheads.entry(key.service.clone());
            let bulkhead = Arc::clone(bulkhead.or_insert_with(|| Arc::new(Semaphore::new(self.limits.per_service))));
            let task = self.tasks.spawn(keep_probing(target.clone(), schedule, bulkhead, Arc::clone(&self.shared)));
            self.running.insert(key, Running { target, task });
        }
    }
}

/// One target's probes, one after the other.
async fn keep_probing(target: Target, mut schedule: Schedule, bulkhead: Arc<Semaphore>, shared: Arc<Shared>) {
    loop {
        // Only the timer's own lateness counts as the agent's: a due time that passed while the last probe was under
        // way, or while others had the permits, is no sign of starvation.
        let wake = schedule.due().max(Instant::now());
        sleep_until(wake.into()).await;
        let woke_late = wake.elapsed();
        let outcome = {
            // The service's permit first: who waits for that one must not hold what other services could use.
            let (Ok(_service), Ok(_all)) = (bulkhead.acquire().await, shared.in_flight.acquire().await) else { return };
            shared.probe(&target, woke_late).await
        };
        schedule.advance(Instant::now());
        let report = ProbeReport { key: target.key.clone(), outcome };
        if shared.reports.send(report).await.is_err() {
            return;
        }
    }
}

impl Shared {
    async fn probe(&self, target: &Target, woke_late: Duration) -> ProbeOutcome {
        let started = Instant::now();
        let stalled_before = lock(&self.lag).stalled(started);
        let result = probe(target).await;
        let ended = Instant::now();
        let timing = Timing {
            timeout: target.health.timeout,
            elapsed: ended - started,
            woke_late,
            stalled: lock(&self.lag).stalled(ended).saturating_sub(stalled_before),
        };
        if let Err(Fault::Local(reason)) = &result {
            self.log_trouble(&target.key, reason, ended);
        }
        judge(result, &timing)
    }

    fn log_trouble(&self, key: &BackendKey, reason: &str, now: Instant) {
        let mut logged = lock(&self.trouble_logged);
        if logged.is_none_or(|last| now.duration_since(last) >= LOCAL_TROUBLE_EVERY) {
            *logged = Some(now);
            tracing::warn!(backend = %key, reason, "cannot probe backends: this host lacks what a probe needs");
        }
    }
}

/// What the locks guard is valid after every statement, so that a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
