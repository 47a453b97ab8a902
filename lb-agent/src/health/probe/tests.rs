use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tokio::io::AsyncReadExt as _;
use tokio::sync::oneshot;

use super::*;
use crate::health::test_net::{LOCALHOST, PATIENCE, answer, health, read_request, target, tcp_server, write};

fn said<T>(reason: &str) -> Result<T, Fault> {
    Err(Fault::Said(reason.to_owned()))
}

fn silent<T>(reason: &str) -> Result<T, Fault> {
    Err(Fault::Silent(reason.to_owned()))
}

fn with_timeout(health: Health, timeout: Duration) -> Health {
    Health { timeout, ..health }
}

const SHORT: Duration = Duration::from_millis(100);

async fn probe_http(address: SocketAddr) -> Result<Option<ReportedLoad>, Fault> {
    probe(&target("web", "b1", address, health(HealthKind::Http))).await
}

/// What a probe makes of an answer, sent byte for byte, after which the server closes.
async fn check_answer(answer: impl Into<Vec<u8>>, expected: Result<Option<ReportedLoad>, Fault>) {
    let answer: Arc<[u8]> = answer.into().into();
    let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
    let address = tcp_server(LOCALHOST, move |mut stream| {
        let answer = Arc::clone(&answer);
        async move {
            read_request(&mut stream).await;
            write(&mut stream, &answer).await;
        }
    })
    .await;
    assert_eq!(probe_http(address).await, expected, "{shown}");
}

#[tokio::test]
async fn http_status() {
    check_answer(answer("200 OK", "OK"), Ok(None)).await;
    check_answer(answer("204 No Content", ""), Ok(None)).await;
    check_answer(answer("302 Found", "elsewhere"), Ok(None)).await;
    check_answer("HTTP/1.0 200 OK\r\n\r\nuntil the end", Ok(None)).await;
    check_answer("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Ok(None)).await;
    check_answer(answer("404 Not Found", "?"), said("HTTP status 404")).await;
    check_answer(answer("503 Service Unavailable", "{\"status\": \"healthy\"}"), said("HTTP status 503")).await;
    check_answer(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        said("HTTP status 101"),
    )
    .await;
}

#[tokio::test]
async fn http_load() {
    let load = ReportedLoad { cpu_percent: Some(12.5), active_requests: Some(3), ..ReportedLoad::default() };
    check_answer(answer("200 OK", r#"{"cpu_percent": 12.5, "active_requests": 3}"#), Ok(Some(load))).await;
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{\"status\"\r\ne\r\n: \"degraded\" }\r\n0\r\n\r\n";
    let load = ReportedLoad { status: Some("degraded".to_owned()), ..ReportedLoad::default() };
    check_answer(chunked, Ok(Some(load))).await;
    let load = ReportedLoad { cpu_percent: Some(25.0), ..ReportedLoad::default() };
    let orca = "HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT cpu_utilization=0.25\r\nContent-Length: 2\r\n\r\nOK";
    check_answer(orca, Ok(Some(load))).await;
    check_answer(answer("200 OK", r#"{"status": "unhealthy"}"#), said("reports itself unhealthy")).await;
}

#[tokio::test]
async fn http_answers_that_are_none() {
    check_answer("", silent(CUT_SHORT)).await;
    check_answer("SSH-2.0-OpenSSH_9.2\r\n", said(NOT_HTTP)).await;
    check_answer([0xff, 0, 0x1b].repeat(100), said(NOT_HTTP)).await;
    check_answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour", silent(CUT_SHORT)).await;
    check_answer("HTTP/1.1 200 OK\r\nContent-Le", silent(CUT_SHORT)).await;
    check_answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", said(NOT_HTTP)).await;
    let endless_line = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(4 * MAX_HEAD_BYTES));
    check_answer(endless_line, said("the head of the answer is too large")).await;
    let many_lines = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(1000));
    check_answer(many_lines, said("the head of the answer is too large")).await;
}

#[tokio::test]
async fn an_endless_body_is_cut_off() {
    let (gone, told) = oneshot::channel();
    let gone = Arc::new(Mutex::new(Some(gone)));
    let address = tcp_server(LOCALHOST, move |mut stream| {
        let gone = gone.lock().unwrap().take().unwrap();
        async move {
            use tokio::io::AsyncWriteExt as _;
            read_request(&mut stream).await;
            write(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n").await;
            let mut written: usize = 0;
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {
                written += 4096;
            }
            gone.send(written).unwrap();
        }
    })
    .await;
    assert_eq!(probe_http(address).await, Ok(None));
    assert!(told.await.unwrap() >= MAX_BODY_BYTES, "the body is read up to its limit, then the probe hangs up");
}

#[tokio::test]
async fn http_request() {
    for address in [LOCALHOST, Ipv6Addr::LOCALHOST.into()] {
        let (sender, request) = oneshot::channel();
        let sender = Arc::new(Mutex::new(Some(sender)));
        let address = tcp_server(address, move |mut stream| {
            let sender = sender.lock().unwrap().take().unwrap();
            async move {
                sender.send(read_request(&mut stream).await).unwrap();
                write(&mut stream, answer("200 OK", "").as_bytes()).await;
            }
        })
        .await;
        let health = Health { path: "/health?full=1".to_owned(), ..health(HealthKind::Http) };
        assert_eq!(probe(&target("web", "b1", address, health)).await, Ok(None));
        let expected = format!(
            "GET /health?full=1 HTTP/1.1\r\nhost: {address}\r\nuser-agent: lb-agent/{} health\r\nconnection: close\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(request.await.unwrap(), expected);
    }
}

#[tokio::test]
async fn http_time_outs() {
    let check = async |head: &'static str| {
        let address = tcp_server(LOCALHOST, move |mut stream| async move {
            read_request(&mut stream).await;
            write(&mut stream, head.as_bytes()).await;
            // Holds the connection until the probe gives it up.
            assert!(stream.read_u8().await.is_err());
        })
        .await;
        let target = target("web", "b1", address, with_timeout(health(HealthKind::Http), SHORT));
        assert_eq!(probe(&target).await, silent("no answer within 100ms"), "{head}");
    };
    check("").await;
    check("HTTP/1.1 200").await;
    check("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nslow").await;
}

#[tokio::test]
async fn http_reset() {
    let address = tcp_server(LOCALHOST, |mut stream| async move {
        read_request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(probe_http(address).await, silent("connection reset"));
}

#[tokio::test]
async fn http_path_that_is_none() {
    let health = Health { path: "no path\u{1b}[31m".to_owned(), ..health(HealthKind::Http) };
    let result = probe(&target("web", "b1", SocketAddr::new(LOCALHOST, 1), health)).await;
    assert_eq!(result, said("health path `no path?[31m` is not a request path"));
}

#[tokio::test]
async fn tcp_accepted_and_closed_by_reset() {
    let (sender, seen) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let address = tcp_server(LOCALHOST, move |mut stream| {
        let sender = sender.lock().unwrap().take().unwrap();
        async move { sender.send(stream.read_u8().await.map_err(|error| error.kind())).unwrap() }
    })
    .await;
    assert_eq!(probe(&target("web", "b1", address, health(HealthKind::Tcp))).await, Ok(None));
    assert_eq!(seen.await.unwrap(), Err(io::ErrorKind::ConnectionReset));
}

/// A port that is taken, but on which nobody listens.
fn refusing_tcp_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[tokio::test]
async fn tcp_refused() {
    let (_port, address) = refusing_tcp_port();
    for kind in [HealthKind::Tcp, HealthKind::Http] {
        assert_eq!(probe(&target("web", "b1", address, health(kind))).await, said("connection refused"));
    }
}

#[tokio::test]
async fn tcp_black_hole() {
    let (socket, address) = refusing_tcp_port();
    // Room for one connection that nobody accepts: the SYN of the next one is dropped.
    socket.listen(0).unwrap();
    let _filler = TcpStream::connect(address).await.unwrap();
    let target = target("web", "b1", address, with_timeout(health(HealthKind::Tcp), SHORT));
    assert_eq!(probe(&target).await, silent("no connection within 100ms"));
}

/// Answers every datagram with a fixed text and what was sent.
async fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1024];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let answer = [b"echo: ", &buffer[..length]].concat();
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    address
}

async fn check_udp(
    address: SocketAddr,
    timeout: Duration,
    send: &str,
    expect: Option<&str>,
    expected: Result<(), Fault>,
) {
    let health = with_timeout(health(HealthKind::Udp), timeout);
    let health = Health { send: send.to_owned(), expect: expect.map(str::to_owned), ..health };
    let result = probe(&target("dns", "b1", address, health)).await;
    assert_eq!(result, expected.map(|()| None), "{send:?} {expect:?}");
}

#[tokio::test]
async fn udp_answers() {
    let echo = udp_echo().await;
    check_udp(echo, PATIENCE, "ping", Some("o: ping"), Ok(())).await;
    check_udp(echo, PATIENCE, "", Some("echo"), Ok(())).await;
    check_udp(echo, PATIENCE, "ping", None, Ok(())).await;
    check_udp(echo, PATIENCE, "ping", Some("pong"), said("the answer does not contain what `expect` says")).await;
}

#[tokio::test]
async fn udp_silence() {
    let silent_socket = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    let address = silent_socket.local_addr().unwrap();
    check_udp(address, SHORT, "ping", Some("pong"), silent("no answer within 100ms")).await;
    check_udp(address, SHORT, "ping", None, Ok(())).await;
}

#[tokio::test]
async fn udp_refused() {
    // A socket that is connected elsewhere keeps the port taken, and the kernel refuses others' datagrams to it.
    let elsewhere = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    let port = UdpSocket::bind((LOCALHOST, 0)).await.unwrap();
    port.connect(elsewhere.local_addr().unwrap()).await.unwrap();
    let address = port.local_addr().unwrap();
    check_udp(address, PATIENCE, "ping", None, said("connection refused")).await;
    check_udp(address, PATIENCE, "ping", Some("pong"), said("connection refused")).await;
}

#[test]
fn trouble_of_this_host_is_not_the_backends_fault() {
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL] {
        assert!(matches!(Fault::from(io::Error::from_raw_os_error(errno)), Fault::Local(_)), "{errno}");
    }
    for errno in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EPERM] {
        assert!(matches!(Fault::from(io::Error::from_raw_os_error(errno)), Fault::Said(_)), "{errno}");
    }
    for errno in [libc::ECONNRESET, libc::EPIPE, libc::ETIMEDOUT] {
        assert!(matches!(Fault::from(io::Error::from_raw_os_error(errno)), Fault::Silent(_)), "{errno}");
    }
}

proptest! {
    #[test]
    fn reasons_are_short_and_plain(text: String, repeat in 1usize..50) {
        let reason = for_people(&text.repeat(repeat));
        prop_assert!(reason.chars().count() <= MAX_REASON_CHARS);
        prop_assert!(!reason.chars().any(char::is_control));
    }

    #[test]
    fn expect_is_found_anywhere(before: Vec<u8>, needle: Vec<u8>, after: Vec<u8>) {
        prop_assert!(contains(&[before, needle.clone(), after].concat(), &needle));
    }
}
