//! The API over real sockets, spoken to in raw bytes, so that clients which no library would be can be played too.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::memory::{self, Memory};
use super::*;
use crate::model::view;

/// Far longer than anything here takes: ends a test that hangs.
const HANGING: Duration = Duration::from_secs(60);

struct Server {
    memory: Arc<Memory>,
    directory: tempfile::TempDir,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    fn start(memory: Memory, limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let memory = Arc::new(memory);
        let cancel = CancellationToken::new();
        let socket = AdminSocket::bind(&directory.path().join("run/agent.sock")).unwrap();
        let router = router(Arc::clone(&memory), &limits);
        let task = tokio::spawn(serve_unix(socket, router, limits, cancel.clone()));
        Self { memory, directory, cancel, task }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("run/agent.sock")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }

    async fn send(&self, method: &str, target: &str, body: &str) -> Reply {
        exchange(self.connect().await, request(method, target, body).as_bytes()).await
    }

    async fn get(&self, target: &str) -> Reply {
        self.send("GET", target, "").await
    }

    fn asked(&self) -> Vec<String> {
        self.memory.asked.lock().unwrap().clone()
    }

    async fn stop(self) {
        self.cancel.cancel();
        tokio::time::timeout(HANGING, self.task).await.unwrap().unwrap();
    }
}

fn request(method: &str, target: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, 200, "{self:?}");
        assert!(self.head.contains("content-type: application/json\r\n"), "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }

    /// Asserts that this is a problem of this status, and returns what it says.
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("content-type: application/problem+json\r\n"), "{self:?}");
        let problem: view::Problem = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem.status, status);
        assert!(!problem.title.is_empty());
        problem.detail
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Reply {
    // The server may answer and close before it has read all of it.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(HANGING, stream.read_to_end(&mut answer)).await.expect("an answer in time");
    assert!(read.is_ok() || !answer.is_empty(), "{read:?}");
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Reply { status, head: format!("{head}\r\n"), body: body.to_owned() }
}

#[tokio::test]
async fn every_resource_answers() {
    let server = Server::start(Memory::default(), Limits::DEFAULT);
    let expected = memory::status();
    assert_eq!(server.get("/api/v1/status").await.json::<view::Status>(), expected);
    assert_eq!(server.get("/api/v1/services").await.json::<Vec<view::Service>>(), expected.services);
    assert_eq!(server.get("/api/v1/services/web").await.json::<view::Service>(), expected.services[0]);
    let backends: Vec<view::Backend> = server.get("/api/v1/services/dns/backends").await.json();
    assert_eq!(backends, expected.services[1].backends);
    assert_eq!(server.get("/api/v1/flows").await.json::<Vec<view::Flow>>().len(), 2);
    let flows: Vec<view::Flow> = server.get("/api/v1/flows?service=web&backend=b2&limit=5").await.json();
    assert_eq!(flows.len(), 1);
    assert_eq!(server.get("/api/v1/flows/count").await.json::<Vec<view::FlowCount>>()[0].flows, 1_234_567);
    let target = "/api/v1/flows/route?protocol=tcp&source=%5B2001:db8::7%5D:40000&destination=[2001:db8::1]:53";
    assert_eq!(server.get(target).await.json::<view::Route>().slot, Some(4711));
    let summary: view::ReloadSummary = server.send("POST", "/api/v1/config/reload", "").await.json();
    assert_eq!(summary.config_generation, 4);
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 200);
    let metrics = server.get("/metrics").await;
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{metrics:?}");
    assert!(metrics.head.contains("cache-control: no-store\r\n"));
    assert!(metrics.body.contains("lb_packets_total 5\n"));
    server.stop().await;
}

#[tokio::test]
async fn actions_reach_the_agent_as_they_were_meant() {
    let server = Server::start(Memory::default(), Limits::DEFAULT);
    let url = |action: &str| format!("/api/v1/services/web/backends/b1/{action}");
    let backend: view::Backend = server.send("POST", &url("weight"), r#"{"weight": 7, "for": "10m"}"#).await.json();
    assert_eq!(backend.weight, 7);
    let backend: view::Backend = server.send("POST", &url("drain"), "").await.json();
    assert_eq!(backend.state, "draining");
    assert_eq!(server.send("POST", &url("disable"), r#"{"for":"1s"}"#).await.status, 200);
    assert_eq!(server.send("POST", &url("enable"), "{}").await.status, 200);
    assert!(server.send("POST", &url("undrain"), "{}").await.problem(409).contains("not draining"));
    assert_eq!(
        server.asked(),
        [
            "web/b1 Weight { weight: 7, undo_after: Some(600s) }",
            "web/b1 Drain { undo_after: None }",
            "web/b1 Disable { undo_after: Some(1s) }",
            "web/b1 Enable",
            "web/b1 Undrain",
        ]
    );
    server.stop().await;
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let server = Server::start(Memory::default(), Limits::DEFAULT);
    let act = "/api/v1/services/web/backends/b1";
    let deep = format!("{{\"weight\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    for (method, target, body, status, says) in [
        ("GET", "/", "", 404, "no resource at /"),
        ("GET", "/api/v2/status", "", 404, "no resource"),
        ("GET", "/api/v1/services/", "", 404, "no resource"),
        ("GET", "/api/v1/services/mail", "", 404, "`mail`"),
        ("GET", "/api/v1/services/mail/backends", "", 404, "`mail`"),
        ("POST", "/api/v1/services/web/backends/b9/drain", "", 404, "`web/b9`"),
        ("POST", "/api/v1/services/mail/backends/b1/drain", "", 404, "`mail`"),
        ("POST", &format!("{act}/explode"), "", 404, "one of: drain, undrain"),
        ("DELETE", "/api/v1/status", "", 405, "DELETE is not possible"),
        ("GET", &format!("{act}/drain"), "", 405, "GET is not possible"),
        ("POST", &format!("{act}/weight"), "", 400, "`weight` is missing"),
        ("POST", &format!("{act}/weight"), r#"{"weight":1001}"#, 400, "0 to 1000"),
        ("POST", &format!("{act}/weight"), r#"{"weight":-1}"#, 400, "expected u16"),
        ("POST", &format!("{act}/weight"), r#"{"weight":1e400}"#, 400, "number out of range"),
        ("POST", &format!("{act}/weight"), r#"{"weight":NaN}"#, 400, "not what is expected"),
        ("POST", &format!("{act}/weight"), r#"{"weight":1,"weight":2}"#, 400, "duplicate field"),
        ("POST", &format!("{act}/weight"), &deep, 400, "not what is expected"),
        ("POST", &format!("{act}/drain"), r#"{"fro":"10m"}"#, 400, "unknown field `fro`"),
        ("POST", &format!("{act}/drain"), r#"{"for":"soon"}"#, 400, "as in 250ms, 5s or 1m"),
        ("POST", &format!("{act}/enable"), r#"{"for":"10m"}"#, 400, "`for` has no meaning"),
        ("GET", "/api/v1/flows?limit=0", "", 400, "1 to 10000"),
        ("GET", "/api/v1/flows?limit=10001", "", 400, "1 to 10000"),
        ("GET", "/api/v1/flows?limit=many", "", 400, "limit"),
        ("GET", "/api/v1/flows?colour=red", "", 400, "colour"),
        ("GET", "/api/v1/flows?backend=b1", "", 400, "needs `service`"),
        ("GET", "/api/v1/flows?service=mail", "", 404, "`mail`"),
        ("GET", "/api/v1/flows?service=a%0Ab", "", 400, "control characters"),
        ("GET", "/api/v1/flows/route", "", 400, "protocol"),
        ("GET", "/api/v1/flows/route?protocol=sctp&source=1.2.3.4:5&destination=1.2.3.4:5", "", 400, "sctp"),
        ("GET", "/api/v1/flows/route?protocol=tcp&source=1.2.3.4&destination=1.2.3.4:5", "", 400, "socket address"),
        ("GET", "/api/v1/flows/route?protocol=tcp&source=1.2.3.4:5&destination=[::1]:5", "", 400, "both be IPv4"),
    ] {
        let detail = server.send(method, target, body).await.problem(status);
        assert!(detail.contains(says), "{method} {target}: {detail}");
    }
    let allowed = server.send("DELETE", "/api/v1/status", "").await;
    assert!(allowed.head.contains("allow: GET,HEAD\r\n"), "{allowed:?}");
    let asked: Vec<_> = server.asked().into_iter().filter(|what| !what.starts_with("FlowFilter")).collect();
    assert!(asked.is_empty(), "no refused request may reach the agent: {asked:?}");
    server.stop().await;
}

#[tokio::test]
async fn hostile_names_end_in_a_problem() {
    let server = Server::start(Memory::default(), Limits::DEFAULT);
    let long = "a".repeat(256);
    for (name, status) in [
        ("..", 404),
        ("../../etc/passwd", 404),
        ("..%2F..%2Fetc%2Fpasswd", 404),
        ("%2e%2e", 404),
        ("web%0aGET", 400),
        ("web%00", 400),
        ("%1b%5B31m", 400),
        ("%22%27%3Cscript%3E", 404),
        ("%ff%fe", 400),
        ("%", 404),
        ("%zz", 404),
        (long.as_str(), 400),
    ] {
        server.get(&format!("/api/v1/services/{name}")).await.problem(status);
        server.send("POST", &format!("/api/v1/services/web/backends/{name}/drain"), "").await.problem(status);
    }
    let raw = "GET /api/v1/services/a b\"\n HTTP/1.1\r\nhost: x\r\n\r\n";
    assert_eq!(exchange(server.connect().await, raw.as_bytes()).await.status, 400);
    assert_eq!(server.asked(), Vec::<String>::new());
    server.stop().await;
}

#[tokio::test]
async fn bodies_are_bounded_in_size_and_kind() {
    let server = Server::start(Memory::default(), Limits::DEFAULT);
    let target = "/api/v1/services/web/backends/b1/drain";
    let large = format!("{{\"for\":\"{}\"}}", "1".repeat(1 << 20));
    assert!(server.send("POST", target, &large).await.problem(413).contains("too large"));
    // Without a length, too.
    let head = format!("POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = format!("10000\r\n{}\r\n", "1".repeat(0x10000));
    let chunked = format!("{head}{chunk}{chunk}0\r\n\r\n");
    exchange(server.connect().await, chunked.as_bytes()).await.problem(413);
    let form = request("POST", target, "for=10m").replace("application/json", "text/plain");
    assert!(exchange(server.connect().await, form.as_bytes()).await.problem(415).contains("must be JSON"));
    assert_eq!(server.asked(), Vec::<String>::new());
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_is_announced_and_never_comes_is_not_waited_for() {
    let limits = Limits { body_read: Duration::from_millis(100), ..Limits::DEFAULT };
    let server = Server::start(Memory::default(), limits);
    let target = "/api/v1/services/web/backends/b1/drain";
    let slow = format!("POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10\r\n\r\n{{");
    assert!(exchange(server.connect().await, slow.as_bytes()).await.problem(408).contains("did not arrive"));
    assert_eq!(server.asked(), Vec::<String>::new());
    server.stop().await;
}

#[tokio::test]
async fn slow_and_endless_heads_are_cut_off() {
    let limits = Limits { header_read: Duration::from_millis(100), ..Limits::DEFAULT };
    let server = Server::start(Memory::default(), limits);
    for start in ["", "G", "GET /api/v1/status HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut stream = server.connect().await;
        stream.write_all(start.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(HANGING, stream.read_to_end(&mut rest)).await.expect("cut off").unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
    let endless = format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    assert_eq!(exchange(server.connect().await, endless.as_bytes()).await.status, 431);
    assert_eq!(server.get("/healthz").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_for() {
    let limits = Limits { request: Duration::from_millis(50), ..Limits::DEFAULT };
    let server = Server::start(Memory { delay: HANGING, ..Memory::default() }, limits);
    assert!(server.get("/api/v1/status").await.problem(503).contains("within 50ms"));
    server.stop().await;
}

#[tokio::test]
async fn connections_are_capped_and_freed_again() {
    let server = Server::start(Memory::default(), Limits { connections: 2, ..Limits::DEFAULT });
    let mut idle = vec![server.connect().await, server.connect().await];
    // An answer on each of the two proves that both are served and hold their place.
    for stream in &mut idle {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
    }
    let third = tokio::spawn(exchange(server.connect().await, b"GET /healthz HTTP/1.0\r\n\r\n"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!third.is_finished(), "a third connection waits");
    idle.pop();
    assert_eq!(third.await.unwrap().status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_no_answer_loses_its_place() {
    let limits = Limits { connections: 1, write_stall: Duration::from_millis(100), ..Limits::DEFAULT };
    let server = Server::start(Memory { metrics_padding: 16 << 20, ..Memory::default() }, limits);
    let mut silent = server.connect().await;
    silent.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // There is one place: this is answered only after the silent one has lost it.
    assert_eq!(server.get("/healthz").await.status, 200);
    drop(silent);
    server.stop().await;
}

#[tokio::test]
async fn not_ready_is_said_with_its_reason() {
    let memory = Memory { not_ready: Some("not attached to eth0 yet".into()), ..Memory::default() };
    let server = Server::start(memory, Limits::DEFAULT);
    assert_eq!(server.get("/readyz").await.problem(503), "not attached to eth0 yet");
    assert_eq!(server.get("/healthz").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_refused_configuration_is_a_problem_of_its_own() {
    let broken = ControlError::InvalidConfig("lb.yaml:3:5: unknown key `vpi`, did you mean `vip`?".into());
    let server = Server::start(Memory { reload_fails: Some(broken), ..Memory::default() }, Limits::DEFAULT);
    assert!(server.send("POST", "/api/v1/config/reload", "").await.problem(422).contains("lb.yaml:3:5"));
    server.stop().await;
}

#[tokio::test]
async fn tcp_reads_and_refuses_to_write() {
    let memory = Arc::new(Memory::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cancel = CancellationToken::new();
    let router = read_only_router(Arc::clone(&memory), &Limits::DEFAULT);
    let task = tokio::spawn(serve_tcp(listener, router, Limits::DEFAULT, cancel.clone()));
    let send = async |method, target| {
        exchange(TcpStream::connect(address).await.unwrap(), request(method, target, "").as_bytes()).await
    };
    assert_eq!(send("GET", "/api/v1/status").await.status, 200);
    assert_eq!(send("HEAD", "/metrics").await.status, 200);
    for target in ["/api/v1/config/reload", "/api/v1/services/web/backends/b1/drain", "/api/v1/status", "/nowhere"] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            let reply = send(method, target).await;
            assert!(reply.problem(405).contains("read-only"), "{method} {target}");
            assert!(reply.head.contains("allow: GET, HEAD\r\n"));
        }
    }
    assert_eq!(*memory.asked.lock().unwrap(), Vec::<String>::new());
    cancel.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn stopping_finishes_requests_and_cuts_what_hangs() {
    let limits = Limits { shutdown_grace: Duration::from_secs(1), ..Limits::DEFAULT };
    let server = Server::start(Memory { delay: Duration::from_millis(20), ..Memory::default() }, limits);
    let mut busy = server.connect().await;
    busy.write_all(request("GET", "/api/v1/status", "").as_bytes()).await.unwrap();
    let mut hanging = server.connect().await;
    hanging.write_all(b"GET /api").await.unwrap();
    let reply = tokio::spawn(exchange(busy, b""));
    server.memory.status_asked.notified().await;
    let path = server.path();
    server.stop().await;
    assert!(!path.exists(), "the socket is removed");
    assert_eq!(reply.await.unwrap().status, 200);
}

fn bind_error(path: &Path) -> BindError {
    AdminSocket::bind(path).expect_err("must be refused")
}

#[tokio::test]
async fn the_socket_is_for_owner_and_group_and_its_directory_is_made() {
    let server = Server::start(Memory::default(), Limits::DEFAULT);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&server.path()), 0o660);
    assert_eq!(mode(server.path().parent().unwrap()), 0o755);
    server.stop().await;
}

#[tokio::test]
async fn a_second_agent_is_told_who_has_the_socket() {
    let server = Server::start(Memory::default(), Limits::DEFAULT);
    let message = bind_error(&server.path()).to_string();
    assert!(message.contains(&format!("(pid {})", std::process::id())), "{message}");
    assert_eq!(server.get("/healthz").await.status, 200, "the first agent is not disturbed");
    server.stop().await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a dead agent leaves its socket behind");
    drop(AdminSocket::bind(&path).unwrap());
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(bind_error(&path), BindError::NotASocket { .. }));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let endless = directory.path().join("x".repeat(120));
    assert!(bind_error(&endless).to_string().contains("listen on"));
}

#[tokio::test]
async fn an_agent_removes_only_its_own_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let first = AdminSocket::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let second = AdminSocket::bind(&path).unwrap();
    drop(first);
    assert!(second.path().exists());
}

#[tokio::test]
async fn of_two_agents_that_start_at_once_one_waits() {
    let directory = tempfile::tempdir().unwrap();
    let lock = std::fs::File::open(directory.path()).unwrap();
    lock.lock().unwrap();
    assert!(matches!(bind_error(&directory.path().join("agent.sock")), BindError::Starting { .. }));
}
