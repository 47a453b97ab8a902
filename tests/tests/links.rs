//! Links that fail under the agent's feet: down and up again, deleted and made anew. Other backends' clients do not notice,
//! the agent says what happened, and what comes back is used again without a restart.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::clients;
use lb_tests::config::{Config, Service};
use lb_tests::connections::LongLived;
use lb_tests::lab::address::Family;
use lb_tests::lab::process::Running;
use lb_tests::lab::{Lab, Options, netlink, with_lab, xdp};
use lb_tests::programs;
use lb_tests::wait::wait_until;

const UP_LIMIT: Duration = Duration::from_secs(20);
/// Enough that one of three equal backends is missed by chance once in 10^10 runs.
const SPREAD_SAMPLE: u32 = 60;

struct Scene<'lab> {
    lab: &'lab Lab,
    agent: Agent<'lab>,
    _servers: Vec<Running>,
}

impl<'lab> Scene<'lab> {
    fn set(lab: &'lab Lab) -> Result<Self> {
        let servers = lab.backends.iter().map(|backend| programs::nginx(lab, backend)).collect::<Result<_>>()?;
        let agent = Agent::start(lab, Config::for_lab(lab, vec![Service::web(lab), Service::web6(lab)]))?;
        agent.wait_all_up(UP_LIMIT)?;
        Ok(Self { lab, agent, _servers: servers })
    }

    /// `fail` takes b2's link away and `mend` brings it back, under connections that stay open.
    fn survives(
        &self,
        fail: impl FnOnce() -> Result<()>,
        while_gone: impl FnOnce() -> Result<()>,
        mend: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let open = LongLived::open(&self.lab.client, clients::http(Family::V4.vip()), 60)?;
        fail()?;
        for service in ["web", "web6"] {
            wait_until("b2 takes no new flows", UP_LIMIT, || {
                let backend = self.agent.backend(service, "b2")?;
                ensure!(backend.state != "up", "{service}/b2 is up");
                Ok(())
            })?;
        }
        while_gone()?;
        for family in Family::ALL {
            ensure!(self.answering(family)? == names(["b1", "b3"]), "without b2, over {family:?}");
        }
        mend()?;
        self.agent.wait_all_up(UP_LIMIT)?;
        for family in Family::ALL {
            ensure!(self.answering(family)? == names(["b1", "b2", "b3"]), "with b2 again, over {family:?}");
        }
        open.close().broken_only_with("b2")?;
        ensure!(self.agent.is_running(), "the agent has ended");
        Ok(())
    }

    /// Which backends get new connections.
    fn answering(&self, family: Family) -> Result<BTreeSet<String>> {
        Ok(clients::curl(&self.lab.client, family.vip(), SPREAD_SAMPLE)?.into_keys().collect())
    }
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn a_link_that_goes_down_comes_back() {
    with_lab(Options::default(), |lab| {
        let scene = Scene::set(lab)?;
        let device = &lab.backends[1].device;
        let set_up = |up| lab.balancer.tokio(|| async { netlink::set_up(&netlink::connect()?, device, up).await });
        // The kernel drops an interface's IPv6 addresses with the link; who runs IPv6 keeps them.
        lab.balancer.sysctl(&format!("ipv6/conf/{device}/keep_addr_on_down"), "1")?;
        scene.survives(|| set_up(false), || Ok(()), || set_up(true))
    });
}

#[test]
fn an_interface_that_is_made_anew_gets_its_program_again() {
    with_lab(Options::default(), |lab| {
        let scene = Scene::set(lab)?;
        let backend = &lab.backends[1];
        let is_attached = |agent: &Agent<'_>| -> Result<bool> {
            let attachments = agent.poll_status()?.attachments;
            Ok(attachments.iter().any(|attachment| attachment.interface == backend.device))
        };
        let gone = || {
            wait_until("the attachment is gone", UP_LIMIT, || {
                ensure!(!is_attached(&scene.agent)?, "{} is listed", backend.device);
                Ok(())
            })
        };
        scene.survives(|| lab.unplug(backend), gone, || lab.plug(backend, &Options::default()))?;
        ensure!(is_attached(&scene.agent)?, "{} is not listed", backend.device);
        let program = lab.balancer.tokio(|| async { xdp::program_id(&netlink::connect()?, &backend.device).await })?;
        program.context("no program is on the new interface")?;
        Ok(())
    });
}
