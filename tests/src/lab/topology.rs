//! Wires the namespaces of a lab: links, addresses, routes, kernel settings, offloads. Run once, by [`Lab::build`].

use anyhow::{Context as _, Result};
use lb_agent::os::ethtool::{self, Offload};

use super::address::Family;
use super::namespace::Namespace;
use super::{Backend, CLIENT_DEVICE, FAR_END, Lab, Offloads, Options, netlink, xdp};

/// Before there is a device: what every device is to inherit, or what is true of the whole namespace.
const SETTINGS: &[(&str, &str)] = &[
    // Link-local addresses are usable at once too.
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    // Load generators leave many connections in TIME_WAIT.
    ("ipv4/ip_local_port_range", "1024 65535"),
    // A host that changes its hardware address tells its neighbours, as hosts that take over an address do.
    ("ipv4/conf/all/arp_notify", "1"),
    ("ipv4/conf/default/arp_notify", "1"),
    ("ipv6/conf/all/ndisc_notify", "1"),
    ("ipv6/conf/default/ndisc_notify", "1"),
];

pub(super) fn wire(lab: &Lab, options: &Options) -> Result<()> {
    for namespace in lab.namespaces() {
        settings(namespace, SETTINGS)?;
        namespace.tokio(|| async { netlink::set_up(&netlink::connect()?, "lo", true).await })?;
    }
    settings(&lab.balancer, &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    plug(lab, CLIENT_DEVICE, &lab.client, |family| (family.balancer(), family.client()), options)?;
    for family in Family::ALL {
        default_route(&lab.balancer, family.client())?;
        if options.vip_on_balancer {
            lab.balancer.tokio(|| async {
                netlink::add_address(&netlink::connect()?, "lo", family.vip(), family.host_prefix_length()).await
            })?;
        }
    }
    lab.backends.iter().try_for_each(|backend| plug_backend(lab, backend, options))
}

/// The link to a backend, which must not be there.
pub(super) fn plug_backend(lab: &Lab, backend: &Backend, options: &Options) -> Result<()> {
    let ends = |family: Family| (family.balancer_at(backend.number), family.backend(backend.number));
    plug(lab, &backend.device, &backend.namespace, ends, options)
}

fn settings(namespace: &Namespace, settings: &[(&str, &str)]) -> Result<()> {
    settings.iter().try_for_each(|(key, value)| namespace.sysctl(key, value))
}

/// A pair of devices, both up, with the addresses (near, far) of each family, and a far end as the options say.
fn plug(
    lab: &Lab,
    device: &str,
    far: &Namespace,
    ends: impl Fn(Family) -> (std::net::IpAddr, std::net::IpAddr),
    options: &Options,
) -> Result<()> {
    lab.balancer.tokio(|| async {
        let handle = netlink::connect()?;
        netlink::add_veth(&handle, device, FAR_END, std::os::fd::AsFd::as_fd(far)).await?;
        netlink::set_up(&handle, device, true).await
    })?;
    far.tokio(|| async { netlink::set_up(&netlink::connect()?, FAR_END, true).await })?;
    for family in Family::ALL {
        let (near, far_address) = ends(family);
        join(lab, far, device, far_address, near, family)?;
    }
    prepare_far_end(far, options)
}

/// Gives both ends of a link their addresses, and the far end its default route.
fn join(
    lab: &Lab,
    far: &Namespace,
    device: &str,
    far_address: std::net::IpAddr,
    near_address: std::net::IpAddr,
    family: Family,
) -> Result<()> {
    let prefix = family.prefix_length();
    lab.balancer
        .tokio(|| async { netlink::add_address(&netlink::connect()?, device, near_address, prefix).await })
        .with_context(|| format!("in {}", lab.balancer.name()))?;
    far.tokio(|| async { netlink::add_address(&netlink::connect()?, FAR_END, far_address, prefix).await })
        .with_context(|| format!("in {}", far.name()))?;
    default_route(far, near_address)
}

fn default_route(namespace: &Namespace, gateway: std::net::IpAddr) -> Result<()> {
    namespace
        .tokio(|| async { netlink::add_default_route(&netlink::connect()?, gateway).await })
        .with_context(|| format!("in {}", namespace.name()))
}

fn prepare_far_end(far: &Namespace, options: &Options) -> Result<()> {
    if options.offloads == Offloads::FitForXdp {
        far.enter(|| {
            let now = ethtool::offloads(FAR_END)?;
            let wanted = [
                (Offload::TxChecksum, now.tx_checksum, false),
                (Offload::Tso, now.tso, false),
                (Offload::Gso, now.gso, false),
                (Offload::Gro, now.gro, true),
            ];
            // An XDP program at the near end has switched some off already, and then nobody may.
            for (offload, _, on) in wanted.into_iter().filter(|(_, is_on, on)| is_on != on) {
                ethtool::set_offload(FAR_END, offload, on)?;
            }
            anyhow::Ok(())
        })?;
    }
    if options.far_end_programs {
        let program = xdp::load_pass()?;
        far.tokio(|| async { xdp::attach(&netlink::connect()?, FAR_END, &program).await })?;
    }
    Ok(())
}
