//! How a packet gets to its backend: one function for each forwarding mode.
//!
//! Every mode takes one hop off, so that whatever two routers, a balancer and a backend send each other in a circle dies.
//! IPVS does the same in all of its modes (ip_vs_xmit.c, `decrement_ttl`), and RFC 2003 asks it of a tunnel's entrance.

use lb_common::hash::FlowHash;
use lb_common::maps::Backend;
use lb_common::mode::Forwarding;
use lb_common::packet::cursor::Cursor;
use lb_common::packet::ip::Header;
use lb_common::packet::outer::{Ends, Inner, Outer, OuterV4, OuterV6, UDP_LENGTH, write_gue, write_ipip};
use lb_common::packet::transport::Transport;
use lb_common::packet::{Ethernet, rewrite};
use lb_common::reason::Reason;

use crate::answer;
use crate::hook::Hook as _;
use crate::packet::{Packet, Verdict, refuse};
use crate::tables::{Family, Hop, HopQuery, Tables};

#[inline(always)]
pub(crate) fn send<H: Family, P: Transport, T: Tables>(
    tables: &T,
    packet: &Packet<H, P>,
    mode: Forwarding,
    hash: FlowHash,
    backend: &Backend,
) -> Verdict {
    if let Some(mtu) = too_small(packet.length_on_wire(tables), mode, backend) {
        return answer::too_big(tables, packet.ethernet, packet.ip, mtu);
    }
    match mode {
        Forwarding::Nat | Forwarding::Snat => nat(tables, packet, backend),
        Forwarding::Dsr | Forwarding::Ipip | Forwarding::Gue => {
            let whole = Whole { ethernet: packet.ethernet, ip: packet.ip, length: packet.length() };
            send_whole(tables, whole, mode, hash, backend)
        }
    }
}

/// What would fit, if a packet of that length does not.
#[inline(always)]
pub(crate) fn too_small(length: u16, mode: Forwarding, backend: &Backend) -> Option<u16> {
    let v6 = backend.flags & Backend::IPV6 != 0;
    let ip = if v6 { OuterV6::LENGTH } else { OuterV4::LENGTH } as u32;
    let overhead = match mode {
        Forwarding::Ipip => ip,
        Forwarding::Gue => ip + UDP_LENGTH as u32,
        Forwarding::Nat | Forwarding::Snat | Forwarding::Dsr => 0,
    };
    let mtu = u32::from(backend.mtu);
    (mtu != 0 && u32::from(length) + overhead > mtu).then_some(mtu.saturating_sub(overhead) as u16)
}

/// DNAT, and out through the backend's next hop.
#[inline(always)]
fn nat<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, backend: &Backend) -> Verdict {
    let address = H::address_from_words(&backend.address);
    let (ifindex, destination, source) = if backend.flags & Backend::RESOLVED != 0 {
        (backend.ifindex, backend.destination_mac, backend.source_mac)
    } else {
        let query = HopQuery {
            source: packet.ip.source(),
            destination: address,
            length: packet.length_on_wire(tables),
            protocol: P::PROTOCOL,
            class: packet.ip.class(),
        };
        match H::next_hop(tables, query) {
            Hop::Found { ifindex, destination, source, .. } => (ifindex, destination, source),
            // The agent resolves backends; until it has, the stack is no help: it would deliver to the VIP itself.
            Hop::NoNeighbour { .. } => return refuse(tables, Reason::NoNeighbour),
            Hop::Local => return refuse(tables, Reason::NoRoute),
            Hop::TooBig { mtu } => return answer::too_big(tables, packet.ethernet, packet.ip, mtu),
            Hop::Refused(reason) => return refuse(tables, reason),
        }
    };
    packet.ethernet.set_addresses(destination, source);
    let rewritten = rewrite::destination(packet.ip, packet.transport, address, backend.port);
    tables.hook().update_checksum(packet.ip, packet.transport, rewritten);
    Verdict::Send { ifindex }
}

/// A packet that its backend gets as the client has sent it, but for a hop.
#[derive(Clone, Copy)]
pub(crate) struct Whole<H> {
    pub(crate) ethernet: Ethernet,
    pub(crate) ip: H,
    /// Bytes of the IP packet.
    pub(crate) length: u16,
}

/// To a backend that has the VIP itself and answers clients itself.
#[inline(always)]
pub(crate) fn send_whole<H: Header, T: Tables>(
    tables: &T,
    packet: Whole<H>,
    mode: Forwarding,
    hash: FlowHash,
    backend: &Backend,
) -> Verdict {
    // The routing table is not asked: it may know the backend behind a gateway, and that would send a packet that is as it was
    // back to us; and it does not tell which source an outer header should have.
    if backend.flags & Backend::RESOLVED == 0 {
        return refuse(tables, Reason::Unresolved);
    }
    packet.ip.forward();
    tables.hook().hop_taken::<H>();
    let v6 = backend.flags & Backend::IPV6 != 0;
    match mode {
        Forwarding::Ipip if v6 => tunnel::<H, OuterV6, T, { OuterV6::LENGTH }>(tables, packet, hash, backend),
        Forwarding::Ipip => tunnel::<H, OuterV4, T, { OuterV4::LENGTH }>(tables, packet, hash, backend),
        Forwarding::Gue if v6 => {
            tunnel::<H, OuterV6, T, { OuterV6::LENGTH + UDP_LENGTH }>(tables, packet, hash, backend)
        }
        Forwarding::Gue => tunnel::<H, OuterV4, T, { OuterV4::LENGTH + UDP_LENGTH }>(tables, packet, hash, backend),
        Forwarding::Dsr | Forwarding::Nat | Forwarding::Snat => dsr(packet, backend),
    }
}

/// In a frame for the backend, on one of our links.
#[inline(always)]
fn dsr<H: Header>(packet: Whole<H>, backend: &Backend) -> Verdict {
    packet.ethernet.set_addresses(backend.destination_mac, backend.source_mac);
    Verdict::Send { ifindex: backend.ifindex }
}

/// In a packet of our own to the backend, with `HEAD` bytes in front of the client's.
#[inline(always)]
fn tunnel<H: Header, O: Outer, T: Tables, const HEAD: usize>(
    tables: &T,
    packet: Whole<H>,
    hash: FlowHash,
    backend: &Backend,
) -> Verdict {
    let gue = HEAD != O::LENGTH;
    let (class, entropy) = (packet.ip.class(), hash.tag());
    let ends = Ends { source: backend.own, destination: backend.address, class, entropy };
    let inner = Inner { length: packet.length, protocol: H::INNER };
    let Some(frame) = tables.hook().encapsulate::<O>(packet.ip.offset(), gue) else {
        return refuse(tables, Reason::NoHeadroom);
    };
    let written = if gue { write_gue::<O>(frame, &ends, inner) } else { write_ipip::<O>(frame, &ends, inner) };
    match written.and_then(|()| frame_for::<O>(frame, backend)) {
        Some(()) => {
            tables.hook().encapsulated::<HEAD>(frame);
            Verdict::Send { ifindex: backend.ifindex }
        }
        None => refuse(tables, Reason::NoHeadroom),
    }
}

#[inline(always)]
fn frame_for<O: Outer>(frame: Cursor, backend: &Backend) -> Option<()> {
    let ethernet = Ethernet::parse(frame)?;
    ethernet.set_addresses(backend.destination_mac, backend.source_mac);
    ethernet.set_ether_type(O::ETHER_TYPE);
    Some(())
}
