//! The open loop: a schedule that waits for nobody, a queue, and one task per connection that serves it.
//!
//! All of it runs on a thread of its own with a single-threaded runtime: nothing needs a lock or wakes another core,
//! the caller's tasks cannot delay a send, and the thread lives in the network namespace of the one that started it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::arrivals::Schedule;
use super::client::{Answer, Client, Connection, Failure};
use super::options::LoadOptions;
use super::recorder::{Ending, Outcome, Recorder, Timing};
use super::report::{ErrorKind, Report, Snapshot};
use super::target::Target;
use super::timer::PreciseTimer;

/// Snapshots that may wait for a slow reader; the reader loses later ones, the run loses nothing.
const SNAPSHOT_BACKLOG: usize = 16;
/// Requests made due in one go before connections get their turn.
const BATCH: u32 = 64;
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the load that `options` describe and returns when every request has its result. `progress` is called every
/// `options.interval`. Dropping the future stops the run.
pub async fn generate(options: &LoadOptions, progress: impl FnMut(&Snapshot)) -> anyhow::Result<Report> {
    generate_until(options, std::future::pending(), progress).await
}

/// As [`generate`], but ends early when `stop` does, with the report of what ran until then.
pub async fn generate_until(
    options: &LoadOptions,
    stop: impl Future<Output = ()>,
    mut progress: impl FnMut(&Snapshot),
) -> anyhow::Result<Report> {
    options.validate()?;
    let cancel = CancellationToken::new();
    let _stop_on_drop = cancel.clone().drop_guard();
    let (snapshots, mut received) = mpsc::channel(SNAPSHOT_BACKLOG);
    let (done, mut finished) = oneshot::channel();
    let for_thread = (options.clone(), cancel.clone());
    thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || {
            let (options, cancel) = for_thread;
            // A caller that has gone away needs no result.
            let _ = done.send(run_on_this_thread(options, &cancel, snapshots));
        })
        .context("cannot start the load generator's thread")?;

    tokio::pin!(stop);
    loop {
        tokio::select! {
            result = &mut finished => return result.context("the load generator ended without a result")?,
            Some(snapshot) = received.recv() => progress(&snapshot),
            () = &mut stop, if !cancel.is_cancelled() => cancel.cancel(),
        }
    }
}

fn run_on_this_thread(
    options: LoadOptions,
    cancel: &CancellationToken,
    snapshots: mpsc::Sender<Snapshot>,
) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the load generator's runtime")?;
    let tasks = LocalSet::new();
    let result = tasks.block_on(&runtime, run(options, cancel, snapshots));
    drop(tasks);
    // A name look-up that hangs must not hold up the report.
    runtime.shutdown_background();
    result
}

async fn run(
    options: LoadOptions,
    cancel: &CancellationToken,
    snapshots: mpsc::Sender<Snapshot>,
) -> anyhow::Result<Report> {
    let addresses = tokio::select! {
        addresses = resolve(&options.target) => addresses?,
        () = cancel.cancelled() => anyhow::bail!("stopped while resolving `{}`", options.target.host()),
    };
    let client = Client::new(&options.target, addresses, options.new_connections)?;
    let timer = PreciseTimer::new().context("cannot make a timer")?;
    let started_at_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    let run = Rc::new(Run::new(options, client));
    for _ in 0..run.options.connections {
        tokio::task::spawn_local(serve_queue(Rc::clone(&run)));
    }
    tokio::task::spawn_local(report_progress(Rc::clone(&run), snapshots));

    let interrupted = tokio::select! {
        result = run.send_on_schedule(timer) => {
            result?;
            false
        }
        () = cancel.cancelled() => true,
    };
    let interrupted = interrupted
        || tokio::select! {
            () = run.all_finished() => false,
            () = cancel.cancelled() => true,
        };
    let ending = Ending {
        started_at_unix_ms,
        elapsed: run.last_result.get().max(if interrupted { run.elapsed() } else { run.options.planned() }),
        interrupted,
        unfinished: run.unfinished(),
        connections_opened: run.connections_opened.get(),
    };
    // The tasks still hold the run; they are dropped with their set, right after this.
    let recorder = run.recorder.replace(Recorder::new(run.options.timeout));
    Ok(recorder.report(&run.options, ending))
}

async fn resolve(target: &Target) -> anyhow::Result<Vec<std::net::SocketAddr>> {
    let lookup = tokio::net::lookup_host((target.host(), target.port()));
    let addresses: Vec<_> = tokio::time::timeout(RESOLVE_TIMEOUT, lookup)
        .await
        .with_context(|| format!("cannot resolve `{}` within {RESOLVE_TIMEOUT:?}; check the name", target.host()))?
        .with_context(|| format!("cannot resolve `{}`; check the name, or use an address", target.host()))?
        .collect();
    anyhow::ensure!(!addresses.is_empty(), "`{}` has no address", target.host());
    Ok(addresses)
}

/// What the schedule and the connections share; all on one thread.
struct Run {
    options: LoadOptions,
    client: Client,
    start: Instant,
    /// Intended send times of requests that no connection has taken yet.
    queue: RefCell<VecDeque<Duration>>,
    queue_limit: u64,
    /// Tells one idle connection, the one that has waited longest, that the queue has something. Taking turns
    /// spreads a low rate over all connections, and so over all backends.
    queued: Notify,
    in_flight: Cell<u64>,
    finished: Notify,
    last_result: Cell<Duration>,
    connections_opened: Cell<u64>,
    recorder: RefCell<Recorder>,
}

impl Run {
    fn new(options: LoadOptions, client: Client) -> Self {
        Self {
            queue: RefCell::new(VecDeque::new()),
            queue_limit: options.queue_limit() as u64,
            queued: Notify::new(),
            in_flight: Cell::new(0),
            finished: Notify::new(),
            last_result: Cell::new(Duration::ZERO),
            connections_opened: Cell::new(0),
            recorder: RefCell::new(Recorder::new(options.timeout)),
            client,
            options,
            start: Instant::now(),
        }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn unfinished(&self) -> u64 {
        self.queue.borrow().len() as u64 + self.in_flight.get()
    }

    /// Makes every request of the schedule due at its time, whatever became of the ones before.
    async fn send_on_schedule(&self, mut timer: PreciseTimer) -> anyhow::Result<()> {
        let end = self.options.run_duration();
        let limit = self.options.requests.unwrap_or(u64::MAX);
        let schedule = Schedule::new(self.options.arrivals, self.options.rate, self.options.seed);
        let mut batch = 0;
        for (intended, _) in schedule.zip(0..limit).take_while(|(intended, _)| *intended < end) {
            if self.elapsed() < intended {
                batch = 0;
                timer.sleep_until(self.start + intended).await.context("the send timer failed")?;
            } else if batch == BATCH {
                batch = 0;
                tokio::task::yield_now().await;
            }
            batch += 1;
            self.make_due(intended);
        }
        Ok(())
    }

    fn make_due(&self, intended: Duration) {
        let now = self.elapsed();
        self.recorder.borrow_mut().due(now.saturating_sub(intended));
        // A request for which a connection is free does not wait, even if that connection has not taken it yet.
        if self.unfinished() >= u64::from(self.options.connections) + self.queue_limit {
            let failure = Outcome::Failure { kind: ErrorKind::QueueFull, detail: None };
            self.finish(Timing { intended, sent: now, finished: now }, failure);
        } else {
            self.queue.borrow_mut().push_back(intended);
            self.queued.notify_one();
        }
    }

    /// The request that has waited longest.
    async fn next(&self) -> Duration {
        loop {
            if let Some(intended) = self.queue.borrow_mut().pop_front() {
                self.in_flight.set(self.in_flight.get() + 1);
                return intended;
            }
            self.queued.notified().await;
        }
    }

    fn finish(&self, timing: Timing, outcome: Outcome<'_>) {
        self.last_result.set(self.last_result.get().max(timing.finished));
        self.recorder.borrow_mut().record(timing, outcome);
        self.finished.notify_one();
    }

    async fn all_finished(&self) {
        while self.unfinished() > 0 {
            self.finished.notified().await;
        }
    }

    /// Uses the connection that is there, or opens one. Afterwards it holds only a connection that is fit for use.
    async fn exchange(&self, connection: &mut Option<Connection>) -> Result<Answer, Failure> {
        let mut current = match connection.take() {
            Some(current) => current,
            None => {
                let opened = self.client.connect().await?;
                self.connections_opened.set(self.connections_opened.get() + 1);
                opened
            }
        };
        let answer = current.exchange(&self.client).await?;
        *connection = Some(current);
        Ok(answer)
    }
}

/// One connection at a time, for as long as the run lasts.
async fn serve_queue(run: Rc<Run>) {
    let mut connection: Option<Connection> = None;
    loop {
        let intended = match &mut connection {
            None => run.next().await,
            Some(open) => tokio::select! {
                // Looked at first, so that a request never goes into a connection known to be closed.
                biased;
                () = open.closed() => {
                    connection = None;
                    continue;
                }
                intended = run.next() => intended,
            },
        };
        let sent = run.elapsed();
        let deadline = tokio::time::Instant::from_std(run.start + intended + run.options.timeout);
        let result = if sent >= intended + run.options.timeout {
            Err(Failure::timeout())
        } else {
            tokio::time::timeout_at(deadline, run.exchange(&mut connection))
                .await
                .unwrap_or_else(|_| Err(Failure::timeout()))
        };
        run.in_flight.set(run.in_flight.get() - 1);
        let timing = Timing { intended, sent, finished: run.elapsed() };
        match &result {
            Ok(answer) => {
                let backend = answer.backend.as_ref().map(|name| name.as_bytes());
                let Answer { status, body_bytes, .. } = *answer;
                run.finish(timing, Outcome::Answer { status, backend, body_bytes });
            }
            Err(failure) => {
                run.finish(timing, Outcome::Failure { kind: failure.kind, detail: Some(&failure.detail) });
            }
        }
        if run.options.new_connections
            && let Some(used) = connection.take()
        {
            used.close_after_server().await;
        }
    }
}

async fn report_progress(run: Rc<Run>, snapshots: mpsc::Sender<Snapshot>) {
    let first = tokio::time::Instant::from_std(run.start) + run.options.interval;
    let mut ticks = tokio::time::interval_at(first, run.options.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let queued = run.queue.borrow().len() as u64;
        let snapshot = run.recorder.borrow_mut().snapshot(run.elapsed(), run.in_flight.get(), queued);
        // Full: the reader is slow and gets the next one.
        let _ = snapshots.try_send(snapshot);
    }
}
