//! From a backend to a client: is it the answer to a flow of ours, and which way back?

use lb_common::client_hop::ClientHop;
use lb_common::flow::{self, BUCKET_ENTRIES, FlowEntry};
use lb_common::hash::FlowHash;
use lb_common::maps::{Backend, MissingNeighbour};
use lb_common::mode::Tracking;
use lb_common::packet::rewrite;
use lb_common::packet::transport::{Transport, ports};
use lb_common::reason::Reason;
use lb_common::slot::{Slot, SlotState};

use crate::hook::Hook as _;
use crate::packet::{Packet, Verdict, refuse};
use crate::tables::{Family, Hop, HopQuery, Tables};

#[inline(always)]
pub(crate) fn forward<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, id: u32) -> Verdict {
    let Some(backend) = tables.backend(id) else {
        return refuse(tables, Reason::MapMiss);
    };
    let vip = H::address_from_words(&backend.own);
    let hash = H::flow_hash(
        tables.hash_key(),
        packet.ip.destination(),
        vip,
        ports(packet.transport.destination_port(), backend.vip_port),
        P::PROTOCOL,
    );
    let place = match whose(tables, backend, hash, id) {
        Whose::Ours(place) => place,
        Whose::Backends => return Verdict::Pass,
    };
    if let Err(reason) = packet.check() {
        return refuse(tables, reason);
    }
    let now = tables.now();
    let known = place.map(|(bucket, index)| entry(bucket, index));
    let length = packet.length_on_wire(tables);
    let known_hop = known.and_then(|entry| known_hop(tables, entry, now, length));
    let query = HopQuery {
        source: vip,
        destination: packet.ip.destination(),
        length,
        protocol: P::PROTOCOL,
        class: packet.ip.class(),
    };
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
    if let Some((bucket, index)) = place {
        let old = entry(bucket, index);
        if let Some(state) = old.state() {
            let mut update = old.seen_again(now, state.after_reply(packet.transport.flags()));
            if known_hop.is_none() {
                update = update.with_client_hop(number_of(tables, hop));
            }
            if update != old {
                tables.store(bucket, index, update.0);
            }
        }
    }
    count(tables, packet, id);
    let verdict = match hop {
        Hop::Found { ifindex, destination, source, .. } => {
            packet.ethernet.set_addresses(destination, source);
            Verdict::Send { ifindex }
        }
        _ => ask_for_neighbour::<H, P, T>(tables, packet, hop),
    };
    let rewritten = rewrite::source(packet.ip, packet.transport, vip, backend.vip_port);
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

/// Somebody may talk to the backend directly, the agent's own probes do.
enum Whose<'a> {
    /// A flow of ours, and where it is recorded.
    Ours(Option<(&'a Bucket, usize)>),
    /// The backend speaks for itself.
    Backends,
}

type Bucket = [u64; BUCKET_ENTRIES];

/// Is this the answer to what a client got from us? Where every flow is recorded, the flow table knows. Where not, the slot
/// says whose the flow is, and what reaches such a backend directly through this host from one of that backend's
/// slots is taken for ours.
#[inline(always)]
fn whose<'a, T: Tables>(tables: &'a T, backend: &Backend, hash: FlowHash, id: u32) -> Whose<'a> {
    let tracking = backend.mode().tracking();
    let mut slot = Slot::default();
    if tracking != Tracking::Full {
        slot = Slot(tables.slot(u32::from(backend.service), hash.slot(backend.slots)).unwrap_or(0));
        if tracking == Tracking::Off || slot.state() == SlotState::Stable {
            return if u32::from(slot.current()) == id { Whose::Ours(None) } else { Whose::Backends };
        }
    }
    let Some(bucket) = tables.bucket(hash.bucket(tables.bucket_mask())) else {
        return Whose::Backends;
    };
    let known = flow::find(bucket, hash.tag()).map(|index| tables.opaque(index));
    if let Some(index) = known {
        let its = u32::from(entry(bucket, index).backend()) == id;
        return if its { Whose::Ours(Some((bucket, index))) } else { Whose::Backends };
    }
    let ours = match tracking {
        Tracking::Full => was_pushed_out(tables, backend, bucket, hash, id),
        _ => [slot.owner_of_unrecorded(false), slot.current()].map(u32::from).contains(&id),
    };
    if ours { Whose::Ours(None) } else { Whose::Backends }
}

#[inline(always)]
fn entry(bucket: &[u64; BUCKET_ENTRIES], index: usize) -> FlowEntry {
    FlowEntry(bucket[index & (BUCKET_ENTRIES - 1)])
}

/// Entries are only pushed out of full buckets. So where a bucket has room, a flow without an entry is not ours; where it
/// is full, the slot table has the answer that the client's packets get too.
#[inline(always)]
fn was_pushed_out<T: Tables>(
    tables: &T,
    backend: &Backend,
    bucket: &[u64; BUCKET_ENTRIES],
    hash: FlowHash,
    id: u32,
) -> bool {
    if flow::has_room(bucket) {
        return false;
    }
    let slot = tables.slot(u32::from(backend.service), hash.slot(backend.slots));
    slot.is_some_and(|slot| u32::from(Slot(slot).current()) == id)
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
fn ask_for_neighbour<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, hop: Hop) -> Verdict {
    if let Hop::NoNeighbour { ifindex } = hop {
        let address = H::address_to_words(packet.ip.destination());
        tables.report(MissingNeighbour { address, ifindex, version: H::VERSION });
    }
    refuse(tables, Reason::NoNeighbour)
}
