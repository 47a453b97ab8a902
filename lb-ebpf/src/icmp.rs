//! ICMP errors about flows of ours, in both directions: without them neither side learns that a path has a smaller MTU or
//! that a port is closed. The quoted packet is rewritten to what its sender had sent.
//!
//! Nothing is recorded: an error proves nothing about who sent it.

use lb_common::checksum::Change;
use lb_common::flow::{self, FlowEntry};
use lb_common::hash::FlowHash;
use lb_common::maps::{Backend, Service};
use lb_common::mode::Forwarding;
use lb_common::packet::Ethernet;
use lb_common::packet::cursor::Cursor;
use lb_common::packet::icmp::{Icmp, Quote};
use lb_common::packet::ip::Header;
use lb_common::packet::rewrite::Rewritten;
use lb_common::packet::transport::ports;
use lb_common::reason::Reason;
use lb_common::slot::Slot;

use crate::forward::{self, Whole};
use crate::hook::Hook as _;
use crate::packet::{Verdict, refuse};
use crate::tables::{Family, Hop, HopQuery, Tables};

/// An ICMP error with its quote.
#[derive(Clone, Copy)]
struct Error<H> {
    ethernet: Ethernet,
    ip: H,
    icmp: Icmp,
    quote: Quote<H>,
    frame: Cursor,
}

impl<H: Header> Error<H> {
    /// Bytes of the IP packet, once [`check`] has found the length plausible.
    #[inline(always)]
    fn length(&self) -> u16 {
        (self.ip.packet_end() - self.ip.offset()) as u16
    }
}

#[inline(always)]
pub(crate) fn forward<H: Family, T: Tables>(tables: &T, frame: Cursor, ethernet: Ethernet, ip: H) -> Verdict {
    let offset = ip.payload_offset();
    let Some(icmp) = Icmp::parse(frame, offset) else {
        return Verdict::Pass;
    };
    if !H::is_error(icmp.kind()) || ip.is_fragment() {
        return Verdict::Pass;
    }
    let Some(quote) = Quote::<H>::parse(frame, offset) else {
        return Verdict::Pass;
    };
    // An error goes to whoever sent the quoted packet.
    if ip.destination() != quote.ip.source() {
        return Verdict::Pass;
    }
    let error = Error { ethernet, ip, icmp, quote, frame };
    let protocol = quote.ip.protocol();
    if let Some(service) = H::service(tables, quote.ip.source(), quote.source_port(), protocol) {
        return to_backend(tables, &error, service);
    }
    match H::endpoint(tables, quote.ip.destination(), quote.destination_port(), protocol) {
        Some(id) => to_client(tables, &error, id),
        None => Verdict::Pass,
    }
}

/// About an answer that we sent to a client: it goes to the backend that had sent it.
#[inline(always)]
fn to_backend<H: Family, T: Tables>(tables: &T, error: &Error<H>, service: &Service) -> Verdict {
    if let Err(reason) = check(error) {
        return refuse(tables, reason);
    }
    let quote = error.quote;
    let (client, vip, protocol) = (quote.ip.destination(), quote.ip.source(), quote.ip.protocol());
    let hash = H::flow_hash(tables.hash_key(), client, vip, quote.ports_reversed(), protocol);
    let Some((id, backend)) = owner(tables, service, hash) else {
        return refuse(tables, Reason::NoBackend);
    };
    let bytes = error.frame.len() as u64;
    tables.count(id, |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
    });
    let mode = service.mode.forwarding();
    // Nobody is told about an error (RFC 1122, section 3.2.2).
    if forward::too_small(error.length(), mode, backend).is_some() {
        return refuse(tables, Reason::TooBig);
    }
    match mode {
        Forwarding::Nat | Forwarding::Snat => to_translated(tables, error, backend),
        // The quote is what the backend itself has sent, as the VIP.
        Forwarding::Dsr | Forwarding::Ipip | Forwarding::Gue => {
            let whole = Whole { ethernet: error.ethernet, ip: error.ip, length: error.length() };
            forward::send_whole(tables, whole, mode, hash, backend)
        }
    }
}

/// The backend has sent the quoted packet under its own address.
#[inline(always)]
fn to_translated<H: Family, T: Tables>(tables: &T, error: &Error<H>, backend: &Backend) -> Verdict {
    // The agent's next hop, as for every packet to this backend; without one there is nothing to send.
    if backend.flags & Backend::RESOLVED == 0 {
        return refuse(tables, Reason::NoRoute);
    }
    let (quote, vip) = (error.quote, error.quote.ip.source());
    let address = H::address_from_words(&backend.address);
    error.ethernet.set_addresses(backend.destination_mac, backend.source_mac);
    error.ip.forward_to(address);
    let rest = quote.set_source(address, backend.port);
    tables.hook().update_checksum(error.ip, error.icmp, Rewritten { addresses: outer::<H>(vip, address), rest });
    Verdict::Send { ifindex: backend.ifindex }
}

/// The flow's backend: the one recorded, else the one of its slot.
#[inline(always)]
fn owner<'a, T: Tables>(tables: &'a T, service: &Service, hash: FlowHash) -> Option<(u32, &'a Backend)> {
    let bucket = tables.bucket(hash.bucket(tables.bucket_mask()))?;
    let id = match flow::find(bucket, hash.tag()) {
        Some(index) => FlowEntry(bucket[index & (flow::BUCKET_ENTRIES - 1)]).backend(),
        None => Slot(tables.slot(u32::from(service.id), hash.slot(service.slots))?).owner_of_unrecorded(false),
    };
    let id = u32::from(id);
    let backend = tables.backend(id)?;
    (backend.service == service.id).then_some((id, backend))
}

/// About a client's packet that we sent to a backend: it goes to the client, as if it were about the VIP.
#[inline(always)]
fn to_client<H: Family, T: Tables>(tables: &T, error: &Error<H>, id: u32) -> Verdict {
    let Some(backend) = tables.backend(id) else {
        return Verdict::Pass;
    };
    let quote = error.quote;
    let (client, protocol) = (quote.ip.source(), quote.ip.protocol());
    let vip = H::address_from_words(&backend.own);
    let flow_ports = ports(quote.source_port(), backend.vip_port);
    let hash = H::flow_hash(tables.hash_key(), client, vip, flow_ports, protocol);
    // Only about flows of ours: the backend may be reached directly as well.
    let recorded = tables.bucket(hash.bucket(tables.bucket_mask())).is_some_and(|bucket| {
        flow::find(bucket, hash.tag())
            .is_some_and(|index| u32::from(FlowEntry(bucket[index & (flow::BUCKET_ENTRIES - 1)]).backend()) == id)
    });
    if !recorded {
        return Verdict::Pass;
    }
    if let Err(reason) = check(error) {
        return refuse(tables, reason);
    }
    let sender = error.ip.source();
    let from_backend = sender == H::address_from_words(&backend.address);
    let source = if from_backend { vip } else { sender };
    let query =
        HopQuery { source, destination: client, length: error.length(), protocol: H::ICMP, class: error.ip.class() };
    let (ifindex, destination_mac, source_mac) = match H::next_hop(tables, query) {
        Hop::Found { ifindex, destination, source, .. } => (ifindex, destination, source),
        Hop::NoNeighbour { .. } => return refuse(tables, Reason::NoNeighbour),
        Hop::Local => return Verdict::Pass,
        Hop::TooBig { .. } => return refuse(tables, Reason::ReplyTooBig),
        Hop::Refused(reason) => return refuse(tables, reason),
    };
    let bytes = error.frame.len() as u64;
    tables.count(id, |counters| {
        counters.reply_packets += 1;
        counters.reply_bytes += bytes;
    });
    error.ethernet.set_addresses(destination_mac, source_mac);
    error.ip.forward_from(source);
    let rest = quote.set_destination(vip, backend.vip_port);
    tables.hook().update_checksum(error.ip, error.icmp, Rewritten { addresses: outer::<H>(sender, source), rest });
    Verdict::Send { ifindex }
}

/// What the outer addresses change in the error's checksum: ICMPv6 covers them.
#[inline(always)]
fn outer<H: Header>(old: H::Address, new: H::Address) -> Change {
    if H::HAS_CHECKSUM { Change::NONE } else { H::address_change(old, new) }
}

#[inline(always)]
fn check<H: Family>(error: &Error<H>) -> Result<(), Reason> {
    if error.ip.packet_end() > error.frame.len() || error.ip.packet_end() < error.ip.payload_offset() {
        return Err(Reason::Malformed);
    }
    if error.ip.hops_left() <= 1 {
        return Err(Reason::TtlExpired);
    }
    Ok(())
}
