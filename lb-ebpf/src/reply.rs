//! From a backend to a client: the answer to a flow of ours ([`crate::owner`]), and the way back.

use lb_common::client_hop::ClientHop;
use lb_common::flow::{FlowEntry, FlowState};
use lb_common::maps::MissingNeighbour;
use lb_common::packet::rewrite;
use lb_common::packet::transport::Transport;
use lb_common::reason::Reason;

use crate::hook::Hook as _;
use crate::measure;
use crate::owner::{self, Owner, Peer};
use crate::packet::{Packet, Verdict, refuse};
use crate::scheduler;
use crate::snat;
use crate::tables::{Family, Hop, HopQuery, Tables};

/// From a backend that is in one service and sent to as the client.
#[inline(always)]
pub(crate) fn forward<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, id: u16) -> Verdict {
    match owner::only::<H, T>(tables, id, peer(packet), false) {
        Some(owner) => back(tables, packet, &owner),
        None => Verdict::Pass,
    }
}

/// From a backend that is shared by services, or that is sent to from ports of this host.
#[inline(always)]
pub(crate) fn share<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>) -> Verdict {
    let Some(owners) = H::owners(tables, packet.ip.source(), packet.transport.source_port(), P::PROTOCOL) else {
        return Verdict::Pass;
    };
    if let Some(owner) = snat::borrower::<H, T>(tables, owners, peer(packet)) {
        return back(tables, packet, &owner);
    }
    let id = owner::member::<H, T>(tables, owners, peer(packet));
    match owner::only::<H, T>(tables, id, peer(packet), true) {
        Some(owner) if id != 0 => back(tables, packet, &owner),
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn peer<H: Family, P: Transport>(packet: &Packet<H, P>) -> Peer<H::Address> {
    let (address, port) = (packet.ip.destination(), packet.transport.destination_port());
    Peer { address, port, protocol: P::PROTOCOL }
}

/// To the client of a flow of ours.
#[inline(always)]
fn back<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, owner: &Owner<'_>) -> Verdict {
    if let Err(reason) = packet.check() {
        return refuse(tables, reason);
    }
    let now = tables.now();
    let known = owner.place.map(|(bucket, index)| owner::entry(bucket, index));
    let vip = H::address_from_words(&owner.backend.own);
    let client = owner.borrower.map_or(packet.ip.destination(), |borrower| borrower.address::<H>());
    let length = packet.length_on_wire(tables);
    let known_hop = known.and_then(|entry| known_hop(tables, entry, now, length));
    let query = HopQuery { source: vip, destination: client, length, protocol: P::PROTOCOL, class: packet.ip.class() };
    let hop = match known_hop {
        Some(hop) => found(hop),
        None => H::next_hop(tables, query),
    };
    match hop {
        Hop::Found { .. } | Hop::NoNeighbour { .. } => {}
        // The client is this host itself: the stack knows the connection by the backend's address.
        Hop::Local => return Verdict::Pass,
        // What the backend has sent is too big as it is: the stack says so, about the packet that the backend knows.
        Hop::TooBig { .. } => return refuse(tables, Reason::ReplyTooBig),
        Hop::Refused(reason) => return refuse(tables, reason),
    }
    if let Some(borrower) = owner.borrower {
        borrower.answered(tables, packet.transport, now);
    }
    if let Some((bucket, index)) = owner.place {
        let old = owner::entry(bucket, index);
        if let Some(state) = old.state() {
            let mut update = old.seen_again(now, state.after_reply(packet.transport.flags()));
            if known_hop.is_none() {
                update = update.with_client_hop(number_of(tables, hop));
            }
            if update != old {
                tables.store(bucket, index, update.0);
                let (scheduler, was_closing) = (owner.backend.mode().scheduler(), state == FlowState::Closing);
                scheduler::closes(tables, scheduler, owner.id, was_closing, packet.transport.flags());
            }
        }
    }
    count(tables, packet, owner.id);
    measure::reply(tables, packet, owner.hash, owner.id as u16, owner.backend);
    let verdict = match hop {
        Hop::Found { ifindex, destination, source, .. } => {
            packet.ethernet.set_addresses(destination, source);
            Verdict::Send { ifindex }
        }
        _ => ask_for_neighbour::<H, T>(tables, client, hop),
    };
    let source = (vip, owner.backend.vip_port);
    let rewritten = match owner.borrower {
        None => rewrite::source(packet.ip, packet.transport, source.0, source.1),
        Some(borrower) => rewrite::both(packet.ip, packet.transport, source, (client, borrower.port())),
    };
    tables.hook().update_checksum(packet.ip, packet.transport, rewritten);
    verdict
}

/// What the routing table has said about this flow within this unit of time.
#[inline(always)]
fn known_hop<T: Tables>(tables: &T, entry: FlowEntry, now: u32, length: u16) -> Option<ClientHop> {
    match entry.client_hop(now) {
        0 => None,
        number => tables.client_hop(number).filter(|hop| length <= hop.mtu()),
    }
}

#[inline(always)]
fn found(hop: ClientHop) -> Hop {
    Hop::Found { ifindex: hop.ifindex(), destination: hop.destination(), source: hop.source(), mtu: hop.mtu() }
}

#[inline(always)]
fn number_of<T: Tables>(tables: &T, hop: Hop) -> u32 {
    let Hop::Found { ifindex, destination, source, mtu } = hop else { return 0 };
    ClientHop::new(ifindex, mtu, destination, source).map_or(0, |hop| tables.client_hop_number(hop))
}

#[inline(always)]
fn count<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, id: u32) {
    let bytes = packet.frame.len() as u64;
    let reset = u64::from(packet.transport.flags().rst());
    tables.count(id, |counters| {
        counters.reply_packets += 1;
        counters.reply_bytes += bytes;
        counters.resets += reset;
    });
}

/// The stack gets the packet, rewritten: it resolves the neighbour and forwards. Where the VIP is an address of this host it
/// will not (it takes the source for its own), so the agent is told as well and makes the kernel resolve it.
#[inline(always)]
fn ask_for_neighbour<H: Family, T: Tables>(tables: &T, client: H::Address, hop: Hop) -> Verdict {
    if let Hop::NoNeighbour { ifindex } = hop {
        let address = H::address_to_words(client);
        tables.report(MissingNeighbour { address, ifindex, version: H::VERSION });
    }
    refuse(tables, Reason::NoNeighbour)
}
