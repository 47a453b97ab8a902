//! Backends for the tests of this module: small servers on loopback that behave as a test says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::Target;
use crate::model::config::{Health, HealthKind};
use crate::model::pool::BackendKey;

pub(super) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Longer than any hiccup of the machine that runs the tests.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn health(kind: HealthKind) -> Health {
    Health {
        kind,
        path: "/health".to_owned(),
        port: None,
        interval: Duration::from_millis(10),
        timeout: PATIENCE,
        rise: 2,
        fall: 3,
        send: String::new(),
        expect: None,
    }
}

pub(super) fn target(service: &str, backend: &str, address: SocketAddr, health: Health) -> Target {
    Target { key: BackendKey { service: service.to_owned(), backend: backend.to_owned() }, address, health }
}

/// Runs `serve` for every connection, for as long as the test's runtime lives.
pub(super) async fn tcp_server<F>(address: IpAddr, serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Reads up to the end of a request's head.
pub(super) async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(request).unwrap()
}

/// Writes an answer; the other side may have had enough before its end.
pub(super) async fn write(stream: &mut TcpStream, answer: &[u8]) {
    let _gone = stream.write_all(answer).await;
}

/// A plain answer with a body.
pub(super) fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
