//! Packets do not depend on the agent: it may be killed, stopped, started again and told to reload while traffic
//! flows, with the same program attached throughout. Only `unload` takes the program away.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::kernel::{self, Kernel, Sizes};
use lb_agent::model::config::{Hook, Ports};
use lb_agent::model::hook::Place;
use lb_common::maps::LAYOUT;
use lb_tests::agent::Agent;
use lb_tests::clients;
use lb_tests::config::{Config, Service};
use lb_tests::connections::{Arrivals, LongLived};
use lb_tests::lab::address::Family;
use lb_tests::lab::process::Running;
use lb_tests::lab::xdp::{self, Seen};
use lb_tests::lab::{Lab, Options, at_each_hook, netlink, with_lab};
use lb_tests::programs;
use nix::sys::signal::Signal;

const UP_LIMIT: Duration = Duration::from_secs(20);

fn servers(lab: &Lab) -> Result<Vec<Running>> {
    lab.backends.iter().map(|backend| programs::nginx(lab, backend)).collect()
}

fn start(lab: &Lab, hook: Hook) -> Result<Agent<'_>> {
    let services = vec![Service::web(lab), Service::web6(lab)];
    let agent = Agent::start(lab, Config { hook, ..Config::for_lab(lab, services) })?;
    agent.wait_all_up(UP_LIMIT)?;
    Ok(agent)
}

/// The load of this file: connections that stay open, over both families, and new ones.
struct Load {
    open: Vec<LongLived>,
    new: Arrivals,
}

impl Load {
    fn start(lab: &Lab) -> Result<Self> {
        let open = |family: Family| LongLived::open(&lab.client, clients::http(family.vip()), 100);
        let open = Family::ALL.into_iter().map(open).collect::<Result<_>>()?;
        Ok(Self { open, new: Arrivals::start(&lab.client, clients::http(Family::V4.vip()), 100) })
    }

    /// A second or two of undisturbed traffic.
    fn goes_on(&self, when: &str) -> Result<()> {
        self.new.wait_for_more(150).with_context(|| when.to_owned())?;
        for one in &self.open {
            one.wait_for_more(1000).with_context(|| when.to_owned())?;
            one.report().unbroken("open connections").with_context(|| when.to_owned())?;
        }
        self.new.report().unbroken("new connections").with_context(|| when.to_owned())
    }

    fn end(self) -> Result<()> {
        for one in self.open {
            one.close().unbroken("open connections")?;
        }
        self.new.stop().unbroken("new connections")
    }
}

/// On every device the same one program, at every look.
fn always_the_same(seen: &[Seen], agent: &Agent<'_>) -> Result<()> {
    let status = agent.status()?;
    for one in seen {
        let shown = status.attachments.iter().find(|attachment| attachment.interface == one.device);
        let shown = shown.with_context(|| format!("the status shows nothing on {}", one.device))?.program_id;
        ensure!(one.programs == [Some(shown)], "the status shows {shown}, but there was {one:?}");
        ensure!(one.polls > 100, "too few looks to say anything: {one:?}");
    }
    Ok(())
}

fn programs_attached(lab: &Lab, hook: Hook) -> Result<Vec<Option<u32>>> {
    lab.balancer.tokio(|| async {
        let handle = netlink::connect()?;
        let mut found = Vec::new();
        for device in lab.devices() {
            found.push(xdp::program_at(hook, &handle, &device).await?);
        }
        Ok(found)
    })
}

#[test]
fn a_killed_agent_breaks_nothing_and_a_new_one_takes_over() {
    at_each_hook(Options::for_hook, |lab, hook| {
        let _servers = servers(lab)?;
        let mut agent = start(lab, hook)?;
        let load = Load::start(lab)?;
        let watch = xdp::Watch::start(&lab.balancer, &lab.devices(), hook);
        load.goes_on("with the first agent")?;

        agent.kill9();
        load.goes_on("without an agent")?;
        let silent = agent.cli(["status"])?;
        ensure!(silent.status.code() == Some(3), "{silent}");

        agent.launch()?;
        load.goes_on("with the second agent")?;
        agent.wait_all_up(UP_LIMIT)?;

        // The new agent is in command: what it is told takes effect.
        let generation = agent.status()?.config_generation;
        let mut config = agent.config().clone();
        config.services[0].backends[0].weight = 0;
        agent.reload(config)?.success()?;
        ensure!(agent.status()?.config_generation > generation, "the reload has changed nothing");
        load.goes_on("after the reload")?;
        let answers = clients::curl(&lab.client, Family::V4.vip(), 60)?;
        ensure!(answers.keys().eq(["b2", "b3"]), "b1 has weight 0: {answers:?}");

        always_the_same(&watch.stop()?, &agent)?;
        load.end()
    });
}

#[test]
fn an_agent_that_is_killed_again_and_again_breaks_nothing() {
    at_each_hook(Options::for_hook, |lab, hook| {
        let _servers = servers(lab)?;
        let mut agent = start(lab, hook)?;
        let load = Load::start(lab)?;
        let watch = xdp::Watch::start(&lab.balancer, &lab.devices(), hook);
        for round in 1..=5 {
            agent.kill9();
            agent.launch().with_context(|| format!("round {round}"))?;
        }
        load.goes_on("with the last agent")?;
        agent.wait_all_up(UP_LIMIT)?;
        always_the_same(&watch.stop()?, &agent)?;
        load.end()
    });
}

/// As an upgrade does that changes what is in the maps: the old data plane works until the new one knows the backends, then
/// each attachment changes its program in one step.
#[test]
fn a_data_plane_of_another_layout_is_followed() {
    at_each_hook(Options::for_hook, |lab, hook| {
        let _servers = servers(lab)?;
        let mut agent = start(lab, hook)?;
        let load = Load::start(lab)?;
        let (ours, other) = (lab.pin_dir().join(format!("v{LAYOUT}")), lab.pin_dir().join("v1"));
        let before = programs_attached(lab, hook)?;
        let watch = xdp::Watch::start(&lab.balancer, &lab.devices(), hook);
        agent.kill9();
        fs::rename(&ours, &other)?;

        agent.launch()?;
        load.goes_on("with the new data plane")?;
        let after = programs_attached(lab, hook)?;
        ensure!(before.iter().zip(&after).all(|(before, after)| after.is_some() && before != after), "{after:?}");
        for seen in watch.stop()? {
            ensure!(
                seen.programs.len() == 2 && !seen.programs.contains(&None),
                "a device was without a program: {seen:?}"
            );
        }
        ensure!(ours.exists() && !other.exists(), "the old data plane is still there");
        load.end()
    });
}

/// What cannot be followed is left alone, and the refusal says what to do.
#[test]
fn a_data_plane_of_an_unknown_layout_is_refused() {
    at_each_hook(Options::for_hook, |lab, hook| {
        let _servers = servers(lab)?;
        let mut agent = start(lab, hook)?;
        agent.kill9();
        let other = lab.pin_dir().join("v1");
        fs::rename(lab.pin_dir().join(format!("v{LAYOUT}")), &other)?;
        fs::remove_file(other.join("maps/META"))?;
        let before = programs_attached(lab, hook)?;
        let refused = agent.launch().err().context("it started")?.to_string();
        ensure!(refused.contains("cannot follow") && refused.contains("lb-agent unload"), "{refused}");
        ensure!(programs_attached(lab, hook)? == before, "the refusal has changed what is attached");
        Ok(())
    });
}

#[test]
fn a_stopped_agent_leaves_the_program_and_only_unload_removes_it() {
    at_each_hook(Options::for_hook, |lab, hook| {
        let _servers = servers(lab)?;
        let mut agent = start(lab, hook)?;
        let load = Load::start(lab)?;
        let before = programs_attached(lab, hook)?;
        ensure!(before.iter().all(Option::is_some), "{before:?}");
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            agent.stop(signal)?.success()?;
            ensure!(programs_attached(lab, hook)? == before, "{signal} has changed what is attached");
            load.goes_on("without an agent")?;
            agent.launch()?;
        }
        load.goes_on("with an agent again")?;
        load.end()?;

        agent.stop(Signal::SIGTERM)?.success()?;
        agent.unload()?.success()?;
        let after = programs_attached(lab, hook)?;
        ensure!(after.iter().all(Option::is_none), "{after:?}");
        ensure!(!lab.pin_dir().exists(), "pins are left");
        agent.unload()?.success().context("unloading twice")?;
        Ok(())
    });
}

/// An agent that is told to use the other hook moves there while packets flow: no look at an interface finds it without a program.
#[test]
fn a_new_agent_moves_to_another_hook() {
    with_lab(Options::default(), |lab| {
        let _servers = servers(lab)?;
        let mut agent = start(lab, Hook::Xdp)?;
        let load = Load::start(lab)?;
        for (old, new) in [(Hook::Xdp, Hook::Tc), (Hook::Tc, Hook::Xdp)] {
            agent.stop(Signal::SIGTERM)?.success()?;
            agent.set_config(Config { hook: new, ..agent.config().clone() })?;
            agent.launch()?;
            load.goes_on(&format!("at {new} instead of {old}"))?;
            let (there, gone) = (programs_attached(lab, new)?, programs_attached(lab, old)?);
            ensure!(there.iter().all(Option::is_some) && gone.iter().all(Option::is_none), "{there:?}, {gone:?}");
        }
        load.end()
    });
}

/// Requests arrive at XDP and answers at tc, over the same maps.
#[test]
fn interfaces_may_have_different_hooks() {
    with_lab(Options::default(), |lab| {
        let _servers = servers(lab)?;
        let mut agent = start(lab, Hook::Xdp)?;
        let load = Load::start(lab)?;
        agent.stop(Signal::SIGTERM)?.success()?;
        let devices = lab.balancer.tokio(|| async {
            let handle = netlink::connect()?;
            let mut devices = Vec::new();
            for backend in &lab.backends {
                devices.push((&backend.device, netlink::link(&handle, &backend.device).await?.index));
            }
            anyhow::Ok(devices)
        })?;
        lab.balancer.enter(|| {
            let mut kernel = Kernel::open(lab.pin_dir(), Sizes::new(64 << 10, 6, Ports::default()))?;
            for (device, ifindex) in devices {
                kernel.attach(device, ifindex, Place::Tc, None)?;
                kernel.detach(kernel::Hook::Xdp, ifindex)?;
            }
            anyhow::Ok(())
        })?;
        let at_xdp: Vec<_> = programs_attached(lab, Hook::Xdp)?.iter().map(Option::is_some).collect();
        let at_tc: Vec<_> = programs_attached(lab, Hook::Tc)?.iter().map(Option::is_some).collect();
        ensure!(at_xdp == [true, false, false, false] && at_tc == [false, true, true, true], "{at_xdp:?} {at_tc:?}");
        load.goes_on("with both hooks")?;
        load.end()
    });
}

#[test]
fn a_second_agent_is_refused_and_disturbs_nothing() {
    with_lab(Options::default(), |lab| {
        let _servers = servers(lab)?;
        let agent = start(lab, Hook::Xdp)?;
        let before = programs_attached(lab, Hook::Xdp)?;
        // The same configuration, and one that shares only the devices and the pins.
        let same = lab.balancer.run(agent.run_command())?;
        let mut config = agent.config().clone();
        config.socket = lab.dir().join("second.sock");
        config.state_dir = lab.dir().join("second");
        let file = lab.dir().join("second.yaml");
        std::fs::write(&file, config.to_string())?;
        let file = file.to_str().context("a path of letters")?;
        let other = lab.balancer.run(agent.command(["run", "-c", file]))?;
        for second in [same, other] {
            ensure!(second.status.code() == Some(1), "{second}");
            let words = second.err.to_lowercase();
            ensure!(words.contains("agent") && (words.contains("already") || words.contains("another")), "{second}");
        }
        ensure!(agent.is_running() && programs_attached(lab, Hook::Xdp)? == before, "the first agent was disturbed");
        agent.wait_all_up(UP_LIMIT)?;
        clients::curl(&lab.client, Family::V4.vip(), 30)?;
        Ok(())
    });
}

#[test]
fn a_reload_that_is_wrong_changes_nothing() {
    with_lab(Options::default(), |lab| {
        let _servers = servers(lab)?;
        let mut agent = start(lab, Hook::Xdp)?;
        let load = Load::start(lab)?;
        let (good, generation) = (agent.config().clone(), agent.status()?.config_generation);
        let mut wrong = good.clone();
        wrong.services[1].name = "web".to_owned();
        wrong.services[0].backends.pop();
        let refused = agent.reload(wrong)?;
        ensure!(refused.status.code() == Some(2), "{refused}");
        ensure!(refused.err.contains("web"), "the error does not name the service: {refused}");
        let status = agent.status()?;
        ensure!(status.config_generation == generation && status.services.len() == 2, "{status:?}");
        ensure!(status.services[0].backends.len() == 3, "half of it was applied");
        load.goes_on("after the refusal")?;
        agent.reload(good)?.success()?;
        load.end()
    });
}
