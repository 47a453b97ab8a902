//! Real clients and real servers where answers go straight to the client: frames forwarded to backends that have the VIP, and
//! both kinds of tunnels over both families, taken apart by `lb-agent decap` on the backends.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_agent::model::config::Hook;
use lb_tests::agent::{Agent, binary, service_of};
use lb_tests::clients;
use lb_tests::config::{Config, Member, Service};
use lb_tests::lab::address::Family;
use lb_tests::lab::process::Running;
use lb_tests::lab::{FAR_END, Lab, Options, at_each_hook, netlink, with_lab, xdp};
use lb_tests::programs;
use lb_tests::wait::wait_until;
use nix::sys::signal::Signal;

const UP_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Enough that missing one of three equal backends by chance happens once in 10^10 runs.
const SPREAD_SAMPLE: u32 = 60;

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

/// The web services of both families, forwarded this way to the backends' addresses of the same family or the other one.
fn services(lab: &Lab, forward: &'static str, crossed: bool) -> Vec<Service> {
    let of = |service: Service, family: Family| {
        let outer = if crossed { other(family) } else { family };
        let member =
            |(member, backend): (Member, &lb_tests::lab::Backend)| Member { address: backend.address(outer), ..member };
        let backends = service.backends.clone().into_iter().zip(&lab.backends).map(member).collect();
        // Those that a reload has replaced may have flows that nobody recorded, and would be waited for.
        Service { forward, backends, drain_timeout: Duration::from_secs(1), ..service }
    };
    vec![of(Service::web(lab), Family::V4), of(Service::web6(lab), Family::V6)]
}

/// Every backend has the VIPs, on its `lo`, where nobody asks for them over the link.
fn give_vips(lab: &Lab) -> Result<()> {
    for backend in &lab.backends {
        backend.namespace.tokio(|| async {
            let handle = netlink::connect()?;
            for family in Family::ALL {
                netlink::add_address(&handle, "lo", family.vip(), family.host_prefix_length()).await?;
            }
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

/// What the balancer sends back by the interface on which it came needs a program at its far end.
fn let_answers_arrive(lab: &Lab) -> Result<()> {
    let program = xdp::load_pass()?;
    lab.client.tokio(|| async { xdp::attach(&netlink::connect()?, FAR_END, &program).await })
}

fn everybody_answers(lab: &Lab, family: Family) -> Result<()> {
    let answers = clients::curl(&lab.client, family.vip(), SPREAD_SAMPLE)?;
    ensure!(answers.keys().eq(["b1", "b2", "b3"]), "not all backends, or others, have answered: {answers:?}");
    clients::curl_bulk(&lab.client, family.vip())?;
    clients::curl_upload(&lab.client, lab.dir(), family.vip())
}

fn exercise(lab: &Lab, agent: &Agent<'_>) -> Result<()> {
    agent.wait_all_up(UP_LIMIT)?;
    let before = agent.status()?;
    for family in Family::ALL {
        everybody_answers(lab, family).with_context(|| format!("over {family:?}"))?;
    }
    // Counters are read once a second.
    let status = wait_until("the traffic is counted", UP_LIMIT, || {
        let status = agent.poll_status()?;
        for name in ["web", "web6"] {
            let (old, new) = (service_of(&before, name)?.traffic, service_of(&status, name)?.traffic);
            ensure!(new.packets > old.packets && new.new_flows > old.new_flows, "no requests of {name}: {new:?}");
        }
        Ok(status)
    })?;
    for name in ["web", "web6"] {
        let new = service_of(&status, name)?.traffic;
        ensure!(new.reply_packets == 0, "answers of {name} have come by here: {new:?}");
    }
    let drops = status.reasons.iter().filter(|reason| reason.verdict == "drop" && reason.reason != "too-big");
    let drops: Vec<_> = drops.collect();
    ensure!(drops.is_empty(), "packets of honest clients were dropped: {drops:?}");
    Ok(())
}

fn told_too_big(agent: &Agent<'_>) -> Result<u64> {
    let status = agent.status()?;
    Ok(status.reasons.iter().filter(|reason| reason.reason == "too-big").map(|reason| reason.packets).sum())
}

#[test]
fn backends_that_have_the_vip_answer_for_it() {
    at_each_hook(Options::for_hook, |lab, hook| {
        let _servers = lab.backends.iter().map(|backend| programs::nginx(lab, backend)).collect::<Result<Vec<_>>>()?;
        give_vips(lab)?;
        let agent = Agent::start(lab, Config { hook, ..Config::for_lab(lab, services(lab, "dsr", false)) })?;
        exercise(lab, &agent)?;
        ensure!(told_too_big(&agent)? == 0, "nothing grows");
        Ok(())
    });
}

/// `lb-agent decap` on every backend, which believes the balancer's addresses on the link to it.
fn decapsulate(lab: &Lab) -> Result<Vec<Running>> {
    let start = |backend: &lb_tests::lab::Backend| {
        let mut command = Command::new(binary()?);
        command.args(["decap", "--interface", FAR_END, "--json"]);
        for family in Family::ALL {
            command.args(["--source".to_owned(), family.balancer_at(backend.number).to_string()]);
        }
        let running = backend.namespace.spawn(command)?;
        wait_until("the program is attached", UP_LIMIT, || {
            ensure!(running.is_running(), "it has ended: {}", running.output());
            let program = backend.namespace.tokio(|| async { xdp::program_id(&netlink::connect()?, FAR_END).await })?;
            program.map(drop).context("no program on the backend's link")
        })?;
        Ok(running)
    };
    lab.backends.iter().map(start).collect()
}

#[test]
fn tunnels_of_every_kind_reach_the_backends() {
    at_each_hook(
        |hook| Options { far_end_programs: false, ..Options::for_hook(hook) },
        |lab, hook| {
            let _servers =
                lab.backends.iter().map(|backend| programs::nginx(lab, backend)).collect::<Result<Vec<_>>>()?;
            give_vips(lab)?;
            if hook == Hook::Xdp {
                let_answers_arrive(lab)?;
            }
            let decaps = decapsulate(lab)?;
            let mut agent = Agent::start(lab, Config { hook, ..Config::for_lab(lab, services(lab, "ipip", false)) })?;
            exercise(lab, &agent).context("ipip")?;
            ensure!(told_too_big(&agent)? > 0, "full segments do not fit into a tunnel, and nobody was told");
            for (forward, crossed) in [("gue", false), ("ipip", true), ("gue", true)] {
                agent.reload(Config { hook, ..Config::for_lab(lab, services(lab, forward, crossed)) })?.success()?;
                exercise(lab, &agent).with_context(|| format!("{forward}, crossed: {crossed}"))?;
            }
            for (decap, backend) in decaps.into_iter().zip(&lab.backends) {
                decap.signal(Signal::SIGTERM)?;
                let finished = decap.finish(STOP_LIMIT)?.success()?;
                let report: serde_json::Value = serde_json::from_str(&finished.out).context("reading the report")?;
                let count = |key: &str| report[key].as_u64().unwrap_or(0);
                ensure!(count("ipip") > 0 && count("gue") > 0 && count("bytes") > 0, "{report}");
                ensure!(report["passed"]["malformed"] == 0 && report["passed"]["foreign_source"] == 0, "{report}");
                let program =
                    backend.namespace.tokio(|| async { xdp::program_id(&netlink::connect()?, FAR_END).await })?;
                ensure!(program.is_none(), "a program is left on {}", backend.name);
            }
            Ok(())
        },
    );
}

/// A tunnel whose sender nobody named goes to the stack, which has no use for it.
#[test]
fn a_backend_believes_those_it_was_told_of() {
    with_lab(Options { backends: 1, far_end_programs: false, ..Options::default() }, |lab| {
        let backend = &lab.backends[0];
        let _server = programs::nginx(lab, backend)?;
        give_vips(lab)?;
        let mut command = Command::new(binary()?);
        command.args(["decap", "--interface", FAR_END, "--source", "192.0.2.1", "--json"]);
        let decap = backend.namespace.spawn(command)?;
        let agent = Agent::start(lab, Config::for_lab(lab, services(lab, "ipip", false)))?;
        agent.wait_all_up(UP_LIMIT)?;
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--noproxy", "*", "--max-time", "2"]).arg(clients::url(Family::V4.vip(), "/"));
        let finished = lab.client.run(curl)?;
        ensure!(!finished.status.success(), "a stranger's tunnel was opened");
        decap.signal(Signal::SIGINT)?;
        let finished = decap.finish(STOP_LIMIT)?.success()?;
        let report: serde_json::Value = serde_json::from_str(&finished.out).context("reading the report")?;
        ensure!(report["ipip"] == 0 && report["passed"]["foreign_source"].as_u64() > Some(0), "{report}");
        Ok(())
    });
}

/// What is wrong with a command line or an interface is said, and nothing is attached.
#[test]
fn decap_refuses_what_it_cannot_do() {
    with_lab(Options { backends: 1, ..Options::default() }, |lab| {
        let namespace = &lab.backends[0].namespace;
        let rows = [
            (vec!["decap", "-i", FAR_END], 2, "--source"),
            (vec!["decap", "-i", "eth9", "--any-source"], 1, "eth9"),
            // The lab's own program is there.
            (vec!["decap", "-i", FAR_END, "--any-source"], 1, "already has an XDP program"),
        ];
        for (arguments, code, words) in rows {
            let mut command = Command::new(binary()?);
            command.args(&arguments);
            let finished = namespace.run(command)?;
            ensure!(finished.status.code() == Some(code) && finished.err.contains(words), "{finished}");
        }
        Ok(())
    });
}
