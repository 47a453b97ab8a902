//! ICMP errors about flows of ours, in both directions: without them neither side learns that a path has a smaller MTU or
//! that a port is closed. The quoted packet is rewritten to what its sender had sent.
//!
//! Nothing is recorded: an error proves nothing about who sent it.

use lb_common::checksum::Change;
use lb_common::flow::{self, FlowEntry};
use lb_common::hash::FlowHash;
use lb_common::hint::{NOBODY, SHARED};
use lb_common::maps::{Backend, EndpointOwners, Service};
use lb_common::mode::Forwarding;
use lb_common::packet::Ethernet;
use lb_common::packet::cursor::Cursor;
use lb_common::packet::icmp::{Icmp, Quote};
use lb_common::packet::ip::Header;
use lb_common::packet::rewrite::Rewritten;
use lb_common::reason::Reason;
use lb_common::slot::Slot;

use crate::forward::{self, Whole};
use crate::hook::Hook as _;
use crate::owner::{self, Owner, Peer};
use crate::packet::{Verdict, refuse};
use crate::snat::{self, Known};
use crate::tables::{Family, Hop, HopQuery, Stage, Tables, flow_hash};

/// An ICMP error with its quote.
#[derive(Clone, Copy)]
pub(crate) struct Error<H> {
    ethernet: Ethernet,
    ip: H,
    icmp: Icmp,
    quote: Quote<H>,
    frame: Cursor,
}

impl<H: Header> Error<H> {
    /// None: it is no error, or one that does not say enough.
    #[inline(always)]
    pub(crate) fn parse(frame: Cursor, ethernet: Ethernet, ip: H) -> Option<Self> {
        let offset = ip.payload_offset();
        let icmp = Icmp::parse(frame, offset)?;
        if !H::is_error(icmp.kind()) || ip.is_fragment() {
            return None;
        }
        let quote = Quote::<H>::parse(frame, offset)?;
        // An error goes to whoever sent the quoted packet.
        (ip.destination() == quote.ip.source()).then_some(Self { ethernet, ip, icmp, quote, frame })
    }

    /// Bytes of the IP packet, once [`check`] has found the length plausible.
    #[inline(always)]
    fn length(&self) -> u16 {
        (self.ip.packet_end() - self.ip.offset()) as u16
    }
}

impl<H: Family> Error<H> {
    /// The service whose answer to a client is quoted.
    #[inline(always)]
    fn service<'a, T: Tables>(&self, tables: &'a T) -> Option<&'a Service> {
        H::service(tables, self.quote.ip.source(), self.quote.source_port(), self.quote.ip.protocol())
    }

    /// Those who may have sent the quoted packet to a backend.
    #[inline(always)]
    fn owners<'a, T: Tables>(&self, tables: &'a T) -> Option<&'a EndpointOwners> {
        H::owners(tables, self.quote.ip.destination(), self.quote.destination_port(), self.quote.ip.protocol())
    }

    /// As [`Family::endpoint`], of where the quoted packet was sent to.
    #[inline(always)]
    fn endpoint<T: Tables>(&self, tables: &T) -> u16 {
        H::endpoint(tables, self.quote.ip.destination(), self.quote.destination_port(), self.quote.ip.protocol())
    }

    /// The quoted packet's sender.
    #[inline(always)]
    fn peer(&self) -> Peer<H::Address> {
        let quote = self.quote;
        Peer { address: quote.ip.source(), port: quote.source_port(), protocol: quote.ip.protocol() }
    }
}

#[inline(always)]
pub(crate) fn forward<H: Family, T: Tables>(tables: &T, error: &Error<H>) -> Verdict {
    if let Some(service) = error.service(tables) {
        return match service.mode.forwarding() {
            Forwarding::Snat => tables.hand_over(Stage::Lend),
            _ => to_backend(tables, error, service),
        };
    }
    let id = match error.endpoint(tables) {
        NOBODY => return Verdict::Pass,
        SHARED => return tables.hand_over(Stage::Share),
        id => id,
    };
    // Only about flows of ours: the backend may be reached directly as well.
    match owner::only::<H, T>(tables, id, error.peer(), true) {
        Some(owner) => to_client(tables, error, &owner),
        None => Verdict::Pass,
    }
}

/// About an answer of a backend that knows its client by a port of ours.
#[inline(always)]
pub(crate) fn lend<H: Family, T: Tables>(tables: &T, error: &Error<H>) -> Verdict {
    match error.service(tables) {
        Some(service) => to_lender(tables, error, service),
        None => Verdict::Pass,
    }
}

/// About a packet to a backend that is shared by services, or that is sent to from ports of this host.
#[inline(always)]
pub(crate) fn share<H: Family, T: Tables>(tables: &T, error: &Error<H>) -> Verdict {
    let Some(owners) = error.owners(tables) else { return Verdict::Pass };
    if let Some(owner) = snat::borrower::<H, T>(tables, owners, error.peer()) {
        return to_client(tables, error, &owner);
    }
    let id = owner::member::<H, T>(tables, owners, error.peer());
    match owner::only::<H, T>(tables, id, error.peer(), true) {
        Some(owner) if id != 0 => to_client(tables, error, &owner),
        _ => Verdict::Pass,
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
    let hash = flow_hash::<H, T>(tables, service.mode, (client, vip), quote.ports_reversed(), protocol);
    let Some((id, backend)) = recorded(tables, service, hash) else {
        return refuse(tables, Reason::NoBackend);
    };
    count_request(tables, error, id);
    let mode = service.mode.forwarding();
    // Nobody is told about an error (RFC 1122, section 3.2.2).
    if forward::too_small(error.length(), mode, backend).is_some() {
        return refuse(tables, Reason::TooBig);
    }
    match mode {
        Forwarding::Nat | Forwarding::Snat => to_translated(tables, error, backend, None),
        // The quote is what the backend itself has sent, as the VIP.
        Forwarding::Dsr | Forwarding::Ipip | Forwarding::Gue => {
            let whole = Whole { ethernet: error.ethernet, ip: error.ip, length: error.length() };
            forward::send_whole(tables, whole, mode, hash, backend)
        }
    }
}

#[inline(always)]
fn count_request<H: Header, T: Tables>(tables: &T, error: &Error<H>, id: u32) {
    let bytes = error.frame.len() as u64;
    tables.count(id, |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
    });
}

/// The same, to a backend that knows the flow by a port of ours.
#[inline(always)]
fn to_lender<H: Family, T: Tables>(tables: &T, error: &Error<H>, service: &Service) -> Verdict {
    if let Err(reason) = check(error) {
        return refuse(tables, reason);
    }
    let quote = error.quote;
    let (address, port, protocol) = (quote.ip.destination(), quote.destination_port(), quote.ip.protocol());
    let hash = H::flow_hash(tables.hash_key(), address, quote.ip.source(), quote.ports_reversed(), protocol);
    let Some(bucket) = tables.bucket(hash.bucket(tables.bucket_mask())) else {
        return refuse(tables, Reason::MapMiss);
    };
    let known = snat::find::<H, T>(tables, service, bucket, hash, Peer { address, port, protocol });
    let Some(backend) = known.backend else {
        return refuse(tables, Reason::NoBackend);
    };
    count_request(tables, error, u32::from(known.id()));
    if forward::too_small(error.length(), Forwarding::Snat, backend).is_some() {
        return refuse(tables, Reason::TooBig);
    }
    to_translated(tables, error, backend, Some(&known))
}

/// The backend has sent the quoted packet under its own address; with a port of ours in between, to that.
#[inline(always)]
fn to_translated<H: Family, T: Tables>(
    tables: &T,
    error: &Error<H>,
    backend: &Backend,
    known: Option<&Known<'_>>,
) -> Verdict {
    // The agent's next hop, as for every packet to this backend; without one there is nothing to send.
    if backend.flags & Backend::RESOLVED == 0 {
        return refuse(tables, Reason::NoRoute);
    }
    let (quote, vip, sender) = (error.quote, error.quote.ip.source(), error.ip.source());
    let address = H::address_from_words(&backend.address);
    let mut source = sender;
    let mut rest = Change::NONE;
    if let Some(known) = known {
        let Some(own) = known.own_end::<H, T>(tables) else { return refuse(tables, Reason::Unresolved) };
        rest = quote.set_destination(own.0, own.1);
        // The backend needs to know no way to whoever has sent it, and no filter on the way has to like it.
        source = own.0;
    }
    error.ethernet.set_addresses(backend.destination_mac, backend.source_mac);
    error.ip.forward_between(source, address);
    let rest = rest.plus(quote.set_source(address, backend.port));
    let addresses = outer::<H>(vip, address).plus(outer::<H>(sender, source));
    tables.hook().update_checksum(error.ip, error.icmp, Rewritten { addresses, rest });
    Verdict::Send { ifindex: backend.ifindex }
}

/// The flow's backend: the one recorded, else the one of its slot.
#[inline(always)]
fn recorded<'a, T: Tables>(tables: &'a T, service: &Service, hash: FlowHash) -> Option<(u32, &'a Backend)> {
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
fn to_client<H: Family, T: Tables>(tables: &T, error: &Error<H>, owner: &Owner<'_>) -> Verdict {
    if let Err(reason) = check(error) {
        return refuse(tables, reason);
    }
    let sender = error.ip.source();
    let (backend, quote, address) = (owner.backend, error.quote, error.quote.ip.source());
    let vip = H::address_from_words(&backend.own);
    let client = owner.borrower.map_or(address, |borrower| borrower.address::<H>());
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
    tables.count(owner.id, |counters| {
        counters.reply_packets += 1;
        counters.reply_bytes += bytes;
    });
    error.ethernet.set_addresses(destination_mac, source_mac);
    error.ip.forward_between(source, client);
    let mut rest = quote.set_destination(vip, backend.vip_port);
    if let Some(borrower) = owner.borrower {
        rest = rest.plus(quote.set_source(client, borrower.port()));
    }
    let addresses = outer::<H>(sender, source).plus(outer::<H>(address, client));
    tables.hook().update_checksum(error.ip, error.icmp, Rewritten { addresses, rest });
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
