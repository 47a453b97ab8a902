//! Valid frames, built byte by byte: what a library refuses to build (options of noise, fragments of nothing, three
//! tags) is just what is wanted here. The tests let a library read the plain ones back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Macs;
use crate::lab::address::Family;

/// Bits of the TCP header.
pub(super) mod flag {
    pub(in crate::hostile) const SYN: u8 = 0x02;
    pub(in crate::hostile) const ACK: u8 = 0x10;
}

pub(super) const ETHERNET_LENGTH: usize = 14;
const VLAN_LENGTH: usize = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;
const TTL: u8 = 64;

/// A frame, and where its parts begin, for whoever wants to hit them.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) bytes: Vec<u8>,
    /// Offset of the IP header.
    pub(super) network: usize,
    /// Offset of the TCP, UDP or ICMP header.
    pub(super) transport: usize,
    pub(super) family: Family,
    /// Offset of the transport checksum.
    checksum: usize,
}

impl Frame {
    /// Makes the transport checksum wrong for good: no part of it, nor the whole, can be taken for right.
    pub(super) fn spoil_checksum(&mut self) {
        for byte in &mut self.bytes[self.checksum..self.checksum + 2] {
            *byte ^= 0x55;
        }
    }
}

/// Everything above Ethernet.
pub(super) struct Network {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) content: Content,
    pub(super) shape: Shape,
}

pub(super) enum Content {
    Tcp { source_port: u16, destination_port: u16, flags: u8, sequence: u32, acknowledgement: u32, payload: Vec<u8> },
    Udp { source_port: u16, destination_port: u16, payload: Vec<u8> },
    Icmp { kind: u8, code: u8, rest: [u8; 4], payload: Vec<u8> },
}

/// What is around and between the headers.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// VLAN identifiers, the outermost first.
    pub(super) tags: Vec<u16>,
    /// IPv4 options, or the content of an IPv6 destination options header; a multiple of four bytes, 40 at most.
    pub(super) options: Vec<u8>,
    /// Offset in units of 8 bytes, and whether more follows.
    pub(super) fragment: Option<(u16, bool)>,
}

/// A source that no packet from a network may have: LAND aside, the classic martian of each family.
pub(super) fn strange_source(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

pub(super) fn build(macs: Macs, packet: &Network) -> Frame {
    let family = if packet.destination.is_ipv4() { Family::V4 } else { Family::V6 };
    let mut bytes = [macs.balancer, macs.client].concat();
    for (depth, tag) in packet.shape.tags.iter().enumerate() {
        let outermost_of_several = depth == 0 && packet.shape.tags.len() > 1;
        let kind: u16 = if outermost_of_several { 0x88a8 } else { 0x8100 };
        bytes.extend(kind.to_be_bytes());
        bytes.extend(tag.to_be_bytes());
    }
    let kind: u16 = match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    };
    bytes.extend(kind.to_be_bytes());
    let network = bytes.len();
    debug_assert_eq!(network, ETHERNET_LENGTH + VLAN_LENGTH * packet.shape.tags.len());
    let upper = network_bytes(packet);
    let content = content_bytes(packet);
    let transport = network + upper.len() - content.len();
    let checksum = transport
        + match packet.content {
            Content::Tcp { .. } => 16,
            Content::Udp { .. } => 6,
            Content::Icmp { .. } => 2,
        };
    bytes.extend(upper);
    Frame { bytes, network, transport, family, checksum }
}

/// The IP packet without a frame around it.
pub(super) fn network_bytes(packet: &Network) -> Vec<u8> {
    let content = content_bytes(packet);
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(packet, source, destination, &content),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(packet, source, destination, &content),
        _ => unreachable!("both addresses are drawn from one family"),
    }
}

fn ipv4(packet: &Network, source: Ipv4Addr, destination: Ipv4Addr, content: &[u8]) -> Vec<u8> {
    let options = &packet.shape.options;
    let words = u8::try_from(5 + options.len() / 4).expect("at most ten words of options");
    let length = length16(20 + options.len() + content.len());
    let fragment = packet.shape.fragment.map_or(0, |(offset, more)| offset | (u16::from(more) << 13));
    let mut bytes = vec![0x40 | words, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([TTL, protocol(&packet.content, Family::V4), 0, 0]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(options);
    let checksum = checksum(&[&bytes]);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes.extend(content);
    bytes
}

fn ipv6(packet: &Network, source: Ipv6Addr, destination: Ipv6Addr, content: &[u8]) -> Vec<u8> {
    let mut next = protocol(&packet.content, Family::V6);
    let mut extensions = Vec::new();
    if let Some((offset, more)) = packet.shape.fragment {
        extensions.extend([next, 0]);
        extensions.extend(((offset << 3) | u16::from(more)).to_be_bytes());
        extensions.extend([0x12, 0x34, 0x56, 0x78]);
        next = FRAGMENT;
    }
    if !packet.shape.options.is_empty() {
        // Two bytes of header and the noise, filled up to a multiple of eight.
        let units = (2 + packet.shape.options.len()).div_ceil(8);
        let mut header = vec![next, u8::try_from(units - 1).expect("at most forty bytes of options")];
        header.extend(&packet.shape.options);
        header.resize(units * 8, 0);
        extensions.splice(0..0, header);
        next = DESTINATION_OPTIONS;
    }
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length16(extensions.len() + content.len()).to_be_bytes());
    bytes.extend([next, TTL]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(extensions);
    bytes.extend(content);
    bytes
}

fn protocol(content: &Content, family: Family) -> u8 {
    match (content, family) {
        (Content::Tcp { .. }, _) => TCP,
        (Content::Udp { .. }, _) => UDP,
        (Content::Icmp { .. }, Family::V4) => ICMP,
        (Content::Icmp { .. }, Family::V6) => ICMP6,
    }
}

/// The transport header and what follows, its checksum right.
fn content_bytes(packet: &Network) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (checksum_at, payload) = match &packet.content {
        Content::Tcp { source_port, destination_port, flags, sequence, acknowledgement, payload } => {
            bytes.extend(source_port.to_be_bytes());
            bytes.extend(destination_port.to_be_bytes());
            bytes.extend(sequence.to_be_bytes());
            bytes.extend(acknowledgement.to_be_bytes());
            bytes.extend([0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
            (16, payload)
        }
        Content::Udp { source_port, destination_port, payload } => {
            bytes.extend(source_port.to_be_bytes());
            bytes.extend(destination_port.to_be_bytes());
            bytes.extend(length16(8 + payload.len()).to_be_bytes());
            bytes.extend([0, 0]);
            (6, payload)
        }
        Content::Icmp { kind, code, rest, payload } => {
            bytes.extend([*kind, *code, 0, 0]);
            bytes.extend(rest);
            (2, payload)
        }
    };
    bytes.extend(payload);
    let sum = match (packet.source, packet.destination, &packet.content) {
        (IpAddr::V4(_), _, Content::Icmp { .. }) => checksum(&[&bytes]),
        (source, destination, content) => {
            checksum(&[&pseudo_header(source, destination, content, bytes.len()), &bytes])
        }
    };
    bytes[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// RFC 768 and RFC 8200: what the transport checksum covers beside the transport itself.
fn pseudo_header(source: IpAddr, destination: IpAddr, content: &Content, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut family = Family::V4;
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => {
                bytes.extend(address.octets());
                family = Family::V6;
            }
        }
    }
    bytes.extend([0, protocol(content, family)]);
    bytes.extend(length16(length).to_be_bytes());
    bytes
}

/// RFC 1071, over parts of which all but the last have even lengths.
pub(super) fn checksum(parts: &[&[u8]]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = parts.iter().flat_map(|part| part.chunks(2)).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

fn length16(length: usize) -> u16 {
    u16::try_from(length).expect("a packet of this module stays below 64 KiB")
}
