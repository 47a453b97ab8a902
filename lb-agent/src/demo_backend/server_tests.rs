//! The server over real connections; each test speaks HTTP through hyper's own client.

use std::future::pending;

use http_body_util::Full;
use hyper::client::conn::http1 as client;
use tokio::task::JoinHandle;

use super::*;

struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn options(behaviour: Behaviour, control: bool) -> ServerOptions {
    let listen = "127.0.0.1:0".parse().expect("an address");
    ServerOptions { listen, name: Some("b1".into()), behaviour, seed: 1, control }
}

async fn start(behaviour: Behaviour, control: bool) -> Running {
    let server = Server::bind(options(behaviour, control)).await.expect("a free port");
    let (stop, stopped) = oneshot::channel();
    let address = server.address();
    let stopped = async {
        let _ = stopped.await;
    };
    Running { address, stop: Some(stop), task: tokio::spawn(server.serve(stopped)) }
}

struct Answer {
    status: StatusCode,
    backend: Option<String>,
    body: Bytes,
}

async fn request(address: SocketAddr, method: Method, path: &str, body: &str) -> Answer {
    let stream = TcpStream::connect(address).await.expect("connect");
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "test")
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .expect("a request");
    let response = sender.send_request(request).await.expect("a response");
    Answer {
        status: response.status(),
        backend: response.headers().get(BACKEND).map(|name| name.to_str().expect("text").to_owned()),
        body: response.into_body().collect().await.expect("a body").to_bytes(),
    }
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, Method::GET, path, "").await
}

async fn health(address: SocketAddr) -> (StatusCode, HealthReport) {
    let answer = get(address, "/health").await;
    (answer.status, serde_json::from_slice(&answer.body).expect("the report"))
}

/// Asks until the report fits; the test's own time-out is the harness's.
async fn health_until(address: SocketAddr, fits: impl Fn(&HealthReport) -> bool) -> HealthReport {
    loop {
        let (_, report) = health(address).await;
        if fits(&report) {
            return report;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Holds every request for a minute, so that only an order to change or stop moves anything.
fn stuck(concurrency: u32) -> Behaviour {
    Behaviour { delay: Duration::from_secs(60), concurrency, ..Behaviour::default() }
}

#[tokio::test]
async fn answers_with_its_name_in_header_and_body() {
    let server = start(Behaviour { body_bytes: Some(100), ..Behaviour::default() }, false).await;
    let answer = get(server.address, "/any/path?x=1").await;
    assert_eq!((answer.status, answer.backend.as_deref()), (StatusCode::OK, Some("b1")));
    assert_eq!(answer.body.len(), 100);
    assert!(answer.body.starts_with(b"hello from b1\n"));
    let (code, report) = health(server.address).await;
    assert_eq!((code, report.status, report.active_requests), (StatusCode::OK, Status::Healthy, 0));
}

#[tokio::test]
async fn the_default_name_is_host_and_port() {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let options = ServerOptions { listen, name: None, behaviour: Behaviour::default(), seed: 1, control: false };
    let server = Server::bind(options).await.expect("a free port");
    assert!(server.name().ends_with(&format!(":{}", server.address().port())), "{}", server.name());
}

#[tokio::test]
async fn an_answer_takes_the_delay_and_the_burn() {
    let behaviour =
        Behaviour { delay: Duration::from_millis(20), cpu_burn: Duration::from_millis(10), ..Behaviour::default() };
    let server = start(behaviour, false).await;
    let start = Instant::now();
    get(server.address, "/").await;
    assert!(start.elapsed() >= Duration::from_millis(30), "{:?}", start.elapsed());
    assert!(health(server.address).await.1.response_time_ms >= 30.0);
}

#[tokio::test]
async fn beyond_its_places_requests_wait_and_health_says_so() {
    let server = start(stuck(2), false).await;
    let clients: Vec<_> = (0..5).map(|_| tokio::spawn(async move { get(server.address, "/").await })).collect();
    let report = health_until(server.address, |report| report.active_requests == 5).await;
    assert_eq!((report.queued_requests, report.status), (3, Status::Degraded));
    // Clients that give up free their places, whether they were served or waited.
    for client in clients {
        client.abort();
    }
    let report = health_until(server.address, |report| report.active_requests == 0).await;
    assert_eq!(report.status, Status::Healthy);
}

#[tokio::test]
async fn behaviour_changes_while_it_runs() {
    let server = start(stuck(1), true).await;
    let waiting: Vec<_> = (0..3).map(|_| tokio::spawn(async move { get(server.address, "/").await })).collect();
    health_until(server.address, |report| report.queued_requests == 2).await;
    let answer = request(server.address, Method::POST, "/control", r#"{"concurrency": 3}"#).await;
    assert_eq!(answer.status, StatusCode::OK);
    health_until(server.address, |report| report.queued_requests == 0 && report.active_requests == 3).await;

    let change = r#"{"delay_ms": 0, "error_rate": 1, "concurrency": 0, "healthy": false}"#;
    let answer = request(server.address, Method::POST, "/control", change).await;
    let now: Control = serde_json::from_slice(&answer.body).expect("what holds now");
    assert_eq!((now.delay_ms, now.error_rate, now.healthy), (Some(0.0), Some(1.0), Some(false)));
    assert_eq!(get(server.address, "/").await.status, StatusCode::INTERNAL_SERVER_ERROR);
    let (code, report) = health(server.address).await;
    assert_eq!((code, report.status), (StatusCode::SERVICE_UNAVAILABLE, Status::Unhealthy));
    let shown: Control = serde_json::from_slice(&get(server.address, "/control").await.body).expect("JSON");
    assert_eq!(shown, now);
    for client in waiting {
        client.abort();
    }
}

#[tokio::test]
async fn a_broken_order_changes_nothing() {
    let server = start(Behaviour::default(), true).await;
    let check = async |body: &str, status: StatusCode, part: &str| {
        let answer = request(server.address, Method::POST, "/control", body).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{body:.60}: {text}");
        assert!(text.contains(part), "{body:.60}: {text}");
    };
    check("", StatusCode::BAD_REQUEST, "EOF").await;
    check("[[[[[[", StatusCode::BAD_REQUEST, "").await;
    check(r#"{"dealy_ms": 1}"#, StatusCode::BAD_REQUEST, "unknown field").await;
    check(r#"{"delay_ms": -1, "healthy": false}"#, StatusCode::UNPROCESSABLE_ENTITY, "the delay").await;
    check(r#"{"delay_ms": 1e999}"#, StatusCode::BAD_REQUEST, "").await;
    check(&"x".repeat(MAX_CONTROL_BYTES + 1), StatusCode::PAYLOAD_TOO_LARGE, "too large").await;
    assert_eq!(request(server.address, Method::DELETE, "/control", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(health(server.address).await.1.status, Status::Healthy);
}

#[tokio::test]
async fn control_is_closed_unless_it_was_opened() {
    let server = start(Behaviour::default(), false).await;
    for method in [Method::GET, Method::POST] {
        let answer = request(server.address, method, "/control", r#"{"healthy": false}"#).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(health(server.address).await.1.status, Status::Healthy);
}

#[tokio::test]
async fn stopping_finishes_what_is_under_way_and_takes_nothing_new() {
    let behaviour = Behaviour { delay: Duration::from_millis(300), ..Behaviour::default() };
    let mut server = start(behaviour, false).await;
    let address = server.address;
    // An idle connection must not hold up the end.
    let _idle = TcpStream::connect(address).await.expect("connect");
    let under_way = tokio::spawn(async move { get(address, "/").await });
    health_until(address, |report| report.active_requests == 1).await;
    server.stop.take().expect("not stopped yet").send(()).expect("it serves");
    assert_eq!(under_way.await.expect("no panic").status, StatusCode::OK);
    (&mut server.task).await.expect("it ends by itself");
    let refused = TcpStream::connect(address).await.expect_err("nothing listens any more");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error() {
    let server = start(Behaviour::default(), false).await;
    let mut taken = options(Behaviour::default(), false);
    taken.listen = server.address;
    let error = Server::bind(taken).await.expect_err("taken").to_string();
    assert!(error.contains("the port is taken") && error.contains(&server.address.to_string()), "{error}");
}

#[tokio::test]
async fn garbage_and_dropped_connections_leave_it_serving() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = start(Behaviour::default(), false).await;
    let endless = vec![b'x'; 2 * MAX_BUFFER_BYTES];
    for bytes in [&b"\x00\xff\xfe"[..], b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n: \r\n\r\n", &endless] {
        let mut stream = TcpStream::connect(server.address).await.expect("connect");
        // It may close in the middle of what is sent.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{bytes:.20?}");
    }
    drop(TcpStream::connect(server.address).await.expect("connect"));
    assert_eq!(get(server.address, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_behaviour_out_of_range_is_refused() {
    for behaviour in [
        Behaviour { error_rate: f64::NAN, ..Behaviour::default() },
        Behaviour { delay: Duration::MAX, ..Behaviour::default() },
    ] {
        assert!(Server::bind(options(behaviour, false)).await.is_err());
    }
    let server = Server::bind(options(Behaviour::default(), false)).await.expect("a free port");
    drop(server.serve(pending()));
}
