//! An endpoint that several services have as a backend: the flow table tells whose a reply is.

use anyhow::ensure;
use lb_common::limits::MAX_MEMBERSHIPS;
use lb_common::mode::{Forwarding, ServiceMode, Tracking};
use lb_tests::packets::plan::{Link, STACKS};
use lb_tests::packets::shared::{LINK, Shared};
use lb_tests::packets::{Frame, Verdict, World, flag, with_world};

const NAT: ServiceMode = ServiceMode::new(Tracking::Full, Forwarding::Nat);
const SNAT: ServiceMode = ServiceMode::new(Tracking::Full, Forwarding::Snat);

/// The client's packet reaches the backend as nat sends it.
fn opened(world: &World, shared: &Shared, service: u16, port: u16) -> anyhow::Result<()> {
    let frame = Frame::new(shared.stack, shared.stack.client(port), shared.vip(service)).flags(flag::SYN);
    let expected = frame.sent_to(shared.backend(), world.hop(LINK).1).build();
    ensure!(world.run(&frame.build())? == (Verdict::Redirect, expected), "to service {service} from {port}");
    Ok(())
}

/// The backend's packet to this port of the client.
fn answer(shared: &Shared, port: u16) -> Frame {
    Frame::new(shared.stack, shared.backend(), shared.stack.client(port)).flags(flag::SYN | flag::ACK)
}

fn returned(world: &World, shared: &Shared, service: u16, port: u16) -> anyhow::Result<()> {
    let frame = answer(shared, port);
    let expected = frame.returned_from(shared.vip(service), world.hop(Link::Client).1).build();
    let found = world.run(&frame.build())?;
    ensure!(found == (Verdict::Redirect, expected), "from service {service} to {port}: {found:02x?}");
    Ok(())
}

#[test]
fn each_reply_is_of_its_flows_service() {
    with_world(|world| {
        let services = u16::try_from(MAX_MEMBERSHIPS)?;
        for stack in STACKS {
            let shared = Shared::new(stack, 0, services);
            shared.put(world, NAT)?;
            for service in 0..services {
                opened(world, &shared, service, 4000 + service)?;
            }
            for service in (0..services).rev() {
                returned(world, &shared, service, 4000 + service)?;
                let counters = world.kernel.counters(shared.id(service))?;
                ensure!((counters.packets, counters.reply_packets) == (1, 1), "{service}: {counters:?}");
            }
            let direct = answer(&shared, 4999).build();
            ensure!(world.run(&direct)? == (Verdict::Pass, direct), "somebody talks to the backend directly");
            // Those that are left go on.
            world.kernel.tables_mut().remove_backend(shared.id(0))?;
            let gone = answer(&shared, 4000).build();
            ensure!(world.run(&gone)? == (Verdict::Pass, gone), "the service is no more");
            returned(world, &shared, 1, 4001)?;
        }
        Ok(())
    });
}

/// One service knows clients by their own addresses, the other by ports of the balancer.
#[test]
fn nat_and_snat_share_a_backend() {
    with_world(|world| {
        for stack in STACKS {
            let shared = Shared::new(stack, 0, 2);
            shared.put_one(world, 0, NAT)?;
            shared.put_one(world, 1, SNAT)?;
            opened(world, &shared, 0, 4000)?;
            let frame = Frame::new(stack, stack.client(4001), shared.vip(1)).flags(flag::SYN).build();
            let (verdict, out) = world.run(&frame)?;
            ensure!(verdict == Verdict::Redirect && out[..] != frame[..], "{verdict:?}");
            returned(world, &shared, 0, 4000)?;
            let direct = answer(&shared, 4001).build();
            ensure!(world.run(&direct)? == (Verdict::Pass, direct), "that flow has another name at the backend");
        }
        Ok(())
    });
}
