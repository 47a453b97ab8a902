//! Who is compared: each contender's name, what must be installed for it, and how it is set up in a lab. One line of
//! [`ALL`] adds one.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use lb_agent::model::config::Hook;
use lb_agent::os::ethtool::{self, Offload};
use lb_tests::agent::Agent;
use lb_tests::config::{Config, Health, Service as Balanced};
use lb_tests::lab::address::Family;
use lb_tests::lab::namespace::Namespace;
use lb_tests::lab::process::Running;
use lb_tests::lab::{FAR_END, Lab, Options as LabOptions, netlink};
use lb_tests::wait::wait_until;

use super::proxy;
use super::services::{self, HTTP};
use super::workload::Workload;

/// Every contender; the first one is what the others are measured against.
pub(super) const ALL: &[Contender] = &[
    Contender { name: "direct", what: "no balancer: a link from the client to one backend", way: Way::Direct },
    Contender { name: "forwarding", what: "the kernel's plain forwarding to one backend, no NAT", way: Way::Forward },
    Contender { name: "nftables", what: "DNAT to a map with `numgen inc`, conntrack", way: Way::Nftables },
    Contender { name: "haproxy", what: "HAProxy, `mode tcp`, a thread per CPU; no UDP", way: Way::Haproxy },
    Contender { name: "nginx", what: "nginx `stream`, a worker per CPU", way: Way::NginxStream },
    Contender { name: "lb", what: "this build, XDP hook, native mode, every flow tracked", way: Way::Lb(Hook::Xdp) },
    Contender {
        name: "lb-auto",
        what: "this build, `hook: auto`: tc on veths; no `ethtool`",
        way: Way::Lb(Hook::Auto),
    },
];

/// The client's and the first backend's ends of the link without a balancer.
const DIRECT: &str = "dir0";
/// Health checks, for those who make any.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const FLOW_TABLE: &str = "1Mi";
const READY_LIMIT: Duration = Duration::from_secs(20);

/// How the devices of a lab are set, all of them and for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Offloads {
    /// `tx off tso off gso off gro off`: frames as they are on a wire
    Off,
    /// As the kernel makes a veth: checksums left undone, segments of up to 64 KiB
    Default,
}

impl Offloads {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Default => "default",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    way: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Forward,
    Nftables,
    Haproxy,
    NginxStream,
    Lb(Hook),
}

/// A contender that has been set up. Dropping it ends its programs; what it changed goes with the lab.
#[derive(Debug)]
pub(super) enum Standing<'lab> {
    Kernel,
    /// Held for its end.
    Program {
        _running: Running,
    },
    Agent {
        _agent: Box<Agent<'lab>>,
    },
}

impl Contender {
    /// The package (Debian's name) without which it cannot be had here.
    pub(super) fn missing_package(&self) -> Option<&'static str> {
        match self.way {
            Way::Direct | Way::Forward | Way::Lb(_) => None,
            Way::Nftables => on_path("nft").is_none().then_some("nftables"),
            Way::Haproxy => on_path("haproxy").is_none().then_some("haproxy"),
            Way::NginxStream => proxy::stream_module().is_none().then_some("libnginx-mod-stream"),
        }
    }

    /// What was done for this contender alone.
    pub(super) fn note(&self, offloads: Offloads) -> Option<&'static str> {
        match (self.way, offloads) {
            (Way::Lb(Hook::Xdp), Offloads::Off) => {
                Some("`gro on` at client and backends: a veth takes redirected frames only if it polls")
            }
            (Way::Lb(Hook::Xdp), Offloads::Default) => Some(
                "not at the defaults: `tx off` at every end and `gro on` at client and backends, as `lb-agent doctor` \
                 demands for XDP on veth",
            ),
            _ => None,
        }
    }

    pub(super) fn carries(&self, workload: Workload) -> bool {
        !(self.way == Way::Haproxy && workload == Workload::Udp)
    }

    /// Whether all backends are to answer, or the first one only.
    pub(super) fn balances(&self) -> bool {
        !matches!(self.way, Way::Direct | Way::Forward)
    }

    pub(super) fn lab(&self, backends: u16) -> Result<Lab> {
        Lab::build(LabOptions {
            backends,
            // Programs listen on it, and the others do not mind.
            vip_on_balancer: self.balances(),
            offloads: lb_tests::lab::Offloads::KernelDefault,
            far_end_programs: false,
        })
        .context("building the lab")
    }

    /// Links, routes and offloads of the lab, before anything runs in it.
    pub(super) fn wire(&self, lab: &Lab, offloads: Offloads) -> Result<()> {
        let first = &lab.backends[0];
        let vip = Family::V4.vip();
        match self.way {
            Way::Direct => add_direct_link(lab)?,
            Way::Forward => lab.balancer.tokio(|| async {
                netlink::add_host_route(&netlink::connect()?, vip, first.address(Family::V4)).await
            })?,
            Way::Nftables | Way::Haproxy | Way::NginxStream | Way::Lb(_) => {}
        }
        if !self.balances() {
            first.namespace.tokio(|| async {
                let length = Family::V4.host_prefix_length();
                netlink::add_address(&netlink::connect()?, "lo", vip, length).await
            })?;
        }
        if offloads == Offloads::Off {
            for (namespace, device) in self.ends(lab) {
                set(namespace, &device, &[Offload::TxChecksum, Offload::Tso, Offload::Gso, Offload::Gro], false)?;
            }
        }
        if let Way::Lb(Hook::Xdp) = self.way {
            for (namespace, device) in self.ends(lab) {
                set(namespace, &device, &[Offload::TxChecksum], false)?;
            }
            for far in far_ends(lab) {
                set(far, FAR_END, &[Offload::Gro], true)?;
            }
        }
        Ok(())
    }

    /// Starts it; it may not be ready yet.
    pub(super) fn start<'lab>(&self, lab: &'lab Lab) -> Result<Standing<'lab>> {
        let pools: Vec<_> = services::ALL.iter().map(|service| service.pool(lab)).collect();
        match self.way {
            Way::Direct | Way::Forward => Ok(Standing::Kernel),
            Way::Nftables => proxy::load_nftables(lab, &pools).map(|()| Standing::Kernel),
            Way::Haproxy => proxy::haproxy(lab, &pools).and_then(|running| listening(lab, running)),
            Way::NginxStream => proxy::nginx_stream(lab, &pools).and_then(|running| listening(lab, running)),
            Way::Lb(hook) => start_agent(lab, hook),
        }
    }

    /// Every end of every veth.
    fn ends<'lab>(&self, lab: &'lab Lab) -> Vec<(&'lab Namespace, String)> {
        let near = lab.devices().into_iter().map(|device| (&lab.balancer, device));
        let far = far_ends(lab).map(|namespace| (namespace, FAR_END.to_owned()));
        let direct = [&lab.client, &lab.backends[0].namespace].map(|namespace| (namespace, DIRECT.to_owned()));
        let direct = direct.into_iter().filter(|_| self.way == Way::Direct);
        near.chain(far).chain(direct).collect()
    }
}

fn far_ends(lab: &Lab) -> impl Iterator<Item = &Namespace> {
    std::iter::once(&lab.client).chain(lab.backends.iter().map(|backend| &backend.namespace))
}

fn set(namespace: &Namespace, device: &str, offloads: &[Offload], on: bool) -> Result<()> {
    namespace
        .enter(|| offloads.iter().try_for_each(|offload| ethtool::set_offload(device, *offload, on)))
        .with_context(|| format!("in {}", namespace.name()))
}

/// A link of their own for client and first backend, and the client's route to the VIP over it.
fn add_direct_link(lab: &Lab) -> Result<()> {
    let backend = &lab.backends[0].namespace;
    let (near, far) = (Family::V4.apart(1), Family::V4.apart(2));
    let length = Family::V4.prefix_length();
    lab.client.tokio(|| async {
        let handle = netlink::connect()?;
        netlink::add_veth(&handle, DIRECT, DIRECT, std::os::fd::AsFd::as_fd(backend)).await?;
        netlink::set_up(&handle, DIRECT, true).await?;
        netlink::add_address(&handle, DIRECT, near, length).await
    })?;
    backend.tokio(|| async {
        let handle = netlink::connect()?;
        netlink::set_up(&handle, DIRECT, true).await?;
        netlink::add_address(&handle, DIRECT, far, length).await
    })?;
    lab.client.tokio(|| async { netlink::add_host_route(&netlink::connect()?, Family::V4.vip(), far).await })
}

/// A proxy that listens, or what it printed instead.
fn listening(lab: &Lab, running: Running) -> Result<Standing<'_>> {
    let listens = wait_until(&format!("{} listens", running.label()), READY_LIMIT, || {
        if running.is_running() { lab.balancer.listens(HTTP.port) } else { Ok(()) }
    });
    listens.with_context(|| running.output())?;
    anyhow::ensure!(running.is_running(), "{} has ended; {}", running.label(), running.output());
    Ok(Standing::Program { _running: running })
}

fn start_agent(lab: &Lab, hook: Hook) -> Result<Standing<'_>> {
    let balanced = |service: &services::Service| {
        let health = if *service == HTTP { "http" } else { "none" };
        let health = Health { interval: CHECK_INTERVAL, timeout: CHECK_INTERVAL, ..Health::of_kind(health) };
        let protocol = if service.udp { "udp" } else { "tcp" };
        let made = Balanced::new(service.name, Family::V4, service.port, health, service.backends(lab));
        Balanced { protocol, ..made }
    };
    let config = Config::for_lab(lab, services::ALL.iter().map(balanced).collect());
    let agent = Agent::start(lab, Config { hook, flow_table: FLOW_TABLE, ..config })?;
    agent.wait_all_up(READY_LIMIT)?;
    Ok(Standing::Agent { _agent: Box::new(agent) })
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Where Debian has what only root runs; it is not on everybody's path.
    let administrators = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(administrators).map(|place| place.join(program)).find(|path| path.is_file())
}
