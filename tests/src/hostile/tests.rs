//! A library that knows the formats reads back what is built by hand, and draws are what their seed says.

use std::collections::BTreeSet;

use etherparse::checksum::Sum16BitWords;
use etherparse::{SlicedPacket, TransportSlice};

use super::*;

const MACS: Macs = Macs { client: [2, 0, 0, 0, 0, 2], balancer: [2, 0, 0, 0, 0, 1] };

fn attacker(seed: u64) -> Attacker {
    let live = vec![(Family::V4, 40_000), (Family::V6, 40_001)];
    Attacker::new(seed, MACS, live)
}

/// The transport checksum that the library computes, and the one in the packet.
fn checksums(bytes: &[u8]) -> (u16, u16) {
    let packet = SlicedPacket::from_ethernet(bytes).expect("a valid frame");
    let (source, destination) = match packet.net.as_ref().expect("an IP header") {
        etherparse::NetSlice::Ipv4(ip) => {
            assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
            (IpAddr::from(ip.header().source()), IpAddr::from(ip.header().destination()))
        }
        etherparse::NetSlice::Ipv6(ip) => (IpAddr::from(ip.header().source()), IpAddr::from(ip.header().destination())),
        other => panic!("not IP: {other:?}"),
    };
    match packet.transport.as_ref().expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            let computed = match (source, destination) {
                (IpAddr::V4(s), IpAddr::V4(d)) => header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload),
                (IpAddr::V6(s), IpAddr::V6(d)) => header.calc_checksum_ipv6_raw(s.octets(), d.octets(), payload),
                other => panic!("two families: {other:?}"),
            };
            (computed.expect("a short payload"), header.checksum)
        }
        TransportSlice::Udp(udp) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            let computed = match (source, destination) {
                (IpAddr::V4(s), IpAddr::V4(d)) => header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload),
                (IpAddr::V6(s), IpAddr::V6(d)) => header.calc_checksum_ipv6_raw(s.octets(), d.octets(), payload),
                other => panic!("two families: {other:?}"),
            };
            (computed.expect("a short payload"), header.checksum)
        }
        // Of an ICMP header the library keeps what the kind defines: sum up the bytes themselves.
        TransportSlice::Icmpv4(icmp) => (Sum16BitWords::new().add_slice(icmp.slice()).ones_complement(), 0),
        TransportSlice::Icmpv6(icmp) => {
            let (IpAddr::V6(s), IpAddr::V6(d)) = (source, destination) else { panic!("ICMPv6 in IPv4") };
            (u16::from(!icmp.is_checksum_valid(s.octets(), d.octets())), 0)
        }
        other => panic!("not expected: {other:?}"),
    }
}

#[test]
fn a_syn_is_valid_and_its_sources_differ() {
    let mut attacker = attacker(1);
    let mut sources = BTreeSet::new();
    for _ in 0..1000 {
        let bytes = attacker.syn();
        let (computed, carried) = checksums(&bytes);
        assert_eq!(computed, carried);
        let packet = SlicedPacket::from_ethernet(&bytes).expect("a valid frame");
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("not TCP") };
        assert!(tcp.syn() && !tcp.ack() && tcp.destination_port() == HTTP_PORT && tcp.source_port() >= 1024);
        sources.insert(bytes[26..42].to_vec());
    }
    assert!(sources.len() > 990, "only {} different sources", sources.len());
}

#[test]
fn plain_frames_are_valid() {
    let mut attacker = attacker(2);
    for _ in 0..1000 {
        let frame = attacker.icmp();
        let (computed, carried) = checksums(&frame.bytes);
        assert_eq!(computed, carried);
        let source = attacker.stranger(Family::V4);
        let payload = attacker.payload();
        let content = Content::Udp { source_port: 5, destination_port: 53, payload };
        let frame = attacker.frame(source, Family::V4.vip(), content, Shape::default());
        let (computed, carried) = checksums(&frame.bytes);
        assert_eq!(computed, carried);
    }
}

#[test]
fn frames_of_live_connections_have_a_wrong_checksum() {
    let mut attacker = attacker(3);
    for _ in 0..1000 {
        let (computed, carried) = checksums(&attacker.borrowed().bytes);
        assert_ne!(computed, carried);
    }
}

#[test]
fn every_shape_has_its_headers_where_they_are_said_to_be() {
    let mut attacker = attacker(4);
    let mut seen = BTreeSet::new();
    for _ in 0..2000 {
        let frame = attacker.unrelated();
        let version = frame.bytes[frame.network] >> 4;
        assert_eq!(version, if frame.family == Family::V4 { 4 } else { 6 });
        let ports = &frame.bytes[frame.transport..frame.transport + 4];
        let source = u16::from_be_bytes([ports[0], ports[1]]);
        let destination = u16::from_be_bytes([ports[2], ports[3]]);
        assert!(NEVER_LIVE.contains(&source), "{source}");
        assert!([HTTP_PORT, DNS_PORT].contains(&destination), "{destination}");
        seen.insert((frame.network, frame.transport - frame.network));
    }
    // Tags from none to three, options of many lengths, with and without a fragment header: 64 at most.
    assert!(seen.len() > 50, "only {} shapes", seen.len());
}

#[test]
fn mutants_fit_the_device_and_repeat_with_their_seed() {
    let (mut one, mut same, mut other) = (attacker(5), attacker(5), attacker(6));
    let mut differ = 0;
    for _ in 0..20_000 {
        let bytes = one.mutant();
        assert!((14..=1514).contains(&bytes.len()), "{}", bytes.len());
        assert_eq!(bytes, same.mutant());
        differ += usize::from(bytes != other.mutant());
    }
    assert!(differ > 19_000);
}
