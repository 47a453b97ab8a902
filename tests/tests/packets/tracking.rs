//! What the balancer remembers of a flow, packet by packet, and what it makes of that when backends come and go.

use lb_common::flow::FlowState;
use lb_common::reason::Reason;
use lb_common::route::Route;
use lb_tests::packets::plan::{Host, STACKS, TCP4, TCP6, UDP4, UDP6};
use lb_tests::packets::{Frame, Given, Role, Row, Stack, World, check_table, flag, with_world};

use crate::requests::{opening, to};

const PORT: u16 = 9000;
const SYN_ACK: u8 = flag::SYN | flag::ACK;
const FIN_ACK: u8 = flag::FIN | flag::ACK;

/// The client's packet.
fn request(stack: Stack, flags: u8) -> Frame {
    to(stack, Role::Web, PORT).flags(flags)
}

/// The backend's packet.
fn answer(stack: Stack, host: Host, flags: u8) -> Frame {
    Frame::new(stack, host.address, stack.client(PORT)).flags(flags)
}

fn given(frames: &[Frame]) -> Vec<Given> {
    frames.iter().cloned().map(Given::Packet).collect()
}

fn named(stack: Stack, mut rows: Vec<Row>) -> Vec<Row> {
    for row in &mut rows {
        row.name = format!("{}: {}", stack.name(), row.name);
    }
    rows
}

/// A connection from its first packet to its last, and the turns that it may take.
fn life(world: &World, stack: Stack) -> Vec<Row> {
    let host = stack.host(Role::Web);
    let (syn, syn_ack) = (request(stack, flag::SYN), answer(stack, host, SYN_ACK));
    let (ack, data) = (request(stack, flag::ACK), answer(stack, host, flag::ACK | flag::PSH));
    let (fin, fin_back) = (request(stack, FIN_ACK), answer(stack, host, FIN_ACK));
    let of_client = |name: &str, past: &[Frame], frame: &Frame, state| {
        Row::request(name, world, frame, host).given(given(past)).remembers(state)
    };
    let of_backend = |name: &str, past: &[Frame], frame: &Frame, state| {
        Row::reply(name, world, frame, host).given(given(past)).remembers(state)
    };
    let (opened, answered) = ([syn.clone()], [syn.clone(), syn_ack.clone()]);
    let established = [syn.clone(), syn_ack.clone(), ack.clone()];
    let mut closing = established.to_vec();
    closing.push(fin.clone());
    let rows = vec![
        Row::request("SYN", world, &syn, host).opens(),
        of_client("SYN again", &opened, &syn, FlowState::HalfOpen),
        of_client("data that nobody has asked for establishes nothing", &opened, &ack, FlowState::HalfOpen),
        of_backend("SYN-ACK", &opened, &syn_ack, FlowState::Answered),
        of_client("SYN after SYN-ACK", &answered, &syn, FlowState::Answered),
        of_client("SYN with ACK after SYN-ACK", &answered, &request(stack, SYN_ACK), FlowState::Answered),
        of_client("ACK", &answered, &ack, FlowState::Established),
        of_backend("data before the ACK was seen", &answered, &data, FlowState::Established),
        of_client("SYN when established", &established, &syn, FlowState::Established),
        of_client("FIN", &established, &fin, FlowState::Closing),
        of_client("RST", &established, &request(stack, flag::RST), FlowState::Closing),
        of_backend("FIN from the backend", &established, &fin_back, FlowState::Closing),
        of_client("FIN instead of ACK", &answered, &fin, FlowState::Closing),
        of_client("RST instead of ACK", &answered, &request(stack, flag::RST), FlowState::Closing),
        of_client("RST to nothing yet", &opened, &request(stack, flag::RST), FlowState::Closing),
        of_client("data after FIN", &closing, &ack, FlowState::Closing),
        of_client("FIN again", &closing, &fin, FlowState::Closing),
        of_backend("FIN from the other side", &closing, &fin_back, FlowState::Closing),
        of_backend("data after the client's FIN", &closing, &data, FlowState::Closing),
        of_backend("SYN-ACK after FIN", &closing, &syn_ack, FlowState::Closing),
        Row::request("SYN after FIN opens a new flow", world, &syn, host)
            .given(given(&closing))
            .new_flow()
            .remembers(FlowState::HalfOpen),
    ];
    named(stack, rows)
}

/// Slots move, backends come and go: who stays, and who does not?
fn changes(world: &World, stack: Stack) -> Vec<Row> {
    let hosts = stack.hosts(Role::Web);
    let (old, new) = (hosts[0], hosts[1]);
    let (syn, ack) = (request(stack, flag::SYN), request(stack, flag::ACK));
    let opened = || given(std::slice::from_ref(&syn));
    let answered = || given(&[syn.clone(), answer(stack, old, SYN_ACK)]);
    let established = || given(&[syn.clone(), answer(stack, old, SYN_ACK), ack.clone()]);
    let closing = || given(&[syn.clone(), answer(stack, old, SYN_ACK), ack.clone(), request(stack, FIN_ACK)]);
    let stays = |name: &str, past: Vec<Given>, change: &[Given], frame: &Frame, state| {
        Row::request(name, world, frame, old).given(past).given(change.to_vec()).remembers(state)
    };
    let goes = |name: &str, past: Vec<Given>, change: &[Given], frame: &Frame| {
        Row::request(name, world, frame, new).given(past).given(change.to_vec()).opens()
    };
    let moved = [Given::Moved(new)];
    let drained = [Given::Draining(old), Given::Moved(new)];
    let removed = [Given::Moved(new), Given::Removed(old)];
    let rows = vec![
        stays("data stays when slots move", established(), &moved, &ack, FlowState::Established),
        stays("SYN again stays when slots move", opened(), &moved, &syn, FlowState::HalfOpen),
        stays("ACK stays when slots move", answered(), &moved, &ack, FlowState::Established),
        stays("FIN stays when slots move", established(), &moved, &request(stack, FIN_ACK), FlowState::Closing),
        stays("the last ACK stays when slots move", closing(), &moved, &ack, FlowState::Closing),
        goes("SYN after FIN goes where the slots are", closing(), &moved, &syn),
        stays("data stays on a draining backend", established(), &drained, &ack, FlowState::Established),
        stays("ACK stays on a draining backend", answered(), &drained, &ack, FlowState::Established),
        stays("FIN stays on a draining backend", established(), &drained, &request(stack, FIN_ACK), FlowState::Closing),
        goes("SYN again leaves a draining backend", opened(), &drained, &syn),
        goes("SYN after SYN-ACK leaves a draining backend", answered(), &drained, &syn),
        goes("SYN on the same port leaves a draining backend", established(), &drained, &syn),
        goes("data leaves a removed backend", established(), &removed, &ack),
        goes("SYN leaves a removed backend", opened(), &removed, &syn),
        Row::request("FIN leaves a removed backend, and is not remembered", world, &request(stack, FIN_ACK), new)
            .given(established())
            .given(removed.to_vec()),
        Row::request("a new flow goes where the slots are", world, &syn, new).given(moved.to_vec()).opens(),
        Row::request("the other flow's move does not matter", world, &to(stack, Role::Web, PORT + 1), new)
            .given(established())
            .given(moved.to_vec())
            .opens(),
    ];
    named(stack, rows)
}

fn datagrams(world: &World, stack: Stack) -> Vec<Row> {
    let hosts = stack.hosts(Role::Web);
    let (old, new) = (hosts[0], hosts[1]);
    let (question, reply) = (to(stack, Role::Web, PORT), answer(stack, old, 0));
    let asked = || given(std::slice::from_ref(&question));
    let answered = || given(&[question.clone(), reply.clone()]);
    let moved = [Given::Moved(new)];
    let rows = vec![
        Row::request("the first datagram", world, &question, old).opens(),
        Row::request("the second one", world, &question, old).given(asked()).remembers(FlowState::HalfOpen),
        Row::reply("the answer", world, &reply, old).given(asked()).remembers(FlowState::Established),
        Row::reply("another answer", world, &reply, old).given(answered()).remembers(FlowState::Established),
        Row::request("after the answer", world, &question, old).given(answered()).remembers(FlowState::Established),
        Row::request("stays when slots move", world, &question, old)
            .given(answered())
            .given(moved.clone())
            .remembers(FlowState::Established),
        Row::request("stays on a draining backend", world, &question, old)
            .given(answered())
            .given([Given::Draining(old), Given::Moved(new)])
            .remembers(FlowState::Established),
        Row::request("leaves a removed backend", world, &question, new)
            .given(answered())
            .given(moved)
            .given([Given::Removed(old)])
            .opens(),
    ];
    named(stack, rows)
}

/// Neither malformed packets nor replies make entries; and what is remembered goes on where its service has nobody left.
fn nothing_new(stack: Stack) -> Vec<Row> {
    let host = stack.host(Role::Web);
    let rows = vec![
        Row::answered(
            "a service without backends remembers nobody",
            &opening(stack, Role::Empty, PORT),
            Reason::NoBackend,
            opening(stack, Role::Empty, PORT).refusal(),
        ),
        Row::untouched("a backend's own packet is not remembered", answer(stack, host, SYN_ACK).build()),
        Row::answered(
            "a packet without hops refreshes nothing",
            &request(stack, flag::ACK).hops(1),
            Reason::TtlExpired,
            request(stack, flag::ACK).hops(1).hops_exceeded(),
        )
        .given([Given::Established(request(stack, flag::ACK).tuple(), host)]),
    ];
    named(stack, rows)
}

#[test]
fn connections_are_followed_from_syn_to_fin() {
    with_world(|world| {
        let rows = [TCP4, TCP6].into_iter().flat_map(|stack| life(world, stack)).collect();
        check_table(world, rows)
    });
}

#[test]
fn flows_stay_with_their_backend() {
    with_world(|world| {
        let tcp = [TCP4, TCP6].into_iter().flat_map(|stack| changes(world, stack));
        let udp = [UDP4, UDP6].into_iter().flat_map(|stack| datagrams(world, stack));
        let rows = tcp.chain(udp).chain(STACKS.into_iter().flat_map(nothing_new)).collect();
        check_table(world, rows)
    });
}

/// The agent's view of the same table: flows by backend and state, those of a removed backend let go.
#[test]
fn the_agent_sees_and_forgets_flows() {
    with_world(|world| {
        world.restore()?;
        let hosts = TCP4.hosts(Role::Web);
        for port in 1..=5 {
            world.run(&opening(TCP4, Role::Web, port).build())?;
        }
        world.establish(to(TCP4, Role::Web, 6).tuple(), hosts[0])?;
        world.run(&to(TCP4, Role::Web, 6).flags(FIN_ACK).build())?;
        world.point(hosts[1])?;
        world.establish(to(TCP4, Role::Web, 7).tuple(), hosts[1])?;

        let states = |world: &World, id: u16| -> anyhow::Result<Vec<FlowState>> {
            let mut states: Vec<_> = world.kernel.flow_rows(100, |of| of == id)?.iter().map(|row| row.state).collect();
            states.sort();
            Ok(states)
        };
        let first = [[FlowState::HalfOpen; 5].as_slice(), &[FlowState::Closing]].concat();
        assert_eq!(states(world, hosts[0].id)?, first);
        assert_eq!(states(world, hosts[1].id)?, [FlowState::Established]);
        assert_eq!(world.kernel.flow_rows(3, |_| true)?.len(), 3);

        let sweep = world.kernel.sweep(|_| false, &[])?;
        assert_eq!((sweep.entries, sweep.removed), (7, 0));
        assert_eq!(sweep.active.into_iter().collect::<Vec<_>>(), [(hosts[0].id, 5), (hosts[1].id, 1)]);

        let sweep = world.kernel.sweep(|_| false, &[hosts[0].id])?;
        assert_eq!((sweep.entries, sweep.removed), (1, 6));
        assert_eq!(states(world, hosts[0].id)?, []);
        let (forgotten, kept) = (to(TCP4, Role::Web, 6).tuple(), to(TCP4, Role::Web, 7).tuple());
        assert_eq!(world.route(forgotten)?, Route::Chosen { backend: hosts[1].id });
        assert_eq!(world.route(kept)?, Route::Remembered { backend: hosts[1].id });
        Ok(())
    });
}
