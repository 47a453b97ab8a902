//! What `doctor` sees of the host, without a judgement. A fact that cannot be seen is the reason why.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::model::config::{Config, Forward, Hook, Ports, Service, XdpMode};
use crate::model::pool::NextHop;
use crate::os::ethtool::{self, Offloads};
use crate::os::host::{self, Capabilities, Cpus, KernelVersion};
use crate::os::links::{self, Link};
use crate::os::netdev::{self, XdpFeatures};
use crate::os::netlink::Netlink;
use crate::os::next_hop::{self, Error as HopError};
use crate::os::sysctl::{self, Family, OwnPorts, ReversePathFilter};

/// Where pins go if no configuration says otherwise.
const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/lb";

/// Longest wait for a backend's MAC: an answer on a local network takes less than a millisecond.
const BACKEND_PATIENCE: Duration = Duration::from_millis(1500);

/// Backends that are resolved at the same time.
const BACKENDS_AT_ONCE: usize = 64;

pub(super) type Seen<T> = Result<T, String>;

#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) wanted: Wanted,
    /// This program, as a command would name it.
    pub(super) executable: PathBuf,
    /// Ids of the XDP programs that the agent itself has pinned.
    pub(super) our_programs: Vec<u32>,
    pub(super) kernel: Option<KernelVersion>,
    pub(super) capabilities: Seen<Capabilities>,
    pub(super) btf: bool,
    pub(super) jit: Seen<u32>,
    pub(super) unprivileged_bpf_disabled: Seen<u32>,
    pub(super) on_bpffs: Seen<bool>,
    pub(super) cpus: Seen<Cpus>,
    pub(super) interfaces: Vec<Interface>,
    pub(super) vips: Vec<Vip>,
    pub(super) backends: Vec<Backend>,
    /// None: no service is lent ports.
    pub(super) lent: Option<Lent>,
}

/// Source ports that flows are lent, and those of the host itself.
#[derive(Debug, Clone)]
pub(super) struct Lent {
    pub(super) ports: Ports,
    pub(super) own: Seen<OwnPorts>,
}

/// What the host is to be fit for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// A configuration was given: this host is to be the balancer, and what is missing is a problem.
    pub(super) configured: bool,
    pub(super) hook: Hook,
    pub(super) xdp_mode: XdpMode,
    pub(super) pin_dir: PathBuf,
    /// Address families of services whose answers this host sends on.
    pub(super) families: Vec<Family>,
}

impl Wanted {
    fn of(config: Option<&Config>) -> Self {
        let Some(config) = config else {
            return Self {
                configured: false,
                hook: Hook::Auto,
                xdp_mode: XdpMode::Native,
                pin_dir: PathBuf::from(DEFAULT_PIN_DIR),
                families: vec![Family::Ipv4],
            };
        };
        let answered = |service: &&Service| service.forward.answers_pass();
        let used = |family| config.services.iter().filter(answered).any(|service| family_of(service.vip) == family);
        Self {
            configured: true,
            hook: config.hook,
            xdp_mode: config.xdp_mode,
            pin_dir: config.pin_dir.clone(),
            families: [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| used(*family)).collect(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) link: Seen<Link>,
    pub(super) driver: Seen<String>,
    pub(super) offloads: Seen<Offloads>,
    /// None inside: this kernel does not tell.
    pub(super) xdp: Seen<Option<XdpFeatures>>,
    /// For each family that is wanted.
    pub(super) forwarding: Vec<(Family, Seen<bool>)>,
    pub(super) reverse_path_filter: Seen<ReversePathFilter>,
    /// The other end of a veth, if it is in this namespace.
    pub(super) peer: Option<Peer>,
}

#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) offloads: Seen<Offloads>,
}

#[derive(Debug, Clone)]
pub(super) struct Vip {
    pub(super) service: String,
    pub(super) address: IpAddr,
    pub(super) place: Seen<VipPlace>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VipPlace {
    /// An address of this host.
    Local,
    /// In a network that this host is in: its neighbours ask for the VIP's MAC.
    OnLink { interface: String },
    /// Elsewhere: whoever sends to it needs a route over this host.
    Routed,
}

#[derive(Debug, Clone)]
pub(super) struct Backend {
    /// `web/b1`.
    pub(super) name: String,
    pub(super) forward: Forward,
    pub(super) next_hop: Seen<NextHop>,
    /// The interface of the next hop.
    pub(super) interface: Option<String>,
}

pub(super) async fn gather(config: Option<&Config>, interfaces: &[String], our_programs: &[u32]) -> Facts {
    let wanted = Wanted::of(config);
    let netlink = Netlink::open().map(Arc::new).map_err(|error| error.to_string());
    let links = match &netlink {
        Ok(netlink) => links::list_with(netlink).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.clone()),
    };
    let interfaces =
        names(config, interfaces, &links).into_iter().map(|name| interface(name, &links, &wanted)).collect();
    let (vips, backends) = match (config, &netlink) {
        (Some(config), Ok(netlink)) => {
            let links = links.as_deref().unwrap_or_default();
            (vips(config, netlink, links).await, backends(config, netlink, links).await)
        }
        _ => (Vec::new(), Vec::new()),
    };
    let snat = config.filter(|config| config.services.iter().any(|service| service.forward == Forward::Snat));
    let own = || sysctl::own_ports().map_err(|error| error.to_string());
    Facts {
        lent: snat.map(|config| Lent { ports: config.snat.ports, own: own() }),
        executable: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("lb-agent")),
        our_programs: our_programs.to_vec(),
        kernel: host::kernel_version(),
        capabilities: host::capabilities().map_err(|error| error.to_string()),
        btf: host::has_btf(),
        jit: sysctl::bpf_jit_enable().map_err(|error| error.to_string()),
        unprivileged_bpf_disabled: sysctl::unprivileged_bpf_disabled().map_err(|error| error.to_string()),
        on_bpffs: on_bpffs(&wanted.pin_dir),
        cpus: host::cpus().map_err(|error| error.to_string()),
        wanted,
        interfaces,
        vips,
        backends,
    }
}

fn on_bpffs(pin_dir: &Path) -> Seen<bool> {
    host::on_bpffs(pin_dir).map_err(|error| format!("{}: {error}", pin_dir.display()))
}

/// The interfaces to examine, in the order in which they were named, each once.
fn names(config: Option<&Config>, named: &[String], links: &Seen<Vec<Link>>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in config.iter().flat_map(|config| &config.interfaces).chain(named) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    if names.is_empty() {
        let links = links.as_deref().unwrap_or_default();
        names.extend(links.iter().filter(|link| link.ethernet && link.up).map(|link| link.name.clone()));
    }
    names
}

fn interface(name: String, links: &Seen<Vec<Link>>, wanted: &Wanted) -> Interface {
    let link = links.clone().and_then(|links| {
        links
            .into_iter()
            .find(|link| link.name == name)
            .ok_or_else(|| links::Error::NotFound { name: name.clone() }.to_string())
    });
    let peer_index = link.as_ref().ok().and_then(|link| link.peer_index);
    let peer = links.as_deref().unwrap_or_default().iter().find(|link| Some(link.index) == peer_index);
    Interface {
        driver: ethtool::driver(&name).map_err(|error| error.to_string()),
        offloads: offloads(&name),
        xdp: link.as_ref().map_err(String::clone).and_then(|link| {
            netdev::xdp_features(link.index).map_err(|error| format!("cannot ask what {name} can do: {error}"))
        }),
        forwarding: wanted
            .families
            .iter()
            .map(|family| (*family, sysctl::forwarding(*family, &name).map_err(|error| error.to_string())))
            .collect(),
        reverse_path_filter: sysctl::reverse_path_filter(&name).map_err(|error| error.to_string()),
        peer: peer.map(|peer| Peer { name: peer.name.clone(), offloads: offloads(&peer.name) }),
        link,
        name,
    }
}

fn offloads(name: &str) -> Seen<Offloads> {
    ethtool::offloads(name).map_err(|error| error.to_string())
}

async fn vips(config: &Config, netlink: &Netlink, links: &[Link]) -> Vec<Vip> {
    let mut vips: Vec<Vip> = Vec::new();
    for service in &config.services {
        if vips.iter().any(|vip| vip.address == service.vip) {
            continue;
        }
        let place = match next_hop::route(netlink, service.vip).await {
            Err(HopError::Local { .. }) => Ok(VipPlace::Local),
            Ok(hop) if hop.address == service.vip => {
                Ok(VipPlace::OnLink { interface: name_of(links, hop.ifindex).unwrap_or_default() })
            }
            Ok(_) | Err(HopError::NoRoute { .. } | HopError::Refused { .. }) => Ok(VipPlace::Routed),
            Err(error) => Err(error.to_string()),
        };
        vips.push(Vip { service: service.name.clone(), address: service.vip, place });
    }
    vips
}

async fn backends(config: &Config, netlink: &Arc<Netlink>, links: &[Link]) -> Vec<Backend> {
    let wanted: Vec<(String, Forward, IpAddr)> = config
        .services
        .iter()
        .flat_map(|service| {
            let name = |backend: &str| format!("{}/{backend}", service.name);
            service.backends.iter().map(move |backend| (name(&backend.name), service.forward, backend.address))
        })
        .collect();
    let mut found = Vec::with_capacity(wanted.len());
    for some in wanted.chunks(BACKENDS_AT_ONCE) {
        let mut running = JoinSet::new();
        for (position, (_, _, address)) in some.iter().enumerate() {
            let (netlink, address) = (Arc::clone(netlink), *address);
            running.spawn(async move {
                let next_hop = next_hop::resolve_with(&netlink, address, BACKEND_PATIENCE).await;
                (position, next_hop.map_err(|error| error.to_string()))
            });
        }
        let mut results = running.join_all().await;
        results.sort_unstable_by_key(|(position, _)| *position);
        for ((name, forward, _), (_, next_hop)) in some.iter().zip(results) {
            let interface = next_hop.as_ref().ok().and_then(|hop| name_of(links, hop.ifindex));
            found.push(Backend { name: name.clone(), forward: *forward, next_hop, interface });
        }
    }
    found
}

fn name_of(links: &[Link], index: u32) -> Option<String> {
    links.iter().find(|link| link.index == index).map(|link| link.name.clone())
}

fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
}
