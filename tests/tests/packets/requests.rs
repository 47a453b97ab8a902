//! Rows that hold for clients' packets of every family and protocol; the files of each stack add their own.

use lb_common::flow::FlowState;
use lb_common::reason::Reason;
use lb_tests::packets::frame::Checksum;
use lb_tests::packets::{Frame, Given, Role, Row, Stack, Verdict, World, flag};

/// A client's packet for a service, with a port that nobody else uses.
pub(crate) fn to(stack: Stack, role: Role, port: u16) -> Frame {
    Frame::new(stack, stack.client(port), stack.vip(role))
}

/// What opens a flow.
pub(crate) fn opening(stack: Stack, role: Role, port: u16) -> Frame {
    to(stack, role, port).flags(flag::SYN)
}

pub(crate) fn rows(world: &World, stack: Stack) -> Vec<Row> {
    let mut rows = ways(world, stack);
    rows.extend(sizes(world, stack));
    rows.extend(checksums(world, stack));
    rows.extend(hops(world, stack));
    rows.extend(headers(world, stack));
    for row in &mut rows {
        row.name = format!("{}: {}", stack.name(), row.name);
    }
    rows
}

/// By how the backend is reached.
fn ways(world: &World, stack: Stack) -> Vec<Row> {
    let row = |name: &str, role| {
        let frame = opening(stack, role, 4000);
        Row::request(name, world, &frame, stack.host(role)).opens()
    };
    vec![
        row("a new flow goes to the backend of its slot", Role::Web),
        row("out of the interface that it came in on, it is sent back", Role::Hairpin),
        row("where the agent knows no next hop, the kernel's tables do", Role::Asked),
        row("where nobody knows the neighbour, the stack gets it", Role::Lost),
        row("where the route refuses, the stack gets it", Role::Unreachable),
        row("a backend that is this host is not forwarded to", Role::Here),
        row("the backend's interface is narrow, the packet fits", Role::Narrow),
        Row::request(
            "the backend's interface is narrow, the packet does not fit",
            world,
            &opening(stack, Role::Narrow, 4000).payload(1400),
            stack.host(Role::Narrow),
        )
        .opens(),
        Row::request(
            "the backend of the flow's slot, on another interface",
            world,
            &opening(stack, Role::Web, 4001),
            stack.hosts(Role::Web)[1],
        )
        .given([Given::Moved(stack.hosts(Role::Web)[1])])
        .opens(),
        Row::refused_later(
            "the kernel does not forward, and says so when it is asked for the way",
            &opening(stack, Role::Asked, 4000),
            stack.host(Role::Asked),
            Reason::ForwardingOff,
            Verdict::Pass,
        )
        .given([Given::ForwardingOff(stack.family)]),
        Row::request(
            "the kernel does not forward, which does not matter where the agent knows the next hop",
            world,
            &opening(stack, Role::Web, 4000),
            stack.host(Role::Web),
        )
        .given([Given::ForwardingOff(stack.family)])
        .opens(),
    ]
}

/// Payloads of every kind of length, and padding behind them.
fn sizes(world: &World, stack: Stack) -> Vec<Row> {
    let host = stack.host(Role::Web);
    let payload = |length: usize| {
        let frame = to(stack, Role::Web, 4100).payload(length);
        Row::request(format!("a payload of {length} bytes"), world, &frame, host).opens()
    };
    let padding = |length: usize| {
        let frame = to(stack, Role::Web, 4101).payload(1).padding(length);
        Row::request(format!("{length} bytes of padding behind the packet"), world, &frame, host).opens()
    };
    let lengths = [0, 1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 63, 64, 65, 255, 256, 257, 511, 512, 999, 1000, 1399, 1400];
    lengths.into_iter().map(payload).chain([1, 2, 3, 6, 46, 400].into_iter().map(padding)).collect()
}

fn checksums(world: &World, stack: Stack) -> Vec<Row> {
    let host = stack.host(Role::Web);
    let errors = [1, 0x0100, 0x1234, 0x7fff, 0x8000, 0xfffe];
    let wrong = |error: u16| {
        let frame = to(stack, Role::Web, 4200).payload(33).checksum(Checksum::Off(error));
        Row::request(format!("a checksum that is wrong by {error:#x} stays so"), world, &frame, host).opens()
    };
    // Many sums on purpose: carries and the two zeroes come up somewhere.
    let right = |port: u16| {
        let frame = to(stack, Role::Web, port).payload(usize::from(port % 7));
        Row::request(format!("a checksum over port {port} is right"), world, &frame, host).opens()
    };
    let ports = (0..64).map(|i: u16| i.wrapping_mul(1021).wrapping_add(1));
    errors.into_iter().map(wrong).chain(ports.map(right)).collect()
}

fn hops(world: &World, stack: Stack) -> Vec<Row> {
    let host = stack.host(Role::Web);
    let enough = |hops: u8| {
        let frame = to(stack, Role::Web, 4300).hops(hops);
        Row::request(format!("{hops} hops left"), world, &frame, host).opens()
    };
    let spent = |hops: u8| {
        let frame = to(stack, Role::Web, 4300).hops(hops).payload(99);
        Row::answered(format!("{hops} hops left"), &frame, Reason::TtlExpired, frame.hops_exceeded())
    };
    [2, 3, 64, 128, 255].into_iter().map(enough).chain([0, 1].into_iter().map(spent)).collect()
}

fn headers(world: &World, stack: Stack) -> Vec<Row> {
    let host = stack.host(Role::Web);
    let class = |class: u8| {
        let frame = to(stack, Role::Web, 4400).class(class);
        Row::request(format!("class {class:#x} is carried"), world, &frame, host).opens()
    };
    [1, 3, 0x10, 0xb8, 0xff].into_iter().map(class).collect()
}

/// What only TCP has.
pub(crate) fn tcp_rows(world: &World, stack: Stack) -> Vec<Row> {
    let host = stack.host(Role::Web);
    let mut rows = Vec::new();
    let options = |words: usize| {
        let frame = opening(stack, Role::Web, 4500).tcp_options(words);
        Row::request(format!("{words} words of TCP options"), world, &frame, host).opens()
    };
    rows.extend((0..=10).map(options));
    let known = |name: &str, flags: u8, state| {
        let frame = to(stack, Role::Web, 4501).flags(flags).payload(10);
        let given = Given::Established(frame.tuple(), host);
        Row::request(format!("of an established flow, {name}"), world, &frame, host).given([given]).remembers(state)
    };
    rows.push(known("data", flag::ACK | flag::PSH, FlowState::Established));
    rows.push(known("urgent data", flag::ACK | flag::URG, FlowState::Established));
    rows.push(known("FIN", flag::ACK | flag::FIN, FlowState::Closing));
    rows.push(known("RST", flag::RST, FlowState::Closing));
    rows.push(known("RST with ACK", flag::ACK | flag::RST, FlowState::Closing));
    rows.push(known("FIN alone", flag::FIN, FlowState::Closing));
    rows.push(known("congestion marks", flag::ACK | flag::ECE | flag::CWR, FlowState::Established));
    let unknown = |name: &str, flags: u8| {
        let frame = to(stack, Role::Web, 4502).flags(flags);
        Row::request(format!("of an unknown flow, {name}"), world, &frame, host)
    };
    rows.push(unknown("an acknowledgement is remembered", flag::ACK).opens());
    rows.push(unknown("SYN with ACK is remembered", flag::SYN | flag::ACK).opens());
    rows.push(unknown("SYN with congestion marks opens", flag::SYN | flag::ECE | flag::CWR).opens());
    rows.push(unknown("FIN goes on and leaves nothing", flag::FIN | flag::ACK));
    rows.push(unknown("RST goes on and leaves nothing", flag::RST));
    rows.push(unknown("RST with ACK goes on and leaves nothing", flag::RST | flag::ACK));
    for row in &mut rows {
        row.name = format!("{}: {}", stack.name(), row.name);
    }
    rows
}
