//! `xtask bench latency`: what the kernel measures of a backend, beside what the backend's client sees, in the same seconds.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use lb_agent::load::Report;
use lb_agent::model::view;
use lb_tests::agent::{self, Agent};
use lb_tests::config::{Config, Service};
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, Options as LabOptions};
use lb_tests::{programs, serial};
use serde::Serialize;

use super::Output;
use crate::interrupt::Interrupt;

/// Compare the latencies that the kernel measures with those of a load generator
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  scripts/bench latency\n  scripts/bench latency --seconds 20 --json latency.json")]
pub(super) struct Options {
    /// Length of each run of traffic
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(5..=120))]
    seconds: u64,
    /// Requests a second
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(10..=5000))]
    rate: u32,
    #[command(flatten)]
    output: Output,
}

/// What the backend takes: the mean, and sigma of its lognormal distribution.
const BACKENDS: [(Duration, f64); 4] = [
    (Duration::from_millis(2), 0.0),
    (Duration::from_millis(5), 0.5),
    (Duration::from_millis(20), 0.5),
    (Duration::from_millis(50), 0.3),
];
const UP_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize)]
struct Row {
    mean_ms: f64,
    sigma: f64,
    requests: u64,
    client: Quantiles,
    kernel: Quantiles,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Quantiles {
    p50_ms: f64,
    p99_ms: f64,
}

pub(super) fn run(options: &Options) -> Result<()> {
    let _serial = serial::acquire()?;
    let interrupt = Interrupt::watch()?;
    Lab::sweep_leftovers()?;
    let mut rows = Vec::new();
    for (delay, sigma) in BACKENDS {
        ensure!(!interrupt.requested(), "interrupted");
        anstream::eprintln!("bench: a backend that takes {delay:?}, sigma {sigma}");
        let lab = Lab::build(LabOptions { backends: 1, ..LabOptions::default() }).context("building the lab")?;
        let row = measure(&lab, delay, sigma, options);
        lab.assert_clean()?;
        rows.push(row?);
    }
    let json = serde_json::json!({ "seconds": options.seconds, "rate": options.rate, "rows": rows });
    options.output.publish(&markdown(&rows, options), &json)
}

fn measure(lab: &Lab, delay: Duration, sigma: f64, options: &Options) -> Result<Row> {
    let _server = programs::demo_backend(&lab.backends[0], delay, sigma)?;
    let mut agent = Agent::start(lab, Config::for_lab(lab, vec![Service::web(lab)]))?;
    agent.wait_all_up(UP_LIMIT)?;
    let mut load = Command::new(agent::binary()?);
    load.args(["load", &format!("http://{}/", Family::V4.vip()), "--json", "--connections", "256"]);
    load.args(["--rate", &options.rate.to_string(), "--duration", &format!("{}s", options.seconds)]);
    let loaded = lab.client.run(load)?.success()?;
    let kernel = latency(&agent.status()?)?;
    let report: Report = serde_json::from_str(&loaded.out).context("reading the load's report")?;
    let client = report.latency.context("no request was answered")?;
    let row = Row {
        mean_ms: delay.as_secs_f64() * 1e3,
        sigma,
        requests: report.ok,
        client: Quantiles { p50_ms: client.p50_ms, p99_ms: client.p99_ms },
        kernel: Quantiles { p50_ms: kernel.p50_ms, p99_ms: kernel.p99_ms },
    };
    agent.stop(nix::sys::signal::Signal::SIGTERM)?.success()?;
    agent.unload()?.success()?;
    Ok(row)
}

fn latency(status: &view::Status) -> Result<view::Latency> {
    let backend = status.services.first().and_then(|service| service.backends.first());
    backend.and_then(|backend| backend.first_byte).context("the kernel has measured nothing")
}

fn markdown(rows: &[Row], options: &Options) -> String {
    let mut out = format!(
        "Requests to one backend at {} a second for {} s, milliseconds. The client measures from the intended moment of sending to the \
         whole answer, the kernel from the request's first packet to the answer's, of the last seconds.\n\n\
         | backend: mean, sigma | requests | p50 client | p50 kernel |      x | p99 client | p99 kernel |      x |\n\
         | -------------------- | -------: | ---------: | ---------: | -----: | ---------: | ---------: | -----: |\n",
        options.rate, options.seconds
    );
    for Row { mean_ms, sigma, requests, client, kernel } in rows {
        let backend = format!("{mean_ms} ms, {sigma}");
        let columns = [(client.p50_ms, kernel.p50_ms), (client.p99_ms, kernel.p99_ms)]
            .map(|(client, kernel)| format!("{client:>10.2} | {kernel:>10.2} | {:>6.3}", kernel / client));
        let _infallible = writeln!(out, "| {backend:<20} | {requests:>8} | {} | {} |", columns[0], columns[1]);
    }
    out
}
