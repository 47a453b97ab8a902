//! The data plane once more, as plainly as it can be said: what is this frame, what must become of it, and which bytes
//! may differ afterwards. Shares no code with the program but the hash and the table formats.

use anyhow::{Result, bail, ensure};
use lb_agent::model::config::Protocol;
use lb_common::counters::BackendCounters;
use lb_common::flow::{FlowEntry, FlowState};
use lb_common::reason::Reason;
use std::net::{IpAddr, SocketAddr};

use super::frame::{ETHERNET, IPV6, Macs, QUOTE, TCP, Tuple, UDP, flag};
use super::plan::{Host, Link, Reach, Role, Stack};
use super::{Verdict, World};
use crate::lab::address::Family;

/// What must become of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// Passed; nothing counted.
    Untouched,
    /// Not forwarded for a reason.
    Refused(Reason),
    /// Not forwarded for a reason, and its sender is told, if it is not told too much already.
    Answered(Reason),
    /// To the backend, and if it cannot be reached, why.
    Request { host: Host, way: Result<(Verdict, Macs), Reason>, counted: BackendCounters },
    /// Back to the client.
    Reply { host: Host, macs: Macs, counted: BackendCounters },
    /// The routing table decides on an address that only chance has made.
    Unknown,
}

/// Where the parts of a frame are, as far as it has them.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    pub stack: Stack,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// The transport header.
    pub transport: usize,
    /// The end of the packet, by its own account.
    pub end: usize,
    flags: u8,
}

fn byte(frame: &[u8], at: usize) -> usize {
    usize::from(frame[at])
}

fn word(frame: &[u8], at: usize) -> usize {
    byte(frame, at) << 8 | byte(frame, at + 1)
}

/// Addresses and ports, if the frame has a TCP or UDP header that could be somebody's; [`None`] if it cannot be ours.
pub fn parts(frame: &[u8]) -> Option<Parts> {
    let (family, protocol, transport, end) = match word(frame, 12) {
        0x0800 if frame.len() >= ETHERNET + 20 && frame[14] >> 4 == 4 && frame[14] & 15 >= 5 => {
            if word(frame, 20) & 0x1fff != 0 {
                return None;
            }
            (Family::V4, frame[23], ETHERNET + 4 * (byte(frame, 14) & 15), ETHERNET + word(frame, 16))
        }
        0x86dd if frame.len() >= ETHERNET + IPV6 && frame[14] >> 4 == 6 => {
            (Family::V6, frame[20], ETHERNET + IPV6, ETHERNET + IPV6 + word(frame, 18))
        }
        _ => return None,
    };
    let (protocol, header) = match protocol {
        6 => (Protocol::Tcp, TCP),
        17 => (Protocol::Udp, UDP),
        _ => return None,
    };
    if transport + header > frame.len() {
        return None;
    }
    let (source, destination) = match family {
        Family::V4 => (v4(frame, 26), v4(frame, 30)),
        Family::V6 => (v6(frame, 22), v6(frame, 38)),
    };
    let port = |at| u16::from_be_bytes([frame[at], frame[at + 1]]);
    Some(Parts {
        stack: Stack { family, protocol },
        source: SocketAddr::new(source, port(transport)),
        destination: SocketAddr::new(destination, port(transport + 2)),
        transport,
        end,
        flags: if protocol == Protocol::Tcp { frame[transport + 13] } else { 0 },
    })
}

fn v4(frame: &[u8], at: usize) -> IpAddr {
    std::array::from_fn::<u8, 4, _>(|i| frame[at + i]).into()
}

fn v6(frame: &[u8], at: usize) -> IpAddr {
    std::array::from_fn::<u8, 16, _>(|i| frame[at + i]).into()
}

/// What the program must make of the frame in this world.
pub fn predict(world: &World, frame: &[u8]) -> Result<Prediction> {
    if matches!(word(frame, 12), 0x8100 | 0x88a8) {
        return Ok(tagged(frame));
    }
    let Some(parts) = parts(frame) else { return Ok(Prediction::Untouched) };
    if let Some(role) = parts.stack.role_at(parts.destination) {
        return match wrong(frame, &parts) {
            Some(reason) => Ok(refused(frame, &parts, reason)),
            None => request(world, frame, &parts, role),
        };
    }
    let Some(host) = parts.stack.host_at(parts.source) else { return Ok(Prediction::Untouched) };
    let tuple = Tuple { protocol: parts.stack.protocol, source: parts.destination, destination: host.vip };
    let known = world.entry(tuple)?.is_some_and(|entry| entry.backend() == host.id);
    let pushed_out = !known && world.is_full(tuple)? && slot(world, &parts, host, tuple) == host.id;
    if !known && !pushed_out {
        return Ok(Prediction::Untouched);
    }
    if let Some(reason) = wrong(frame, &parts) {
        return Ok(Prediction::Refused(reason));
    }
    if parts.destination.ip() != parts.stack.family.client() {
        return Ok(Prediction::Unknown);
    }
    let mut counted =
        BackendCounters { reply_packets: 1, reply_bytes: frame.len() as u64, ..BackendCounters::default() };
    counted.resets = u64::from(parts.flags & flag::RST != 0);
    Ok(Prediction::Reply { host, macs: world.hop(Link::Client).1, counted })
}

/// A frame with a tag, or two: it passes in any case.
fn tagged(frame: &[u8]) -> Prediction {
    let mut untagged = frame.to_vec();
    for _ in 0..2 {
        if untagged.len() >= 18 && (untagged.len() == frame.len() || word(&untagged, 12) == 0x8100) {
            untagged.drain(12..16);
        }
    }
    match (untagged.len() >= 14).then(|| parts(&untagged)).flatten() {
        Some(parts) if parts.stack.role_at(parts.destination).is_some() => Prediction::Refused(Reason::Vlan),
        _ => Prediction::Untouched,
    }
}

/// What no sender of good will makes, and what is not forwarded.
fn wrong(frame: &[u8], parts: &Parts) -> Option<Reason> {
    let v4 = parts.stack.family == Family::V4;
    if v4 && word(frame, 20) & 0x2000 != 0 {
        return Some(Reason::Fragment);
    }
    let Some(room) = parts.end.checked_sub(parts.transport) else { return Some(Reason::Malformed) };
    let fits = match parts.stack.protocol {
        Protocol::Tcp => (TCP..=room).contains(&(byte(frame, parts.transport + 12) / 16 * 4)),
        Protocol::Udp => (UDP..=room).contains(&word(frame, parts.transport + 4)),
    };
    if parts.end > frame.len() || !fits {
        return Some(Reason::Malformed);
    }
    if parts.stack.is_tcp() {
        let has = |bits: u8| parts.flags & bits != 0;
        let none = !has(flag::SYN | flag::ACK | flag::FIN | flag::RST);
        if none || has(flag::SYN) && has(flag::FIN | flag::RST) {
            return Some(Reason::TcpFlags);
        }
    }
    if parts.source.ip() == parts.destination.ip() {
        return Some(Reason::Land);
    }
    let is_host = match parts.source.ip() {
        IpAddr::V4(source) => !matches!(source.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(source) => !(source.is_multicast() || source.is_unspecified() || source.is_loopback()),
    };
    if !is_host {
        return Some(Reason::Martian);
    }
    (frame[if v4 { 22 } else { 21 }] <= 1).then_some(Reason::TtlExpired)
}

/// A client's packet that is not forwarded: whether it is answered.
fn refused(frame: &[u8], parts: &Parts, reason: Reason) -> Prediction {
    let plain = parts.stack.family == Family::V6 || frame[ETHERNET] == 0x45;
    let answered = match reason {
        Reason::NoBackend if parts.stack.is_tcp() => parts.flags & flag::RST == 0,
        Reason::NoBackend | Reason::TtlExpired => plain,
        _ => false,
    };
    if answered { Prediction::Answered(reason) } else { Prediction::Refused(reason) }
}

fn request(world: &World, frame: &[u8], parts: &Parts, role: Role) -> Result<Prediction> {
    let tuple = Tuple { protocol: parts.stack.protocol, source: parts.source, destination: parts.destination };
    let hosts = parts.stack.hosts(role);
    let opens = parts.flags & (flag::SYN | flag::ACK) == flag::SYN;
    let remembered = world.entry(tuple)?.filter(|entry: &FlowEntry| {
        let ours = hosts.iter().any(|host| host.id == entry.backend());
        ours && !(opens && entry.state() == Some(FlowState::Closing))
    });
    let mut counted = BackendCounters { packets: 1, bytes: frame.len() as u64, ..BackendCounters::default() };
    let id = match remembered {
        Some(entry) => entry.backend(),
        None => {
            let slots = parts.stack.slots(role);
            let id = slots[world.hash(tuple).slot(u32::try_from(slots.len())?) as usize];
            counted.new_flows = u64::from(parts.flags & (flag::FIN | flag::RST) == 0);
            id
        }
    };
    let Some(host) = hosts.into_iter().find(|host| host.id == id) else {
        return Ok(refused(frame, parts, Reason::NoBackend));
    };
    // The routing table may look at the source too, and refuse strange ones.
    if !matches!(host.reach, Reach::Entry(_)) && parts.source.ip() != parts.stack.family.client() {
        return Ok(Prediction::Unknown);
    }
    Ok(Prediction::Request { host, way: world.way(&host, parts.end - ETHERNET), counted })
}

fn slot(world: &World, parts: &Parts, host: Host, tuple: Tuple) -> u16 {
    let role = Role::ALL.into_iter().find(|role| parts.stack.service(*role) == host.service);
    let slots = parts.stack.slots(role.expect("hosts come from the plan"));
    slots[world.hash(tuple).slot(u32::try_from(slots.len()).expect("a small table")) as usize]
}

/// Which end of a packet is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// Whether the frame is the same but for what NAT has to change, and its checksums are as right or as wrong as they were:
/// the one's complement sum over all that they cover is what it was, so it is whole if and only if it was.
pub fn check_rewrite(before: &[u8], after: &[u8], side: Side, address: SocketAddr, macs: Option<Macs>) -> Result<()> {
    ensure!(before.len() == after.len(), "{} bytes became {}", before.len(), after.len());
    let (Some(old), Some(new)) = (parts(before), parts(after)) else { bail!("not TCP or UDP any more") };
    let (at, length, hops) = match (old.stack.family, side) {
        (Family::V4, Side::Source) => (26, 4, 22),
        (Family::V4, Side::Destination) => (30, 4, 22),
        (Family::V6, Side::Source) => (22, 16, 21),
        (Family::V6, Side::Destination) => (38, 16, 21),
    };
    let port = old.transport + if side == Side::Source { 0 } else { 2 };
    let sum_at = old.transport + if old.stack.is_tcp() { 16 } else { 6 };
    let mut allowed = vec![0..12, at..at + length, hops..hops + 1, port..port + 2, sum_at..sum_at + 2];
    if old.stack.family == Family::V4 {
        allowed.push(24..26);
    }
    for i in (0..before.len()).filter(|i| before[*i] != after[*i]) {
        ensure!(allowed.iter().any(|range| range.contains(&i)), "byte {i} was {:02x}, is {:02x}", before[i], after[i]);
    }
    let rewritten = if side == Side::Source { new.source } else { new.destination };
    ensure!(rewritten == address, "rewritten to {rewritten} instead of {address}");
    ensure!(after[hops] == before[hops] - 1, "{} hops became {}", before[hops], after[hops]);
    let expected = macs.map_or(before[..12].to_vec(), |macs| [macs.destination, macs.source].concat());
    ensure!(after[..12] == expected, "hardware addresses {:02x?} instead of {expected:02x?}", &after[..12]);
    if old.stack.family == Family::V4 {
        let header = |frame: &[u8]| sum(&frame[ETHERNET..old.transport]);
        ensure!(header(before) == header(after), "the IPv4 header checksum is not what it was");
    }
    if !old.stack.is_tcp() && word(before, sum_at) == 0 {
        ensure!(word(after, sum_at) == 0, "a UDP checksum where there was none");
        return Ok(());
    }
    ensure!(old.stack.is_tcp() || word(after, sum_at) != 0, "a UDP checksum got lost");
    let covered = |frame: &[u8]| {
        let addresses = if old.stack.family == Family::V4 { 26..34 } else { 22..54 };
        sum(&[&frame[addresses], &frame[old.transport..]].concat())
    };
    ensure!(covered(before) == covered(after), "the transport checksum is not what it was");
    Ok(())
}

/// Whether `after` tells the sender of `before`, as the VIP, that packets of `mtu` bytes fit, and quotes what it has sent.
pub fn check_too_big(before: &[u8], after: &[u8], mtu: u32) -> Result<()> {
    let v4 = before[12..14] == [8, 0];
    check_error(before, after, if v4 { [1, 3, 4] } else { [58, 2, 0] }, mtu, QUOTE)
}

/// Whether `after` tells the sender of `before`, as the VIP, why it was not forwarded.
pub fn check_answer(before: &[u8], after: &[u8], reason: Reason) -> Result<()> {
    let Some(old) = parts(before) else { bail!("not TCP or UDP") };
    let v4 = old.stack.family == Family::V4;
    let quoted = old.transport - ETHERNET + if old.stack.is_tcp() { TCP } else { UDP };
    match (reason, old.stack.is_tcp()) {
        (Reason::TtlExpired, _) => check_error(before, after, if v4 { [1, 11, 0] } else { [58, 3, 0] }, 0, quoted),
        (Reason::NoBackend, false) => check_error(before, after, if v4 { [1, 3, 3] } else { [58, 1, 4] }, 0, quoted),
        (Reason::NoBackend, true) => check_reset(before, after, &old),
        _ => bail!("{reason:?} is not answered"),
    }
}

/// A reset of the connection that `before` belongs to.
fn check_reset(before: &[u8], after: &[u8], old: &Parts) -> Result<()> {
    check_turned_around(before, after)?;
    let Some(new) = parts(after) else { bail!("not TCP") };
    ensure!(new.stack == old.stack && new.end == after.len() && new.end - new.transport == TCP, "no bare TCP header");
    ensure!((new.source, new.destination) == (old.destination, old.source), "it is not turned around");
    let number = |frame: &[u8], at: usize| u32::from_be_bytes(std::array::from_fn(|i| frame[at + i]));
    let header = byte(before, old.transport + 12) / 16 * 4;
    let data = u32::try_from(old.end - old.transport - header)?;
    let has = |bit: u8| old.flags & bit != 0;
    let expected = if has(flag::ACK) {
        (number(before, old.transport + 8), 0, flag::RST)
    } else {
        let controls = u32::from(has(flag::SYN)) + u32::from(has(flag::FIN));
        (0, number(before, old.transport + 4).wrapping_add(data + controls), flag::RST | flag::ACK)
    };
    let found = (number(after, new.transport + 4), number(after, new.transport + 8), new.flags);
    ensure!(found == expected, "sequence, acknowledgment and flags {found:x?} instead of {expected:x?}");
    ensure!(covered(after, new.transport, 6) == 0, "the segment's checksum");
    Ok(())
}

/// Hardware addresses and IP addresses, and the IPv4 header's checksum and the length.
fn check_turned_around(before: &[u8], after: &[u8]) -> Result<()> {
    ensure!(after[..12] == [&before[6..12], &before[..6]].concat(), "hardware addresses {:02x?}", &after[..12]);
    ensure!(after[12..14] == before[12..14], "another EtherType");
    let v4 = before[12..14] == [8, 0];
    let addresses = if v4 { 26..34 } else { 22..54 };
    let half = addresses.len() / 2;
    let (old_source, old_destination) = before[addresses.clone()].split_at(half);
    let (new_source, new_destination) = after[addresses].split_at(half);
    ensure!((new_source, new_destination) == (old_destination, old_source), "it is not turned around");
    if v4 {
        ensure!(sum(&after[ETHERNET..ETHERNET + 20]) == 0, "the header's checksum");
        ensure!(ETHERNET + word(after, 16) == after.len(), "the header's length");
    } else {
        ensure!(ETHERNET + IPV6 + word(after, 18) == after.len(), "the header's length");
    }
    Ok(())
}

/// An ICMP error of this protocol, type and code, with the `quoted` first bytes of the packet.
fn check_error(before: &[u8], after: &[u8], kind: [u8; 3], mtu: u32, quoted: usize) -> Result<()> {
    check_turned_around(before, after)?;
    let v4 = before[12..14] == [8, 0];
    let message = ETHERNET + if v4 { 20 } else { IPV6 };
    let protocol = after[if v4 { 23 } else { 20 }];
    ensure!([protocol, after[message], after[message + 1]] == kind, "another message than {kind:?}");
    ensure!(word(after, message + 4) == 0 && word(after, message + 6) == mtu as usize, "another MTU");
    let quote = &after[message + 8..];
    ensure!(quote.len() == quoted, "{} bytes are quoted", quote.len());
    ensure!(quote == &before[ETHERNET..ETHERNET + quote.len()], "it quotes something else");
    let right = if v4 { sum(&after[message..]) } else { covered(after, message, protocol) };
    ensure!(right == 0, "the message's checksum");
    Ok(())
}

/// The sum that the checksum of a transport at `offset` makes zero.
fn covered(frame: &[u8], offset: usize, protocol: u8) -> u64 {
    let addresses = if frame[12..14] == [8, 0] { 26..34 } else { 22..54 };
    let length = u32::try_from(frame.len() - offset).expect("frames are small").to_be_bytes();
    sum(&[&frame[addresses], &length, &[0, 0, 0, protocol], &frame[offset..]].concat())
}

/// One's complement sum (RFC 1071), both zeroes being one.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low)));
    words.sum::<u64>() % 0xffff
}
