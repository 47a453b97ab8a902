//! Packets to services whose backends answer clients themselves: forwarded in a frame, in IP, in GUE, over both families.

use lb_common::flow::{BUCKET_ENTRIES, FlowState};
use lb_common::reason::Reason;
use lb_tests::lab::address::Family;
use lb_tests::packets::carrier::Carrier;
use lb_tests::packets::frame::{Checksum, ETHERNET};
use lb_tests::packets::{Frame, Given, Row, Verdict, World, check_table, flag, with_world};

use crate::errors::error_about;

const WIDE: Option<u32> = Some(1500);

fn sent(name: &str, world: &World, carrier: Carrier, frame: &Frame) -> Row {
    let name = format!("{}: {name}", carrier.name());
    Row::sent(name, frame, carrier.backend, Verdict::Redirect, carrier.sent(world, frame))
}

fn put(world: &mut World, mtu: Option<u32>) -> anyhow::Result<Vec<Carrier>> {
    let carriers = Carrier::all();
    carriers.iter().try_for_each(|carrier| carrier.put(world, mtu))?;
    Ok(carriers)
}

/// Every kind of packet that there is, the same but for a hop.
fn shapes(world: &World, carrier: Carrier) -> Vec<Row> {
    let frame = |port: u16| carrier.frame(port).flags(flag::SYN);
    let mut rows = vec![
        sent("a new flow", world, carrier, &frame(4000)).opens(),
        sent("the last hop but one", world, carrier, &frame(4001).hops(2)).opens(),
        sent("padding is no part of the packet", world, carrier, &frame(4002).padding(6)).opens(),
        sent("a checksum that is wrong stays so", world, carrier, &frame(4003).checksum(Checksum::Off(9))).opens(),
        Row::answered(
            format!("{}: no hops left", carrier.name()),
            &frame(4004).hops(1),
            Reason::TtlExpired,
            frame(4004).hops(1).hops_exceeded(),
        ),
    ];
    for length in [0, 1, 2, 1000] {
        rows.push(sent(&format!("{length} bytes"), world, carrier, &frame(4100).payload(length)).opens());
    }
    for class in [1, 2, 0xff] {
        rows.push(sent(&format!("class {class:#x}"), world, carrier, &frame(4200).class(class)).opens());
    }
    // Many flows on purpose: ports and labels differ.
    for port in 4300..4306 {
        rows.push(sent(&format!("from port {port}"), world, carrier, &frame(port)).opens());
    }
    if carrier.stack.family == Family::V4 {
        rows.push(sent("options", world, carrier, &frame(4005).ip_options(10).payload(5)).opens());
    }
    if !carrier.stack.is_tcp() {
        rows.push(sent("no checksum", world, carrier, &frame(4006).checksum(Checksum::Zero)).opens());
    }
    rows
}

/// What the balancer remembers although it hears the client only.
fn states(world: &World, carrier: Carrier) -> Vec<Row> {
    let packet = |flags: u8| carrier.frame(5000).flags(flags);
    let opened = || [Given::Packet(packet(flag::SYN))];
    let heard = || [Given::Packet(packet(flag::SYN)), Given::Packet(packet(flag::ACK))];
    let row = |name: &str, flags: u8| sent(name, world, carrier, &packet(flags));
    let mut rows = vec![
        row("the client goes on", flag::ACK).given(opened()).remembers(FlowState::Heard),
        row("and on", flag::ACK).given(heard()).remembers(FlowState::Heard),
        row("a packet in the midst", flag::ACK).opens(),
    ];
    if carrier.stack.is_tcp() {
        rows.extend([
            row("SYN again", flag::SYN).given(opened()).remembers(FlowState::HalfOpen),
            row("SYN when heard", flag::SYN).given(heard()).remembers(FlowState::Heard),
            row("FIN", flag::FIN | flag::ACK).given(heard()).remembers(FlowState::Closing),
            row("RST", flag::RST).given(heard()).remembers(FlowState::Closing),
            row("RST of nobody", flag::RST),
        ]);
    }
    rows
}

/// The backend's own packets are its own, even from the port that is balanced.
fn answers(carrier: Carrier) -> Vec<Row> {
    let backend = std::net::SocketAddr::new(carrier.stack.family.backend(1), carrier.vip().port());
    let client = carrier.stack.client(6000);
    let given = [Given::Packet(Frame::new(carrier.stack, client, carrier.vip()).flags(flag::SYN))];
    let row = |name: &str, from| {
        let frame = Frame::new(carrier.stack, from, client).flags(flag::SYN | flag::ACK);
        Row::untouched(format!("{}: {name}", carrier.name()), frame.build()).given(given.clone())
    };
    vec![row("an answer from the VIP", carrier.vip()), row("from the backend's own address", backend)]
}

/// An ICMP error about an answer of the backend, which it has sent as the VIP: it gets it as it is.
fn errors(world: &World, carrier: Carrier) -> Vec<Row> {
    let request = carrier.frame(7000).flags(flag::SYN);
    let answer = Frame::new(carrier.stack, carrier.vip(), request.source).payload(40);
    let error = |hops| error_about(&answer.build()[ETHERNET..], carrier.stack.family, hops);
    let out = carrier.carry(world, &error(63), 0, 0, request.tuple());
    let frame = error(64);
    let bytes = frame.len() as u64;
    let row = Row::untouched(format!("{}: an ICMP error", carrier.name()), frame);
    let row = row.becomes(Verdict::Redirect, out);
    vec![
        row.counted(carrier.backend, |counters| (counters.packets, counters.bytes) = (1, bytes))
            .given([Given::Packet(request)]),
    ]
}

#[test]
fn whole_packets_reach_backends() {
    with_world(|world| {
        let carriers = put(world, WIDE)?;
        let mut rows = Vec::new();
        for carrier in carriers {
            rows.extend(shapes(world, carrier));
            rows.extend(states(world, carrier));
            rows.extend(answers(carrier));
            rows.extend(errors(world, carrier));
        }
        check_table(world, rows)
    });
}

#[test]
fn an_unresolved_backend_gets_nothing() {
    with_world(|world| {
        let carriers = put(world, None)?;
        let row = |carrier: &Carrier| {
            let frame = carrier.frame(4000).flags(flag::SYN);
            let row = Row::sent(carrier.name(), &frame, carrier.backend, Verdict::Drop, frame.build());
            row.counting(Reason::Unresolved).opens()
        };
        check_table(world, carriers.iter().map(row).collect())
    });
}

/// Heard flows are worth more than those of a flood of SYNs, and make room when there are no others.
#[test]
fn heard_flows_make_room_last() {
    with_world(|world| {
        let carriers = put(world, WIDE)?;
        let mut rows = Vec::new();
        for carrier in carriers.into_iter().filter(|carrier| carrier.stack.is_tcp()) {
            let frame = |port: u16| carrier.frame(port).flags(flag::SYN);
            let bucket = world.bucket_of(frame(1).tuple());
            let inside: Vec<u16> = (1..=u16::MAX)
                .filter(|port| world.bucket_of(frame(*port).tuple()) == bucket)
                .take(BUCKET_ENTRIES + 1)
                .collect();
            let (newcomer, inside) = inside.split_last().expect("there are enough ports");
            let heard = |port: &u16| [Given::Packet(frame(*port)), Given::Packet(frame(*port).flags(flag::ACK))];
            let loses = |row: Row| row.counted(carrier.backend, |counters| counters.evicted_half_open = 1);
            let but_one = inside.iter().skip(1).flat_map(heard).chain([Given::Packet(frame(inside[0]))]);
            let row = sent("a half-open flow goes before heard ones", world, carrier, &frame(*newcomer));
            rows.push(loses(row.given(but_one).opens_instead_of(frame(inside[0]).tuple())));
            let silent = Given::Silent(frame(inside[3]).tuple(), 30);
            let row = sent("the longest silent of heard ones goes", world, carrier, &frame(*newcomer));
            let row = row.given(inside.iter().flat_map(heard)).given([silent]);
            rows.push(loses(row.opens_instead_of(frame(inside[3]).tuple())));
        }
        check_table(world, rows)
    });
}
