//! Real clients and real servers under each scheduler: everybody answers, nothing is lost, and `flow route` says where a
//! client's next connection goes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::clients;
use lb_tests::config::{Config, Service};
use lb_tests::connections::{Arrivals, LongLived};
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, Options, with_lab};
use lb_tests::programs;

const UP_LIMIT: Duration = Duration::from_secs(20);
const SPREAD_SAMPLE: u32 = 60;

fn exercise(lab: &Lab, agent: &Agent<'_>, scheduler: &str) -> Result<()> {
    for family in Family::ALL {
        let answers = clients::curl(&lab.client, family.vip(), SPREAD_SAMPLE)?;
        ensure!(answers.keys().eq(["b1", "b2", "b3"]), "over {family:?}: {answers:?}");
        if scheduler == "round-robin" {
            // Each processor takes turns of its own, so no backend has more than a turn more than another on each.
            let processors = u64::try_from(std::thread::available_parallelism()?.get())?;
            let (least, most) = (answers.values().min().unwrap_or(&0), answers.values().max().unwrap_or(&0));
            ensure!(most - least <= 2 * processors, "over {family:?}: {answers:?}");
        }
    }
    let target = clients::http(Family::V4.vip());
    let (open, new) = (LongLived::open(&lab.client, target, 50)?, Arrivals::start(&lab.client, target, 100));
    agent.cli(["backend", "weight", "web/b1", "3"])?.success()?;
    open.wait_for_more(500)?;
    new.wait_for_more(200)?;
    open.close().unbroken("open connections")?;
    new.stop().unbroken("new connections")?;
    agent.cli(["backend", "weight", "web/b1", "1"])?.success().map(drop)
}

#[test]
fn every_scheduler_serves() {
    with_lab(Options::default(), |lab| {
        let _servers = lab.backends.iter().map(|backend| programs::nginx(lab, backend)).collect::<Result<Vec<_>>>()?;
        let services = |scheduler| {
            [Service::web(lab), Service::web6(lab)].map(|service| Service { scheduler, ..service }).to_vec()
        };
        let mut agent = Agent::start(lab, Config::for_lab(lab, services("consistent")))?;
        // A reload changes it under way, and back.
        for scheduler in ["consistent", "round-robin", "random", "least-connections", "consistent"] {
            agent.reload(Config::for_lab(lab, services(scheduler)))?.success()?;
            agent.wait_all_up(UP_LIMIT)?;
            exercise(lab, &agent, scheduler).with_context(|| scheduler.to_owned())?;
        }
        Ok(())
    });
}
