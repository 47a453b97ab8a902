//! From an IP address to the frame that reaches it: the route (interface and gateway), then the neighbour entry
//! of the gateway or of the address itself. Serves the backends' map entries and `doctor`; it owns the decision
//! which neighbour states count as resolved, and it makes the kernel resolve what it does not know yet.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::links::{self, Link};
use super::netlink::{Error as NetlinkError, Netlink, answer};
use crate::model::pool::NextHop;

/// The kernel asks three times, a second apart, before it calls a neighbour failed; half a second for its timer.
pub const PATIENCE: Duration = Duration::from_millis(3500);

/// How often an entry is looked at while the kernel resolves it. An answer on a local network takes less.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The discard service: what listens there throws everything away.
const DISCARD_PORT: u16 = 9;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no route to {address}; add one: ip route add {address} via GATEWAY")]
    NoRoute { address: IpAddr },
    #[error("{address} is an address of this host; packets cannot be forwarded to the host they pass through")]
    Local { address: IpAddr },
    #[error("the route to {address} is `{kind}`; `ip route get {address}` shows it")]
    Refused { address: IpAddr, kind: &'static str },
    #[error("{address} is a {kind} address; only one host's own address can be forwarded to")]
    NotUnicast { address: IpAddr, kind: &'static str },
    #[error("{address} is reached over {interface}, which has no Ethernet addresses")]
    NotEthernet { address: IpAddr, interface: String },
    #[error("{hop} on {interface} does not answer {}", question(hop.address))]
    NoAnswer { hop: Hop, interface: String },
    #[error(transparent)]
    Link(#[from] links::Error),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

fn question(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ARP" } else { "neighbour discovery" }
}

/// The neighbour that takes the frames for `destination`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    pub destination: IpAddr,
    /// The gateway, or the destination itself. An IPv4 destination may have an IPv6 gateway.
    pub address: IpAddr,
    pub ifindex: u32,
    /// What a packet of this host's own to the destination has as its source.
    pub source: Option<IpAddr>,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address == self.destination {
            write!(f, "{}", self.address)
        } else {
            write!(f, "gateway {} of {}", self.address, self.destination)
        }
    }
}

/// What the neighbour table says about a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// `stale`: nobody has confirmed it lately, and nobody is about to.
    Resolved {
        mac: [u8; 6],
        stale: bool,
    },
    /// The kernel has asked and waits for the answer.
    Asking,
    /// The kernel has asked and got no answer.
    Failed,
    Absent,
}

/// Route, interface and neighbour entry of one address at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub hop: Hop,
    pub link: Link,
    pub entry: Entry,
}

impl Look {
    pub fn next_hop(&self) -> Option<NextHop> {
        match self.entry {
            Entry::Resolved { mac, .. } => Some(NextHop {
                ifindex: self.link.index,
                source_mac: self.link.mac,
                destination_mac: mac,
                mtu: self.link.mtu,
                source: self.hop.source,
                gateway: (self.hop.address != self.hop.destination).then_some(self.hop.address),
            }),
            Entry::Asking | Entry::Failed | Entry::Absent => None,
        }
    }

    pub fn no_answer(&self) -> Error {
        Error::NoAnswer { hop: self.hop, interface: self.link.name.clone() }
    }
}

/// Resolves `address`, waiting up to `patience` (usually [`PATIENCE`]) for the neighbour's answer.
pub async fn resolve(address: IpAddr, patience: Duration) -> Result<NextHop, Error> {
    resolve_with(&Netlink::open()?, address, patience).await
}

/// As [`resolve`], over a socket that is already open.
pub async fn resolve_with(netlink: &Netlink, address: IpAddr, patience: Duration) -> Result<NextHop, Error> {
    let deadline = Instant::now() + patience;
    let mut asked = false;
    loop {
        let seen = look(netlink, address).await?;
        if let Some(next_hop) = seen.next_hop() {
            return Ok(next_hop);
        }
        match seen.entry {
            // Asking again moves a failed entry to "asking" at once, so a failure seen later is a fresh one.
            Entry::Failed if asked => return Err(seen.no_answer()),
            Entry::Failed | Entry::Absent if !asked => {
                solicit(netlink, seen.hop).await?;
                asked = true;
            }
            _ if Instant::now() >= deadline => return Err(seen.no_answer()),
            _ => {}
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Reads route, interface and neighbour entry of `address`, and changes nothing.
pub async fn look(netlink: &Netlink, address: IpAddr) -> Result<Look, Error> {
    let hop = route(netlink, address).await?;
    let link = links::by_index_with(netlink, hop.ifindex).await?;
    if !link.ethernet {
        return Err(Error::NotEthernet { address, interface: link.name });
    }
    let entry = entry(netlink, hop).await?;
    Ok(Look { hop, link, entry })
}

/// Where the kernel would send a packet of its own to `address`.
pub async fn route(netlink: &Netlink, address: IpAddr) -> Result<Hop, Error> {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes.push(RouteAttribute::Destination(address.into()));
    let mut stream = Box::pin(netlink.handle().route().get(message).execute());
    match answer("look up a route", async { stream.next().await.transpose() }).await {
        Ok(Some(found)) => hop_of(&found, address),
        Ok(None) => Err(Error::NoRoute { address }),
        // For IPv4 the kernel tells the route's type by the error that a sender would see.
        Err(error) => Err(match error.errno() {
            Some(libc::ENETUNREACH | libc::ESRCH) => Error::NoRoute { address },
            Some(libc::EHOSTUNREACH) => Error::Refused { address, kind: "unreachable" },
            Some(libc::EACCES) => Error::Refused { address, kind: "prohibit" },
            Some(libc::EINVAL) => Error::Refused { address, kind: "blackhole" },
            _ => error.into(),
        }),
    }
}

/// Reads a route's answer: its type first, then interface and gateway.
fn hop_of(found: &RouteMessage, destination: IpAddr) -> Result<Hop, Error> {
    match found.header.kind {
        RouteType::Unicast => {}
        RouteType::Local | RouteType::Anycast => return Err(Error::Local { address: destination }),
        RouteType::Broadcast => return Err(Error::NotUnicast { address: destination, kind: "broadcast" }),
        RouteType::Multicast => return Err(Error::NotUnicast { address: destination, kind: "multicast" }),
        RouteType::BlackHole => return Err(Error::Refused { address: destination, kind: "blackhole" }),
        RouteType::Unreachable => return Err(Error::Refused { address: destination, kind: "unreachable" }),
        RouteType::Prohibit => return Err(Error::Refused { address: destination, kind: "prohibit" }),
        _ => return Err(Error::NoRoute { address: destination }),
    }
    let (mut ifindex, mut source) = (None, None);
    let mut address = destination;
    for attribute in &found.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => address = (*gateway).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => address = (*gateway).into(),
            RouteAttribute::PrefSource(RouteAddress::Inet(own)) => source = Some((*own).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(own)) => source = Some((*own).into()),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => address = (*gateway).into(),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => address = (*gateway).into(),
            _ => {}
        }
    }
    let ifindex = ifindex.ok_or(Error::NoRoute { address: destination })?;
    Ok(Hop { destination, address, ifindex, source })
}

/// Asks for one entry by key; rtnetlink's own request would dump the whole table.
async fn entry(netlink: &Netlink, hop: Hop) -> Result<Entry, Error> {
    const WHAT: &str = "look up a neighbour";
    let mut message = NeighbourMessage::default();
    message.header.family = family(hop.address);
    message.header.ifindex = hop.ifindex;
    message.attributes.push(NeighbourAttribute::Destination(hop.address.into()));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message));
    request.header.flags = NLM_F_REQUEST;
    let found = answer(WHAT, async {
        let mut stream = netlink.handle().clone().request(request)?;
        match stream.next().await.map(|message| message.payload) {
            Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(found))) => Ok(Some(found)),
            Some(NetlinkPayload::Error(error)) => Err(rtnetlink::Error::NetlinkError(error)),
            _ => Ok(None),
        }
    });
    match found.await {
        Ok(Some(found)) => Ok(entry_of(&found)),
        Ok(None) => Ok(Entry::Absent),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Entry::Absent),
        Err(error) => Err(error.into()),
    }
}

fn entry_of(found: &NeighbourMessage) -> Entry {
    let mac = found.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
        _ => None,
    });
    match (found.header.state, mac) {
        (NeighbourState::Stale, Some(mac)) => Entry::Resolved { mac, stale: true },
        (
            NeighbourState::Reachable
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp,
            Some(mac),
        ) => Entry::Resolved { mac, stale: false },
        (NeighbourState::Incomplete, _) => Entry::Asking,
        (NeighbourState::Failed, _) => Entry::Failed,
        _ => Entry::Absent,
    }
}

/// Makes the kernel ask for the neighbour, or confirm a stale entry, as `ip neigh replace ... use` does.
/// A process that may not (no CAP_NET_ADMIN) has the same effect by sending an empty datagram that way.
pub async fn solicit(netlink: &Netlink, hop: Hop) -> Result<(), Error> {
    let request = netlink.handle().neighbours().add(hop.ifindex, hop.address);
    let request = request.state(NeighbourState::None).flags(NeighbourFlags::Use).replace();
    match answer("make the kernel resolve a neighbour", request.execute()).await {
        Ok(()) => Ok(()),
        Err(error @ NetlinkError::Refused { .. }) => knock(hop.destination).map_err(|knock_error| {
            tracing::debug!(%error, %knock_error, address = %hop.destination, "neighbour not solicited");
            Error::Netlink(error)
        }),
        Err(error) => Err(error.into()),
    }
}

fn knock(address: IpAddr) -> io::Result<()> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.send_to(&[], (address, DISCARD_PORT)).map(|_| ())
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The address and interface that a neighbour event is about.
pub(crate) fn neighbour_of(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
            Some((message.header.ifindex, (*address).into()))
        }
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
            Some((message.header.ifindex, (*address).into()))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests;
