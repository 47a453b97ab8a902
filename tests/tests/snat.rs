//! Backends that know their clients by ports of the balancer: nothing is asked of them, not even a route; one link carries
//! everything; and what a pool cannot lend is refused at once.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_agent::model::view::Status;
use lb_tests::agent::Agent;
use lb_tests::clients;
use lb_tests::config::{Config, Health, Member, Service};
use lb_tests::lab::address::Family;
use lb_tests::lab::namespace::Namespace;
use lb_tests::lab::{CLIENT_DEVICE, Lab, Options, with_lab};
use lb_tests::programs::{self, DNS_PORT, HTTP_PORT};
use lb_tests::wait::wait_until;

const UP_LIMIT: Duration = Duration::from_secs(20);
/// Longer than the port of a connection that its client has ended is held.
const HELD_LIMIT: Duration = Duration::from_secs(30);
const PORTS: &str = "40000-40099";
const POOL: usize = 100;
/// So long may a refusal take: less than a client waits before it sends its SYN again.
const AT_ONCE: Duration = Duration::from_millis(900);

fn config(lab: &Lab, services: Vec<Service>) -> Result<Config> {
    // The lab's own range holds every port: connections of the balancer itself must not be taken for lent ones.
    lab.balancer.sysctl("ipv4/ip_local_port_range", "50000 60000")?;
    Ok(Config { snat_ports: Some(PORTS), ..Config::for_lab(lab, services) })
}

fn snat(service: Service) -> Service {
    Service { forward: "snat", ..service }
}

/// Backends without a way to anybody but the balancer.
fn forget_routes(lab: &Lab) -> Result<()> {
    for backend in &lab.backends {
        for family in ["-4", "-6"] {
            let mut ip = Command::new("ip");
            ip.args([family, "route", "del", "default"]);
            backend.namespace.run(ip)?.success()?;
        }
    }
    Ok(())
}

fn count(status: &Status, reason: &str) -> u64 {
    status.reasons.iter().filter(|one| one.reason == reason).map(|one| one.packets).sum()
}

#[test]
fn backends_need_no_way_to_clients() {
    with_lab(Options::default(), |lab| {
        let mut servers = Vec::new();
        for backend in &lab.backends {
            servers.extend([programs::nginx(lab, backend)?, programs::dnsmasq(backend)?]);
        }
        forget_routes(lab)?;
        let dns = |name: &str, family| Service::new(name, family, DNS_PORT, Health::of_kind("udp"), &lab.backends);
        let services = [Service::web(lab), Service::web6(lab), dns("dns", Family::V4), dns("dns6", Family::V6)];
        let mut config = config(lab, services.map(snat).to_vec())?;
        config.snat_ports = Some("20000-29999");
        let agent = Agent::start(lab, config)?;
        agent.wait_all_up(UP_LIMIT)?;
        for family in Family::ALL {
            for answers in [clients::curl(&lab.client, family.vip(), 60)?, clients::dig(&lab.client, family.vip(), 60)?]
            {
                ensure!(answers.keys().eq(["b1", "b2", "b3"]), "over {family:?}: {answers:?}");
            }
            clients::curl_bulk(&lab.client, family.vip())?;
            clients::curl_upload(&lab.client, lab.dir(), family.vip())?;
        }
        let drops: Vec<_> = agent.status()?.reasons.into_iter().filter(|reason| reason.verdict == "drop").collect();
        ensure!(drops.is_empty(), "packets of honest clients were dropped: {drops:?}");
        Ok(())
    });
}

/// Echoes whatever a connection says, until the process ends.
fn echo(namespace: &Namespace, address: SocketAddr) -> Result<()> {
    let listener = namespace.enter(|| TcpListener::bind(address))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = &stream;
                let _: std::io::Result<u64> = std::io::copy(&mut reader, &mut &stream);
            });
        }
    });
    Ok(())
}

/// A connection, or none if it was refused at once.
fn connect(lab: &Lab, target: SocketAddr) -> Result<Option<TcpStream>> {
    let start = Instant::now();
    match lab.client.enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(5))) {
        Ok(stream) => {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok(Some(stream))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            ensure!(start.elapsed() < AT_ONCE, "refused after {:?}", start.elapsed());
            Ok(None)
        }
        Err(error) => Err(error).context("neither connected nor refused"),
    }
}

/// Each hears its own words, all of them having spoken before any listens.
fn no_cross_talk(streams: &mut [TcpStream]) -> Result<()> {
    let words = |n: usize| format!("this is connection {n:05}");
    for (n, stream) in streams.iter_mut().enumerate() {
        stream.write_all(words(n).as_bytes())?;
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        let mut heard = vec![0; words(n).len()];
        stream.read_exact(&mut heard).with_context(|| format!("connection {n}"))?;
        ensure!(heard == words(n).as_bytes(), "connection {n} hears {}", String::from_utf8_lossy(&heard));
    }
    Ok(())
}

/// A pool of 100 ports and 300 flows.
#[test]
fn what_cannot_be_lent_is_refused_at_once() {
    with_lab(Options { backends: 1, ..Options::default() }, |lab| {
        let backend = &lab.backends[0];
        echo(&backend.namespace, SocketAddr::new(backend.address(Family::V4), HTTP_PORT))?;
        let service = Service::new("echo", Family::V4, HTTP_PORT, Health::of_kind("tcp"), [backend]);
        let mut agent = Agent::start(lab, config(lab, vec![snat(service)])?)?;
        agent.wait_all_up(UP_LIMIT)?;
        let vip = SocketAddr::new(Family::V4.vip(), HTTP_PORT);
        let mut streams = Vec::new();
        for _ in 0..300 {
            streams.extend(connect(lab, vip)?);
        }
        ensure!(streams.len() == POOL, "{} connections", streams.len());
        no_cross_talk(&mut streams)?;
        let refused = count(&agent.status()?, "no-port");
        ensure!(refused == 200, "{refused} are counted");
        // All of it is in the maps: an agent that dies takes nothing along, and one that comes finds everything.
        agent.kill9();
        no_cross_talk(&mut streams)?;
        ensure!(connect(lab, vip)?.is_none(), "a port too many");
        agent.launch()?;
        agent.wait_all_up(UP_LIMIT)?;
        no_cross_talk(&mut streams)?;
        drop(streams);
        let mut again = Vec::new();
        wait_until("the ports have come back", HELD_LIMIT, || {
            again.extend(connect(lab, vip)?);
            ensure!(again.len() == POOL, "{} of them", again.len());
            Ok(())
        })?;
        no_cross_talk(&mut again)
    });
}

/// Client, balancer and backend on one link, and the client is the backend's own host: by any other way it would answer itself.
#[test]
fn one_arm_is_enough() {
    with_lab(Options { backends: 1, ..Options::default() }, |lab| {
        let here = SocketAddr::new(Family::V4.client(), HTTP_PORT);
        echo(&lab.client, here)?;
        let member = Member { name: "here".into(), address: here.ip(), port: here.port(), weight: 1 };
        let service = Service::new("echo", Family::V4, HTTP_PORT, Health::of_kind("tcp"), []);
        let mut config = config(lab, vec![snat(Service { backends: vec![member], ..service })])?;
        config.interfaces = vec![CLIENT_DEVICE.to_owned()];
        let agent = Agent::start(lab, config)?;
        agent.wait_all_up(UP_LIMIT)?;
        let vip = SocketAddr::new(Family::V4.vip(), HTTP_PORT);
        let connected = (0..20).map(|_| connect(lab, vip)?.context("refused")).collect::<Result<Vec<_>>>();
        no_cross_talk(&mut connected?)
    });
}

/// Two services over one endpoint, which is reached past both of them as well.
#[test]
fn services_share_a_backend() {
    with_lab(Options { backends: 1, ..Options::default() }, |lab| {
        let backend = &lab.backends[0];
        let _server = programs::nginx(lab, backend)?;
        let web = Service::web(lab);
        let mut shop = Service { name: "shop".into(), port: 8081, ..web.clone() };
        let mut agent = Agent::start(lab, Config::for_lab(lab, vec![web.clone(), shop.clone()]))?;
        let answers = |port: u16, address| -> Result<()> {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "5"]);
            curl.arg(format!("http://{}/", SocketAddr::new(address, port)));
            let out = lab.client.run(curl)?.success()?.out;
            ensure!(out.contains("b1"), "port {port} of {address}: {out}");
            Ok(())
        };
        let vip = Family::V4.vip();
        let everybody = |agent: &Agent<'_>| -> Result<()> {
            agent.wait_all_up(UP_LIMIT)?;
            for _ in 0..20 {
                answers(HTTP_PORT, vip)?;
                answers(8081, vip)?;
                answers(HTTP_PORT, backend.address(Family::V4))?;
            }
            Ok(())
        };
        everybody(&agent)?;
        shop.forward = "snat";
        agent.reload(config(lab, vec![web, shop]).map(|config| Config { snat_ports: None, ..config })?)?.success()?;
        everybody(&agent).context("one of them with ports of the balancer")
    });
}
