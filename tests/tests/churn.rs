//! Minimal tracking under change: weights move every second, a backend comes and goes, and neither connections that stay open
//! nor new ones break, while most slots need no memory. With and without a flood of SYNs.
//!
//! Half a minute each; `LB_CHURN_SECONDS=300` makes it five.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_agent::model::view::Slots;
use lb_tests::agent::{Agent, service_of};
use lb_tests::clients;
use lb_tests::config::{Config, Service};
use lb_tests::connections::{Arrivals, LongLived};
use lb_tests::hostile::Flood;
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, Options, with_lab};
use lb_tests::programs;
use lb_tests::wait::wait_until;
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

const UP_LIMIT: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 500;
const NEW_PER_SECOND: u32 = 500;
const FLOOD_PER_SECOND: u32 = 50_000;
/// Of slots, at the end of each minute.
const STABLE: f64 = 0.6;
const SEED: u64 = 0x6c62_0002;

fn duration() -> Result<Duration> {
    let seconds = match std::env::var("LB_CHURN_SECONDS") {
        Ok(text) => text.parse().with_context(|| format!("LB_CHURN_SECONDS is {text:?}"))?,
        Err(_) => 30,
    };
    Ok(Duration::from_secs(seconds))
}

fn service<'lab>(backends: impl IntoIterator<Item = &'lab lb_tests::lab::Backend>) -> Service {
    let health = lb_tests::config::Health::of_kind("http");
    let service = Service::new("web", Family::V4, programs::HTTP_PORT, health, backends);
    // Nobody's connection is cut because its backend has left: that has a test of its own.
    Service { tracking: "minimal", drain_timeout: Duration::from_secs(3600), ..service }
}

fn slots(agent: &Agent<'_>) -> Result<Slots> {
    Ok(service_of(&agent.status()?, "web")?.slots)
}

fn stable(slots: Slots) -> f64 {
    let Slots { stable, moving, tracked } = slots;
    f64::from(stable) / f64::from(stable + moving + tracked)
}

/// Weights every second, a backend added after a third of the time and removed after two thirds.
fn change(lab: &Lab, agent: &mut Agent<'_>) -> Result<()> {
    let (start, duration) = (Instant::now(), duration()?);
    let mut rng = Pcg64Mcg::seed_from_u64(SEED);
    let mut fourth = false;
    let (mut second, mut moved) = (0, 0);
    while start.elapsed() < duration {
        second += 1;
        let wanted = start.elapsed() > duration / 3 && start.elapsed() < duration * 2 / 3;
        if wanted != fourth {
            fourth = wanted;
            let mut config = agent.config().clone();
            config.services = vec![service(&lab.backends[..if wanted { 4 } else { 3 }])];
            agent.reload(config)?.success()?;
        }
        let (backend, weight) = (rng.random_range(1..=3), rng.random_range(1..=10).to_string());
        agent.cli(["backend", "weight", &format!("web/b{backend}"), &weight])?.success()?;
        if second % 60 == 0 {
            let slots = slots(agent)?;
            println!("after {second} s: {slots:?}");
            ensure!(stable(slots) >= STABLE, "too few slots are stable: {slots:?}");
        }
        moved = moved.max(slots(agent)?.moving);
        std::thread::sleep((start + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
    }
    ensure!(moved > 1000, "weights have moved {moved} slots only: that is no change to withstand");
    let slots = slots(agent)?;
    println!("at the end: {slots:?}");
    ensure!(stable(slots) >= STABLE, "too few slots are stable: {slots:?}");
    Ok(())
}

fn withstand(lab: &Lab, flood: bool) -> Result<()> {
    let _servers = lab.backends.iter().map(|backend| programs::nginx(lab, backend)).collect::<Result<Vec<_>>>()?;
    let mut agent = Agent::start(lab, Config::for_lab(lab, vec![service(&lab.backends[..3])]))?;
    agent.wait_all_up(UP_LIMIT)?;
    // Until all backends are up every flow is recorded.
    wait_until("the service records no more than it must", UP_LIMIT, || {
        let slots = slots(&agent)?;
        ensure!(stable(slots) == 1.0, "{slots:?}");
        Ok(())
    })?;
    let target = clients::http(Family::V4.vip());
    let open = LongLived::open(&lab.client, target, CONNECTIONS)?;
    let new = Arrivals::start(&lab.client, target, NEW_PER_SECOND);
    let flood = flood.then(|| Flood::start(lab, SEED, FLOOD_PER_SECOND)).transpose()?;

    change(lab, &mut agent)?;

    if let Some(flood) = flood {
        println!("{} SYNs of strangers in {:?}", flood.sent(), duration()?);
        flood.stop()?;
    }
    open.wait_for_more(2 * CONNECTIONS as u64)?;
    let (open, new) = (open.close(), new.stop());
    println!("{} requests on open connections, {} on new ones", open.requests, new.requests);
    open.unbroken("open connections")?;
    new.unbroken("new connections")?;
    println!("reasons: {:?}", agent.status()?.reasons);
    Ok(())
}

#[test]
fn changes_break_no_connection() {
    with_lab(Options { backends: 4, ..Options::default() }, |lab| withstand(lab, false));
}

#[test]
fn changes_under_a_flood_break_no_connection() {
    with_lab(Options { backends: 4, ..Options::default() }, |lab| withstand(lab, true));
}
