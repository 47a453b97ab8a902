//! Hostile traffic against 200 live connections: the agent lives, its program stays attached, and no connection
//! breaks. What the hosts make of such traffic without a balancer is shown in `lab.rs`.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_agent::model::config::Hook;
use lb_tests::agent::Agent;
use lb_tests::clients;
use lb_tests::config::{Config, Health, Service};
use lb_tests::connections::LongLived;
use lb_tests::hostile::Assault;
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, Options, with_lab, xdp};
use lb_tests::programs::{self, DNS_PORT};

const UP_LIMIT: Duration = Duration::from_secs(30);
const CONNECTIONS_PER_FAMILY: usize = 100;
/// One seed for all runs; change it to look elsewhere.
const SEED: u64 = 0x6c62_0001;

/// 200 live connections, the assault, and then everything as it was.
fn withstand(lab: &Lab, assault: Assault) -> Result<()> {
    let mut servers = Vec::new();
    for backend in &lab.backends {
        servers.push(programs::nginx(lab, backend)?);
        servers.push(programs::dnsmasq(backend)?);
    }
    let dns = |name, family| Service::new(name, family, DNS_PORT, Health::of_kind("udp"), &lab.backends);
    let services = vec![Service::web(lab), Service::web6(lab), dns("dns", Family::V4), dns("dns6", Family::V6)];
    let agent = Agent::start(lab, Config::for_lab(lab, services))?;
    agent.wait_all_up(UP_LIMIT)?;
    let pid = agent.pid();
    let watch = xdp::Watch::start(&lab.balancer, &lab.devices(), Hook::Xdp);
    let open = |family: Family| LongLived::open(&lab.client, clients::http(family.vip()), CONNECTIONS_PER_FAMILY);
    let connections = Family::ALL.into_iter().map(open).collect::<Result<Vec<_>>>()?;
    let ports = |(family, one): (Family, &LongLived)| one.report().ports.into_iter().map(move |port| (family, port));
    let live: Vec<_> = Family::ALL.into_iter().zip(&connections).flat_map(ports).collect();
    ensure!(live.len() == 2 * CONNECTIONS_PER_FAMILY);

    let took = assault.run(lab, live)?;
    println!("{assault:?} took {took:?}");

    for one in connections {
        // Two seconds' worth: who has lost its backend in the meantime notices now.
        one.wait_for_more(2000)?;
        one.close().unbroken("live connections")?;
    }
    ensure!(agent.is_running() && agent.pid() == pid, "the agent has ended");
    for seen in watch.stop()? {
        ensure!(seen.programs.len() == 1 && seen.programs[0].is_some(), "the program has not stayed: {seen:?}");
    }
    agent.wait_all_up(UP_LIMIT)?;
    for family in Family::ALL {
        let answers = clients::curl(&lab.client, family.vip(), 60)?;
        ensure!(answers.len() == 3, "{answers:?}");
        clients::dig(&lab.client, family.vip(), 10)?;
    }
    println!("reasons: {:?}", agent.status()?.reasons);
    Ok(())
}

#[test]
fn a_flood_of_syns_breaks_no_live_connection() {
    with_lab(Options::default(), |lab| withstand(lab, Assault { seed: SEED, syns: 300_000, mutants: 0 }));
}

#[test]
fn mutated_frames_break_no_live_connection() {
    with_lab(Options::default(), |lab| withstand(lab, Assault { seed: SEED, syns: 0, mutants: 100_000 }));
}
