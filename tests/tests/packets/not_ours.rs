//! Frames that are none of ours: they pass byte for byte, and no counter moves.

use std::net::SocketAddr;

use lb_common::reason::Reason;
use lb_tests::lab::address::Family;
use lb_tests::packets::frame::{ETHERNET, IPV4, IPV6, inserted, patched};
use lb_tests::packets::plan::{STACKS, TCP4, TCP6, UDP4, UDP6};
use lb_tests::packets::{Frame, Role, Row, Stack, Verdict, check_table, flag, with_world};

use crate::requests::{opening, to};

const V4_PROTOCOL: usize = ETHERNET + 9;
const V6_NEXT_HEADER: usize = ETHERNET + 6;

/// Other kinds of frames.
fn ethernet() -> Vec<Row> {
    let syn = || opening(TCP4, Role::Web, 7000).build();
    let of_type = |name: &str, kind: u16| Row::untouched(name, patched(syn(), 12, &kind.to_be_bytes()));
    let mut request = vec![0xff; 6];
    request.extend([2, 0, 0, 0, 0xaa, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0xaa, 2, 10, 77, 1, 2]);
    request.extend([0, 0, 0, 0, 0, 0, 10, 77, 0, 100]);
    vec![
        Row::untouched("an ARP request for the VIP", request),
        of_type("an LLC frame", 60),
        of_type("an LLC frame of the greatest length", 0x05dc),
        of_type("LLDP", 0x88cc),
        of_type("MPLS", 0x8847),
        of_type("PPPoE", 0x8864),
        of_type("a QinQ tag of the old kind", 0x9100),
        of_type("IPv6 by EtherType, IPv4 by content", 0x86dd),
        Row::untouched(
            "IPv4 by EtherType, IPv6 by content",
            patched(opening(TCP6, Role::Web, 7000).build(), 12, &[8, 0]),
        ),
        Row::untouched("nothing but an Ethernet header of IPv4", syn()[..ETHERNET].to_vec()),
        Row::untouched("zeroes", vec![0; 60]),
        Row::untouched("ones", vec![0xff; 1514]),
    ]
}

/// IP packets of other kinds, and IP headers that are none.
fn internet() -> Vec<Row> {
    let mut rows = Vec::new();
    let kinds = [(1, "ICMP"), (2, "IGMP"), (4, "IPIP"), (41, "IPv6 in it"), (47, "GRE"), (50, "ESP"), (132, "SCTP")];
    for (number, name) in kinds {
        for (stack, at) in [(TCP4, V4_PROTOCOL), (TCP6, V6_NEXT_HEADER)] {
            let frame = patched(opening(stack, Role::Web, 7100).build(), at, &[number]);
            rows.push(Row::untouched(format!("{} to the VIP, {:?}", name, stack.family), frame));
        }
    }
    for version in (0..16).filter(|version| *version != 4) {
        let frame = patched(opening(TCP4, Role::Web, 7200).build(), ETHERNET, &[version << 4 | 5]);
        rows.push(Row::untouched(format!("version {version} where IPv4 is said"), frame));
    }
    for version in (0..16).filter(|version| *version != 6) {
        let frame = patched(opening(TCP6, Role::Web, 7200).build(), ETHERNET, &[version << 4]);
        rows.push(Row::untouched(format!("version {version} where IPv6 is said"), frame));
    }
    for words in 0..5 {
        let frame = patched(opening(TCP4, Role::Web, 7300).build(), ETHERNET, &[0x40 | words]);
        rows.push(Row::untouched(format!("an IPv4 header of {words} words"), frame));
    }
    let options_past_the_end = patched(opening(TCP4, Role::Web, 7300).build(), ETHERNET, &[0x4f]);
    rows.push(Row::untouched("options that leave no room for ports", options_past_the_end));
    rows
}

/// Each extension header in front of a segment that would be ours without it, and the fragment header among them.
fn extensions() -> Vec<Row> {
    let headers: [(&str, u8, &[u8]); 6] = [
        ("hop-by-hop options", 0, &[6, 0, 1, 4, 0, 0, 0, 0]),
        ("a routing header", 43, &[6, 0, 4, 0, 0, 0, 0, 0]),
        ("a first fragment", 44, &[6, 0, 0, 1, 0, 0, 0, 9]),
        ("a later fragment", 44, &[6, 0, 0, 8, 0, 0, 0, 9]),
        ("an authentication header", 51, &[6, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
        ("destination options", 60, &[6, 0, 1, 4, 0, 0, 0, 0]),
    ];
    let row = |(name, number, header): (&str, u8, &[u8])| {
        let frame = opening(TCP6, Role::Web, 7400).build();
        let length = u16::try_from(frame.len() - ETHERNET - IPV6 + header.len()).expect("a small packet");
        let frame = patched(frame, ETHERNET + 4, &length.to_be_bytes());
        let frame = patched(frame, V6_NEXT_HEADER, &[number]);
        Row::untouched(format!("IPv6 with {name}"), inserted(frame, ETHERNET + IPV6, header))
    };
    headers.into_iter().map(row).collect()
}

/// Well-formed and malformed packets for others.
fn addresses(stack: Stack) -> Vec<Row> {
    let vip = stack.vip(Role::Web);
    let elsewhere = |name: &str, destination: SocketAddr| {
        let frame = Frame::new(stack, stack.client(7500), destination).flags(flag::SYN).payload(5);
        Row::untouched(format!("{}: {name}", stack.name()), frame.build())
    };
    let multicast = if stack.family == Family::V4 { "224.0.0.1" } else { "ff02::1" };
    let mapped = if stack.family == Family::V4 { "0.0.0.0" } else { "::ffff:10.77.0.100" };
    let other = SocketAddr::new(stack.family.far_client(1), vip.port());
    let at = |address: &str| SocketAddr::new(address.parse().expect("an address"), vip.port());
    let to_other = || Frame::new(stack, stack.client(7501), other);
    let mut rows = vec![
        elsewhere("another port of the VIP", SocketAddr::new(vip.ip(), 7)),
        elsewhere("port 0 of the VIP", SocketAddr::new(vip.ip(), 0)),
        elsewhere("the port with its bytes swapped", SocketAddr::new(vip.ip(), vip.port().swap_bytes())),
        elsewhere("another address", other),
        elsewhere("a multicast address", at(multicast)),
        elsewhere("an address like the VIP", at(mapped)),
        elsewhere("a backend", stack.host(Role::Web).address),
        elsewhere("the balancer itself", SocketAddr::new(stack.family.balancer(), 22)),
    ];
    let mut pass = |name: &str, frame: Vec<u8>| {
        rows.push(Row::untouched(format!("{}: {name}", stack.name()), frame));
    };
    pass("for somebody else, without hops", to_other().hops(0).build());
    pass("for somebody else, with strange flags", to_other().flags(0xff).build());
    pass("for somebody else, with a wrong length", patched(to_other().build(), ETHERNET + 3, &[0xee]));
    let from_vip = Frame::new(stack, vip, stack.client(7502));
    pass("from the VIP", from_vip.build());
    let from_port_of_backend = SocketAddr::new(other.ip(), stack.host(Role::Web).address.port());
    pass("from somebody with a backend's port", Frame::new(stack, from_port_of_backend, stack.client(7503)).build());
    rows
}

/// The other protocol's service has no claim on these.
fn protocols() -> Vec<Row> {
    let only = |stack: Stack, other: Stack| {
        let backend = stack.host(Role::Web).address;
        let answer = Frame::new(other, backend, stack.client(7600)).build();
        Row::untouched(format!("{} from a backend of {}", other.name(), stack.name()), answer)
    };
    vec![only(TCP4, UDP4), only(UDP4, TCP4), only(TCP6, UDP6), only(UDP6, TCP6)]
}

/// A frame that ends too early, at every length that the kernel takes: with its headers incomplete it is nobody's, with
/// the rest incomplete it is malformed.
fn truncations(stack: Stack) -> Vec<Row> {
    let mut rows = Vec::new();
    let plain = opening(stack, Role::Web, 7700);
    let long = if stack.is_tcp() { plain.clone().tcp_options(5).payload(9) } else { plain.clone().payload(9) };
    for frame in [plain, long] {
        let header = frame.transport_offset() + if stack.is_tcp() { 20 } else { 8 };
        let whole = frame.build();
        for length in ETHERNET..whole.len() {
            let name = format!("{}: {length} of {} bytes", stack.name(), whole.len());
            let cut = whole[..length].to_vec();
            rows.push(if length < header {
                Row::untouched(name, cut)
            } else {
                Row::refused(name, cut, Reason::Malformed, Verdict::Drop)
            });
        }
    }
    rows
}

/// The same, with a header of the greatest length before it.
fn truncated_options() -> Vec<Row> {
    let frame = opening(TCP4, Role::Web, 7800).ip_options(10);
    let whole = frame.build();
    let header = frame.transport_offset() + 20;
    assert_eq!((header, whole.len()), (ETHERNET + IPV4 + 40 + 20, header));
    (ETHERNET..header)
        .map(|length| Row::untouched(format!("{length} of {header} bytes, with options"), whole[..length].to_vec()))
        .collect()
}

/// Hardware addresses say nothing about whose packet it is.
fn hardware() -> Vec<Row> {
    [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]]
        .map(|mac| {
            let mut frame = Frame::new(TCP4, TCP4.client(7900), SocketAddr::new(TCP4.family.far_client(9), 80));
            frame.macs.destination = mac;
            Row::untouched(format!("to somebody else and {mac:02x?}"), frame.build())
        })
        .into()
}

#[test]
fn others_frames_pass() {
    with_world(|world| {
        let addresses = STACKS.into_iter().flat_map(addresses);
        let rows = [ethernet(), internet(), extensions(), protocols(), hardware()].concat();
        check_table(world, rows.into_iter().chain(addresses).collect())
    });
}

#[test]
fn frames_cut_anywhere() {
    with_world(|world| {
        let rows = STACKS.into_iter().flat_map(truncations).chain(truncated_options()).collect();
        check_table(world, rows)
    });
}

#[test]
fn a_packet_as_large_as_the_kernel_takes() {
    with_world(|world| {
        let row = |stack: Stack| {
            let frame = to(stack, Role::Web, 7950).payload(3000);
            Row::request(format!("{}: 3000 bytes of payload", stack.name()), world, &frame, stack.host(Role::Web))
                .opens()
        };
        check_table(world, STACKS.map(row).into())
    });
}
