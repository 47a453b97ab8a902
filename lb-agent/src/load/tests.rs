//! The generator against servers on loopback: well-behaved ones, slow ones and hostile ones. Nothing here depends on
//! how fast the machine is; where time matters, only orders are compared that a slower machine widens.

use std::future::pending;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::demo_backend::{Behaviour, Server, ServerOptions};

/// A task that ends with the test.
struct Running {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn backend(name: &str, behaviour: Behaviour) -> Running {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let options = ServerOptions { listen, name: Some(name.to_owned()), behaviour, seed: 7, control: false };
    let server = Server::bind(options).await.expect("a free port");
    Running { address: server.address(), task: tokio::spawn(server.serve(pending())) }
}

/// A server that treats each connection as `answer` does.
async fn raw_server<F, A>(answer: A) -> Running
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
    A: Fn(TcpStream) -> F + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(async move {
        // Owned here, so that aborting the server ends its connections too.
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(answer(stream));
        }
    });
    Running { address, task }
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await?);
    }
    Ok(())
}

fn load(address: SocketAddr, requests: u64, rate: f64) -> LoadOptions {
    let mut options = LoadOptions::new(&format!("http://{address}/")).expect("a URL");
    options.requests = Some(requests);
    options.rate = rate;
    options.connections = 8;
    // Long enough that a busy machine does not turn answers into time-outs.
    options.timeout = Duration::from_secs(30);
    options
}

async fn run(options: &LoadOptions) -> Report {
    let report = generate(options, |_| {}).await.expect("a report");
    assert_eq!(report.ok + report.errors, report.requests, "{report:#?}");
    assert_eq!(report.errors_by_kind.total(), report.errors, "{report:#?}");
    assert_eq!(report.timeline.iter().map(|row| row.requests).sum::<u64>(), report.requests, "{report:#?}");
    let answered = report.ok + report.errors_by_kind.status_5xx;
    assert_eq!(report.backends.iter().map(|backend| backend.requests).sum::<u64>(), answered, "{report:#?}");
    if !report.interrupted {
        assert_eq!(report.unfinished, 0);
        if let Some(requests) = options.requests {
            assert_eq!(report.requests, requests, "{report:#?}");
        }
    }
    report
}

#[tokio::test]
async fn kept_connections_carry_all_requests() {
    let server = backend("b1", Behaviour::default()).await;
    let report = run(&load(server.address, 500, 2_000.0)).await;
    assert_eq!((report.ok, report.errors), (500, 0), "{report:#?}");
    assert!(report.connections_opened <= 8, "{}", report.connections_opened);
    assert_eq!(report.backends.len(), 1);
    assert_eq!(report.backends[0].name, "b1");
    assert_eq!(report.body_bytes, 500 * "hello from b1\n".len() as u64);
    assert!(report.latency.expect("answers").p50_ms >= report.service_time.expect("answers").p50_ms);
}

#[tokio::test]
async fn a_low_rate_takes_turns_over_all_connections() {
    let server = backend("b1", Behaviour::default()).await;
    let report = run(&load(server.address, 50, 500.0)).await;
    assert_eq!(report.connections_opened, 8, "one after the other, not always the same");
}

#[tokio::test]
async fn new_connections_are_one_per_request() {
    let server = backend("b1", Behaviour::default()).await;
    let mut options = load(server.address, 200, 2_000.0);
    options.new_connections = true;
    let report = run(&options).await;
    assert_eq!((report.ok, report.connections_opened), (200, 200), "{report:#?}");
}

#[tokio::test]
async fn ipv6_and_poisson_arrivals() {
    let listen = "[::1]:0".parse().expect("an address");
    let options =
        ServerOptions { listen, name: Some("six".into()), behaviour: Behaviour::default(), seed: 7, control: false };
    let server = Server::bind(options).await.expect("IPv6 loopback");
    let server = Running { address: server.address(), task: tokio::spawn(server.serve(pending())) };
    let mut options = load(server.address, 100, 1_000.0);
    options.arrivals = Arrivals::Poisson;
    let report = run(&options).await;
    assert_eq!((report.ok, report.backends[0].name.as_str()), (100, "six"), "{report:#?}");
}

#[tokio::test]
async fn a_stalled_server_shows_the_wait_that_its_users_have() {
    // It serves 20 requests a second and gets 100: the n-th of 60 waits for about n × 40 ms.
    let behaviour = Behaviour { delay: Duration::from_millis(50), concurrency: 1, ..Behaviour::default() };
    let server = backend("slow", behaviour).await;
    let mut options = load(server.address, 60, 100.0);
    options.connections = 4;
    let report = run(&options).await;
    assert_eq!(report.ok, 60, "{report:#?}");
    let (latency, service) = (report.latency.expect("answers"), report.service_time.expect("answers"));
    // 60 × 50 ms of work, sent within 0.6 s: the last one ends 2.4 s after it was meant to be sent, at the least.
    assert!(latency.p99_ms > 2_000.0, "{latency:?}");
    assert!(latency.p50_ms > 10.0 * 50.0 && latency.p50_ms < latency.p99_ms, "{latency:?}");
    // Four connections: a generator that waits for answers would report about 4 × 50 ms.
    assert!(service.p99_ms < latency.p99_ms / 2.0, "{service:?} {latency:?}");
}

#[tokio::test]
async fn errors_are_the_share_that_was_asked_for() {
    let behaviour = Behaviour { error_rate: 0.25, ..Behaviour::default() };
    let server = backend("b1", behaviour.clone()).await;
    let report = run(&load(server.address, 400, 4_000.0)).await;
    // The stream of the seed, drawn here once more.
    let again = backend("b1", behaviour).await;
    let repeated = run(&load(again.address, 400, 4_000.0)).await;
    assert_eq!(report.errors, report.errors_by_kind.status_5xx);
    assert_eq!(report.errors, repeated.errors, "the same seed fails the same number");
    assert!((60..=140).contains(&report.errors), "{}", report.errors);
    assert_eq!(report.backends[0].errors, report.errors);
    assert_eq!(report.statuses.keys().copied().collect::<Vec<_>>(), [200, 500]);
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let report = run(&load(address, 20, 1_000.0)).await;
    assert_eq!(report.errors_by_kind, ErrorCounts { refused: 20, ..ErrorCounts::default() });
    assert_eq!((report.latency, report.connections_opened), (None, 0));
}

#[tokio::test]
async fn silence_is_a_time_out_and_ends_in_bounded_time() {
    let server = raw_server(|stream| async move {
        let _open = stream;
        pending().await
    })
    .await;
    let mut options = load(server.address, 400, 4_000.0);
    options.timeout = Duration::from_millis(200);
    options.connections = 4;
    let start = Instant::now();
    let report = run(&options).await;
    assert_eq!(report.errors_by_kind, ErrorCounts { timeout: 400, ..ErrorCounts::default() }, "{report:#?}");
    // Time-outs one after the other on four connections would last 20 s; from the intended time it is 0.3 s.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_full_queue_is_an_error_of_its_own() {
    let server = raw_server(|stream| async move {
        let _open = stream;
        pending().await
    })
    .await;
    let mut options = load(server.address, 50, 1_000.0);
    // Longer than the schedule by far, so that nothing times out while requests still become due.
    options.timeout = Duration::from_secs(3);
    options.connections = 2;
    options.queue = Some(5);
    let report = run(&options).await;
    let expected = ErrorCounts { timeout: 7, queue_full: 43, ..ErrorCounts::default() };
    assert_eq!(report.errors_by_kind, expected, "two under way, five waiting");
}

#[tokio::test]
async fn closing_without_an_answer_is_a_reset() {
    let server = raw_server(|mut stream| async move { read_request(&mut stream).await }).await;
    let report = run(&load(server.address, 20, 1_000.0)).await;
    assert_eq!(report.errors_by_kind, ErrorCounts { reset: 20, ..ErrorCounts::default() }, "{report:#?}");

    let cut_short = raw_server(|mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await
    })
    .await;
    let report = run(&load(cut_short.address, 20, 1_000.0)).await;
    assert_eq!(report.errors_by_kind, ErrorCounts { reset: 20, ..ErrorCounts::default() }, "{report:#?}");
}

#[tokio::test]
async fn a_server_that_ends_kept_connections_between_requests_costs_no_error() {
    // It says that it keeps the connection, and closes it after each answer, as an idle time-out would.
    let server = raw_server(|mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
    })
    .await;
    let mut options = load(server.address, 20, 20.0);
    options.connections = 4;
    let report = run(&options).await;
    assert_eq!((report.ok, report.connections_opened), (20, 20), "{report:#?}");
    assert_eq!(report.backends[0].name, "(unnamed)");
}

/// Runs a few requests against a server that never behaves and says what they were counted as.
async fn against(bytes_once: &'static [u8], bytes_forever: &'static [u8]) -> ErrorCounts {
    let server = raw_server(move |mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(bytes_once).await?;
        while !bytes_forever.is_empty() {
            stream.write_all(bytes_forever).await?;
        }
        Ok(())
    })
    .await;
    let mut options = load(server.address, 3, 100.0);
    options.connections = 3;
    options.timeout = Duration::from_secs(2);
    run(&options).await.errors_by_kind
}

#[tokio::test]
async fn hostile_answers_end_and_are_counted() {
    let other = ErrorCounts { other: 3, ..ErrorCounts::default() };
    assert_eq!(against(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"").await, other, "not HTTP");
    assert_eq!(against(b"HTTP/1.1 200 OK\r\n", b"x: yyyyyyyyyyyyyyyyyyyyyyyyy\r\n").await, other, "endless headers");
    assert_eq!(against(b"HTTP/1.1 200 OK\r\nx: ", b"yyyyyyyyyyyyyyyyyyyyyyyyyyyy").await, other, "an endless header");
    assert_eq!(against(b"HTTP/1.1 200 OK\r\ncontent-length: 1e9\r\n\r\n", b"").await, other, "no length");
    let timeout = ErrorCounts { timeout: 3, ..ErrorCounts::default() };
    assert_eq!(against(b"", b"HTTP/1.1 100 Continue\r\n\r\n").await, timeout, "endless interim answers");
}

#[tokio::test]
async fn an_endless_body_is_cut_off_and_not_kept() {
    const CHUNK: &[u8] = &[b'x'; 256 * 1024];
    let counts = against(b"HTTP/1.1 200 OK\r\n\r\n", CHUNK).await;
    // A machine too slow to move 64 MiB in the time-out counts it as such; either way it ended.
    assert_eq!(counts.other + counts.timeout, 3, "{counts:?}");
}

#[tokio::test]
async fn more_than_was_asked_for_does_not_count_as_the_next_answer() {
    // An answer, and a second one that nobody asked for.
    let server = raw_server(|mut stream| async move {
        loop {
            read_request(&mut stream).await?;
            let twice = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(twice).await?;
        }
    })
    .await;
    let report = run(&load(server.address, 20, 100.0)).await;
    assert_eq!(report.errors_by_kind.status_5xx, 0, "{report:#?}");
    assert!(report.ok > 0, "{report:#?}");
}

#[tokio::test]
async fn stopping_early_reports_what_ran() {
    let server = backend("b1", Behaviour::default()).await;
    let mut options = load(server.address, 1_000_000, 200.0);
    options.interval = Duration::from_millis(50);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut stop = Some(stop);
    let mut seen = Vec::new();
    let wait = async { stopped.await.expect("sent below") };
    let report = generate_until(&options, wait, |snapshot| {
        seen.push(snapshot.clone());
        if snapshot.ok >= 10
            && let Some(stop) = stop.take()
        {
            stop.send(()).expect("the run still waits");
        }
    })
    .await
    .expect("a report");
    assert!(report.interrupted && report.ok >= 10 && report.requests < 1_000_000, "{report:#?}");
    assert_eq!(report.ok + report.errors, report.requests);
    assert!(seen.is_sorted_by(|a, b| a.requests <= b.requests && a.elapsed_seconds < b.elapsed_seconds), "{seen:?}");
}

#[tokio::test]
async fn options_out_of_range_are_refused_before_anything_is_sent() {
    let options = LoadOptions::new("http://192.0.2.1/").expect("a URL");
    for broken in [
        LoadOptions { rate: f64::NAN, ..options.clone() },
        LoadOptions { rate: 0.0, ..options.clone() },
        LoadOptions { connections: 0, ..options.clone() },
        LoadOptions { timeout: Duration::ZERO, ..options.clone() },
        LoadOptions { interval: Duration::ZERO, ..options.clone() },
        LoadOptions { duration: Some(Duration::from_secs(1_000_000)), ..options.clone() },
    ] {
        assert!(generate(&broken, |_| {}).await.is_err(), "{broken:?}");
    }
}

#[tokio::test]
async fn the_text_report_names_every_error_and_backend() {
    let behaviour = Behaviour { error_rate: 0.5, ..Behaviour::default() };
    let server = backend("b1", behaviour).await;
    let report = run(&load(server.address, 100, 2_000.0)).await;
    let text = text::summary(&report);
    assert!(text.contains(&format!("errors: {0} (status_5xx {0})", report.errors)), "{text}");
    assert!(text.lines().any(|line| line.starts_with("b1 ")), "{text}");
    assert!(text.contains("p99.9"), "{text}");
}
