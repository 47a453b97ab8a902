//! From a client to a backend: judged, given to a backend ([`crate::choice`]), counted, rewritten.

use lb_common::maps::{Backend, Service};
use lb_common::mode::Forwarding;
use lb_common::packet::ip::TCP;
use lb_common::packet::transport::Transport;
use lb_common::reason::Reason;
use lb_common::route::Route;

use crate::answer;
use crate::choice::{Choice, Flow, Source, choose};
use crate::forward;
use crate::measure;
use crate::packet::{Packet, Verdict};
use crate::snat;
use crate::tables::{Family, Stage, Tables, flow_hash};

/// The answer of the dry run, packed where it is found: packing whichever it was afterwards, the compiler would compute with a
/// register that one of them has not set, and the verifier refuses that.
#[inline(always)]
pub(crate) fn route<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, service: &Service) -> u32 {
    if let Err(reason) = packet.check() {
        return Route::Refused(reason).pack();
    }
    if service.mode.forwarding() == Forwarding::Snat {
        return snat::route(tables, packet, service);
    }
    // The next packet of a flow that nobody remembers is the first of a new one.
    let flow = Flow { may_be_new: true, ..flow(tables, packet, service) };
    match choose(tables, service, flow) {
        Ok(choice) if is_hairpin(packet, service, choice.backend) => Route::Refused(Reason::Hairpin).pack(),
        Ok(Choice { id, source: Source::FlowTable, .. }) => Route::Remembered { backend: id }.pack(),
        Ok(Choice { id, source: Source::Slot, .. }) => Route::Chosen { backend: id }.pack(),
        Ok(Choice { source: Source::Turn, .. }) => Route::Undetermined { service: service.id }.pack(),
        Err(reason) => Route::Refused(reason).pack(),
    }
}

/// Whether the backend would get its own call. With its address as source and destination no kernel takes it; where packets
/// arrive as they were sent, a backend has the VIP itself, and never calls it here.
#[inline(always)]
fn is_hairpin<H: Family, P: Transport>(packet: &Packet<H, P>, service: &Service, backend: &Backend) -> bool {
    service.mode.forwarding() == Forwarding::Nat && packet.ip.source() == H::address_from_words(&backend.address)
}

#[inline(always)]
pub(crate) fn flow<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, service: &Service) -> Flow {
    let (ip, ports, flags) = (packet.ip, packet.transport.ports(), packet.transport.flags());
    let hash = flow_hash::<H, T>(tables, service.mode, (ip.source(), ip.destination()), ports, P::PROTOCOL);
    let has_opening = P::PROTOCOL == TCP;
    Flow { hash, flags, has_opening, may_be_new: !has_opening || flags.opens() }
}

#[inline(always)]
pub(crate) fn forward<H: Family, P: Transport, T: Tables>(
    tables: &T,
    packet: &Packet<H, P>,
    service: &Service,
) -> Verdict {
    if service.mode.forwarding() == Forwarding::Snat {
        return tables.hand_over(Stage::Lend);
    }
    let flow = flow(tables, packet, service);
    // In one place, because what refuses a packet is inlined there.
    let reason = match packet.check() {
        Ok(()) => match choose(tables, service, flow) {
            Ok(choice) if is_hairpin(packet, service, choice.backend) => Reason::Hairpin,
            Ok(choice) => return send(tables, packet, service, flow, choice),
            Err(reason) => reason,
        },
        Err(reason) => reason,
    };
    answer::refuse(tables, packet, reason)
}

#[inline(always)]
fn send<H: Family, P: Transport, T: Tables>(
    tables: &T,
    packet: &Packet<H, P>,
    service: &Service,
    flow: Flow,
    choice: Choice<'_>,
) -> Verdict {
    let bytes = packet.frame.len() as u64;
    tables.count(u32::from(choice.id), |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
    });
    measure::request(tables, packet, flow.hash, choice.id, choice.backend);
    forward::send(tables, packet, service.mode.forwarding(), flow.hash, choice.backend)
}
