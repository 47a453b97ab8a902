//! The demo backend on the network: accepts, serves each request as its [`Behaviour`] says, and stops cleanly.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::time::{ClockId, clock_gettime};
use rand::SeedableRng as _;
use rand_pcg::Pcg64;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Ticket};
use super::behaviour::{Behaviour, BehaviourError, Control, Work};
use super::health::{Average, CpuMeter, HealthReport, Status};
use crate::load::timer::PreciseTimer;

/// More connections wait in the kernel's backlog until one ends.
const MAX_CONNECTIONS: usize = 10_000;
const MAX_BUFFER_BYTES: usize = 64 * 1024;
const MAX_CONTROL_BYTES: usize = 4 * 1024;
/// A connection without a request for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long requests may take to finish after the order to stop.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// Pause after a failed accept, which mostly means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const BACKEND: HeaderName = HeaderName::from_static("x-backend");

/// How a server is set up; [`Behaviour`] is the part that can change later.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub listen: SocketAddr,
    /// Sent as `X-Backend`; none: host name and port.
    pub name: Option<String>,
    pub behaviour: Behaviour,
    pub seed: u64,
    /// Whether `/control` is open, to whoever reaches the server.
    pub control: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {0}: the port is taken; stop what holds it, or choose another with --listen")]
    PortTaken(SocketAddr),
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("the name `{0}` cannot be sent in a header; use letters, digits and punctuation")]
    Name(String),
    #[error(transparent)]
    Behaviour(#[from] BehaviourError),
}

/// A server that listens and does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    name_header: HeaderValue,
    control: bool,
    start: Instant,
    state: Mutex<State>,
    /// Timers between uses: making one costs several system calls.
    timers: Mutex<Vec<PreciseTimer>>,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    body: Bytes,
    random: Pcg64,
    admission: Admission<oneshot::Sender<()>>,
    response_time_ms: Average,
    cpu: CpuMeter,
}

impl Server {
    pub async fn bind(options: ServerOptions) -> Result<Self, ServerError> {
        options.behaviour.validate()?;
        let listener = TcpListener::bind(options.listen).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => ServerError::PortTaken(options.listen),
            _ => ServerError::Listen { address: options.listen, error },
        })?;
        let address = listener.local_addr().map_err(|error| ServerError::Listen { address: options.listen, error })?;
        let name = options.name.unwrap_or_else(|| format!("{}:{}", host_name(), address.port()));
        let name_header = HeaderValue::from_str(&name).map_err(|_| ServerError::Name(name.clone()))?;
        let state = State {
            body: body(&name, options.behaviour.body_bytes),
            random: Pcg64::seed_from_u64(options.seed),
            admission: Admission::new(options.behaviour.concurrency),
            response_time_ms: Average::default(),
            cpu: CpuMeter::new(process_cpu(), Duration::ZERO),
            behaviour: options.behaviour,
        };
        let shared = Shared {
            name,
            name_header,
            control: options.control,
            start: Instant::now(),
            state: Mutex::new(state),
            timers: Mutex::new(Vec::new()),
        };
        Ok(Self { listener, address, shared: Arc::new(shared) })
    }

    /// Where it listens, with the port that the system chose if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Serves until `stop` ends, then takes no new connection and finishes the requests under way.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let stopping = CancellationToken::new();
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let accept = async {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        let serving = serve_connection(Arc::clone(&self.shared), stream, stopping.clone());
                        connections.spawn(async move {
                            serving.await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = stop => {}
        }
        drop(self.listener);
        stopping.cancel();
        connections.close();
        if tokio::time::timeout(STOP_GRACE, connections.wait()).await.is_err() {
            tracing::warn!(connections = connections.len(), "stopped with requests unfinished");
        }
    }
}

async fn serve_connection(shared: Arc<Shared>, stream: TcpStream, stopping: CancellationToken) {
    // Without it, a small answer can wait for the client's delayed acknowledgement; failing is no reason not to serve.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.respond(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

impl Shared {
    async fn respond(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = match (request.uri().path(), request.method()) {
            ("/health", _) => self.health(),
            ("/control", _) if !self.control => {
                text(StatusCode::FORBIDDEN, "control is closed; start the backend with --control to open it\n")
            }
            ("/control", &Method::GET) => json(StatusCode::OK, &self.lock().behaviour.shown()),
            ("/control", &Method::POST) => self.change(request.into_body()).await,
            ("/control", _) => text(StatusCode::METHOD_NOT_ALLOWED, "use GET or POST\n"),
            _ => self.work().await,
        };
        response.headers_mut().insert(BACKEND, self.name_header.clone());
        response
    }

    fn health(&self) -> Response<Full<Bytes>> {
        let mut state = self.lock();
        let waiting = state.admission.waiting();
        let report = HealthReport {
            status: Status::of(state.behaviour.healthy, waiting),
            cpu_percent: round(state.cpu.sample(process_cpu(), self.start.elapsed())),
            active_requests: u64::from(state.admission.active()) + waiting as u64,
            response_time_ms: round(state.response_time_ms.value()),
            queued_requests: waiting as u64,
            name: self.name.clone(),
        };
        drop(state);
        let code = if report.status == Status::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        json(code, &report)
    }

    async fn change(&self, body: Incoming) -> Response<Full<Bytes>> {
        let Ok(body) = Limited::new(body, MAX_CONTROL_BYTES).collect().await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or incomplete\n");
        };
        let change: Control = match serde_json::from_slice(&body.to_bytes()) {
            Ok(change) => change,
            Err(error) => return text(StatusCode::BAD_REQUEST, &format!("{error}\n")),
        };
        let mut state = self.lock();
        let behaviour = match state.behaviour.changed(&change) {
            Ok(behaviour) => behaviour,
            Err(error) => return text(StatusCode::UNPROCESSABLE_ENTITY, &format!("{error}\n")),
        };
        state.body = self::body(&self.name, behaviour.body_bytes);
        let started = state.admission.set_limit(behaviour.concurrency);
        state.behaviour = behaviour;
        start_all(started);
        json(StatusCode::OK, &state.behaviour.shown())
    }

    /// One request: wait for a place, take as long as was drawn, answer.
    async fn work(self: &Arc<Self>) -> Response<Full<Bytes>> {
        let arrived = Instant::now();
        let (work, turn, started) = self.arrive();
        // An error means that the sender was dropped, which happens only with the whole server.
        let _ = started.await;
        self.spend(work).await;
        let mut state = self.lock();
        state.response_time_ms.record(arrived.elapsed().as_secs_f64() * 1_000.0);
        let body = state.body.clone();
        drop(state);
        drop(turn);
        if work.fails {
            text(StatusCode::INTERNAL_SERVER_ERROR, "failed, as --error-rate asks\n")
        } else {
            let mut response = Response::new(Full::new(body));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            response
        }
    }

    fn arrive(self: &Arc<Self>) -> (Work, Turn, oneshot::Receiver<()>) {
        let (starter, started) = oneshot::channel();
        let mut state = self.lock();
        let State { behaviour, random, admission, .. } = &mut *state;
        let work = behaviour.draw(random);
        let (ticket, at_once) = admission.arrive(starter);
        drop(state);
        start_all(at_once);
        (work, Turn { shared: Arc::clone(self), ticket }, started)
    }

    async fn spend(&self, work: Work) {
        if !work.delay.is_zero() {
            let until = Instant::now() + work.delay;
            let pooled = self.timers().pop();
            if let Some(mut timer) = pooled.or_else(|| PreciseTimer::new().ok())
                && timer.sleep_until(until).await.is_ok()
            {
                self.timers().push(timer);
            } else {
                // Out of file descriptors: less precise, but no less.
                tokio::time::sleep_until(until.into()).await;
            }
        }
        if !work.cpu_burn.is_zero() {
            // On a thread of its own, so that burning does not hold up other connections and /health.
            let _ = tokio::task::spawn_blocking(move || burn(work.cpu_burn)).await;
        }
    }

    /// A panic of another request must not end this one: the state is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn timers(&self) -> MutexGuard<'_, Vec<PreciseTimer>> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's place, or its place in the queue. Dropping it, also because the client went away, lets the next one in.
#[derive(Debug)]
struct Turn {
    shared: Arc<Shared>,
    ticket: Ticket,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = self.shared.lock().admission.leave(self.ticket);
        start_all(next);
    }
}

fn start_all(starters: impl IntoIterator<Item = oneshot::Sender<()>>) {
    for starter in starters {
        // Its request is being dropped, and its turn will pass the place on.
        let _ = starter.send(());
    }
}

/// Uses CPU time, not just time: on a crowded machine it takes longer, as real work does.
fn burn(amount: Duration) {
    let start = thread_cpu();
    while thread_cpu().saturating_sub(start) < amount {
        for _ in 0..1_000 {
            std::hint::spin_loop();
        }
    }
}

fn thread_cpu() -> Duration {
    // Both clocks exist on every Linux; if not, u64::MAX ends a burn at once.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::MAX, Duration::from)
}

fn process_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "backend".to_owned())
}

/// The backend's name in a line, filled up or cut to the wanted length.
fn body(name: &str, bytes: Option<u64>) -> Bytes {
    let mut body = format!("hello from {name}\n").into_bytes();
    if let Some(bytes) = bytes {
        body.resize(usize::try_from(bytes).unwrap_or(usize::MAX), b'.');
    }
    body.into()
}

fn text(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    answer(status, HeaderValue::from_static("text/plain"), message.to_owned().into())
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => answer(status, HeaderValue::from_static("application/json"), body.into()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn answer(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
