//! From a client to a backend: judged, given to a backend ([`crate::choice`]), counted, rewritten.

use lb_common::maps::Service;
use lb_common::packet::ip::TCP;
use lb_common::packet::transport::Transport;
use lb_common::route::Route;

use crate::choice::{Choice, Flow, Source, choose};
use crate::forward;
use crate::packet::{Packet, Verdict, refuse};
use crate::tables::{Family, Tables};

/// The answer of the dry run, packed where it is found: packing whichever it was afterwards, the compiler would compute with a
/// register that one of them has not set, and the verifier refuses that.
#[inline(always)]
pub(crate) fn route<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, service: &Service) -> u32 {
    if let Err(reason) = packet.check() {
        return Route::Refused(reason).pack();
    }
    match choose(tables, service, flow(tables, packet)) {
        Ok(Choice { id, source: Source::FlowTable, .. }) => Route::Remembered { backend: id }.pack(),
        Ok(Choice { id, source: Source::Slot, .. }) => Route::Chosen { backend: id }.pack(),
        Err(reason) => Route::Refused(reason).pack(),
    }
}

#[inline(always)]
fn flow<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>) -> Flow {
    let ip = packet.ip;
    let hash = H::flow_hash(tables.hash_key(), ip.source(), ip.destination(), packet.transport.ports(), P::PROTOCOL);
    Flow { hash, flags: packet.transport.flags(), has_opening: P::PROTOCOL == TCP }
}

#[inline(always)]
pub(crate) fn forward<H: Family, P: Transport, T: Tables>(
    tables: &T,
    packet: &Packet<H, P>,
    service: &Service,
) -> Verdict {
    if let Err(reason) = packet.check() {
        return refuse(tables, reason);
    }
    let flow = flow(tables, packet);
    let choice = match choose(tables, service, flow) {
        Ok(choice) => choice,
        Err(reason) => return refuse(tables, reason),
    };
    let bytes = packet.frame.len() as u64;
    tables.count(u32::from(choice.id), |counters| {
        counters.packets += 1;
        counters.bytes += bytes;
    });
    forward::send(tables, packet, service.mode.forwarding(), flow.hash, choice.backend)
}
