//! The traffic: each workload runs one generator in the client's namespace against the VIP for a set time, and says how
//! many units of it were done.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::clients;
use lb_tests::lab::Lab;
use lb_tests::lab::address::Family;
use lb_tests::lab::process::Finished;

use super::services::{BULK, DATAGRAMS, Servers};
use super::udp;
use crate::interrupt::Interrupt;

/// A generator that has not ended so long after its time is killed.
const GRACE: Duration = Duration::from_secs(20);
/// Connections of wrk, and streams of iperf3.
const CONNECTIONS: u32 = 64;
const STREAMS: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    Http,
    Connections,
    Udp,
    Bulk,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Done {
    pub(super) units: f64,
    pub(super) per_second: f64,
    /// Requests or connections that failed.
    pub(super) errors: u64,
    /// Part of the packets sent that never arrived, where that can happen.
    pub(super) lost: Option<f64>,
}

impl Workload {
    pub(super) const ALL: [Self; 4] = [Self::Http, Self::Connections, Self::Udp, Self::Bulk];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Connections => "connections",
            Self::Udp => "udp",
            Self::Bulk => "bulk",
        }
    }

    pub(super) fn what(self) -> String {
        match self {
            Self::Http => format!("wrk, {CONNECTIONS} connections kept alive, a short answer"),
            Self::Connections => {
                format!("wrk, {CONNECTIONS} at a time: a connection for each request, closed after it")
            }
            Self::Udp => {
                format!(
                    "{} bytes of payload from {} ports, as fast as one thread can; those that arrive count",
                    udp::PAYLOAD,
                    udp::FLOWS
                )
            }
            Self::Bulk => format!("iperf3, {STREAMS} streams from the client to one backend"),
        }
    }

    /// What CPU time is divided by.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Http => "request",
            Self::Connections => "connection",
            Self::Udp => "packet",
            Self::Bulk => "MB",
        }
    }

    /// Of the rate, which is in units a second except for bulk traffic.
    pub(super) fn rate_heading(self) -> &'static str {
        match self {
            Self::Http => "requests/s",
            Self::Connections => "new connections/s",
            Self::Udp => "UDP packets/s",
            Self::Bulk => "bulk TCP Gbit/s",
        }
    }

    /// The rate as people say it.
    pub(super) fn rate(self, per_second: f64) -> f64 {
        const BITS_PER_BYTE: f64 = 8.0;
        if self == Self::Bulk { per_second * BITS_PER_BYTE / 1000.0 } else { per_second }
    }

    pub(super) fn run(self, lab: &Lab, servers: &Servers, seconds: u32, interrupt: &Interrupt) -> Result<Done> {
        match self {
            Self::Http => wrk(lab, seconds, &[], interrupt),
            Self::Connections => wrk(lab, seconds, &["--header", "Connection: close"], interrupt),
            Self::Udp => datagrams(lab, servers, seconds, interrupt),
            Self::Bulk => bulk(lab, seconds, interrupt),
        }
    }
}

fn wrk(lab: &Lab, seconds: u32, more: &[&str], interrupt: &Interrupt) -> Result<Done> {
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s"), "--timeout", "5s"]).args(more);
    command.arg(clients::url(Family::V4.vip(), "/"));
    let finished = client(lab, command, seconds, interrupt)?;
    read_wrk(&finished.out).with_context(|| finished.to_string())
}

/// `wrk` prints nothing that a program was meant to read: its lines are stable all the same.
fn read_wrk(report: &str) -> Result<Done> {
    let line = |part: &str| report.lines().find(|line| line.contains(part));
    let first_number = |line: &str| line.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    let units = line(" requests in ").and_then(first_number).context("wrk's report has no total")?;
    let rate = line("Requests/sec:").and_then(|line| first_number(line.trim().strip_prefix("Requests/sec:")?));
    let per_second = rate.context("wrk's report has no rate")?;
    let numbers = |line: &str| -> u64 { line.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum() };
    let errors = ["Socket errors:", "Non-2xx or 3xx responses:"].into_iter().filter_map(line).map(numbers).sum();
    ensure!(units > 0.0, "no request was answered");
    Ok(Done { units, per_second, errors, lost: None })
}

fn datagrams(lab: &Lab, servers: &Servers, seconds: u32, interrupt: &Interrupt) -> Result<Done> {
    let to = SocketAddr::new(Family::V4.vip(), DATAGRAMS.port);
    let before = servers.sinks.received();
    let sent = udp::send(lab, to, Duration::from_secs(seconds.into()), interrupt)?;
    let arrived = servers.sinks.settled() - before;
    ensure!(arrived > 0, "none of {} packets arrived", sent.packets);
    let units = arrived as f64;
    let lost = Some(1.0 - units / sent.packets as f64);
    Ok(Done { units, per_second: units / sent.time.as_secs_f64(), errors: 0, lost })
}

fn bulk(lab: &Lab, seconds: u32, interrupt: &Interrupt) -> Result<Done> {
    let mut command = Command::new("iperf3");
    command.args(["--client", &Family::V4.vip().to_string(), "--port", &BULK.port.to_string()]);
    command.args(["--time", &seconds.to_string(), "--parallel", &STREAMS.to_string()]);
    command.args(["--connect-timeout", "5000", "--json"]);
    let finished = client(lab, command, seconds, interrupt)?;
    read_iperf3(&finished.out).with_context(|| finished.to_string())
}

fn read_iperf3(report: &str) -> Result<Done> {
    const MEGA: f64 = 1e6;
    const BITS_PER_BYTE: f64 = 8.0;
    let report: serde_json::Value = serde_json::from_str(report).context("reading iperf3's report")?;
    if let Some(error) = report.get("error") {
        bail!("iperf3 reports an error: {error}");
    }
    let received = |key: &str| report["end"]["sum_received"][key].as_f64().with_context(|| format!("no {key}"));
    let (bytes, bits_per_second) = (received("bytes")?, received("bits_per_second")?);
    ensure!(bytes > 0.0, "nothing arrived");
    Ok(Done { units: bytes / MEGA, per_second: bits_per_second / BITS_PER_BYTE / MEGA, errors: 0, lost: None })
}

/// Runs a generator to its end, or kills it when the end is asked for.
fn client(lab: &Lab, command: Command, seconds: u32, interrupt: &Interrupt) -> Result<Finished> {
    let running = lab.client.spawn(command).context("is it installed? scripts/setup --bench installs what is used")?;
    let limit = Duration::from_secs(seconds.into()) + GRACE;
    interrupt.wait_until(&format!("{} ends", running.label()), limit, || {
        if running.is_running() { bail!("it is still running") } else { Ok(()) }
    })?;
    running.finish(GRACE)?.success()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_wrk() {
        let good = "  4000 requests in 2.00s, 1.00MB read\nRequests/sec:   1998.50\nTransfer/sec:      0.50MB\n";
        let done = read_wrk(good).expect("a good report");
        assert_eq!(done, Done { units: 4000.0, per_second: 1998.5, errors: 0, lost: None });
        let trouble =
            format!("{good}  Socket errors: connect 0, read 3, write 0, timeout 2\n  Non-2xx or 3xx responses: 4\n");
        assert_eq!(read_wrk(&trouble).expect("still a report").errors, 9);
        for bad in ["unable to connect\n", "0 requests in 2.00s, 0B read\nRequests/sec: 0.00\n", "1 requests in 2s\n"] {
            assert!(read_wrk(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_report_of_iperf3() {
        let good = r#"{"end": {"sum_received": {"bytes": 2000000, "bits_per_second": 8000000.0}}}"#;
        let done = read_iperf3(good).expect("a good report");
        assert_eq!(done, Done { units: 2.0, per_second: 1.0, errors: 0, lost: None });
        assert_eq!(Workload::Bulk.rate(125.0), 1.0);
        for bad in [r#"{"error": "refused"}"#, r#"{"end": {}}"#, "no JSON"] {
            assert!(read_iperf3(bad).is_err(), "{bad}");
        }
    }
}
