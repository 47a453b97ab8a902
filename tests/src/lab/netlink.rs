//! The few changes and questions about links, addresses and routes that the lab needs, over rtnetlink. Every
//! function works in the namespace in which [`connect`] was called.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result, bail};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage, Stats64};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// A device as the lab needs to know it.
#[derive(Debug, Clone)]
pub struct Link {
    pub index: u32,
    pub mac: [u8; 6],
    pub counters: Stats64,
}

/// Opens a netlink socket in the calling thread's namespace; needs a running tokio runtime.
pub fn connect() -> Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("opening a netlink socket")?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Everything that the kernel says about the device.
pub async fn message(handle: &Handle, name: &str) -> Result<LinkMessage> {
    let mut found = handle.link().get().match_name(name).execute();
    let message = found.try_next().await.with_context(|| format!("looking up the device {name}"))?;
    message.with_context(|| format!("there is no device {name}"))
}

pub async fn link(handle: &Handle, name: &str) -> Result<Link> {
    let message = message(handle, name).await?;
    let mut link = Link { index: message.header.index, mac: [0; 6], counters: Stats64::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().with_context(|| format!("{name} has no Ethernet address"))?;
            }
            LinkAttribute::Stats64(counters) => link.counters = counters,
            _ => {}
        }
    }
    Ok(link)
}

/// A pair of devices: `name` here, `peer` in the other namespace.
pub async fn add_veth(handle: &Handle, name: &str, peer: &str, peer_namespace: BorrowedFd<'_>) -> Result<()> {
    let far_end = LinkMessageBuilder::<LinkUnspec>::default().name(peer).setns_by_fd(peer_namespace.as_raw_fd());
    let pair = LinkVeth::new(name, peer).set_info_data(InfoData::Veth(InfoVeth::Peer(far_end.build()))).build();
    handle.link().add(pair).execute().await.with_context(|| format!("creating the veth pair {name} and {peer}"))
}

pub async fn set_up(handle: &Handle, name: &str, up: bool) -> Result<()> {
    let index = link(handle, name).await?.index;
    let change = LinkUnspec::new_with_index(index);
    let change = if up { change.up() } else { change.down() };
    handle.link().change(change.build()).execute().await.with_context(|| format!("setting {name} up: {up}"))
}

/// Its other end goes with it.
pub async fn delete(handle: &Handle, name: &str) -> Result<()> {
    let index = link(handle, name).await?.index;
    handle.link().del(index).execute().await.with_context(|| format!("deleting {name}"))
}

pub async fn set_mac(handle: &Handle, name: &str, mac: [u8; 6]) -> Result<()> {
    let index = link(handle, name).await?.index;
    let change = LinkUnspec::new_with_index(index).address(mac.to_vec()).build();
    handle.link().change(change).execute().await.with_context(|| format!("changing the address of {name}"))
}

pub async fn set_mtu(handle: &Handle, name: &str, mtu: u32) -> Result<()> {
    let index = link(handle, name).await?.index;
    let change = LinkUnspec::new_with_index(index).mtu(mtu).build();
    handle.link().change(change).execute().await.with_context(|| format!("setting the MTU of {name} to {mtu}"))
}

/// Enters a neighbour that nobody needs to ask for, and that no answer changes.
pub async fn set_neighbour(handle: &Handle, name: &str, address: IpAddr, mac: [u8; 6]) -> Result<()> {
    let index = link(handle, name).await?.index;
    let request = handle.neighbours().add(index, address).link_layer_address(&mac).replace();
    request.execute().await.with_context(|| format!("entering the neighbour {address} on {name}"))
}

pub async fn add_address(handle: &Handle, name: &str, address: IpAddr, prefix_length: u8) -> Result<()> {
    let index = link(handle, name).await?.index;
    let mut request = handle.address().add(index, address, prefix_length);
    if address.is_ipv6() {
        // Usable at once: nobody else is on this link.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    }
    request.execute().await.with_context(|| format!("adding {address}/{prefix_length} to {name}"))
}

/// Routes a single address through a neighbour.
pub async fn add_host_route(handle: &Handle, address: IpAddr, gateway: IpAddr) -> Result<()> {
    let route = match (address, gateway) {
        (IpAddr::V4(address), IpAddr::V4(gateway)) => {
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(address, 32).gateway(gateway).build()
        }
        (IpAddr::V6(address), IpAddr::V6(gateway)) => {
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().destination_prefix(address, 128).gateway(gateway).build()
        }
        _ => bail!("{address} and {gateway} are of different families"),
    };
    handle.route().add(route).execute().await.with_context(|| format!("routing {address} through {gateway}"))
}

pub async fn add_default_route(handle: &Handle, gateway: IpAddr) -> Result<()> {
    let route = match gateway {
        IpAddr::V4(gateway) => RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway(gateway).build(),
        IpAddr::V6(gateway) => RouteMessageBuilder::<std::net::Ipv6Addr>::new().gateway(gateway).build(),
    };
    handle.route().add(route).execute().await.with_context(|| format!("adding the default route through {gateway}"))
}

/// Makes the kernel refuse everything for a network.
pub async fn add_unreachable_route(handle: &Handle, network: IpAddr, prefix_length: u8) -> Result<()> {
    let route = match network {
        IpAddr::V4(network) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(network, prefix_length)
            .kind(RouteType::Unreachable)
            .build(),
        IpAddr::V6(network) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(network, prefix_length)
            .kind(RouteType::Unreachable)
            .build(),
    };
    handle.route().add(route).execute().await.with_context(|| format!("making {network}/{prefix_length} unreachable"))
}
