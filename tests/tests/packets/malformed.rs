//! Packets for a VIP that nobody may send: refused with a reason, and never remembered.

use lb_common::reason::Reason;
use lb_tests::lab::address::Family;
use lb_tests::packets::frame::{ETHERNET, IPV4, IPV6, TCP, UDP, inserted, patched};
use lb_tests::packets::plan::{STACKS, TCP4, TCP6, UDP4, UDP6};
use lb_tests::packets::{Frame, Role, Row, Stack, Verdict, check_table, flag, with_world};

use crate::requests::{opening, to};

const V4_LENGTH: usize = ETHERNET + 2;
const V6_LENGTH: usize = ETHERNET + 4;
const V4_TRANSPORT: usize = ETHERNET + IPV4;
const V6_TRANSPORT: usize = ETHERNET + IPV6;

fn transport(stack: Stack) -> usize {
    if stack.family == Family::V4 { V4_TRANSPORT } else { V6_TRANSPORT }
}

fn malformed(name: String, frame: Vec<u8>) -> Row {
    Row::refused(name, frame, Reason::Malformed, Verdict::Drop)
}

/// A packet of 40 bytes of payload whose 16-bit field at `offset` says this.
fn with_field(stack: Stack, offset: usize, value: u16) -> Vec<u8> {
    patched(to(stack, Role::Web, 6000).payload(40).build(), offset, &value.to_be_bytes())
}

/// The IP header's length field against the frame and the headers.
fn ip_lengths() -> Vec<Row> {
    let mut rows = Vec::new();
    for (stack, header) in [(TCP4, TCP), (UDP4, UDP)] {
        let whole = u16::try_from(IPV4 + header + 40).expect("a small packet");
        let least = u16::try_from(IPV4 + header).expect("a small packet");
        for length in [0, 1, 19, 20, least - 1, whole + 1, whole + 100, u16::MAX] {
            let name = format!("{}: a total length of {length} in {whole} bytes", stack.name());
            rows.push(malformed(name, with_field(stack, V4_LENGTH, length)));
        }
    }
    for (stack, header) in [(TCP6, TCP), (UDP6, UDP)] {
        let whole = u16::try_from(header + 40).expect("a small packet");
        let least = u16::try_from(header).expect("a small packet");
        for length in [0, 1, least - 1, whole + 1, whole + 100, u16::MAX] {
            let name = format!("{}: a payload length of {length} in {whole} bytes", stack.name());
            rows.push(malformed(name, with_field(stack, V6_LENGTH, length)));
        }
    }
    // The datagram is longer than the packet, although the frame would have room for it.
    for (stack, at, length) in [(UDP4, V4_LENGTH, IPV4 + UDP + 39), (UDP6, V6_LENGTH, UDP + 39)] {
        let length = u16::try_from(length).expect("a small packet");
        rows.push(malformed(format!("{}: a packet ends in its datagram", stack.name()), with_field(stack, at, length)));
    }
    let into_options = patched(to(TCP4, Role::Web, 6001).ip_options(10).build(), V4_LENGTH, &[0, 59]);
    rows.push(malformed("a packet ends in its IPv4 options".to_owned(), into_options));
    rows
}

fn tcp_offsets(stack: Stack) -> Vec<Row> {
    let with_offset = |name: &str, words: u8| {
        let frame = patched(opening(stack, Role::Web, 6100).build(), transport(stack) + 12, &[words << 4]);
        malformed(format!("{}: a data offset of {words}, {name}", stack.name()), frame)
    };
    let mut rows: Vec<_> = (0..5).map(|words| with_offset("less than the header", words)).collect();
    rows.extend((6..16).map(|words| with_offset("past the packet's end", words)));
    // In the frame there is room: padding is no header.
    let padded = patched(opening(stack, Role::Web, 6101).padding(6).build(), transport(stack) + 12, &[6 << 4]);
    rows.push(malformed(format!("{}: a data offset of 6, into the padding", stack.name()), padded));
    rows
}

fn udp_lengths(stack: Stack) -> Vec<Row> {
    let lengths = [0, 1, 7, 49, 50, 1000, u16::MAX];
    lengths
        .map(|length| {
            let name = format!("{}: a datagram of {length} bytes in 48", stack.name());
            malformed(name, with_field(stack, transport(stack) + 4, length))
        })
        .into()
}

fn flags(stack: Stack) -> Vec<Row> {
    let sets = [
        ("none", 0),
        ("only PSH and URG", flag::PSH | flag::URG),
        ("only congestion marks", flag::ECE | flag::CWR),
        ("SYN and FIN", flag::SYN | flag::FIN),
        ("SYN and RST", flag::SYN | flag::RST),
        ("SYN, FIN and ACK", flag::SYN | flag::FIN | flag::ACK),
        ("SYN, RST and ACK", flag::SYN | flag::RST | flag::ACK),
        ("all", 0xff),
    ];
    let row = |(name, flags): (&str, u8)| {
        let frame = to(stack, Role::Web, 6200).flags(flags).build();
        Row::refused(format!("{}: flags: {name}", stack.name()), frame, Reason::TcpFlags, Verdict::Drop)
    };
    sets.into_iter().map(row).collect()
}

/// The sender claims to be the VIP.
fn land(stack: Stack) -> Row {
    let frame = opening(stack, Role::Web, 6500).build();
    let (source, destination) = if stack.family == Family::V4 { (26, 30..34) } else { (22, 38..54) };
    let vip = frame[destination].to_vec();
    let name = format!("{}: from the VIP to the VIP", stack.name());
    Row::refused(name, patched(frame, source, &vip), Reason::Land, Verdict::Drop)
}

/// Which reason is given where several would do.
fn order() -> Vec<Row> {
    let short = |frame: Vec<u8>| patched(frame, V4_LENGTH, &[0xff, 0xff]);
    vec![
        Row::refused(
            "a malformed first fragment is a fragment",
            short(opening(TCP4, Role::Web, 6300).fragment(0, true).build()),
            Reason::Fragment,
            Verdict::Pass,
        ),
        malformed(
            "a malformed packet with strange flags and no hops is malformed".to_owned(),
            short(opening(TCP4, Role::Web, 6300).flags(0xff).hops(0).build()),
        ),
        Row::refused(
            "strange flags and no hops are strange flags",
            opening(TCP4, Role::Web, 6300).flags(0xff).hops(0).build(),
            Reason::TcpFlags,
            Verdict::Drop,
        ),
        Row::answered(
            "no hops and no backend is no hops",
            &opening(TCP4, Role::Empty, 6300).hops(0),
            Reason::TtlExpired,
            opening(TCP4, Role::Empty, 6300).hops(0).hops_exceeded(),
        ),
        Row::refused(
            "nobody's source and no hops is nobody's source",
            Frame { source: "127.0.0.1:99".parse().expect("an address"), ..opening(TCP4, Role::Web, 6300).hops(0) }
                .build(),
            Reason::Martian,
            Verdict::Drop,
        ),
    ]
}

/// What is not built yet: it passes, and is counted.
fn not_forwarded() -> Vec<Row> {
    let mut rows = Vec::new();
    for stack in [TCP4, UDP4] {
        let first = to(stack, Role::Web, 6400).payload(64).fragment(0, true).build();
        let name = format!("{}: a first fragment passes and is counted", stack.name());
        rows.push(Row::refused(name, first, Reason::Fragment, Verdict::Pass));
        for (offset, more) in [(1, true), (1, false), (185, true), (0x1fff, false)] {
            let later = to(stack, Role::Web, 6400).payload(64).fragment(offset, more).build();
            rows.push(Row::untouched(format!("{}: a later fragment, at {offset}, passes", stack.name()), later));
        }
    }
    for stack in STACKS {
        let frame = || opening(stack, Role::Web, 6500).build();
        let tags: [(&str, &[u8]); 4] = [
            ("a VLAN tag", &[0x81, 0, 0, 5]),
            ("a service tag", &[0x88, 0xa8, 0, 5]),
            ("two tags", &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]),
            ("a priority tag", &[0x81, 0, 0xe0, 0]),
        ];
        rows.extend(tags.map(|(name, tag)| {
            let name = format!("{}: {name} passes and is counted", stack.name());
            Row::refused(name, inserted(frame(), 12, tag), Reason::Vlan, Verdict::Pass)
        }));
    }
    let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x81, 0, 0, 5, 8, 6], &[0; 46]].concat();
    rows.push(Row::untouched("a tag before anything else passes uncounted", arp));
    rows
}

#[test]
fn malformed_packets_are_dropped_and_leave_nothing() {
    with_world(|world| {
        let tcp = [TCP4, TCP6].into_iter().flat_map(|stack| [tcp_offsets(stack), flags(stack)].concat());
        let udp = [UDP4, UDP6].into_iter().flat_map(udp_lengths);
        let land = STACKS.into_iter().map(land);
        let rows = ip_lengths().into_iter().chain(tcp).chain(udp).chain(land).chain(order()).collect();
        check_table(world, rows)
    });
}

#[test]
fn what_is_not_built_yet_passes() {
    with_world(|world| check_table(world, not_forwarded()));
}
