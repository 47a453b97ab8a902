//! Follows how the backends are reached: a task that resolves a set of addresses to next hops, listens to the
//! kernel's neighbour, link and route events, and reports every change. It also has the kernel resolve clients that
//! the data plane met before the kernel did. What to do is decided in `tracker` and `solicitations`; here it is done.

mod solicitations;
mod tracker;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::links::link_of;
use super::netlink::{Error, Heard, Netlink, Subscription};
use super::next_hop::{self, Entry, neighbour_of};
use crate::model::pool::NextHop;
use solicitations::{PENDING_MAX, Solicitations};
use tracker::{Touch, Tracker};

/// How an address is reached has changed, or why it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourEvent {
    pub address: IpAddr,
    /// The reason is for people.
    pub resolution: Result<NextHop, String>,
}

/// The task's handle; dropping it ends the task.
#[derive(Debug)]
pub struct Neighbours {
    addresses: watch::Sender<Vec<IpAddr>>,
    requests: mpsc::Sender<IpAddr>,
    task: AbortHandle,
}

impl Neighbours {
    /// Starts the task in the current tokio runtime, for the calling thread's network namespace. The channel closes
    /// if the kernel can no longer be heard.
    pub fn spawn(events: mpsc::Sender<NeighbourEvent>) -> Result<Self, Error> {
        let subscription = Subscription::open(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])?;
        let netlink = Netlink::open()?;
        let (addresses, followed) = watch::channel(Vec::new());
        let (requests, requested) = mpsc::channel(PENDING_MAX);
        let now = Instant::now();
        let task = Task {
            netlink,
            subscription,
            followed,
            requested,
            events,
            tracker: Tracker::new(now),
            solicitations: Solicitations::new(now),
        };
        Ok(Self { addresses, requests, task: tokio::spawn(task.run()).abort_handle() })
    }

    /// The addresses to follow from now on, all of them. Each new one is reported once it is resolved, or once it is
    /// known that it cannot be; one that was followed already is reported only if something changes.
    pub fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.addresses.send_replace(addresses);
    }

    /// Asks the kernel to resolve an address that is not followed, usually a client's. Never waits; a request beyond
    /// the rate or the queue is dropped, for the data plane will ask again with the client's next packet.
    pub fn solicit(&self, address: IpAddr) {
        if self.requests.try_send(address).is_err() {
            tracing::debug!(%address, "too many neighbours to resolve, one request dropped");
        }
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    netlink: Netlink,
    subscription: Subscription,
    followed: watch::Receiver<Vec<IpAddr>>,
    requested: mpsc::Receiver<IpAddr>,
    events: mpsc::Sender<NeighbourEvent>,
    tracker: Tracker,
    solicitations: Solicitations,
}

impl Task {
    async fn run(mut self) {
        loop {
            for address in self.tracker.due(Instant::now()) {
                if !self.follow(address).await {
                    return;
                }
            }
            while let Some(address) = self.solicitations.next(Instant::now()) {
                self.introduce(address).await;
            }
            let wake = self.tracker.next_due();
            let wake = self.solicitations.next_due(Instant::now()).map_or(wake, |due| due.min(wake));
            tokio::select! {
                heard = self.subscription.next() => match heard {
                    Ok(heard) => if let Some(touch) = touch_of(&heard) {
                        self.tracker.touch(touch, Instant::now());
                    },
                    Err(error) => {
                        tracing::error!(%error, "neighbours are no longer followed");
                        return;
                    }
                },
                changed = self.followed.changed() => match changed {
                    Ok(()) => self.tracker.set_addresses(&self.followed.borrow_and_update(), Instant::now()),
                    Err(_handle_dropped) => return,
                },
                Some(address) = self.requested.recv() => {
                    self.solicitations.request(address, Instant::now());
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Looks at one followed address and does what the tracker decides. False if nobody listens any more.
    async fn follow(&mut self, address: IpAddr) -> bool {
        let look = next_hop::look(&self.netlink, address).await;
        let outcome = self.tracker.looked(address, &look, Instant::now());
        if let Some(hop) = outcome.solicit
            && let Err(error) = next_hop::solicit(&self.netlink, hop).await
        {
            // The tracker's time for the answer runs out and the address is reported as not answering.
            tracing::warn!(%address, %error, "neighbour not solicited");
        }
        match outcome.event {
            Some(event) => {
                match &event.resolution {
                    Ok(next_hop) => tracing::info!(%address, ?next_hop, "next hop resolved"),
                    Err(reason) => tracing::warn!(%address, %reason, "next hop not resolved"),
                }
                self.events.send(event).await.is_ok()
            }
            None => true,
        }
    }

    /// Makes the kernel resolve an address that the data plane has no neighbour for.
    async fn introduce(&self, address: IpAddr) {
        let solicited = match next_hop::look(&self.netlink, address).await {
            Ok(look) if matches!(look.entry, Entry::Absent | Entry::Failed) => {
                next_hop::solicit(&self.netlink, look.hop).await
            }
            Ok(_known) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = solicited {
            tracing::debug!(%address, %error, "neighbour not solicited");
        }
    }
}

fn touch_of(heard: &Heard) -> Option<Touch> {
    match heard {
        Heard::Lost => Some(Touch::Everything),
        Heard::Message(RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message)) => {
            neighbour_of(message).map(|(ifindex, address)| Touch::Neighbour { ifindex, address })
        }
        Heard::Message(RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)) => {
            link_of(message).map(|link| Touch::Link { ifindex: link.index })
        }
        Heard::Message(RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message)) => {
            route_touch(message)
        }
        Heard::Message(_) => None,
    }
}

fn route_touch(message: &RouteMessage) -> Option<Touch> {
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    });
    // A default route has no destination.
    let destination = match (destination, message.header.address_family) {
        (Some(destination), _) => destination,
        (None, AddressFamily::Inet) => Ipv4Addr::UNSPECIFIED.into(),
        (None, AddressFamily::Inet6) => Ipv6Addr::UNSPECIFIED.into(),
        (None, _) => return None,
    };
    Some(Touch::Route { destination, prefix_length: message.header.destination_prefix_length })
}

#[cfg(test)]
mod tests;
