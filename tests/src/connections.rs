//! Load whose every hiccup is seen: connections that stay open and ask something every 100 ms, and new ones that
//! arrive at a steady rate whatever became of those before. Both run on a thread in the client's namespace until
//! they are stopped, and both say what broke, when, and which backend answered.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tokio::io::BufStream;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::http;
use crate::lab::namespace::Namespace;
use crate::wait::wait_until;

/// Between two requests of a connection that stays open.
const PERIOD: Duration = Duration::from_millis(100);
/// TCP resends for a while; who has no answer after this has lost the connection.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Until all connections of [`LongLived`] are open.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// Until a share of the load that takes seconds on an idle machine is done on a busy one.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
/// New connections that may wait for an answer at once; far more than arrive within [`ANSWER_LIMIT`].
const MAX_PENDING: usize = 10_000;

/// One request, or connection, that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When the request was begun.
    pub began: Instant,
    /// The client's port, if the connection was opened at all.
    pub port: Option<u16>,
    /// The backend of the connection, if it has ever answered.
    pub backend: Option<String>,
    pub reason: String,
}

impl Failure {
    fn new(began: Instant, error: &io::Error) -> Self {
        Self { began, port: None, backend: None, reason: error.to_string() }
    }
}

/// What has happened so far.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The client's ports of the connections that were opened and stay open.
    pub ports: Vec<u16>,
    pub requests: u64,
    pub failures: Vec<Failure>,
    /// Requests answered by each backend.
    pub answers: BTreeMap<String, u64>,
}

impl Report {
    /// Requires that nothing failed.
    pub fn unbroken(&self, what: &str) -> Result<()> {
        self.unbroken_since(what, None)
    }

    /// Requires that all failures are those of connections to this backend.
    pub fn broken_only_with(&self, backend: &str) -> Result<()> {
        let other = self.failures.iter().find(|failure| failure.backend.as_deref() != Some(backend));
        ensure!(other.is_none(), "a connection to another backend broke: {other:?}");
        Ok(())
    }

    /// Requires that no request failed that was begun after the given moment.
    pub fn unbroken_since(&self, what: &str, since: Option<Instant>) -> Result<()> {
        let failures: Vec<_> =
            self.failures.iter().filter(|failure| since.is_none_or(|since| failure.began >= since)).collect();
        if let Some(first) = failures.first() {
            bail!(
                "{} {what} failed, {} requests were answered; the first, from port {:?} to {:?}: {}",
                failures.len(),
                self.requests,
                first.port,
                first.backend,
                first.reason
            );
        }
        Ok(())
    }

    fn count(&mut self, backend: String) {
        self.requests += 1;
        *self.answers.entry(backend).or_default() += 1;
    }
}

type Shared = Arc<Mutex<Report>>;

/// A thread of load; stopped and joined when dropped.
#[derive(Debug)]
struct Load {
    report: Shared,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    fn start<F: Future<Output = ()>>(
        client: &Namespace,
        work: impl FnOnce(Shared, watch::Receiver<()>) -> F + Send + 'static,
    ) -> Self {
        let report = Shared::default();
        let (stop, stopped) = watch::channel(());
        let shared = Arc::clone(&report);
        let thread = client.tokio_thread(move || work(shared, stopped));
        Self { report, stop: Some(stop), thread: Some(thread) }
    }

    fn report(&self) -> Report {
        lock(&self.report).clone()
    }

    fn wait_for_more(&self, requests: u64) -> Result<()> {
        let before = lock(&self.report).requests;
        wait_until(&format!("{requests} more requests are answered"), PROGRESS_LIMIT, || {
            let more = lock(&self.report).requests - before;
            if more < requests { bail!("{more} are") } else { Ok(()) }
        })
    }

    fn stop(&mut self) {
        // The workers end when the sender is gone.
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Connections that stay open, each with a request every 100 ms.
#[derive(Debug)]
pub struct LongLived {
    load: Load,
}

impl LongLived {
    /// Opens `count` connections and returns when each of them has had its first answer.
    pub fn open(client: &Namespace, target: SocketAddr, count: usize) -> Result<Self> {
        let load = Load::start(client, move |report, stopped| async move {
            let mut connections = JoinSet::new();
            for _ in 0..count {
                connections.spawn(keep_open(target, Arc::clone(&report), stopped.clone()));
            }
            connections.join_all().await;
        });
        wait_until(&format!("{count} connections to {target} are open"), OPEN_LIMIT, || {
            let report = load.report();
            report.unbroken("connections")?;
            if report.ports.len() < count { bail!("{} are", report.ports.len()) } else { Ok(()) }
        })?;
        Ok(Self { load })
    }

    pub fn report(&self) -> Report {
        self.load.report()
    }

    /// Waits until so many more requests have been answered: proof that time has passed and traffic flowed.
    pub fn wait_for_more(&self, requests: u64) -> Result<()> {
        self.load.wait_for_more(requests)
    }

    /// Lets requests that are under way end, and closes the connections.
    pub fn close(mut self) -> Report {
        self.load.stop();
        self.load.report()
    }
}

/// New connections at a steady rate: open, ask once, close.
#[derive(Debug)]
pub struct Arrivals {
    load: Load,
}

impl Arrivals {
    pub fn start(client: &Namespace, target: SocketAddr, per_second: u32) -> Self {
        let load = Load::start(client, move |report, mut stopped| async move {
            let mut ticks = interval(Duration::from_secs(1) / per_second);
            // Late ones are made up for: a stall must not look like a quiet moment.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut pending = JoinSet::new();
            loop {
                tokio::select! {
                    _ = stopped.changed() => break,
                    _ = ticks.tick() => {}
                }
                if pending.len() < MAX_PENDING {
                    pending.spawn(ask_once(target, Arc::clone(&report)));
                } else {
                    let error = io::Error::other("too many connections wait for their answer");
                    fail(&report, Failure::new(Instant::now(), &error));
                }
                while pending.try_join_next().is_some() {}
            }
            pending.join_all().await;
        });
        Self { load }
    }

    pub fn report(&self) -> Report {
        self.load.report()
    }

    /// Waits until so many more connections have been answered.
    pub fn wait_for_more(&self, requests: u64) -> Result<()> {
        self.load.wait_for_more(requests)
    }

    /// Waits for the connections that are under way.
    pub fn stop(mut self) -> Report {
        self.load.stop();
        self.load.report()
    }
}

async fn keep_open(target: SocketAddr, report: Shared, mut stopped: watch::Receiver<()>) {
    let began = Instant::now();
    let (mut connection, port) = match connect(target).await {
        Ok(opened) => opened,
        Err(error) => return fail(&report, Failure::new(began, &error)),
    };
    let mut first: Option<String> = None;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.changed() => return,
            _ = ticks.tick() => {}
        }
        let began = Instant::now();
        let answer = ask(&mut connection).await.and_then(|backend| match &first {
            Some(first) if *first != backend => Err(io::Error::other(format!("answered by {backend}"))),
            _ => Ok(backend),
        });
        match answer {
            Ok(backend) => {
                let mut report = lock(&report);
                if first.is_none() {
                    report.ports.push(port);
                    first = Some(backend.clone());
                }
                report.count(backend);
            }
            Err(error) => {
                return fail(&report, Failure { port: Some(port), backend: first, ..Failure::new(began, &error) });
            }
        }
    }
}

async fn ask_once(target: SocketAddr, report: Shared) {
    let began = Instant::now();
    let (mut connection, port) = match connect(target).await {
        Ok(opened) => opened,
        Err(error) => return fail(&report, Failure::new(began, &error)),
    };
    match ask(&mut connection).await {
        Ok(backend) => lock(&report).count(backend),
        Err(error) => fail(&report, Failure { port: Some(port), ..Failure::new(began, &error) }),
    }
}

async fn connect(target: SocketAddr) -> io::Result<(BufStream<TcpStream>, u16)> {
    let stream = within(TcpStream::connect(target)).await;
    let stream = stream.map_err(|error| io::Error::new(error.kind(), format!("connecting: {error}")))?;
    stream.set_nodelay(true)?;
    let port = stream.local_addr()?.port();
    Ok((BufStream::new(stream), port))
}

/// One request; the backend's name is the answer.
async fn ask(connection: &mut BufStream<TcpStream>) -> io::Result<String> {
    let answer = within(http::get(connection, "/")).await?;
    match answer.status {
        200 => Ok(answer.body.trim().to_owned()),
        status => Err(io::Error::other(format!("HTTP status {status}"))),
    }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(ANSWER_LIMIT, work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing for {ANSWER_LIMIT:?}"))),
    }
}

fn fail(report: &Shared, failure: Failure) {
    lock(report).failures.push(failure);
}

fn lock(report: &Shared) -> std::sync::MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}
