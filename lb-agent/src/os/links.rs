//! Network interfaces: what there is, and what becomes of it. Serves whoever attaches a program to an interface
//! or sends frames out of it, and owns the translation from netlink's messages to [`Link`] and [`LinkEvent`].

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::link::{
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::Serialize;
use tokio::sync::mpsc;

use super::netlink::{Error as NetlinkError, Heard, Netlink, Subscription, answer};

/// Events that wait for a slow reader before the kernel's buffer has to hold the rest.
const EVENTS_QUEUED: usize = 64;

/// `IFNAMSIZ` without the terminating zero.
const NAME_BYTES_MAX: usize = 15;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no interface `{name}` in this network namespace; `ip -brief link` lists those there are")]
    NotFound { name: String },
    #[error("no interface with index {index} in this network namespace")]
    Gone { index: u32 },
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// One interface, as it was when the kernel was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// All zero where the interface has no Ethernet address.
    pub mac: [u8; 6],
    pub mtu: u32,
    /// Set up by the administrator; frames pass only if `carrier` holds as well.
    pub up: bool,
    pub carrier: bool,
    pub ethernet: bool,
    /// The kind of a virtual interface: veth, bridge, bond, vlan, ...; none for hardware.
    pub kind: Option<String>,
    /// The index of a veth's other end, if that is in this namespace too.
    pub peer_index: Option<u32>,
    pub xdp: Option<XdpAttachment>,
}

impl Link {
    /// Whether frames pass.
    pub fn usable(&self) -> bool {
        self.up && self.carrier
    }
}

/// The XDP program on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct XdpAttachment {
    pub mode: AttachMode,
    /// The one that sees a frame first.
    pub program_id: u32,
    /// The others, where programs are attached in several modes at once.
    pub also: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    Native,
    Generic,
    Offloaded,
    Multi,
}

impl std::fmt::Display for AttachMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
            Self::Multi => "multi",
        })
    }
}

/// All interfaces of this namespace, by index.
pub async fn list() -> Result<Vec<Link>, Error> {
    list_with(&Netlink::open()?).await
}

pub async fn by_name(name: &str) -> Result<Link, Error> {
    by_name_with(&Netlink::open()?, name).await
}

/// As [`list`], over a socket that is already open.
pub async fn list_with(netlink: &Netlink) -> Result<Vec<Link>, Error> {
    let mut stream = Box::pin(netlink.handle().link().get().execute());
    let mut links = BTreeMap::new();
    while let Some(message) = answer("list the interfaces", async { stream.next().await.transpose() }).await? {
        if let Some(link) = link_of(&message) {
            links.insert(link.index, link);
        }
    }
    Ok(links.into_values().collect())
}

/// As [`by_name`], over a socket that is already open.
pub async fn by_name_with(netlink: &Netlink, name: &str) -> Result<Link, Error> {
    let not_found = || Error::NotFound { name: name.to_owned() };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(not_found());
    }
    let mut stream = Box::pin(netlink.handle().link().get().match_name(name).execute());
    match answer("look up an interface", async { stream.next().await.transpose() }).await {
        Ok(message) => message.as_ref().and_then(link_of).ok_or_else(not_found),
        Err(error) if error.errno() == Some(libc::ENODEV) => Err(not_found()),
        Err(error) => Err(error.into()),
    }
}

pub async fn by_index_with(netlink: &Netlink, index: u32) -> Result<Link, Error> {
    let mut stream = Box::pin(netlink.handle().link().get().match_index(index).execute());
    match answer("look up an interface", async { stream.next().await.transpose() }).await {
        Ok(message) => message.as_ref().and_then(link_of).ok_or(Error::Gone { index }),
        Err(error) if error.errno() == Some(libc::ENODEV) => Err(Error::Gone { index }),
        Err(error) => Err(error.into()),
    }
}

/// What happened to an interface. Created again after a deletion means another `index`, perhaps the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    Created(Link),
    Deleted {
        index: u32,
        name: String,
    },
    /// Frames pass again, or for the first time.
    Up(Link),
    /// Set down, or the carrier is lost.
    Down(Link),
    MacChanged(Link),
    MtuChanged(Link),
    Renamed {
        link: Link,
        old_name: String,
    },
}

/// Follows the interfaces of this namespace in a task of the current runtime. What exists at the start is known
/// and not reported. The receiver ends when the kernel can no longer be heard; dropping it ends the task.
pub async fn watch() -> Result<mpsc::Receiver<LinkEvent>, Error> {
    // Subscribed before listed: a change in between is heard, not missed.
    let subscription = Subscription::open(&[MulticastGroup::Link])?;
    let netlink = Netlink::open()?;
    let known = list_with(&netlink).await?.into_iter().map(|link| (link.index, link)).collect();
    let (sender, receiver) = mpsc::channel(EVENTS_QUEUED);
    tokio::spawn(follow(subscription, netlink, known, sender));
    Ok(receiver)
}

async fn follow(
    mut subscription: Subscription,
    netlink: Netlink,
    mut known: BTreeMap<u32, Link>,
    events: mpsc::Sender<LinkEvent>,
) {
    loop {
        let heard = tokio::select! {
            heard = subscription.next() => heard,
            () = events.closed() => return,
        };
        let changes = match heard {
            Ok(Heard::Message(RouteNetlinkMessage::NewLink(message))) => {
                link_of(&message).map(|link| changed(&mut known, link)).unwrap_or_default()
            }
            Ok(Heard::Message(RouteNetlinkMessage::DelLink(message))) => {
                link_of(&message).and_then(|link| deleted(&mut known, link.index)).into_iter().collect()
            }
            Ok(Heard::Message(_)) => Vec::new(),
            Ok(Heard::Lost) => match list_with(&netlink).await {
                Ok(links) => replaced(&mut known, links),
                Err(error) => {
                    tracing::error!(%error, "interfaces are no longer followed");
                    return;
                }
            },
            Err(error) => {
                tracing::error!(%error, "interfaces are no longer followed");
                return;
            }
        };
        for change in changes {
            if events.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// Takes the new state of one interface and says what is different.
fn changed(known: &mut BTreeMap<u32, Link>, link: Link) -> Vec<LinkEvent> {
    let Some(old) = known.insert(link.index, link.clone()) else {
        return vec![LinkEvent::Created(link)];
    };
    let mut events = Vec::new();
    if old.name != link.name {
        events.push(LinkEvent::Renamed { link: link.clone(), old_name: old.name.clone() });
    }
    if old.mac != link.mac {
        events.push(LinkEvent::MacChanged(link.clone()));
    }
    if old.mtu != link.mtu {
        events.push(LinkEvent::MtuChanged(link.clone()));
    }
    match (old.usable(), link.usable()) {
        (false, true) => events.push(LinkEvent::Up(link)),
        (true, false) => events.push(LinkEvent::Down(link)),
        _ => {}
    }
    events
}

fn deleted(known: &mut BTreeMap<u32, Link>, index: u32) -> Option<LinkEvent> {
    known.remove(&index).map(|link| LinkEvent::Deleted { index, name: link.name })
}

/// Takes a whole new list. Deletions come first, so that an interface created again is deleted before it is created.
fn replaced(known: &mut BTreeMap<u32, Link>, links: Vec<Link>) -> Vec<LinkEvent> {
    let gone: Vec<u32> = known.keys().filter(|index| links.iter().all(|link| link.index != **index)).copied().collect();
    let mut events: Vec<LinkEvent> = gone.into_iter().filter_map(|index| deleted(known, index)).collect();
    for link in links {
        events.extend(changed(known, link));
    }
    events
}

/// None for messages about something else: a bridge announces its ports as links of its own address family,
/// and a port that leaves it as a deleted one.
pub(crate) fn link_of(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        kind: None,
        peer_index: None,
        xdp: None,
    };
    let mut lower = None;
    let mut elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(details) => link.xdp = attachment_of(details),
            _ => {}
        }
    }
    if link.kind.as_deref() == Some("veth") && !elsewhere {
        link.peer_index = lower.filter(|index| *index != 0);
    }
    Some(link)
}

fn attachment_of(details: &[LinkXdp]) -> Option<XdpAttachment> {
    let mode = details.iter().find_map(|detail| match detail {
        LinkXdp::Attached(XdpAttached::Driver) => Some(AttachMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(AttachMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(AttachMode::Offloaded),
        LinkXdp::Attached(XdpAttached::Multiple) => Some(AttachMode::Multi),
        _ => None,
    })?;
    // A frame meets the hardware's program first, then the driver's, then the generic one.
    let rank = |detail: &LinkXdp| match detail {
        LinkXdp::HwProgId(id) => Some((0, *id)),
        LinkXdp::DrvProgId(id) => Some((1, *id)),
        LinkXdp::SkbProgId(id) => Some((2, *id)),
        LinkXdp::ProgId(id) => Some((3, *id)),
        _ => None,
    };
    let mut ranked: Vec<(u8, u32)> = details.iter().filter_map(rank).collect();
    ranked.sort_unstable();
    let mut ids: Vec<u32> = ranked.into_iter().map(|(_, id)| id).collect();
    ids.dedup();
    let mut ids = ids.into_iter();
    Some(XdpAttachment { mode, program_id: ids.next()?, also: ids.collect() })
}

#[cfg(test)]
mod tests;
