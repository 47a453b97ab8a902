//! Which backend new flows get under each scheduler, what stays of that, and what `route` says of it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use lb_common::mode::{Forwarding, Scheduler, ServiceMode, Tracking};
use lb_common::route::Route;
use lb_tests::packets::frame::Tuple;
use lb_tests::packets::plan::STACKS;
use lb_tests::packets::{Frame, Role, Stack, Verdict, World, flag, with_world};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const FLOWS: u16 = 400;
const FIRST_PORT: u16 = 20_000;

fn mode(scheduler: Scheduler) -> ServiceMode {
    ServiceMode::new(Tracking::Full, Forwarding::Nat).with_scheduler(scheduler)
}

fn tuple(stack: Stack, port: u16) -> Tuple {
    Tuple { protocol: stack.protocol, source: stack.client(port), destination: stack.vip(Role::Spread) }
}

/// A new flow's first packet; gives the backend that it went to.
fn open(world: &World, stack: Stack, tuple: Tuple) -> Result<u16> {
    let frame = Frame::new(stack, tuple.source, tuple.destination).flags(flag::SYN);
    let (verdict, _) = world.run(&frame.build())?;
    ensure!(verdict == Verdict::Redirect, "{verdict:?}");
    Ok(world.entry(tuple)?.map_or(0, |entry| entry.backend()))
}

fn with_scheduler(scheduler: Scheduler, test: impl Fn(&mut World, Stack) -> Result<()> + Send + Sync) {
    with_world(|world| {
        for stack in STACKS {
            world.set_mode(stack.host(Role::Spread), mode(scheduler))?;
            test(world, stack)?;
            world.restore()?;
        }
        Ok(())
    });
}

fn opened(world: &World, stack: Stack) -> Result<Vec<u16>> {
    (0..FLOWS).map(|flow| open(world, stack, tuple(stack, FIRST_PORT + flow))).collect()
}

fn counted(backends: &[u16]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    backends.iter().for_each(|id| *counts.entry(*id).or_default() += 1);
    counts
}

/// One after the other through the table, whatever the flows are; on one processor exactly.
#[test]
fn round_robin_walks_through_the_table() {
    with_scheduler(Scheduler::RoundRobin, |world, stack| {
        let mut one = CpuSet::new();
        one.set(0)?;
        sched_setaffinity(Pid::from_raw(0), &one).context("staying on one processor")?;
        let table = stack.slots(Role::Spread);
        let backends = opened(world, stack)?;
        let walk = |start: usize| table.iter().copied().cycle().skip(start).take(backends.len());
        let found = (0..table.len()).any(|start| walk(start).eq(backends.iter().copied()));
        ensure!(found, "{:?} .. is no walk through {:?} ..", &backends[..20], &table[..20]);
        ensure!(matches!(world.route(tuple(stack, 9))?, Route::Undetermined { .. }), "of a flow that is not there yet");
        let known = world.route(tuple(stack, FIRST_PORT + FLOWS - 1))?;
        ensure!(known == Route::Remembered { backend: backends[backends.len() - 1] }, "{known:?}");
        Ok(())
    });
}

#[test]
fn random_uses_every_backend() {
    with_scheduler(Scheduler::Random, |world, stack| {
        let first = opened(world, stack)?;
        let hosts = stack.hosts(Role::Spread).len();
        ensure!(counted(&first).len() == hosts, "{:?}", counted(&first));
        world.forget()?;
        // The same flows once more: 400 of them go the same way once in 10^100 years.
        ensure!(opened(world, stack)? != first, "chance has decided the same twice");
        ensure!(matches!(world.route(tuple(stack, 9))?, Route::Undetermined { .. }));
        Ok(())
    });
}

/// The busier of two is not chosen; flows that close make room; `route` says it before.
#[test]
fn least_connections_goes_where_fewer_are() {
    with_scheduler(Scheduler::LeastConnections, |world, stack| {
        let hosts = stack.hosts(Role::Spread);
        // Nobody's counters are left from before.
        world.kernel.sweep(|_| false, &[])?;
        let mut told = 0;
        for flow in 0..FLOWS {
            let tuple = tuple(stack, FIRST_PORT + flow);
            let route = world.route(tuple)?;
            let backend = open(world, stack, tuple)?;
            told += u16::from(route == Route::Chosen { backend });
        }
        ensure!(told == FLOWS, "`route` was right about {told} of {FLOWS} new flows");
        let loads: Vec<u32> = hosts.iter().map(|host| world.kernel.tables().active(host.id)).collect();
        // Their slots are as 1 to 2 to 3: by those alone the first would have a sixth.
        ensure!(loads.iter().sum::<u32>() == u32::from(FLOWS) && loads.iter().all(|load| *load > 100), "{loads:?}");
        if stack.is_tcp() {
            let (flow, host) = (tuple(stack, FIRST_PORT), hosts[0]);
            let before = world.kernel.tables().active(host.id);
            let id = world.entry(flow)?.map_or(0, |entry| entry.backend());
            let end = Frame::new(stack, flow.source, flow.destination).flags(flag::FIN | flag::ACK);
            // Twice: a flow closes once.
            for _ in 0..2 {
                world.run(&end.build())?;
            }
            let closed: u32 = hosts.iter().map(|host| world.kernel.tables().active(host.id)).sum();
            ensure!(closed == u32::from(FLOWS) - 1, "{closed}");
            ensure!(id != host.id || world.kernel.tables().active(host.id) == before - 1);
        }
        Ok(())
    });
}

/// All flows of a client, TCP or UDP, from whatever port; and other clients elsewhere.
#[test]
fn a_client_stays_with_its_backend() {
    with_world(|world| {
        for stack in STACKS {
            world.set_mode(stack.host(Role::Spread), mode(Scheduler::Consistent).with_client_affinity(true))?;
            let mut used = BTreeMap::new();
            for host in 1..=20 {
                let source = |port| std::net::SocketAddr::new(stack.family.far_client(host), port);
                let mut own = BTreeMap::new();
                for port in 1000..1020 {
                    let tuple = Tuple { source: source(port), ..tuple(stack, port) };
                    let route = world.route(tuple)?;
                    let backend = open(world, stack, tuple)?;
                    ensure!(
                        route == Route::Chosen { backend } || route == Route::Remembered { backend },
                        "{route:?}, and then {backend}"
                    );
                    *own.entry(backend).or_insert(0) += 1;
                }
                ensure!(own.len() == 1, "a client has {own:?}");
                used.extend(own);
            }
            ensure!(used.len() == stack.hosts(Role::Spread).len(), "all clients have {used:?}");
            world.restore()?;
        }
        Ok(())
    });
}
