//! `lb-agent demo-backend`: an HTTP server whose speed, capacity, errors and CPU use are set, for demos, tests and
//! the evaluation of policies. It owns its listener and nothing else; what it decides (how long a request takes, who
//! waits, what `/health` says) is pure, and only `server` touches the network.

mod admission;
mod behaviour;
mod health;
mod server;

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

pub use self::behaviour::{Behaviour, BehaviourError, Control};
pub use self::health::{HealthReport, Status};
pub use self::server::{Server, ServerError, ServerOptions};
use crate::model::duration::parse_duration;

/// Serve HTTP with a set delay, capacity, error rate and CPU use
///
/// Every path is answered after the set delay, except /health, which reports load as JSON at once, and /control,
/// which shows (GET) and changes (POST) the behaviour if it was opened with --control.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  lb-agent demo-backend --listen 127.0.0.1:8081 --name b1 --delay 5ms --concurrency 8
  lb-agent demo-backend --listen [::1]:8082 --name b2 --delay 20ms --jitter 0.5 --error-rate 0.01
  lb-agent demo-backend --control

With --control, slow a running backend down:
  curl -d '{\"delay_ms\": 200, \"error_rate\": 0.1, \"healthy\": true}' http://127.0.0.1:8080/control")]
pub struct DemoBackendArgs {
    /// Address and port; port 0 lets the system choose
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// Name in the X-Backend header and in the body [default: host name and port]
    #[arg(long, value_parser = parse_name)]
    pub name: Option<String>,

    /// Time that a request takes
    #[arg(long, default_value = "0ms", value_parser = parse_delay)]
    pub delay: Duration,

    /// Spread of the delay: sigma of a lognormal distribution whose mean is --delay
    #[arg(long, value_name = "SIGMA", default_value = "0", value_parser = parse_sigma)]
    pub jitter: f64,

    /// Requests served at once; the rest wait their turn. 0 means no limit
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(0..=i64::from(behaviour::MAX_CONCURRENCY)))]
    pub concurrency: u32,

    /// Share of requests answered with status 500, within 0 and 1
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = parse_share)]
    pub error_rate: f64,

    /// CPU time that each request uses up, after the delay
    #[arg(long, default_value = "0ms", value_parser = parse_burn)]
    pub cpu_burn: Duration,

    /// Length of the response body [default: one line with the name]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=behaviour::MAX_BODY_BYTES))]
    pub body_bytes: Option<u64>,

    /// Seed of delays and errors; the same seed gives the same sequence
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Let anyone who reaches this server change its behaviour through /control
    #[arg(long)]
    pub control: bool,
}

impl From<DemoBackendArgs> for ServerOptions {
    fn from(args: DemoBackendArgs) -> Self {
        let behaviour = Behaviour {
            delay: args.delay,
            jitter_sigma: args.jitter,
            concurrency: args.concurrency,
            error_rate: args.error_rate,
            cpu_burn: args.cpu_burn,
            body_bytes: args.body_bytes,
            healthy: true,
        };
        Self { listen: args.listen, name: args.name, behaviour, seed: args.seed, control: args.control }
    }
}

/// Serves until SIGTERM or ctrl-C, then finishes the requests under way.
pub async fn run(args: DemoBackendArgs) -> anyhow::Result<()> {
    // Before listening, so that a signal right after the first line of output is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for ctrl-C")?;
    let server = Server::bind(args.into()).await?;
    // Whoever started this in the background reads the port from here; that nobody listens is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{} serves on http://{}/", server.name(), server.address());
    server
        .serve(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
    Ok(())
}

fn parse_delay(text: &str) -> Result<Duration, String> {
    at_most(parse_duration(text)?, behaviour::MAX_DELAY)
}

fn parse_burn(text: &str) -> Result<Duration, String> {
    at_most(parse_duration(text)?, behaviour::MAX_BURN)
}

fn at_most(value: Duration, limit: Duration) -> Result<Duration, String> {
    if value <= limit { Ok(value) } else { Err(format!("it must not be longer than {limit:?}")) }
}

fn parse_sigma(text: &str) -> Result<f64, String> {
    parse_within(text, behaviour::MAX_SIGMA)
}

fn parse_share(text: &str) -> Result<f64, String> {
    parse_within(text, 1.0)
}

fn parse_within(text: &str, limit: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=limit).contains(&value) => Ok(value),
        _ => Err(format!("write a number within 0 and {limit}")),
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    const MAX_BYTES: usize = 64;
    if text.is_empty() || text.len() > MAX_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("a name has 1 to {MAX_BYTES} letters, digits and punctuation marks, without spaces"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        backend: DemoBackendArgs,
    }

    #[test]
    fn the_examples_of_the_help_parse() {
        let help = Cli::command().render_help().to_string();
        let examples: Vec<&str> =
            help.lines().filter_map(|line| line.trim().strip_prefix("lb-agent demo-backend ")).collect();
        assert_eq!(examples.len(), 3, "{help}");
        for example in examples {
            Cli::try_parse_from(std::iter::once("demo-backend").chain(example.split_whitespace()))
                .unwrap_or_else(|error| panic!("{example}: {error}"));
        }
        let json =
            help.lines().find(|line| line.contains("curl -d")).and_then(|line| line.split('\'').nth(1)).expect("curl");
        serde_json::from_str::<Control>(json).expect("the curl example's body");
    }

    #[test]
    fn flags_out_of_range_are_refused() {
        for line in [
            "--delay 61s",
            "--delay 5",
            "--jitter NaN",
            "--jitter 4",
            "--concurrency 100001",
            "--error-rate 1.1",
            "--error-rate -0.1",
            "--cpu-burn 11s",
            "--body-bytes 16777217",
            "--listen localhost",
        ] {
            let args = std::iter::once("demo-backend").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(args).is_err(), "{line}");
        }
    }

    #[test]
    fn names_that_no_header_carries_are_refused() {
        for name in ["", "a b", "a\nb", "ü", &"x".repeat(65)] {
            assert!(parse_name(name).is_err(), "{name:?}");
        }
        assert_eq!(parse_name("b-1.example:80"), Ok("b-1.example:80".to_owned()));
    }
}
