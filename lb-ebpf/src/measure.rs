//! How long backends take, of sampled flows ([`lb_common::latency`]). Where answers pass here, from a client's packet to the backend's
//! answer; where they do not, to the client's next packet, which that answer has made it send: so it holds the way to the client and
//! back as well (Sakamoto et al., "Load balancers need in-band feedback control", HotNets 2022).
//!
//! Flows that are not sampled pay for a test of two words that are in registers anyway.

use lb_common::flow::Flags;
use lb_common::hash::FlowHash;
use lb_common::latency::{self, Kind, Sample};
use lb_common::maps::Backend;
use lb_common::packet::ip::{Header, TCP};
use lb_common::packet::transport::Transport;

use crate::packet::Packet;
use crate::tables::Tables;

/// A client's packet goes to the backend.
#[inline(always)]
pub(crate) fn request<H: Header, P: Transport, T: Tables>(
    tables: &T,
    packet: &Packet<H, P>,
    hash: FlowHash,
    id: u16,
    backend: &Backend,
) {
    if !latency::is_sampled(hash, backend.sampling()) {
        return;
    }
    let Some(sample) = tables.sample(latency::place(hash)) else { return };
    let flags = packet.transport.flags();
    if !backend.mode().forwarding().answers_pass() {
        triggered(tables, sample, hash, id, has_payload(packet), flags);
    }
    if P::PROTOCOL == TCP && !flags.opens() && !has_payload(packet) {
        return;
    }
    let kind = if flags.opens() { Kind::Handshake } else { Kind::FirstByte };
    let awaited = latency::awaited(hash, id, kind);
    // What comes again, and the rest of a long request, is waited for already.
    if sample.awaited != awaited {
        tables.set_sample(sample, Sample { awaited, since: tables.nanoseconds() });
    }
}

/// A client's packet that an answer has made it send: its part of a handshake, or an acknowledgement of what is not its own data.
#[inline(always)]
fn triggered<T: Tables>(tables: &T, sample: &Sample, hash: FlowHash, id: u16, has_payload: bool, flags: Flags) {
    let first_byte = latency::awaited(hash, id, Kind::FirstByte);
    let kind = if sample.awaited == first_byte { Kind::FirstByte } else { Kind::Handshake };
    let answers = match kind {
        Kind::Handshake => flags.ack() && sample.awaited == latency::awaited(hash, id, kind),
        Kind::FirstByte => !has_payload && !flags.syn(),
    };
    if answers {
        arrived(tables, sample, id, kind);
    }
}

/// A backend's packet goes to a client.
#[inline(always)]
pub(crate) fn reply<H: Header, P: Transport, T: Tables>(
    tables: &T,
    packet: &Packet<H, P>,
    hash: FlowHash,
    id: u16,
    backend: &Backend,
) {
    if !latency::is_sampled(hash, backend.sampling()) {
        return;
    }
    let Some(sample) = tables.sample(latency::place(hash)) else { return };
    let flags = packet.transport.flags();
    let kind = if flags.syn() { Kind::Handshake } else { Kind::FirstByte };
    let answers = P::PROTOCOL != TCP || flags.syn() || has_payload(packet);
    if answers && sample.awaited == latency::awaited(hash, id, kind) {
        arrived(tables, sample, id, kind);
    }
}

#[inline(always)]
fn arrived<T: Tables>(tables: &T, sample: &Sample, id: u16, kind: Kind) {
    let took = tables.nanoseconds().wrapping_sub(sample.since);
    tables.set_sample(sample, Sample { awaited: 0, since: 0 });
    tables.took(u32::from(id), kind, took);
}

#[inline(always)]
fn has_payload<H: Header, P: Transport>(packet: &Packet<H, P>) -> bool {
    packet.ip.packet_end() > packet.ip.payload_offset() + packet.transport.header_length()
}
