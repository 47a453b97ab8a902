//! Packets that are refused, and whose senders are told: resets, unreachable ports, exceeded hops. What is told is bounded,
//! and some are told nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_common::limits::{ERRORS_PER_UNIT, RESETS_PER_UNIT};
use lb_common::reason::Reason;
use lb_tests::lab::address::Family;
use lb_tests::packets::plan::{STACKS, TCP4, TCP6, UDP4};
use lb_tests::packets::{Frame, Given, Host, Role, Row, Stack, Verdict, World, check_table, flag, with_world};

use crate::requests::{opening, to};

/// No backend is there: whoever calls hears it at once.
fn without_backend(stack: Stack) -> Vec<Row> {
    let row = |name: &str, frame: Frame| {
        Row::answered(format!("{}: {name}", stack.name()), &frame, Reason::NoBackend, frame.refusal())
    };
    let frame = || to(stack, Role::Empty, 5000);
    let mut rows = vec![
        row("nothing but headers", frame()),
        row("with padding behind it", frame().padding(9)),
        row("one byte", frame().payload(1)),
        row("a full packet", frame().payload(1400)),
        row("of a class", frame().class(0xb8)),
        row("from port 65535", Frame { source: stack.client(u16::MAX), ..frame() }),
    ];
    if stack.is_tcp() {
        rows.extend([
            row("SYN", frame().flags(flag::SYN)),
            row("SYN with options", frame().flags(flag::SYN).tcp_options(10)),
            row("SYN with data", frame().flags(flag::SYN).payload(50)),
            row("SYN with congestion marks", frame().flags(flag::SYN | flag::ECE | flag::CWR)),
            row("SYN with ACK", frame().flags(flag::SYN | flag::ACK)),
            row("FIN alone", frame().flags(flag::FIN).payload(3)),
            row("FIN with ACK", frame().flags(flag::FIN | flag::ACK)),
        ]);
        let silent = |name: &str, flags: u8| {
            let name = format!("{}: {name} is not answered", stack.name());
            Row::refused(name, frame().flags(flags).build(), Reason::NoBackend, Verdict::Drop)
        };
        rows.extend([silent("RST", flag::RST), silent("RST with ACK", flag::RST | flag::ACK)]);
    }
    rows
}

/// IPv4 options: a reset leaves them away, an error would have to quote them.
fn with_options() -> Vec<Row> {
    let syn = opening(TCP4, Role::Empty, 5100).ip_options(3);
    let datagram = to(UDP4, Role::Empty, 5100).ip_options(3).payload(99);
    let expired = opening(TCP4, Role::Web, 5100).ip_options(1).hops(1).payload(99);
    vec![
        Row::answered("options before a SYN", &syn, Reason::NoBackend, syn.refusal()),
        Row::refused("options before a datagram", datagram.build(), Reason::NoBackend, Verdict::Drop),
        Row::refused("options, and no hops left", expired.build(), Reason::TtlExpired, Verdict::Drop),
    ]
}

/// A source that is no host's is dropped, whatever else is wrong with the packet.
fn martians(stack: Stack) -> Vec<Row> {
    let sources: &[&str] = if stack.family == Family::V4 {
        &["0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.0.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"]
    } else {
        &["::", "::1", "ff02::1", "ff0e::9"]
    };
    let mut rows = Vec::new();
    for source in sources {
        let source = SocketAddr::new(source.parse().expect("an address"), 5200);
        for role in [Role::Web, Role::Empty] {
            let frame = Frame { source, ..opening(stack, role, 5200) };
            let name = format!("{}: from {}, {role:?}", stack.name(), source.ip());
            rows.push(Row::refused(name, frame.build(), Reason::Martian, Verdict::Drop));
        }
    }
    rows
}

/// Backends that call a VIP: what would come back to its caller is refused, the rest is traffic.
fn hairpin(world: &World, stack: Stack) -> Vec<Row> {
    let [host, other] = stack.hosts(Role::Web)[..] else { unreachable!("there are two") };
    let from = |caller: Host, port| Frame {
        source: SocketAddr::new(caller.address.ip(), port),
        ..opening(stack, Role::Web, port)
    };
    let name = |name: &str| format!("{}: {name}", stack.name());
    let own = from(host, 5300);
    let refused = Row::answered(name("a backend's own call"), &own, Reason::Hairpin, own.refusal());
    vec![
        refused.of(own.tuple(), host).opens(),
        Row::request(name("another backend's call"), world, &from(other, 5301), host).opens(),
        Row::request(name("its call that was moved away"), world, &from(host, 5302), other)
            .given([Given::Moved(other)])
            .opens(),
    ]
}

#[test]
fn who_is_refused_is_told() {
    with_world(|world| {
        let mut rows = with_options();
        for stack in STACKS {
            rows.extend(without_backend(stack));
            rows.extend(martians(stack));
            rows.extend(hairpin(world, stack));
        }
        check_table(world, rows)
    });
}

/// However many ask, at once and in each unit of time that has begun, on each processor that this thread has run on.
#[test]
fn answers_are_bounded() {
    with_world(|world| {
        world.restore()?;
        let expired = to(UDP4, Role::Web, 5400).hops(1).build();
        bounded(world, &expired, ERRORS_PER_UNIT)?;
        let refused = opening(TCP6, Role::Empty, 5400).build();
        bounded(world, &refused, RESETS_PER_UNIT)
    });
}

fn bounded(world: &World, frame: &[u8], per_unit: u32) -> Result<()> {
    let limited = || Ok::<_, anyhow::Error>(world.reasons()?.get(&Reason::AnswerLimit).copied().unwrap_or(0));
    let before = limited()?;
    let (start, mut asked, mut answered) = (Instant::now(), 0, 0);
    while limited()? == before {
        for _ in 0..per_unit {
            answered += u32::from(world.run(frame)?.0 == Verdict::Tx);
            asked += 1;
        }
        ensure!(start.elapsed() < Duration::from_secs(60), "{answered} answers, and no end to them");
    }
    let units = 2 + u32::try_from(start.elapsed().as_secs())?;
    let processors = u32::try_from(std::thread::available_parallelism()?.get())?;
    ensure!((1..=per_unit * processors * units).contains(&answered), "{answered} answers of {asked}");
    Ok(())
}
