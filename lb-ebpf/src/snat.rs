//! Both ends of a flow rewritten (`snat`): towards the backend it comes from a port of this host, which is lent to it
//! ([`lb_common::mapping`]), so that answers come back here wherever backends send what is not for them.

use lb_common::flow::{self, BUCKET_ENTRIES, FlowEntry, FlowState};
use lb_common::hash::FlowHash;
use lb_common::mapping::{self, BLOCK, BLOCKS_SEARCHED, Control, Mapping};
use lb_common::maps::{Backend, EndpointOwners, Service};
use lb_common::mode::Forwarding;
use lb_common::packet::ip::{TCP, UDP};
use lb_common::packet::rewrite;
use lb_common::packet::transport::Transport;
use lb_common::reason::Reason;
use lb_common::route::Route;

use crate::choice::{self, Choice, Flow};
use crate::hook::Hook as _;
use crate::owner::{self, Bucket, Owner, Peer};
use crate::packet::{Packet, Verdict, refuse};
use crate::tables::{Family, Tables};
use crate::{answer, forward, measure, request};

/// What is known of a flow between client and VIP. Every field has a value also where nothing is known: of an option with all of
/// them inside, the compiler would pass on registers that nobody has set, and the verifier refuses that.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    /// None: the flow has no port.
    pub(crate) backend: Option<&'a Backend>,
    mapping: Option<&'a Mapping>,
    /// As the mapping was before its client was looked at.
    control: Control,
    /// Its place in the bucket.
    index: usize,
    entry: FlowEntry,
}

impl Known<'_> {
    pub(crate) const NOTHING: Self =
        Known { backend: None, mapping: None, control: Control(0), index: 0, entry: FlowEntry(0) };

    #[inline(always)]
    pub(crate) fn id(&self) -> u16 {
        self.entry.backend()
    }

    /// Its port's, in the pool.
    #[inline(always)]
    fn number(&self) -> u16 {
        mapping::port_of_tag(self.entry.tag())
    }

    /// This host's end of the flow: address, and port as it stands in packets. None where there is none any more.
    #[inline(always)]
    pub(crate) fn own_end<H: Family, T: Tables>(&self, tables: &T) -> Option<(H::Address, u16)> {
        let own = tables.port_block(u32::from(self.id()), 0)?;
        Some((H::address_from_words(&own[0].address), port(tables, self.number())))
    }
}

/// Who has borrowed the port that a packet was sent to.
#[derive(Clone, Copy)]
pub(crate) struct Borrower<'a> {
    mapping: &'a Mapping,
    control: Control,
}

impl Borrower<'_> {
    #[inline(always)]
    pub(crate) fn address<H: Family>(&self) -> H::Address {
        H::address_from_words(&self.mapping.address)
    }

    /// As it stands in packets.
    #[inline(always)]
    pub(crate) fn port(&self) -> u16 {
        self.mapping.port
    }

    /// The backend has answered.
    #[inline(always)]
    pub(crate) fn answered<P: Transport, T: Tables>(&self, tables: &T, transport: P, now: u32) {
        let update = self.control.after_reply(transport.flags(), now, P::PROTOCOL == UDP);
        if update != self.control {
            tables.claim(self.mapping, self.control.0, update.0);
        }
    }
}

/// The dry run's answer, as [`crate::request::route`] gives it.
#[inline(always)]
pub(crate) fn route<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, service: &Service) -> u32 {
    let flow = request::flow(tables, packet, service);
    let Some(bucket) = tables.bucket(flow.hash.bucket(tables.bucket_mask())) else {
        return Route::Refused(Reason::MapMiss).pack();
    };
    let client = Peer { address: packet.ip.source(), port: packet.transport.source_port(), protocol: P::PROTOCOL };
    let known = find::<H, T>(tables, service, bucket, flow.hash, client);
    if known.backend.is_some() {
        return Route::Remembered { backend: known.id() }.pack();
    }
    match choice::by_current_slot(tables, service, flow) {
        Ok(Choice { id, .. }) => Route::Chosen { backend: id }.pack(),
        Err(reason) => Route::Refused(reason).pack(),
    }
}

/// A client's packet.
#[inline(always)]
pub(crate) fn forward<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>) -> Verdict {
    match H::service(tables, packet.ip.destination(), packet.transport.destination_port(), P::PROTOCOL) {
        Some(service) => to_backend(tables, packet, service),
        None => Verdict::Pass,
    }
}

#[inline(always)]
fn to_backend<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, service: &Service) -> Verdict {
    let flow = request::flow(tables, packet, service);
    // In one place, because what refuses a packet is inlined there.
    match packet.check().and_then(|()| lent::<H, P, T>(tables, packet, service, flow)) {
        // From here on the verifier need not know how the port was found.
        Ok(lent) => send(tables, packet, flow, Lent(tables.opaque(lent.0 as usize) as u32)),
        Err(reason) => answer::refuse(tables, packet, reason),
    }
}

/// The port of the packet's flow: the one that it has, or a new one.
#[inline(always)]
fn lent<H: Family, P: Transport, T: Tables>(
    tables: &T,
    packet: &Packet<H, P>,
    service: &Service,
    flow: Flow,
) -> Result<Lent, Reason> {
    let bucket = tables.bucket(flow.hash.bucket(tables.bucket_mask())).ok_or(Reason::MapMiss)?;
    let client = Peer { address: packet.ip.source(), port: packet.transport.source_port(), protocol: P::PROTOCOL };
    let known = find::<H, T>(tables, service, bucket, flow.hash, client);
    let goes_on = known.backend.is_some_and(|backend| goes_on::<P, T>(tables, bucket, backend, &known, flow));
    if goes_on {
        return Ok(Lent::new(known.id(), known.number()));
    }
    open::<H, P, T>(tables, service, bucket, flow, client, &known)
}

/// A backend's number, and that of a port in its pool.
#[derive(Clone, Copy)]
struct Lent(u32);

impl Lent {
    #[inline(always)]
    fn new(id: u16, number: u16) -> Self {
        Self(u32::from(id) << 16 | u32::from(number))
    }

    #[inline(always)]
    fn id(self) -> u32 {
        self.0 >> 16
    }

    #[inline(always)]
    fn number(self) -> u16 {
        self.0 as u16
    }
}

#[inline(always)]
fn send<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, flow: Flow, lent: Lent) -> Verdict {
    let Some(backend) = tables.backend(lent.id()) else {
        return refuse(tables, Reason::MapMiss);
    };
    measure::request(tables, packet, flow.hash, lent.id() as u16, backend);
    let bytes = packet.frame.len() as u64;
    tables.count(lent.id(), |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
    });
    if let Some(mtu) = forward::too_small(packet.length_on_wire(tables), Forwarding::Snat, backend) {
        return answer::too_big(tables, packet.ethernet, packet.ip, mtu);
    }
    // Only the agent knows a source for packets that way.
    let own = match tables.port_block(lent.id(), 0) {
        Some(own) if backend.flags & Backend::RESOLVED != 0 => H::address_from_words(&own[0].address),
        _ => return refuse(tables, Reason::Unresolved),
    };
    let source = (own, port(tables, lent.number()));
    let destination = (H::address_from_words(&backend.address), backend.port);
    packet.ethernet.set_addresses(backend.destination_mac, backend.source_mac);
    let rewritten = rewrite::both(packet.ip, packet.transport, source, destination);
    tables.hook().update_checksum(packet.ip, packet.transport, rewritten);
    Verdict::Send { ifindex: backend.ifindex }
}

/// The flow of a packet between client and VIP. Three flows of one bucket may have what is left of a tag in common; a fourth is
/// forgotten, once in 10^9 full buckets.
#[inline(always)]
pub(crate) fn find<'a, H: Family, T: Tables>(
    tables: &'a T,
    service: &Service,
    bucket: &Bucket,
    hash: FlowHash,
    client: Peer<H::Address>,
) -> Known<'a> {
    let mut known = Known::NOTHING;
    let mut skipped = 0;
    let mut attempt = 0;
    while attempt < 3 {
        let Some(index) = flow::find_upper(bucket, hash.tag(), skipped) else { break };
        let index = tables.opaque(index);
        let entry = owner::entry(bucket, index);
        if let Some(backend) = tables.backend(u32::from(entry.backend()))
            && let Some(mapping) = mapping(tables, entry.backend(), u32::from(mapping::port_of_tag(entry.tag())))
        {
            // Before the client: it is the client's as long as this has not changed.
            let control = mapping.control();
            if backend.service == service.id
                && control.backend() == entry.backend()
                && H::address_from_words(&mapping.address) == client.address
                && mapping.port == client.port
            {
                known = Known { backend: Some(backend), mapping: Some(mapping), control, index, entry };
                break;
            }
        }
        skipped |= 1 << (index & (BUCKET_ENTRIES - 1));
        attempt += 1;
    }
    known
}

#[inline(always)]
fn mapping<T: Tables>(tables: &T, pool: u16, number: u32) -> Option<&Mapping> {
    let (block, place) = mapping::place(number);
    let mappings = tables.port_block(u32::from(pool), block)?;
    // Opaque: otherwise the compiler adds the place to the block before it asks whether there is one.
    Some(&mappings[tables.opaque(place) % BLOCK])
}

/// The flow keeps its port, and its backend; both tables learn of the packet.
#[inline(always)]
fn goes_on<P: Transport, T: Tables>(
    tables: &T,
    bucket: &Bucket,
    backend: &Backend,
    known: &Known<'_>,
    flow: Flow,
) -> bool {
    let (Some(mapping), Some(state)) = (known.mapping, known.entry.state()) else { return false };
    if flow.flags.opens() && (state == FlowState::Closing || backend.flags & Backend::ACCEPTS_NEW == 0) {
        return false;
    }
    let now = tables.now();
    let update = known.control.after_request(flow.flags, now, P::PROTOCOL == UDP);
    // Whatever the flags and the state before were, the verifier goes on once.
    let update = Control(tables.opaque(update.0 as usize) as u64);
    // A port that has expired, or is about to, may have been lent to another flow since.
    if update != known.control
        && !tables.claim(mapping, known.control.0, update.0)
        && known.control.is_free(now.wrapping_add(1))
    {
        return false;
    }
    let update = known.entry.seen_again(now, state.after_request(flow.flags));
    if update != known.entry {
        tables.store(bucket, known.index, update.0);
    }
    true
}

/// A new flow gets a port towards the backend of its slot.
#[inline(always)]
fn open<'a, H: Family, P: Transport, T: Tables>(
    tables: &'a T,
    service: &Service,
    bucket: &Bucket,
    flow: Flow,
    client: Peer<H::Address>,
    known: &Known<'a>,
) -> Result<Lent, Reason> {
    if P::PROTOCOL == TCP && !flow.flags.opens() {
        return Err(Reason::NoMapping);
    }
    let now = tables.now();
    let Choice { id, backend, .. } = choice::by_current_slot(tables, service, flow)?;
    if backend.flags & Backend::RESOLVED == 0 {
        return Err(Reason::Unresolved);
    }
    let opened = Control::opened(id, now, P::PROTOCOL == UDP);
    let mut number = known.number();
    // The client itself knows whether its own connection of before can be told from this one.
    let mut mapping =
        known.mapping.filter(|mapping| known.id() == id && tables.claim(mapping, known.control.0, opened.0));
    if mapping.is_none() {
        number = take(tables, id, opened, flow, now);
        if number == NO_PORT {
            return Err(Reason::NoPort);
        }
        mapping = self::mapping(tables, id, u32::from(number));
    }
    let Some(mapping) = mapping else { return Err(Reason::NoPort) };
    tables.lend(mapping, H::address_to_words(client.address), client.port);
    let entry = FlowEntry::new(mapping::port_tag(flow.hash.tag(), number), id, now, FlowState::HalfOpen);
    let place = known.backend.map(|_| known.index);
    if !choice::record(tables, bucket, place, entry, now) {
        // Without an entry nobody would find the port again.
        tables.claim(mapping, opened.0, Control::default().0);
        tables.count_reason(Reason::FlowTableFull);
        return Err(Reason::NoPort);
    }
    choice::count_new(tables, id);
    Ok(Lent::new(id, number))
}

/// No port of any pool.
const NO_PORT: u16 = u16::MAX;

/// Takes the first port that may be lent, from a place on that the flow's hash chooses in this processor's part of the pool, and
/// gives its number; [`NO_PORT`] where there is none.
#[inline(always)]
fn take<T: Tables>(tables: &T, id: u16, opened: Control, flow: Flow, now: u32) -> u16 {
    let (_, count) = tables.ports();
    let blocks = mapping::blocks(count) - 1;
    let (processor, processors) = tables.processor();
    let part = blocks.div_ceil(processors.max(1));
    let within = ((flow.hash.0 as u32 >> 16) * part) >> 16;
    let mut block = processor.wrapping_mul(part).wrapping_add(within);
    let mut searched = 0;
    while searched < BLOCKS_SEARCHED {
        if block >= blocks {
            block = 0;
        }
        // Neither whether it has come round nor how often matters to what follows.
        block = tables.opaque(block as usize) as u32;
        let Some(mappings) = tables.port_block(u32::from(id), block + 1) else { break };
        let valid = (count - block * BLOCK as u32).min(BLOCK as u32);
        if let Some(place) = mapping::first_free(mappings, valid, now) {
            let mapping = &mappings[place % BLOCK];
            let control = mapping.control();
            if control.is_free(now) && tables.claim(mapping, control.0, opened.0) {
                return tables.opaque(block as usize * BLOCK + place) as u16;
            }
        }
        block += 1;
        searched += 1;
    }
    NO_PORT
}

/// As it stands in packets.
#[inline(always)]
pub(crate) fn port<T: Tables>(tables: &T, number: u16) -> u16 {
    tables.ports().0.wrapping_add(number).to_be()
}

/// The flow that has borrowed the port which the backend has sent to. None: that is a connection of this host itself, or one past
/// the pool.
#[inline(always)]
pub(crate) fn borrower<'a, H: Family, T: Tables>(
    tables: &'a T,
    owners: &EndpointOwners,
    peer: Peer<H::Address>,
) -> Option<Owner<'a>> {
    let pool = owners.0[0];
    let (first, count) = tables.ports();
    let number = u32::from(u16::from_be(peer.port)).wrapping_sub(u32::from(first));
    if pool & EndpointOwners::HAS_PORTS == 0 || number >= count {
        return None;
    }
    let pool = pool & !EndpointOwners::HAS_PORTS;
    let own = tables.port_block(u32::from(pool), 0)?;
    if H::address_from_words(&own[0].address) != peer.address {
        return None;
    }
    let mapping = mapping(tables, pool, number)?;
    let control = mapping.control();
    if control.is_free(tables.now()) {
        return None;
    }
    let borrower = Borrower { mapping, control };
    let id = u32::from(control.backend());
    let backend = tables.backend(id)?;
    let client = Peer { address: borrower.address::<H>(), port: borrower.port(), protocol: peer.protocol };
    let hash = owner::hash::<H, T>(tables, backend, client);
    let bucket = tables.bucket(hash.bucket(tables.bucket_mask()))?;
    let tag = mapping::port_tag(hash.tag(), number as u16);
    let place = flow::find(bucket, tag).map(|index| (bucket, tables.opaque(index)));
    Some(Owner { id, backend, hash, place, borrower: Some(borrower) })
}
