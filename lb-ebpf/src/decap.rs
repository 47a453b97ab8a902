//! At a backend: packets come out of the tunnels that the balancer puts them in (`ipip`, `gue`), and go to the stack as if they
//! had come without. Whatever is not certainly such a packet passes as it is.

use lb_common::decap::{Counter, class_after, mapped};
use lb_common::packet::cursor::Cursor;
use lb_common::packet::ip::{Header, IPIP, IPV6_IN_IP, Ipv4, Ipv6, UDP};
use lb_common::packet::outer::{GUE_PORT, Outer, UDP_LENGTH};
use lb_common::packet::transport::{Transport as _, Udp};
use lb_common::packet::{ETHERNET, Ethernet, IPV4, IPV6};

/// What the steps ask of the world around them.
pub trait Host {
    /// Keys as in [`mapped`].
    fn is_allowed(&self, source: [u32; 4]) -> bool;
    fn is_own(&self, address: [u32; 4]) -> bool;
    fn count(&self, counter: Counter, more: u64);
    /// Takes so many bytes off the front of the frame.
    fn strip(&self, bytes: usize) -> Option<Cursor>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Drop,
}

#[inline(always)]
pub fn decap<W: Host>(host: &W, frame: Cursor) -> Verdict {
    let Some(ethernet) = Ethernet::parse(frame) else {
        return Verdict::Pass;
    };
    match ethernet.ether_type() {
        IPV4 => from_outer::<Ipv4, W>(host, frame, ethernet, mapped),
        IPV6 => from_outer::<Ipv6, W>(host, frame, ethernet, |address| address),
        _ => Verdict::Pass,
    }
}

/// A tunnel's packet, and where in the frame what is inside begins.
#[derive(Clone, Copy)]
struct Tunnel<O> {
    ethernet: Ethernet,
    outer: O,
    kind: Counter,
    inner: usize,
    frame: Cursor,
}

#[inline(always)]
fn from_outer<O: Header, W: Host>(
    host: &W,
    frame: Cursor,
    ethernet: Ethernet,
    key: impl Fn(O::Address) -> [u32; 4],
) -> Verdict {
    let Some(outer) = O::parse(frame, ETHERNET) else {
        return Verdict::Pass;
    };
    // The balancer sends neither options nor fragments.
    if outer.payload_offset() != ETHERNET + O::Outer::LENGTH || outer.is_fragment() {
        return Verdict::Pass;
    }
    let Some((kind, inner, protocol)) = what_is_inside(frame, outer) else {
        return Verdict::Pass;
    };
    // Somebody else's tunnel.
    if !host.is_own(key(outer.destination())) {
        return Verdict::Pass;
    }
    if !host.is_allowed(key(outer.source())) {
        return passed(host, Counter::ForeignSource);
    }
    let tunnel = Tunnel { ethernet, outer, kind, inner, frame };
    match protocol {
        IPIP => unwrap::<O, Ipv4, W>(host, tunnel, mapped, IPV4),
        _ => unwrap::<O, Ipv6, W>(host, tunnel, |address| address, IPV6),
    }
}

/// Kind of tunnel, where the packet inside begins, and its protocol number.
#[inline(always)]
fn what_is_inside<O: Header>(frame: Cursor, outer: O) -> Option<(Counter, usize, u8)> {
    let start = ETHERNET + O::Outer::LENGTH;
    match outer.protocol() {
        protocol @ (IPIP | IPV6_IN_IP) => Some((Counter::Ipip, start, protocol)),
        UDP => {
            let udp = Udp::parse(frame, start)?;
            // One with a checksum is not from a balancer, and would have to be checked.
            if udp.destination_port() != GUE_PORT.to_be() || udp.has_checksum() {
                return None;
            }
            let start = start + UDP_LENGTH;
            match frame.window::<1>(start)?.u8::<0>() >> 4 {
                4 => Some((Counter::Gue, start, IPIP)),
                6 => Some((Counter::Gue, start, IPV6_IN_IP)),
                // Variant 0, which has a header of its own.
                _ => None,
            }
        }
        _ => None,
    }
}

#[inline(always)]
fn unwrap<O: Header, I: Header, W: Host>(
    host: &W,
    tunnel: Tunnel<O>,
    key: impl Fn(I::Address) -> [u32; 4],
    ether_type: u16,
) -> Verdict {
    let Tunnel { ethernet, outer, kind, inner: start, frame } = tunnel;
    let Some(inner) = I::parse(frame, start) else {
        return passed(host, Counter::Malformed);
    };
    if inner.packet_end() < inner.payload_offset()
        || inner.packet_end() > outer.packet_end()
        || outer.packet_end() > frame.len()
    {
        return passed(host, Counter::Malformed);
    }
    // A host that forwards would otherwise forward whatever an allowed source puts into a tunnel.
    if !host.is_own(key(inner.destination())) {
        return passed(host, Counter::Elsewhere);
    }
    let Some(class) = class_after(outer.class(), inner.class()) else {
        host.count(Counter::Congestion, 1);
        return Verdict::Drop;
    };
    if class != inner.class() {
        inner.set_class(class);
    }
    let length = (inner.packet_end() - inner.offset()) as u64;
    let (to, from) = ethernet.addresses();
    let Some(ethernet) = host.strip(start - ETHERNET).and_then(Ethernet::parse) else {
        return Verdict::Drop;
    };
    ethernet.set_addresses(to, from);
    ethernet.set_ether_type(ether_type);
    host.count(kind, 1);
    host.count(Counter::Bytes, length);
    Verdict::Pass
}

#[inline(always)]
fn passed<W: Host>(host: &W, counter: Counter) -> Verdict {
    host.count(counter, 1);
    Verdict::Pass
}
