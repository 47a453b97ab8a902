//! One probe of one backend: an HTTP request, a TCP connection or a UDP datagram, each over a socket of its own that
//! lives no longer than the probe. It owns the exchange and its limits; when to probe and what a result is worth are
//! decided elsewhere.
//!
//! A connection is never reused: a pool of them would go on reporting health over an old path while new connections
//! already fail. TCP sockets are closed by a reset, so that thousands of probes leave no TIME_WAIT sockets behind.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use super::load_report;
use super::starvation::Fault;
use crate::model::config::{Health, HealthKind};
use crate::model::pool::{BackendKey, ReportedLoad};

const USER_AGENT: &str = concat!("lb-agent/", env!("CARGO_PKG_VERSION"), " health");
/// Status line and headers of an answer.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// A health answer has its say in far less; what comes after is not read.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// `expect` is looked for in so much of a datagram.
const MAX_DATAGRAM_BYTES: usize = 16 * 1024;
const MAX_REASON_CHARS: usize = 120;
const NOT_HTTP: &str = "the answer is not HTTP/1";
const CUT_SHORT: &str = "connection closed before the whole answer came";

/// A backend to be probed.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub key: BackendKey,
    /// Where the probe goes: the backend's address with its own port or the health check's.
    pub address: SocketAddr,
    pub health: Health,
}

/// Probes once, within the time-out that covers the whole of it.
pub(super) async fn probe(target: &Target) -> Result<Option<ReportedLoad>, Fault> {
    let health = &target.health;
    let limit = Limit { timeout: health.timeout, deadline: Instant::now() + health.timeout };
    match health.kind {
        HealthKind::Http => http(target.address, &health.path, limit).await,
        HealthKind::Tcp => connect(target.address, limit).await.map(|_| None),
        HealthKind::Udp => udp(target.address, health, limit).await.map(|()| None),
        HealthKind::Https | HealthKind::Icmp | HealthKind::None => {
            Err(Fault::Said(format!("this agent has no health check of kind `{}`; use http, tcp or udp", health.kind)))
        }
    }
}

/// The one deadline of a probe, however many steps it has.
#[derive(Clone, Copy)]
struct Limit {
    timeout: Duration,
    deadline: Instant,
}

impl Limit {
    /// Runs a step; `missing` names what did not come in time.
    async fn run<T>(self, missing: &str, step: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        match timeout_at(self.deadline, step).await {
            Ok(result) => result,
            Err(_) => Err(Fault::Silent(format!("no {missing} within {:?}", self.timeout))),
        }
    }
}

async fn connect(address: SocketAddr, limit: Limit) -> Result<TcpStream, Fault> {
    let step = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_zero_linger()?;
        Ok(stream)
    };
    limit.run("connection", step).await
}

async fn http(address: SocketAddr, path: &str, limit: Limit) -> Result<Option<ReportedLoad>, Fault> {
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| Fault::Said(for_people(&format!("health path `{path}` is not a request path"))))?;
    let stream = connect(address, limit).await?;
    limit.run("answer", exchange(stream, request)).await
}

/// Drives the connection and waits for the answer in one task, so that giving up drops both.
async fn exchange(stream: TcpStream, request: Request<Empty<Bytes>>) -> Result<Option<ReportedLoad>, Fault> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let mut connection = pin!(connection);
    let mut answer = pin!(async move {
        let response = sender.send_request(request).await?;
        read_answer(response).await
    });
    let mut connected = true;
    loop {
        tokio::select! {
            result = &mut answer => return result,
            // What the connection had to say about its end has reached the answer.
            _ = &mut connection, if connected => connected = false,
        }
    }
}

async fn read_answer(response: Response<Incoming>) -> Result<Option<ReportedLoad>, Fault> {
    let status = response.status();
    if !(status.is_success() || status.is_redirection()) {
        return Err(Fault::Said(format!("HTTP status {}", status.as_u16())));
    }
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame?.into_data() {
            let room = MAX_BODY_BYTES - body.len();
            body.extend_from_slice(&data[..data.len().min(room)]);
        }
        if body.len() == MAX_BODY_BYTES {
            break;
        }
    }
    match load_report::parse(&head.headers, &body) {
        Some(load) if load_report::is_unhealthy(&load) => Err(Fault::Said("reports itself unhealthy".to_owned())),
        load => Ok(load),
    }
}

/// A connected socket, because only that one hears of a refusal (ICMP port unreachable).
async fn udp(address: SocketAddr, health: &Health, limit: Limit) -> Result<(), Fault> {
    let exchange = async {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&address.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        socket.send(health.send.as_bytes()).await?;
        let mut answer = vec![0; MAX_DATAGRAM_BYTES];
        let length = socket.recv(&mut answer).await?;
        answer.truncate(length);
        Ok(answer)
    };
    let answer = limit.run("answer", exchange).await;
    match (&health.expect, answer) {
        (Some(expected), Ok(answer)) if !contains(&answer, expected.as_bytes()) => {
            Err(Fault::Said("the answer does not contain what `expect` says".to_owned()))
        }
        (_, Ok(_)) => Ok(()),
        // Many a UDP service has nothing to say to a probe: it counts that nobody refused.
        (None, Err(Fault::Silent(_))) => Ok(()),
        (_, Err(fault)) => Err(fault),
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|window| window == needle)
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::from_io(&error)
    }
}

impl From<hyper::Error> for Fault {
    fn from(error: hyper::Error) -> Self {
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                // How hyper names what is malformed in a body; the kernel has a number for each of its errors.
                let malformed = matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
                return match error.raw_os_error() {
                    None if malformed => Self::Said(NOT_HTTP.to_owned()),
                    _ => Self::from_io(error),
                };
            }
            source = cause.source();
        }
        if error.is_parse_too_large() {
            Self::Said("the head of the answer is too large".to_owned())
        } else if error.is_parse() {
            Self::Said(NOT_HTTP.to_owned())
        } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            Self::Silent(CUT_SHORT.to_owned())
        } else {
            Self::Said(for_people(&error.to_string()))
        }
    }
}

impl Fault {
    fn from_io(error: &io::Error) -> Self {
        if let Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL) =
            error.raw_os_error()
        {
            return Self::Local(for_people(&error.to_string()));
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Said("connection refused".to_owned()),
            io::ErrorKind::HostUnreachable => Self::Said("host unreachable".to_owned()),
            io::ErrorKind::NetworkUnreachable => Self::Said("network unreachable".to_owned()),
            io::ErrorKind::TimedOut => Self::Silent("connection timed out".to_owned()),
            // A backend hangs up on a client that stood still, so these may be the agent's own doing.
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Self::Silent("connection reset".to_owned())
            }
            io::ErrorKind::UnexpectedEof => Self::Silent(CUT_SHORT.to_owned()),
            _ => Self::Said(for_people(&error.to_string())),
        }
    }
}

/// A reason goes to logs and terminals: short, and nothing in it that a terminal would obey.
fn for_people(text: &str) -> String {
    text.chars().take(MAX_REASON_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
