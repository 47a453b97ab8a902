//! From a frame to a verdict: is it ours, and in which direction does it go?
//!
//! Nothing is done to a packet, and nothing counted, before a look-up has said that it is ours: others' fragments, options,
//! tags and malformed packets pass.

use lb_common::hint::{NOBODY, SHARED};
use lb_common::packet::cursor::Cursor;
use lb_common::packet::ip::{Ipv4, Ipv6, TCP, UDP};
use lb_common::packet::transport::{Tcp, Transport, Udp};
use lb_common::packet::{ETHERNET, Ethernet, IPV4, IPV6, QINQ, VLAN, VLAN_TAG, VlanTag};
use lb_common::reason::Reason;
use lb_common::route::Route;

use crate::hook::Hook as _;
use crate::packet::{Packet, Verdict, refuse};
use crate::tables::{Family, Stage, Tables};
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
        ether_type if is_tagged(tables, ether_type) => look_closer(tables),
        IPV4 => family::<Ipv4, T>(tables, frame, ethernet),
        IPV6 => family::<Ipv6, T>(tables, frame, ethernet),
        _ => Verdict::Pass,
    }
}

/// In a program of its own: packets like that are few, and most are not ours.
#[inline(always)]
fn look_closer<T: Tables>(tables: &T) -> Verdict {
    tables.hook().hand_over(Stage::Unusual);
    Verdict::Pass
}

#[inline(always)]
fn is_tagged<T: Tables>(tables: &T, ether_type: u16) -> bool {
    tables.hook().has_hidden_tag() || matches!(ether_type, VLAN | QINQ)
}

/// What [`balance`] hands over before it knows whether it is ours: tagged frames and ICMP.
#[inline(always)]
pub fn unusual<T: Tables>(tables: &T, frame: Cursor) -> Verdict {
    let Some(ethernet) = Ethernet::parse(frame) else {
        return Verdict::Pass;
    };
    match ethernet.ether_type() {
        ether_type if is_tagged(tables, ether_type) => tagged(tables, frame, ether_type),
        IPV4 => error::<Ipv4, T>(tables, frame, ethernet),
        IPV6 => error::<Ipv6, T>(tables, frame, ethernet),
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn error<H: Family, T: Tables>(tables: &T, frame: Cursor, ethernet: Ethernet) -> Verdict {
    match H::parse(frame, ETHERNET).and_then(|ip| icmp::Error::parse(frame, ethernet, ip)) {
        Some(error) => icmp::forward(tables, &error),
        None => Verdict::Pass,
    }
}

/// A tagged frame passes; it is counted if it is for one of our VIPs. Of its tags one may be hidden, and two in it.
#[inline(always)]
fn tagged<T: Tables>(tables: &T, frame: Cursor, mut ether_type: u16) -> Verdict {
    let mut offset = ETHERNET;
    let mut tags = 0;
    while tags < 2 && matches!(ether_type, VLAN | QINQ) {
        let Some(tag) = VlanTag::parse(frame, offset) else {
            return Verdict::Pass;
        };
        ether_type = tag.ether_type();
        offset += VLAN_TAG;
        tags += 1;
    }
    let offset = tables.opaque(offset) & TAGGED_OFFSETS;
    let ours = match ether_type {
        IPV4 => is_for_vip::<Ipv4, T>(tables, frame, offset),
        IPV6 => is_for_vip::<Ipv6, T>(tables, frame, offset),
        _ => false,
    };
    if ours { refuse(tables, Reason::Vlan) } else { Verdict::Pass }
}

/// All bits of where a packet may begin in its frame.
const TAGGED_OFFSETS: usize = 0x1f;

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
        protocol if protocol == H::ICMP => look_closer(tables),
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
        NOBODY => Verdict::Pass,
        SHARED => tables.hand_over(Stage::Share),
        id => reply::forward(tables, &packet, id),
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
