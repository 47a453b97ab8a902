//! One client connection: connect, send a request, read the answer to its end and say what became of it. The server
//! is not trusted: headers and bodies are bounded here, and the caller bounds the time.

use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, SERVER, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::report::ErrorKind;
use super::target::{Target, TargetError};

/// Response head, and what is read at a time of a body.
const MAX_BUFFER_BYTES: usize = 64 * 1024;
/// A larger body is an error: it would measure the link and not the server.
const MAX_BODY_BYTES: u64 = 64 * 1024 * 1024;
/// How long to wait for a server that said it would close its connection.
const CLOSE_PATIENCE: Duration = Duration::from_millis(100);
/// What a server may still send between its answer and closing.
const CLOSE_MAX_BYTES: usize = 64 * 1024;

const BACKEND: HeaderName = HeaderName::from_static("x-backend");

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) backend: Option<HeaderValue>,
    pub(super) body_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) detail: String,
}

/// What every connection of a run shares.
#[derive(Debug)]
pub(super) struct Client {
    addresses: Vec<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
}

impl Client {
    /// `addresses` is what the target's name resolved to, in order of preference.
    pub(super) fn new(target: &Target, addresses: Vec<SocketAddr>, close: bool) -> Result<Self, TargetError> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, target.host_header()?);
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("lb-agent/", env!("CARGO_PKG_VERSION"))));
        if close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(Self { addresses, uri: target.request_uri()?, headers })
    }

    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(&*self.addresses).await.map_err(|error| Failure::io(&error))?;
        stream.set_nodelay(true).map_err(|error| Failure::io(&error))?;
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::http(&error))?;
        Ok(Connection { sender, wire: Wire { driver, finished: false } })
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    wire: Wire,
}

impl Connection {
    /// Sends one request and reads its answer to the end. After an error the connection is of no use any more.
    pub(super) async fn exchange(&mut self, client: &Client) -> Result<Answer, Failure> {
        let Self { sender, wire } = self;
        wire.drive(sender.ready()).await.map_err(|error| Failure::http(&error))?;
        let response =
            wire.drive(sender.send_request(client.request())).await.map_err(|error| Failure::http(&error))?;
        let (mut head, mut body) = response.into_parts();
        let mut body_bytes = 0_u64;
        while let Some(frame) = wire.drive(body.frame()).await {
            let frame = frame.map_err(|error| Failure::http(&error))?;
            body_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            if body_bytes > MAX_BODY_BYTES {
                let detail = format!("the response body is larger than {} MiB", MAX_BODY_BYTES >> 20);
                return Err(Failure { kind: ErrorKind::Other, detail });
            }
        }
        let backend = head.headers.remove(BACKEND).or_else(|| head.headers.remove(SERVER));
        Ok(Answer { status: head.status.as_u16(), backend, body_bytes })
    }

    /// Returns when the server has closed the connection, or sent something that it was not asked for.
    pub(super) async fn closed(&mut self) {
        poll_fn(|cx| self.wire.poll(cx)).await;
    }

    /// Lets the server close first, as it was asked to: otherwise this side keeps each port for a minute, and runs
    /// out of ports at a few hundred connections per second.
    pub(super) async fn close_after_server(mut self) {
        let closing = async {
            poll_fn(|cx| self.wire.poll(cx)).await;
            let mut stream = self.wire.driver.into_parts().io.into_inner();
            let mut discarded = 0;
            let mut buffer = [0_u8; 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                discarded += count;
                if discarded > CLOSE_MAX_BYTES {
                    break;
                }
            }
        };
        // Either way the stream is dropped, and with it closed.
        let _ = tokio::time::timeout(CLOSE_PATIENCE, closing).await;
    }
}

/// The half of a connection that moves bytes. It is polled by the task that waits for the answer, which saves a task
/// and two wake-ups per request.
#[derive(Debug)]
struct Wire {
    driver: http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>,
    finished: bool,
}

impl Wire {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Its error, if any, also reaches the request or body that waits for it.
        if self.finished || self.driver.poll_without_shutdown(cx).is_ready() {
            self.finished = true;
            return Poll::Ready(());
        }
        Poll::Pending
    }

    async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let _ = self.poll(cx);
            future.as_mut().poll(cx)
        })
        .await
    }
}

impl Failure {
    pub(super) fn timeout() -> Self {
        Self { kind: ErrorKind::Timeout, detail: String::new() }
    }

    fn io(error: &io::Error) -> Self {
        Self { kind: kind_of(error), detail: error.to_string() }
    }

    fn http(error: &hyper::Error) -> Self {
        let mut detail = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            if let Some(io) = inner.downcast_ref::<io::Error>() {
                return Self { kind: kind_of(io), detail: format!("{detail}: {io}") };
            }
            detail = format!("{detail}: {inner}");
            source = inner.source();
        }
        let closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
        Self { kind: if closed { ErrorKind::Reset } else { ErrorKind::Other }, detail }
    }
}

fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorKind::Refused,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected
        | io::ErrorKind::UnexpectedEof => ErrorKind::Reset,
        io::ErrorKind::TimedOut => ErrorKind::Timeout,
        _ => ErrorKind::Other,
    }
}
