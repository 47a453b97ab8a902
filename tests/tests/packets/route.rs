//! The dry run (`lb-agent flow route`): what it says is what the next packet gets, and asking changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use lb_common::reason::Reason;
use lb_common::route::Route;
use lb_tests::lab::address::Family;
use lb_tests::packets::plan::{STACKS, TCP4, TCP6, UDP4};
use lb_tests::packets::{Frame, Role, Stack, Tuple, Verdict, World, flag, taken, with_world};
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

use crate::requests::{opening, to};

/// One seed for all runs; change it to look elsewhere.
const SEED: u64 = 0x0725_0001;

/// The answer, and that nothing has changed by asking.
fn ask(world: &mut World, tuple: Tuple) -> Result<Route> {
    let before = world.snapshot()?;
    let route = world.route(tuple)?;
    assert!(world.snapshot()? == before, "asking about {tuple:?} has changed something");
    assert_eq!(world.events()?, []);
    Ok(route)
}

fn random_client(rng: &mut Pcg64Mcg, stack: Stack) -> SocketAddr {
    let address: IpAddr = match stack.family {
        Family::V4 => Ipv4Addr::from_bits(rng.random_range(0x0100_0000..0x7f00_0000)).into(),
        Family::V6 => Ipv6Addr::from_bits(rng.random_range(1 << 125..1 << 126)).into(),
    };
    SocketAddr::new(address, rng.random())
}

/// The backend that the packet got, from the frame and from the counters, which must agree.
fn forward(world: &World, stack: Stack, frame: &Frame) -> Result<u16> {
    let before = world.counters()?;
    let (verdict, out) = world.run(&frame.build())?;
    let after = world.counters()?;
    assert_eq!(verdict, Verdict::Redirect, "{frame:?}");
    let counted: Vec<_> = after.iter().filter(|(id, counters)| counters.packets != before[id].packets).collect();
    assert_eq!(counted.len(), 1, "one backend has got it");
    let host = stack.hosts(Role::Spread).into_iter().find(|host| host.id == *counted[0].0).context("of the service")?;
    let (_, macs) = world.way(&host, 0).expect("the plan's backend can be reached");
    assert_eq!(out, frame.sent_to(host.address, macs).build());
    Ok(host.id)
}

/// New flows and known ones, while slots move.
#[test]
fn a_thousand_flows_go_where_it_was_said() {
    with_world(|world| {
        world.restore()?;
        let mut rng = Pcg64Mcg::seed_from_u64(SEED);
        let (mut chosen, mut remembered) = (0, 0);
        let mut known = Vec::new();
        for i in 0..1000 {
            if i % 200 == 199 {
                for stack in STACKS {
                    let hosts = stack.hosts(Role::Spread);
                    let table: Vec<_> = (0..1021).map(|_| hosts[rng.random_range(0..hosts.len())].id).collect();
                    world.kernel.tables_mut().put_slots(stack.service(Role::Spread), &taken(&table))?;
                }
            }
            let (stack, client) = if !known.is_empty() && rng.random_bool(0.3) {
                known[rng.random_range(0..known.len())]
            } else {
                let stack = STACKS[rng.random_range(0..STACKS.len())];
                (stack, random_client(&mut rng, stack))
            };
            known.push((stack, client));
            let flags = if rng.random() { flag::SYN } else { flag::ACK | flag::PSH };
            let frame = Frame::new(stack, client, stack.vip(Role::Spread)).flags(flags).payload(i % 9);
            let said = ask(world, frame.tuple())?;
            let got = forward(world, stack, &frame)?;
            match said {
                Route::Chosen { backend } => {
                    assert_eq!(backend, got, "{frame:?}");
                    chosen += 1;
                }
                Route::Remembered { backend } => {
                    assert_eq!(backend, got, "{frame:?}");
                    remembered += 1;
                }
                other => panic!("{other:?} for {frame:?}"),
            }
        }
        println!("{chosen} chosen, {remembered} remembered");
        assert!(chosen > 300 && remembered > 100, "one of the two has hardly been tried");
        Ok(())
    });
}

#[test]
fn it_says_why_not() {
    with_world(|world| {
        world.restore()?;
        for stack in STACKS {
            let host = stack.host(Role::Web);
            let tuple = to(stack, Role::Web, 1).tuple();
            assert_eq!(ask(world, tuple)?, Route::Chosen { backend: host.id });
            world.run(&opening(stack, Role::Web, 1).build())?;
            assert_eq!(ask(world, tuple)?, Route::Remembered { backend: host.id });
            world.point(stack.hosts(Role::Web)[1])?;
            assert_eq!(ask(world, tuple)?, Route::Remembered { backend: host.id });
            world.kernel.tables_mut().remove_backend(host.id)?;
            assert_eq!(ask(world, tuple)?, Route::Chosen { backend: stack.hosts(Role::Web)[1].id });
            let empty = to(stack, Role::Empty, 1).tuple();
            assert_eq!(ask(world, empty)?, Route::Refused(Reason::NoBackend));
            let other = Tuple { destination: SocketAddr::new(tuple.destination.ip(), 7), ..tuple };
            assert_eq!(ask(world, other)?, Route::NotOurs);
            // A reply is no client's packet.
            let reply = Tuple { source: host.address, destination: tuple.source, ..tuple };
            assert_eq!(ask(world, reply)?, Route::NotOurs);
        }
        Ok(())
    });
}

#[test]
fn two_families_are_no_question() {
    with_world(|world| {
        let mixed = Tuple { source: TCP6.client(1), ..to(TCP4, Role::Web, 1).tuple() };
        assert_eq!(world.kernel.route(mixed)?, None);
        let other_protocol = Tuple { protocol: UDP4.protocol, ..to(TCP4, Role::Web, 1).tuple() };
        assert_eq!(world.kernel.route(other_protocol)?, Some(Route::Chosen { backend: UDP4.host(Role::Web).id }));
        Ok(())
    });
}
