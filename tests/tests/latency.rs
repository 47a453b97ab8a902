//! Latencies that the kernel has measured, of servers that take as long as they are told to: shown by the agent while real
//! clients ask them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_agent::model::view;
use lb_tests::agent::Agent;
use lb_tests::clients;
use lb_tests::config::{Config, Service};
use lb_tests::connections::LongLived;
use lb_tests::lab::address::Family;
use lb_tests::lab::{Options, at_each_hook};
use lb_tests::programs;
use lb_tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(20);
/// What each backend takes at least, milliseconds.
const DELAYS: [u64; 3] = [2, 20, 80];
const CONNECTIONS: usize = 60;

fn first_bytes(agent: &Agent<'_>) -> Result<Vec<view::Latency>> {
    let status = agent.status()?;
    let backends = &status.services.first().context("there is a service")?.backends;
    let found: Vec<_> = backends.iter().filter_map(|backend| backend.first_byte).collect();
    ensure!(found.len() == DELAYS.len(), "{backends:?}");
    Ok(found)
}

/// A server never answers sooner than it is told to, however busy the machine is; how much later says nothing of us.
fn check(found: &[view::Latency]) -> Result<()> {
    for (latency, delay) in found.iter().zip(DELAYS) {
        // An eighth of a bucket below.
        ensure!(latency.p50_ms >= delay as f64 * 0.88 && latency.p99_ms >= latency.p50_ms, "{delay} ms: {latency:?}");
    }
    ensure!(found.is_sorted_by(|a, b| a.p50_ms < b.p50_ms), "{found:?}");
    Ok(())
}

#[test]
fn the_agent_shows_how_long_each_backend_takes() {
    at_each_hook(Options::for_hook, |lab, hook| {
        for forward in ["nat", "snat"] {
            let servers = lab.backends.iter().zip(DELAYS);
            let servers =
                servers.map(|(backend, delay)| programs::demo_backend(backend, Duration::from_millis(delay), 0.0));
            let _servers = servers.collect::<Result<Vec<_>>>()?;
            let service = Service { forward, ..Service::web(lab) };
            let agent = Agent::start(lab, Config { hook, ..Config::for_lab(lab, vec![service]) })?;
            agent.wait_all_up(LIMIT)?;
            let load = LongLived::open(&lab.client, clients::http(Family::V4.vip()), CONNECTIONS)?;
            let found = wait_until("every backend's latency is known", LIMIT, || first_bytes(&agent))?;
            check(&found).with_context(|| forward.to_owned())?;
            load.close().unbroken("open connections")?;

            let metrics = agent.metrics()?;
            let count = |kind: &str, backend: &str| {
                let labels = format!("{{service=\"web\",backend=\"{backend}\",kind=\"{kind}\"}} ");
                let line = metrics.lines().find_map(|line| {
                    line.strip_prefix("lb_backend_latency_seconds_count")?.strip_prefix(labels.as_str())
                });
                line.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
            };
            for backend in ["b1", "b2", "b3"] {
                let (handshakes, turns) = (count("handshake", backend), count("first_byte", backend));
                ensure!(handshakes > 0 && turns > handshakes, "{backend}: {handshakes}, {turns}:\n{metrics}");
            }
        }
        Ok(())
    });
}
