//! A flow table that is full: who makes room for whom, what is counted, and that no flood breaks a live flow.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Result;
use lb_common::flow::{BUCKET_ENTRIES, FlowState, STALE_AFTER};
use lb_common::reason::Reason;
use lb_tests::packets::frame::Tuple;
use lb_tests::packets::plan::{Host, STACKS, TCP4, TCP6};
use lb_tests::packets::{Frame, Given, Role, Row, Stack, Verdict, World, check_table, flag, with_world};

/// Time passes in a test too: this many units of it are more than any test takes.
const MARGIN: u32 = 300;

/// Eight flows that fill a bucket, and one more of the same bucket.
struct Crowd {
    stack: Stack,
    host: Host,
    inside: Vec<Tuple>,
    outside: Tuple,
}

impl Crowd {
    fn new(world: &World, stack: Stack) -> Self {
        let mut inside = world.rivals(stack, Role::Web, BUCKET_ENTRIES + 1);
        let outside = inside.remove(BUCKET_ENTRIES);
        Self { stack, host: stack.host(Role::Web), inside, outside }
    }

    fn request(&self, tuple: Tuple, flags: u8) -> Frame {
        Frame::new(self.stack, tuple.source, tuple.destination).flags(flags)
    }

    fn answer(&self, tuple: Tuple, flags: u8) -> Frame {
        Frame::new(self.stack, self.host.address, tuple.source).flags(flags)
    }

    /// What brings a flow into this state; datagrams only know half-open and established.
    fn make(&self, tuple: Tuple, state: FlowState) -> Vec<Given> {
        let open = Given::Packet(self.request(tuple, flag::SYN));
        match state {
            FlowState::HalfOpen => vec![open],
            FlowState::Answered => vec![open, Given::Packet(self.answer(tuple, flag::SYN | flag::ACK))],
            FlowState::Established => vec![Given::Established(tuple, self.host)],
            FlowState::Closing => vec![open, Given::Packet(self.request(tuple, flag::RST))],
            FlowState::Heard => {
                unreachable!("where every flow is recorded and answers pass, the backends are heard as well")
            }
        }
    }

    /// The bucket filled: one flow in each of the states, in this order.
    fn filled(&self, states: [FlowState; BUCKET_ENTRIES]) -> Vec<Given> {
        self.inside.iter().zip(states).flat_map(|(tuple, state)| self.make(*tuple, state)).collect()
    }

    /// The new flow's first packet.
    fn newcomer(&self, world: &World, name: &str) -> Row {
        let name = format!("{}: {name}", self.stack.name());
        Row::request(name, world, &self.request(self.outside, flag::SYN), self.host)
    }

    /// A newcomer that takes the place of flow `loser`.
    fn replaces(&self, world: &World, name: &str, loser: usize) -> Row {
        self.newcomer(world, name).opens_instead_of(self.inside[loser])
    }
}

/// All in one state, but one.
fn but_one(most: FlowState, at: usize, one: FlowState) -> [FlowState; BUCKET_ENTRIES] {
    let mut states = [most; BUCKET_ENTRIES];
    states[at] = one;
    states
}

fn order(world: &World, stack: Stack) -> Vec<Row> {
    use FlowState::{Answered, Closing, Established, HalfOpen};
    let crowd = Crowd::new(world, stack);
    let id = crowd.host.id;
    let silent = |at: usize, units| Given::Silent(crowd.inside[at], units);
    let mut rows = vec![
        crowd
            .newcomer(world, "there is no room among established flows: forwarded, counted, not remembered")
            .given(crowd.filled([Established; BUCKET_ENTRIES]))
            .new_flow()
            .counting(Reason::FlowTableFull),
        crowd
            .replaces(world, "one that has not been answered makes room", 6)
            .given(crowd.filled(but_one(Established, 6, HalfOpen)))
            .counted(id, |counters| counters.evicted_half_open = 1),
        crowd
            .replaces(world, "the longest silent of those that have not been answered makes room", 3)
            .given(crowd.filled([HalfOpen; BUCKET_ENTRIES]))
            .given([silent(3, 40), silent(5, 20)])
            .counted(id, |counters| counters.evicted_half_open = 1),
        crowd
            .replaces(world, "one that has long been silent makes room", 4)
            .given(crowd.filled([Established; BUCKET_ENTRIES]))
            .given([silent(4, STALE_AFTER + 1)])
            .counted(id, |counters| counters.evicted_stale = 1),
        crowd
            .replaces(world, "the longest silent makes room", 7)
            .given(crowd.filled([Established; BUCKET_ENTRIES]))
            .given([silent(1, STALE_AFTER + 1), silent(7, STALE_AFTER + MARGIN)])
            .counted(id, |counters| counters.evicted_stale = 1),
        crowd
            .newcomer(world, "nobody who has not been silent for long enough makes room")
            .given(crowd.filled([Established; BUCKET_ENTRIES]))
            .given((0..BUCKET_ENTRIES).map(|at| silent(at, STALE_AFTER - MARGIN)))
            .new_flow()
            .counting(Reason::FlowTableFull),
        crowd
            .replaces(world, "one that has long been silent goes before one that has not been answered", 2)
            .given(crowd.filled(but_one(HalfOpen, 2, Established)))
            .given([silent(2, STALE_AFTER + 1)])
            .counted(id, |counters| counters.evicted_stale = 1),
    ];
    if stack.is_tcp() {
        rows.extend([
            crowd
                .replaces(world, "one that is closing makes room, and nobody loses anything", 5)
                .given(crowd.filled(but_one(Established, 5, Closing))),
            crowd
                .replaces(world, "one that is closing goes before those that have not been answered", 7)
                .given(crowd.filled(but_one(HalfOpen, 7, Closing))),
            crowd
                .replaces(world, "one that is closing goes before one that has long been silent", 6)
                .given(crowd.filled(but_one(Established, 6, Closing)))
                .given([silent(0, STALE_AFTER + 1)]),
            crowd
                .replaces(world, "one that has not been answered goes before one that has", 1)
                .given(crowd.filled(but_one(Answered, 1, HalfOpen)))
                .counted(id, |counters| counters.evicted_half_open = 1),
            crowd
                .replaces(world, "one that has only been answered makes room", 1)
                .given(crowd.filled(but_one(Established, 1, Answered)))
                .counted(id, |counters| counters.evicted_half_open = 1),
        ]);
    }
    rows
}

/// A flow that could not be remembered, or was pushed out, still has its answers.
fn without_entry(world: &World, stack: Stack) -> Vec<Row> {
    let crowd = Crowd::new(world, stack);
    let other = stack.hosts(Role::Web)[1];
    let full = || crowd.filled([FlowState::Established; BUCKET_ENTRIES]);
    let name = |name: &str| format!("{}: {name}", stack.name());
    let answer = crowd.answer(crowd.outside, flag::SYN | flag::ACK);
    let pushed_out = crowd.answer(crowd.inside[0], flag::SYN | flag::ACK);
    let row = |what: &str, frame: &Frame| Row::reply(name(what), world, frame, crowd.host);
    let mut rows = vec![
        row("the answer to a flow that found no room", &answer)
            .given(full())
            .given([Given::Packet(crowd.request(crowd.outside, flag::SYN))]),
        row("the answer to a flow that was pushed out", &pushed_out)
            .given(crowd.filled([FlowState::HalfOpen; BUCKET_ENTRIES]))
            .given([Given::Silent(crowd.inside[0], 20), Given::Packet(crowd.request(crowd.outside, flag::SYN))]),
        // Only where the bucket is full may an unknown flow be one of ours.
        Row::untouched(name("the answer of a backend that is not the slot's"), {
            Frame { source: other.address, ..answer.clone() }.build()
        })
        .given(full()),
        Row::untouched(name("the answer when the slots have moved"), answer.build())
            .given(full())
            .given([Given::Packet(crowd.request(crowd.outside, flag::SYN)), Given::Moved(other)]),
        Row::untouched(name("the answer to nobody, and there is room"), answer.build())
            .given(full().into_iter().take(BUCKET_ENTRIES - 1)),
        Row::refused(
            name("an answer without hops to a flow that found no room"),
            answer.clone().hops(0).build(),
            Reason::TtlExpired,
            Verdict::Drop,
        )
        .given(full()),
    ];
    let data = crowd.request(crowd.outside, flag::ACK | flag::PSH).payload(8);
    let next = Row::request(name("the next packet of a flow that found no room"), world, &data, crowd.host);
    rows.push(
        next.given(full())
            .given([Given::Packet(crowd.request(crowd.outside, flag::SYN))])
            .new_flow()
            .counting(Reason::FlowTableFull),
    );
    rows
}

#[test]
fn the_least_worth_makes_room() {
    with_world(|world| {
        let rows = STACKS.into_iter().flat_map(|stack| order(world, stack)).collect();
        check_table(world, rows)
    });
}

#[test]
fn flows_without_an_entry_are_served() {
    with_world(|world| {
        let rows = STACKS.into_iter().flat_map(|stack| without_entry(world, stack)).collect();
        check_table(world, rows)
    });
}

/// Live connections, then a flood of SYNs that fills the table several times over, each third one answered; then the slots
/// move, so that only what is remembered can keep a connection where it is.
fn withstand(world: &mut World, stack: Stack) -> Result<()> {
    const FLOOD: u32 = 20_000;
    world.restore()?;
    let hosts = stack.hosts(Role::Web);
    let live = live_flows(world, stack);
    for frame in &live {
        world.establish(frame.tuple(), hosts[0])?;
    }
    let (before, full_before) = (world.counters()?[&hosts[0].id], unremembered(world)?);
    for i in 0..FLOOD {
        let [_, host, high, low] = i.to_be_bytes();
        let source = SocketAddr::new(stack.family.far_client(host), u16::from_be_bytes([high, low]));
        let syn = Frame::new(stack, source, stack.vip(Role::Web)).flags(flag::SYN).build();
        assert_eq!(world.run(&syn)?.0, Verdict::Redirect);
        if i % 3 == 0 {
            let answer = Frame::new(stack, hosts[0].address, source).flags(flag::SYN | flag::ACK).build();
            assert_eq!(world.run(&answer)?.0, Verdict::Redirect, "each flow has its answer, remembered or not");
        }
    }
    let after = world.counters()?[&hosts[0].id];
    let evicted = after.evicted_half_open - before.evicted_half_open;
    println!("{}: {evicted} evicted, {} not remembered", stack.name(), unremembered(world)? - full_before);
    assert_eq!(after.evicted_stale, before.evicted_stale);
    assert!(evicted > u64::from(FLOOD) / 2, "the flood has not filled the table: {evicted}");
    world.point(hosts[1])?;
    for frame in &live {
        let (verdict, out) = world.run(&frame.build())?;
        let (_, macs) = world.way(&hosts[0], out.len()).expect("the plan's backend can be reached");
        assert_eq!((verdict, &out), (Verdict::Redirect, &frame.sent_to(hosts[0].address, macs).build()));
        let state = world.entry(frame.tuple())?.and_then(|entry| entry.state());
        assert_eq!(state, Some(FlowState::Established));
    }
    Ok(())
}

fn unremembered(world: &World) -> Result<u64> {
    Ok(world.reasons()?.get(&Reason::FlowTableFull).copied().unwrap_or(0))
}

/// Connections that leave a place in each bucket: one that finds none is not remembered, flood or not.
fn live_flows(world: &World, stack: Stack) -> Vec<Frame> {
    const LIVE: usize = 200;
    let mut used = BTreeMap::new();
    let frames = (1..).map(|port| Frame::new(stack, stack.client(port), stack.vip(Role::Web)));
    let fits = |frame: &Frame| {
        let count = used.entry(world.bucket_of(frame.tuple())).or_insert(0);
        *count += 1;
        *count < BUCKET_ENTRIES
    };
    frames.filter(fits).take(LIVE).collect()
}

#[test]
fn a_flood_breaks_no_live_flow() {
    with_world(|world| [TCP4, TCP6].into_iter().try_for_each(|stack| withstand(world, stack)));
}
