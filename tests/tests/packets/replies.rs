//! Backends' packets: those of our flows go back to the client as if they came from the VIP, all others are left alone.

use std::net::{IpAddr, SocketAddr};

use lb_common::flow::FlowState;
use lb_common::reason::Reason;
use lb_tests::lab::address::Family;
use lb_tests::packets::frame::{Checksum, ETHERNET, Tuple, patched};
use lb_tests::packets::plan::{Host, Link, STACKS, TCP4, UDP4};
use lb_tests::packets::world::{narrow_client, unknown_client};
use lb_tests::packets::{Frame, Given, Role, Row, Stack, Verdict, World, check_table, flag, with_world};

use crate::requests::opening;

const SYN_ACK: u8 = flag::SYN | flag::ACK;
const PORT: u16 = 8000;

/// From the backend to a client.
fn from(stack: Stack, host: Host, client: SocketAddr) -> Frame {
    Frame::new(stack, host.address, client)
}

/// The client has sent something that opens a flow.
fn opened(stack: Stack, client: SocketAddr) -> [Given; 1] {
    [Given::Packet(Frame::new(stack, client, stack.vip(Role::Web)).flags(flag::SYN))]
}

/// What an answer to a half-open flow makes of it.
fn after_first_answer(stack: Stack) -> FlowState {
    if stack.is_tcp() { FlowState::Answered } else { FlowState::Established }
}

fn forwarded(world: &World, stack: Stack) -> Vec<Row> {
    let (host, client) = (stack.host(Role::Web), stack.client(PORT));
    let established = Given::Established(tuple(stack, client), host);
    let answer = from(stack, host, client).flags(SYN_ACK);
    let mut rows = vec![
        Row::reply("the first answer", world, &answer, host)
            .given(opened(stack, client))
            .remembers(after_first_answer(stack)),
        Row::reply("the first answer again", world, &answer, host)
            .given(opened(stack, client))
            .given([Given::Packet(answer.clone())])
            .remembers(after_first_answer(stack)),
        Row::reply("the last hop that there may be", world, &from(stack, host, client).hops(2), host)
            .given([established.clone()])
            .remembers(FlowState::Established),
        Row::reply("padding", world, &from(stack, host, client).padding(6), host)
            .given([established.clone()])
            .remembers(FlowState::Established),
        Row::reply("a class", world, &from(stack, host, client).class(0xb9), host)
            .given([established.clone()])
            .remembers(FlowState::Established),
        Row::reply("a wrong checksum", world, &from(stack, host, client).checksum(Checksum::Off(0x55)), host)
            .given([established.clone()])
            .remembers(FlowState::Established),
        Row::reply("from a backend that takes no new flows", world, &from(stack, host, client), host)
            .given([established.clone(), Given::Draining(host)])
            .remembers(FlowState::Established),
        Row::reply("after the slots have moved", world, &from(stack, host, client), host)
            .given([established.clone(), Given::Moved(stack.hosts(Role::Web)[1])])
            .remembers(FlowState::Established),
    ];
    for length in [0, 1, 2, 7, 100, 999, 1400] {
        let frame = from(stack, host, client).payload(length);
        let row = Row::reply(format!("{length} bytes"), world, &frame, host);
        rows.push(row.given([established.clone()]).remembers(FlowState::Established));
    }
    // A backend that the routing table knows the way to, and one that takes packets back where they come from.
    for role in [Role::Asked, Role::Hairpin] {
        let host = stack.host(role);
        let frame = from(stack, host, client).flags(SYN_ACK);
        let row = Row::reply(format!("{role:?}"), world, &frame, host);
        rows.push(row.given([Given::Packet(opening(stack, role, PORT))]).remembers(after_first_answer(stack)));
    }
    if stack.family == Family::V4 {
        for words in [1, 5, 10] {
            let frame = from(stack, host, client).ip_options(words).payload(3);
            let row = Row::reply(format!("{words} words of IPv4 options"), world, &frame, host);
            rows.push(row.given([established.clone()]).remembers(FlowState::Established));
        }
    }
    named(stack, "reply", rows)
}

fn tuple(stack: Stack, client: SocketAddr) -> Tuple {
    Tuple { protocol: stack.protocol, source: client, destination: stack.vip(Role::Web) }
}

fn named(stack: Stack, what: &str, mut rows: Vec<Row>) -> Vec<Row> {
    for row in &mut rows {
        row.name = format!("{} {what}: {}", stack.name(), row.name);
    }
    rows
}

fn tcp(world: &World, stack: Stack) -> Vec<Row> {
    let (host, client) = (stack.host(Role::Web), stack.client(PORT));
    let established = [Given::Established(tuple(stack, client), host)];
    let flags = |flags| from(stack, host, client).flags(flags);
    let rows = vec![
        Row::reply("data before the handshake's end", world, &flags(flag::ACK), host)
            .given(opened(stack, client))
            .remembers(FlowState::Established),
        Row::reply("RST to a SYN", world, &flags(flag::RST | flag::ACK), host)
            .given(opened(stack, client))
            .reset()
            .remembers(FlowState::Closing),
        Row::reply("RST", world, &flags(flag::RST), host)
            .given(established.clone())
            .reset()
            .remembers(FlowState::Closing),
        Row::reply("FIN", world, &flags(flag::FIN | flag::ACK), host)
            .given(established.clone())
            .remembers(FlowState::Closing),
        Row::reply("the last acknowledgement", world, &flags(flag::ACK), host)
            .given(established.clone())
            .given([Given::Packet(flags(flag::FIN | flag::ACK))])
            .remembers(FlowState::Closing),
        Row::reply("SYN-ACK again when the flow is established", world, &flags(SYN_ACK), host)
            .given(established)
            .remembers(FlowState::Established),
    ];
    named(stack, "reply", rows)
}

/// A backend's own traffic, and what only looks like a reply.
fn left_alone(stack: Stack) -> Vec<Row> {
    let hosts = stack.hosts(Role::Web);
    let (host, client) = (hosts[0], stack.client(PORT));
    let answer = from(stack, host, client).flags(SYN_ACK);
    let row = |name: &str, frame: &Frame| Row::untouched(name, frame.build());
    let local = SocketAddr::new(stack.family.balancer(), PORT);
    let rows = vec![
        row("to a client that has sent nothing", &answer),
        row("to another port of the client", &from(stack, host, stack.client(PORT + 1))).given(opened(stack, client)),
        row("from another port of the backend", &Frame { source: other_port(host.address), ..answer.clone() })
            .given(opened(stack, client)),
        row("from the service's other backend", &from(stack, hosts[1], client)).given(opened(stack, client)),
        row("from a backend that is no more", &answer).given(opened(stack, client)).given([Given::Removed(host)]),
        row("to this host", &from(stack, host, local).flags(SYN_ACK)).given(opened(stack, local)),
        row("malformed, and not of our flows", &answer.clone().payload(20)).changed(|frame| {
            let length = frame.len() - 5;
            frame[..length].to_vec()
        }),
        row("without hops, and not of our flows", &answer.clone().hops(0)),
        row("with strange flags, and not of our flows", &answer.flags(0xff)),
    ];
    named(stack, "from a backend", rows)
}

fn other_port(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), 22)
}

/// Ours, and yet not for us to send.
fn refused(world: &World, stack: Stack) -> Vec<Row> {
    let host = stack.host(Role::Web);
    let to = |address: IpAddr| from(stack, host, SocketAddr::new(address, PORT)).flags(SYN_ACK);
    let opened = |address: IpAddr| opened(stack, SocketAddr::new(address, PORT));
    let (client, narrow) = (stack.family.client(), narrow_client(stack.family));
    let (unknown, apart) = (unknown_client(stack.family), stack.family.apart(7));
    let pass = |name: &str, frame: &Frame, reason| Row::refused(name, frame.build(), reason, Verdict::Pass);
    let drop = |name: &str, frame: Vec<u8>, reason| Row::refused(name, frame, reason, Verdict::Drop);
    let short = patched(to(client).build(), ETHERNET + if stack.family == Family::V4 { 2 } else { 4 }, &[0xff]);
    let mut rows = vec![
        Row::reply_without_neighbour("no neighbour", world, &to(unknown), host, Link::Backend(3))
            .given(opened(unknown))
            .remembers(after_first_answer(stack)),
        pass("the kernel does not forward", &to(client), Reason::ForwardingOff)
            .given(opened(client))
            .given([Given::ForwardingOff(stack.family)]),
        pass("too big for the client's link", &to(narrow).payload(1300), Reason::ReplyTooBig).given(opened(narrow)),
        pass("the route refuses", &to(apart), Reason::NoRoute).given(opened(apart)),
        drop("malformed", short, Reason::Malformed).given(opened(client)),
        drop("no hops", to(client).hops(0).build(), Reason::TtlExpired).given(opened(client)),
        drop("one hop", to(client).hops(1).build(), Reason::TtlExpired).given(opened(client)),
    ];
    if stack.is_tcp() {
        rows.push(drop("strange flags", to(client).flags(0).build(), Reason::TcpFlags).given(opened(client)));
    }
    if stack.family == Family::V4 {
        let first = to(client).payload(32).fragment(0, true);
        rows.push(pass("a first fragment", &first, Reason::Fragment).given(opened(client)));
        let later = to(client).payload(32).fragment(4, false).build();
        rows.push(Row::untouched("a later fragment", later).given(opened(client)));
    }
    named(stack, "reply", rows)
}

/// From clients elsewhere in the world the default route leads through the lab's client.
fn far(world: &World, stack: Stack) -> Vec<Row> {
    let host = stack.host(Role::Web);
    let client = SocketAddr::new(stack.family.far_client(5), PORT);
    let row = Row::reply("through a gateway", world, &from(stack, host, client).flags(SYN_ACK), host);
    named(stack, "reply", vec![row.given(opened(stack, client)).remembers(after_first_answer(stack))])
}

fn unsummed(world: &World) -> Vec<Row> {
    let (host, client) = (UDP4.host(Role::Web), UDP4.client(PORT));
    let frame = from(UDP4, host, client).checksum(Checksum::Zero).payload(11);
    let row = Row::reply("no checksum stays none", world, &frame, host);
    named(UDP4, "reply", vec![row.given(opened(UDP4, client)).remembers(FlowState::Established)])
}

#[test]
fn replies_of_our_flows_go_back() {
    with_world(|world| {
        let mut rows = unsummed(world);
        for stack in STACKS {
            rows.extend(forwarded(world, stack));
            rows.extend(far(world, stack));
            if stack.is_tcp() {
                rows.extend(tcp(world, stack));
            }
        }
        check_table(world, rows)
    });
}

#[test]
fn a_backends_own_traffic_is_left_alone() {
    with_world(|world| check_table(world, STACKS.into_iter().flat_map(left_alone).collect()));
}

#[test]
fn replies_that_cannot_be_sent_pass_with_a_reason() {
    with_world(|world| {
        let rows = STACKS.into_iter().flat_map(|stack| refused(world, stack)).collect();
        check_table(world, rows)
    });
}

/// The event is there to be read once.
#[test]
fn a_missing_neighbour_is_told_once_for_each_packet() {
    with_world(|world| {
        world.restore()?;
        let host = TCP4.host(Role::Web);
        let client = SocketAddr::new(unknown_client(Family::V4), PORT);
        world.run(&Frame::new(TCP4, client, host.vip).flags(flag::SYN).build())?;
        for _ in 0..3 {
            world.run(&from(TCP4, host, client).flags(SYN_ACK).build())?;
        }
        let events = world.events()?;
        assert_eq!(events.len(), 3);
        assert!(events.iter().all(|event| event.address == client.ip()));
        assert_eq!(world.events()?, []);
        Ok(())
    });
}
