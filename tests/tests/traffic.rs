//! Real clients reach real servers through the VIP, over IPv4 and IPv6, TCP and UDP, short requests and bulk, and
//! all backends have their share. At XDP the program is attached natively, and nothing else is accepted as a pass; at tc all devices are
//! as the kernel makes them.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::kernel::tc_programs;
use lb_agent::model::config::Hook;
use lb_agent::model::view::Status;
use lb_tests::agent::{Agent, service_of};
use lb_tests::clients::{self, Answers};
use lb_tests::config::{Config, Health, Service};
use lb_tests::lab::address::Family;
use lb_tests::lab::{Lab, Options, at_each_hook, netlink, with_lab, xdp};
use lb_tests::programs::{self, DNS_PORT, HTTP_PORT, IPERF_PORT, REDIS_PORT};

const UP_LIMIT: Duration = Duration::from_secs(20);
/// Enough that missing one of three equal backends by chance happens once in 10^10 runs.
const SPREAD_SAMPLE: u32 = 60;

fn service_name(program: &str, family: Family) -> String {
    match family {
        Family::V4 => program.to_owned(),
        Family::V6 => format!("{program}6"),
    }
}

/// Every program on all backends, iperf3 on the first: its two connections have to meet.
fn services(lab: &Lab) -> Vec<Service> {
    let of_family = |family| {
        let service = |program, port, kind, backends| {
            Service::new(&service_name(program, family), family, port, Health::of_kind(kind), backends)
        };
        [
            service("web", HTTP_PORT, "http", &lab.backends[..]),
            service("dns", DNS_PORT, "udp", &lab.backends[..]),
            service("redis", REDIS_PORT, "tcp", &lab.backends[..]),
            // Its server serves one client at a time: a probe in the midst of a test would be refused.
            service("bulk", IPERF_PORT, "none", &lab.backends[..1]),
        ]
    };
    Family::ALL.into_iter().flat_map(of_family).collect()
}

#[test]
fn real_programs_work_through_the_vip() {
    real_programs_at(Hook::Xdp, attached_natively);
}

/// On veths that is what `auto` takes. Offloads are at their defaults, and bulk traffic arrives as it was sent: in pieces of many
/// frames' size.
#[test]
fn real_programs_work_through_the_vip_at_tc() {
    real_programs_at(Hook::Auto, attached_at_tc);
}

fn real_programs_at(hook: Hook, attached: fn(&Lab, &Status) -> Result<()>) {
    with_lab(Options::for_hook(hook), |lab| {
        let mut servers = vec![programs::iperf3(&lab.backends[0])?];
        for backend in &lab.backends {
            servers.push(programs::nginx(lab, backend)?);
            servers.push(programs::dnsmasq(backend)?);
            servers.push(programs::redis(lab, backend)?);
        }
        let mut agent = Agent::start(lab, Config { hook, ..Config::for_lab(lab, services(lab)) })?;
        agent.wait_all_up(UP_LIMIT)?;
        attached(lab, &agent.status()?)?;
        for family in Family::ALL {
            exercise(lab, &agent, family).with_context(|| format!("over {family:?}"))?;
        }
        let status = agent.status()?;
        if hook != Hook::Xdp {
            super_packets_stay_whole(&status)?;
        }
        let dropped: Vec<_> = status.reasons.iter().filter(|reason| reason.verdict == "drop").collect();
        ensure!(dropped.is_empty(), "packets of honest clients were dropped: {dropped:?}");
        drop(servers);
        agent.stop(nix::sys::signal::Signal::SIGTERM)?.success()?;
        agent.unload()?.success()?;
        Ok(())
    });
}

fn exercise(lab: &Lab, agent: &Agent<'_>, family: Family) -> Result<()> {
    let vip = family.vip();
    everybody_answers(&clients::curl(&lab.client, vip, SPREAD_SAMPLE)?)?;
    clients::curl_bulk(&lab.client, vip)?;
    let requests = clients::wrk(&lab.client, vip).context("wrk")?;
    let bits = clients::iperf3(&lab.client, vip).context("iperf3")?;
    everybody_answers(&clients::dig(&lab.client, vip, SPREAD_SAMPLE)?)?;
    clients::redis_benchmark(&lab.client, vip).context("redis-benchmark")?;
    println!("{family:?}: wrk {requests} requests, iperf3 {bits:.3e} bit/s");
    let status = agent.status()?;
    for program in ["web", "dns", "redis", "bulk"] {
        let service = service_of(&status, &service_name(program, family))?;
        for one in &service.backends {
            let traffic = one.traffic;
            ensure!(
                traffic.new_flows > 0 && traffic.packets > 0 && traffic.reply_packets > 0,
                "{}/{} has had no traffic: {traffic:?}",
                service.name,
                one.name
            );
        }
        ensure!(service.traffic.bytes > 0 && service.traffic.reply_bytes > 0, "{service:?}");
    }
    Ok(())
}

fn everybody_answers(answers: &Answers) -> Result<()> {
    ensure!(answers.keys().eq(["b1", "b2", "b3"]), "not all backends, or others, have answered: {answers:?}");
    Ok(())
}

/// What the agent says is what the kernel says.
fn attached_natively(lab: &Lab, status: &Status) -> Result<()> {
    for device in lab.devices() {
        let found = status.attachments.iter().find(|one| one.interface == device);
        let found = found.with_context(|| format!("the status shows no attachment on {device}"))?;
        ensure!(found.hook == "xdp" && found.mode == "native" && !found.reason.is_empty(), "{found:?}");
        let program = lab.balancer.tokio(|| async { xdp::program_id(&netlink::connect()?, &device).await })?;
        ensure!(program == Some(found.program_id), "the kernel has {program:?} on {device}, the status {found:?}");
    }
    Ok(())
}

fn attached_at_tc(lab: &Lab, status: &Status) -> Result<()> {
    for device in lab.devices() {
        let found = status.attachments.iter().find(|one| one.interface == device);
        let found = found.with_context(|| format!("the status shows no attachment on {device}"))?;
        ensure!((found.hook.as_str(), found.mode.as_str()) == ("tc", "tcx"), "{found:?}");
        ensure!(found.reason.contains("veth hands over super-packets"), "{found:?}");
        let programs = lab.balancer.enter(|| tc_programs(&device));
        ensure!(programs == [found.program_id], "the kernel has {programs:?} on {device}, the status {found:?}");
    }
    Ok(())
}

/// The stacks at both ends send up to 64 KiB at once; a frame has 1,514 bytes.
fn super_packets_stay_whole(status: &Status) -> Result<()> {
    for family in Family::ALL {
        let traffic = service_of(status, &service_name("bulk", family))?.traffic;
        let mean = traffic.bytes / traffic.packets.max(1);
        println!("{family:?}: {mean} bytes a packet");
        ensure!(mean > 10_000, "{mean} bytes a packet: {traffic:?}");
    }
    Ok(())
}

#[test]
fn the_vip_may_be_an_address_of_the_balancer() {
    at_each_hook(
        |hook| Options { vip_on_balancer: true, ..Options::for_hook(hook) },
        |lab, hook| {
            let servers = lab.backends.iter().map(|backend| programs::nginx(lab, backend));
            let _servers = servers.collect::<Result<Vec<_>>>()?;
            let agent = Agent::start(
                lab,
                Config { hook, ..Config::for_lab(lab, vec![Service::web(lab), Service::web6(lab)]) },
            )?;
            agent.wait_all_up(UP_LIMIT)?;
            for family in Family::ALL {
                everybody_answers(&clients::curl(&lab.client, family.vip(), SPREAD_SAMPLE)?)?;
            }
            Ok(())
        },
    );
}

#[test]
fn what_is_not_for_a_service_passes_through() {
    at_each_hook(Options::for_hook, |lab, hook| {
        let backend = &lab.backends[0];
        let _servers = [programs::nginx(lab, backend)?, programs::redis(lab, backend)?];
        let web = Service::new("web", Family::V4, HTTP_PORT, Health::of_kind("http"), [backend]);
        let agent = Agent::start(lab, Config { hook, ..Config::for_lab(lab, vec![web]) })?;
        agent.wait_all_up(UP_LIMIT)?;
        // Straight to the backend: another service of it, and the very port that is balanced, over either family.
        for family in Family::ALL {
            let target = backend.address(family);
            clients::redis_benchmark(&lab.client, target).context("past the service")?;
            let straight = clients::curl(&lab.client, target, 10).context("straight to a balanced port")?;
            ensure!(straight == [("b1".to_owned(), 10)].into(), "{straight:?}");
        }
        Ok(())
    });
}

/// The backend has no such server: its ICMP error reaches the client as if the VIP had sent it.
#[test]
fn a_closed_udp_port_is_told_to_the_client() {
    at_each_hook(
        |hook| Options { backends: 1, ..Options::for_hook(hook) },
        |lab, hook| {
            let services = Family::ALL.map(|family| Service {
                protocol: "udp",
                ..Service::new(
                    &service_name("closed", family),
                    family,
                    CLOSED_PORT,
                    Health::of_kind("none"),
                    &lab.backends,
                )
            });
            let agent = Agent::start(lab, Config { hook, ..Config::for_lab(lab, services.to_vec()) })?;
            agent.wait_all_up(UP_LIMIT)?;
            for family in Family::ALL {
                let answer = lab.client.enter(|| refusal(family))?;
                ensure!(answer == ErrorKind::ConnectionRefused, "over {family:?} the client heard {answer:?}");
            }
            Ok(())
        },
    );
}

const CLOSED_PORT: u16 = 4444;

/// What a connected socket hears of a datagram to the closed port.
fn refusal(family: Family) -> Result<ErrorKind> {
    let any = match family {
        Family::V4 => "0.0.0.0:0",
        Family::V6 => "[::]:0",
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.connect((family.vip(), CLOSED_PORT))?;
    socket.send(b"anybody there?")?;
    match socket.recv(&mut [0; 64]) {
        Ok(length) => anyhow::bail!("an answer of {length} bytes from a port that nobody listens on"),
        Err(error) => Ok(error.kind()),
    }
}
