//! Clients that nobody here wrote, run in the client's namespace against any address: each function starts one,
//! reads its report, and turns whatever the program calls an error into one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::namespace::Namespace;
use crate::programs::{BULK_BYTES, BULK_PATH, DNS_NAME, DNS_PORT, HTTP_PORT, IPERF_PORT, REDIS_PORT};

/// Who answered how often.
pub type Answers = BTreeMap<String, u64>;

/// `http://10.77.0.100/`, `http://[fd77::100]/`.
pub fn url(address: IpAddr, path: &str) -> String {
    match address {
        IpAddr::V4(_) => format!("http://{address}{path}"),
        IpAddr::V6(_) => format!("http://[{address}]{path}"),
    }
}

/// curl: `count` requests one after another, each on a connection of its own.
pub fn curl(client: &Namespace, address: IpAddr, count: u32) -> Result<Answers> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "10"])
        .args(["--header", "Connection: close"])
        .arg(url(address, &format!("/?[1-{count}]")));
    let finished = client.run(command)?.success()?;
    let answers = tally(finished.out.lines());
    ensure!(answers.values().sum::<u64>() == u64::from(count), "{count} requests, but the answers are {answers:?}");
    Ok(answers)
}

/// curl: one large file, whole.
pub fn curl_bulk(client: &Namespace, address: IpAddr) -> Result<()> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "30", "--output", "/dev/null"])
        .args(["--write-out", "%{size_download}"])
        .arg(url(address, BULK_PATH));
    let finished = client.run(command)?.success()?;
    ensure!(finished.out == BULK_BYTES.to_string(), "{} of {BULK_BYTES} bytes arrived", finished.out);
    Ok(())
}

/// curl: a body of full segments, whole.
pub fn curl_upload(client: &Namespace, dir: &Path, address: IpAddr) -> Result<()> {
    const BYTES: usize = 512 << 10;
    let body = dir.join("upload");
    std::fs::write(&body, vec![b'x'; BYTES]).with_context(|| format!("writing {}", body.display()))?;
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "30", "--output", "/dev/null"])
        .args(["--write-out", "%{size_upload}", "--data-binary"])
        .arg(format!("@{}", body.display()))
        .arg(url(address, "/"));
    let finished = client.run(command)?.success()?;
    ensure!(finished.out == BYTES.to_string(), "{} of {BYTES} bytes were sent", finished.out);
    Ok(())
}

/// wrk: 64 connections for three seconds; returns the number of requests that were answered.
pub fn wrk(client: &Namespace, address: IpAddr) -> Result<u64> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c64", "-d3s", "--timeout", "10s"]).arg(url(address, "/"));
    let finished = client.run(command)?.success()?;
    wrk_requests(&finished.out).with_context(|| finished.to_string())
}

fn wrk_requests(report: &str) -> Result<u64> {
    for trouble in ["Socket errors", "Non-2xx or 3xx responses"] {
        if let Some(line) = report.lines().find(|line| line.contains(trouble)) {
            bail!("wrk reports trouble: {}", line.trim());
        }
    }
    let line = report.lines().find(|line| line.contains(" requests in ")).context("wrk's report has no total")?;
    let count = line.split_whitespace().next().unwrap_or_default();
    let count = count.parse().with_context(|| format!("wrk's total is {count:?}"))?;
    ensure!(count > 0, "no request was answered");
    Ok(count)
}

/// iperf3: bulk TCP for two seconds; returns bits per second at the receiver.
pub fn iperf3(client: &Namespace, address: IpAddr) -> Result<f64> {
    let mut command = Command::new("iperf3");
    command.args(["--client", &address.to_string(), "--port", &IPERF_PORT.to_string()]);
    command.args(["--time", "2", "--parallel", "2", "--connect-timeout", "5000", "--json"]);
    let finished = client.run(command)?.success()?;
    let report: serde_json::Value = serde_json::from_str(&finished.out).with_context(|| finished.to_string())?;
    ensure!(report.get("error").is_none(), "iperf3 reports an error: {}", report["error"]);
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    let rate = rate.with_context(|| format!("iperf3 reports no rate: {finished}"))?;
    ensure!(rate > 0.0, "nothing arrived: {finished}");
    Ok(rate)
}

/// dig over UDP: `count` questions, each from a port of its own, none asked twice.
pub fn dig(client: &Namespace, address: IpAddr, count: u32) -> Result<Answers> {
    let mut command = Command::new("dig");
    command.arg(format!("@{address}")).args(["-p", &DNS_PORT.to_string()]);
    command.args(["+notcp", "+ignore", "+tries=1", "+time=5", "+short"]);
    for _ in 0..count {
        command.args(["-t", "TXT", "-q", DNS_NAME]);
    }
    let finished = client.run(command)?.success()?;
    let answers = tally(finished.out.lines().map(|line| line.trim_matches('"')));
    ensure!(answers.values().sum::<u64>() == u64::from(count), "{count} questions, but: {finished}");
    Ok(answers)
}

/// redis-benchmark: 20,000 of each request on 50 connections; returns its one-line results.
pub fn redis_benchmark(client: &Namespace, address: IpAddr) -> Result<Vec<String>> {
    const TESTS: &str = "ping,set,get,incr";
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &address.to_string(), "-p", &REDIS_PORT.to_string(), "-n", "20000", "-c", "50"]);
    command.args(["-t", TESTS, "--csv"]);
    let finished = client.run_within(command, Duration::from_secs(120))?.success()?;
    let lower = format!("{}{}", finished.out, finished.err).to_lowercase();
    ensure!(!lower.contains("error") && !lower.contains("could not connect"), "{finished}");
    let results: Vec<_> = finished.out.lines().filter(|line| line.starts_with('"')).map(str::to_owned).collect();
    for test in ["PING", "SET", "GET", "INCR"] {
        ensure!(results.iter().any(|line| line.contains(test)), "no result for {test}: {finished}");
    }
    Ok(results)
}

/// Where the client's HTTP requests go.
pub fn http(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, HTTP_PORT)
}

fn tally<'a>(names: impl Iterator<Item = &'a str>) -> Answers {
    let mut answers = Answers::new();
    for name in names {
        *answers.entry(name.to_owned()).or_default() += 1;
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_in_a_report_of_wrk_is_an_error() {
        let good = "  20 requests in 3.00s, 1.00MB read\nRequests/sec:  6.66\n";
        assert_eq!(wrk_requests(good).expect("a good report"), 20);
        let cases = [
            ("20 requests in 3.00s, 1MB read\n  Socket errors: connect 0, read 3, write 0, timeout 0\n", "read 3"),
            ("20 requests in 3.00s, 1MB read\n  Non-2xx or 3xx responses: 2\n", "responses: 2"),
            ("0 requests in 3.00s, 0.00B read\n", "no request was answered"),
            ("unable to connect\n", "no total"),
        ];
        for (report, part) in cases {
            let error = wrk_requests(report).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn addresses_of_both_families_make_urls() {
        assert_eq!(url(IpAddr::from([10, 0, 0, 1]), "/x"), "http://10.0.0.1/x");
        assert_eq!(url("fd77::1".parse().expect("an address"), "/"), "http://[fd77::1]/");
    }
}
