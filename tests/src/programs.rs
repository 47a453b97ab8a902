//! Servers that nobody here wrote, started in a backend's namespace: nginx, iperf3, dnsmasq, redis. Each answers
//! with the backend's name where its protocol allows it, and is returned when it listens.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::lab::process::Running;
use crate::lab::{Backend, Lab};
use crate::wait::wait_until;

pub const HTTP_PORT: u16 = 80;
pub const IPERF_PORT: u16 = 5201;
pub const DNS_PORT: u16 = 53;
pub const REDIS_PORT: u16 = 6379;

/// The name that dnsmasq has a text record for: the name of the backend.
pub const DNS_NAME: &str = "who.lab.test";
/// What nginx serves beside its name and its health.
pub const BULK_PATH: &str = "/bulk";
pub const BULK_BYTES: usize = 4 << 20;

/// A loaded machine starts a server late, and that is all right.
const START_LIMIT: Duration = Duration::from_secs(20);

/// nginx with one worker, over IPv4 and IPv6: its name on `/`, `ok` on `/health`, [`BULK_BYTES`] on [`BULK_PATH`].
pub fn nginx(lab: &Lab, backend: &Backend) -> Result<Running> {
    let dir = directory(lab, backend, "nginx")?;
    let bulk = dir.join("bulk");
    std::fs::write(&bulk, vec![b'x'; BULK_BYTES]).with_context(|| format!("writing {}", bulk.display()))?;
    let config = dir.join("nginx.conf");
    std::fs::write(&config, nginx_config(&dir, &backend.name))
        .with_context(|| format!("writing {}", config.display()))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&dir).arg("-c").arg(&config).arg("-e").arg("stderr");
    start(backend, command, HTTP_PORT)
}

/// `lb-agent demo-backend` on the port of [`nginx`]: answers take `delay` on average, `sigma` being that of a lognormal distribution.
pub fn demo_backend(backend: &Backend, delay: Duration, sigma: f64) -> Result<Running> {
    let mut command = Command::new(crate::agent::binary()?);
    command.args(["demo-backend", "--name", &backend.name, "--listen", &format!("0.0.0.0:{HTTP_PORT}")]);
    command.args(["--delay", &format!("{}ms", delay.as_millis()), "--jitter", &sigma.to_string()]);
    start(backend, command, HTTP_PORT)
}

fn nginx_config(dir: &Path, name: &str) -> String {
    let dir = dir.display();
    format!(
        "daemon off;
worker_processes 1;
user root;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  default_type text/plain;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  # A connection lives as long as its client wants.
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  server {{
    listen {HTTP_PORT} backlog=4096;
    listen [::]:{HTTP_PORT} backlog=4096 ipv6only=on;
    location = / {{ return 200 \"{name}\\n\"; }}
    location = /health {{ return 200 \"ok\\n\"; }}
    location = {BULK_PATH} {{ root {dir}; }}
  }}
}}
"
    )
}

/// iperf3's server; one client at a time, which opens two connections that have to meet.
pub fn iperf3(backend: &Backend) -> Result<Running> {
    let mut command = Command::new("iperf3");
    command.args(["--server", "--port", &IPERF_PORT.to_string(), "--forceflush"]);
    start(backend, command, IPERF_PORT)
}

/// dnsmasq, which knows nothing but [`DNS_NAME`], over UDP and TCP.
pub fn dnsmasq(backend: &Backend) -> Result<Running> {
    let mut command = Command::new("dnsmasq");
    command
        .args(["--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=", "--user=root"])
        .arg(format!("--port={DNS_PORT}"))
        .arg(format!("--txt-record={DNS_NAME},{}", backend.name));
    start(backend, command, DNS_PORT)
}

/// redis without persistence.
pub fn redis(lab: &Lab, backend: &Backend) -> Result<Running> {
    let dir = directory(lab, backend, "redis")?;
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &REDIS_PORT.to_string(), "--bind", "0.0.0.0", "::", "--protected-mode", "no"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"])
        .arg(dir);
    start(backend, command, REDIS_PORT)
}

fn directory(lab: &Lab, backend: &Backend, program: &str) -> Result<PathBuf> {
    let dir = lab.dir().join(format!("{}-{program}", backend.name));
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

/// Starts a server and waits until it listens, or says what it printed instead.
fn start(backend: &Backend, command: Command, port: u16) -> Result<Running> {
    // A server of the same port that was killed a moment ago may still be there to be seen.
    wait_until(&format!("port {port} is free in {}", backend.name), START_LIMIT, || {
        if backend.namespace.listens(port).is_ok() { bail!("something listens there") } else { Ok(()) }
    })?;
    let running = backend
        .namespace
        .spawn(command)
        .context("is the program installed? scripts/setup installs what the tests use")?;
    let listening = wait_until(&format!("{} listens", running.label()), START_LIMIT, || {
        if running.is_running() { backend.namespace.listens(port) } else { Ok(()) }
    });
    listening.with_context(|| running.output())?;
    if running.is_running() { Ok(running) } else { bail!("{} has ended; {}", running.label(), running.output()) }
}
