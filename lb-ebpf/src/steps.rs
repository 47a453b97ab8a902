//! From a frame to a verdict: is it ours, and in which direction does it go?
//!
//! Nothing is done to a packet, and nothing counted, before a look-up has said that it is ours: others' fragments, options,
//! tags and malformed packets pass.

use lb_common::packet::cursor::Cursor;
use lb_common::packet::ip::{Ipv4, Ipv6, TCP, UDP};
use lb_common::packet::transport::{Tcp, Transport, Udp};
use lb_common::packet::{ETHERNET, Ethernet, IPV4, IPV6, QINQ, VLAN, VLAN_TAG, VlanTag};
use lb_common::reason::Reason;
use lb_common::route::Route;

use crate::hook::Hook as _;
use crate::packet::{Packet, Verdict, refuse};
use crate::tables::{Family, Tables};
use crate::{icmp, reply, request, snat};

const NOT_OURS: u32 = Route::NotOurs.pack();

/// What [`balance`] would do with a packet from a client, without doing it: a packed [`Route`].
#[inline(always)]
pub fn route<T: Tables>(tables: &T, frame: Cursor) -> u32 {
    let Some(ethernet) = Ethernet::parse(frame) else {
        return NOT_OURS;
    };
    match ethernet.ether_type() {
        IPV4 => route_family::<Ipv4, T>(tables, frame, ethernet),
        IPV6 => route_family::<Ipv6, T>(tables, frame, ethernet),
        _ => NOT_OURS,
    }
}

#[inline(always)]
fn route_family<H: Family, T: Tables>(tables: &T, frame: Cursor, ethernet: Ethernet) -> u32 {
    let Some(ip) = H::parse(frame, ETHERNET) else {
        return NOT_OURS;
    };
    match ip.protocol() {
        TCP => route_transport::<H, Tcp, T>(tables, frame, ethernet, ip),
        UDP => route_transport::<H, Udp, T>(tables, frame, ethernet, ip),
        _ => NOT_OURS,
    }
}

#[inline(always)]
fn route_transport<H: Family, P: Transport, T: Tables>(tables: &T, frame: Cursor, ethernet: Ethernet, ip: H) -> u32 {
    let Some(transport) = P::parse(frame, ip.payload_offset()) else {
        return NOT_OURS;
    };
    match H::service(tables, ip.destination(), transport.destination_port(), P::PROTOCOL) {
        Some(service) => request::route(tables, &Packet { ethernet, ip, transport, frame }, service),
        None => NOT_OURS,
    }
}

#[inline(always)]
pub fn balance<T: Tables>(tables: &T, frame: Cursor) -> Verdict {
    let Some(ethernet) = Ethernet::parse(frame) else {
        return Verdict::Pass;
    };
    match ethernet.ether_type() {
        ether_type if tables.hook().has_hidden_tag() => tagged(tables, frame, ETHERNET, ether_type),
        IPV4 => family::<Ipv4, T>(tables, frame, ethernet),
        IPV6 => family::<Ipv6, T>(tables, frame, ethernet),
        VLAN | QINQ => match VlanTag::parse(frame, ETHERNET) {
            Some(tag) => tagged(tables, frame, ETHERNET + VLAN_TAG, tag.ether_type()),
            None => Verdict::Pass,
        },
        _ => Verdict::Pass,
    }
}

/// A tagged frame passes; it is counted if it is for one of our VIPs. `offset` is behind its tag, where there may be another.
#[inline(always)]
fn tagged<T: Tables>(tables: &T, frame: Cursor, mut offset: usize, mut ether_type: u16) -> Verdict {
    if ether_type == VLAN {
        let Some(inner) = VlanTag::parse(frame, offset) else {
            return Verdict::Pass;
        };
        ether_type = inner.ether_type();
        offset += VLAN_TAG;
    }
    let ours = match ether_type {
        IPV4 => is_for_vip::<Ipv4, T>(tables, frame, offset),
        IPV6 => is_for_vip::<Ipv6, T>(tables, frame, offset),
        _ => false,
    };
    if ours { refuse(tables, Reason::Vlan) } else { Verdict::Pass }
}

#[inline(always)]
fn is_for_vip<H: Family, T: Tables>(tables: &T, frame: Cursor, offset: usize) -> bool {
    let Some(ip) = H::parse(frame, offset) else {
        return false;
    };
    if ip.is_later_fragment() {
        return false;
    }
    let offset = ip.payload_offset();
    let port = match ip.protocol() {
        TCP => Tcp::parse(frame, offset).map(Transport::destination_port),
        UDP => Udp::parse(frame, offset).map(Transport::destination_port),
        _ => None,
    };
    port.is_some_and(|port| H::service(tables, ip.destination(), port, ip.protocol()).is_some())
}

#[inline(always)]
fn family<H: Family, T: Tables>(tables: &T, frame: Cursor, ethernet: Ethernet) -> Verdict {
    let Some(ip) = H::parse(frame, ETHERNET) else {
        return Verdict::Pass;
    };
    // A later fragment has no ports: what stands in their place must not be taken for some.
    if ip.is_later_fragment() {
        return Verdict::Pass;
    }
    match ip.protocol() {
        TCP => direction::<H, Tcp, T>(tables, frame, ethernet, ip),
        UDP => direction::<H, Udp, T>(tables, frame, ethernet, ip),
        protocol if protocol == H::ICMP => match icmp::Error::parse(frame, ethernet, ip) {
            Some(error) => icmp::forward(tables, &error),
            None => Verdict::Pass,
        },
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn direction<H: Family, P: Transport, T: Tables>(tables: &T, frame: Cursor, ethernet: Ethernet, ip: H) -> Verdict {
    let Some(transport) = P::parse(frame, ip.payload_offset()) else {
        return Verdict::Pass;
    };
    let packet = Packet { ethernet, ip, transport, frame };
    if let Some(service) = H::service(tables, ip.destination(), transport.destination_port(), P::PROTOCOL) {
        return request::forward(tables, &packet, service);
    }
    match H::endpoint(tables, ip.source(), transport.source_port(), P::PROTOCOL) {
        Some(owners) => reply::forward(tables, &packet, owners),
        None => Verdict::Pass,
    }
}

/// Clients' packets that [`balance`] hands over: they are lent a port of this host.
#[inline(always)]
pub fn lend<T: Tables>(tables: &T, frame: Cursor) -> Verdict {
    go_on::<T, true>(tables, frame)
}

/// Backends' packets that [`balance`] hands over: several services, or ports of this host, may be behind them.
#[inline(always)]
pub fn share<T: Tables>(tables: &T, frame: Cursor) -> Verdict {
    go_on::<T, false>(tables, frame)
}

#[inline(always)]
fn go_on<T: Tables, const LEND: bool>(tables: &T, frame: Cursor) -> Verdict {
    let Some(ethernet) = Ethernet::parse(frame) else {
        return Verdict::Pass;
    };
    match ethernet.ether_type() {
        IPV4 => go_on_family::<Ipv4, T, LEND>(tables, frame, ethernet),
        IPV6 => go_on_family::<Ipv6, T, LEND>(tables, frame, ethernet),
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn go_on_family<H: Family, T: Tables, const LEND: bool>(tables: &T, frame: Cursor, ethernet: Ethernet) -> Verdict {
    let Some(ip) = H::parse(frame, ETHERNET) else {
        return Verdict::Pass;
    };
    match ip.protocol() {
        TCP => go_on_transport::<H, Tcp, T, LEND>(tables, frame, ethernet, ip),
        UDP => go_on_transport::<H, Udp, T, LEND>(tables, frame, ethernet, ip),
        protocol if protocol == H::ICMP => match icmp::Error::parse(frame, ethernet, ip) {
            Some(error) if LEND => icmp::lend(tables, &error),
            Some(error) => icmp::share(tables, &error),
            None => Verdict::Pass,
        },
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn go_on_transport<H: Family, P: Transport, T: Tables, const LEND: bool>(
    tables: &T,
    frame: Cursor,
    ethernet: Ethernet,
    ip: H,
) -> Verdict {
    let Some(transport) = P::parse(frame, ip.payload_offset()) else {
        return Verdict::Pass;
    };
    let packet = Packet { ethernet, ip, transport, frame };
    if LEND { snat::forward(tables, &packet) } else { reply::share(tables, &packet) }
}
