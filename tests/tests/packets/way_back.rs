//! The way back to a client: asked of the kernel's tables once in a unit of coarse time for each flow, believed in between.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::packets::frame::{ETHERNET, Tuple};
use lb_tests::packets::plan::STACKS;
use lb_tests::packets::{Frame, Role, Stack, Verdict, World, with_world};
use lb_tests::wait::wait_until;

/// Some units of coarse time.
const LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 8123;
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0xcc, 2], [2, 0, 0, 0, 0xcc, 3]];

/// A flow's answer: when it was seen, by which number of hop it went, and to whom.
fn answer(world: &World, stack: Stack, tuple: Tuple) -> Result<(u32, u32, [u8; 6])> {
    let frame = Frame::new(stack, stack.host(Role::Web).address, tuple.source);
    let (verdict, out) = world.run(&frame.build())?;
    ensure!(verdict == Verdict::Redirect && out.len() > ETHERNET, "{verdict:?}");
    let entry = world.entry(tuple)?.context("the flow is remembered")?;
    Ok((entry.seen(), entry.client_hop(entry.seen()), out[..6].try_into()?))
}

/// Has the client's neighbour be `before`, answers, has it be `after`, answers: within one unit of time.
fn change_within_a_unit(world: &mut World, stack: Stack, tuple: Tuple) -> Result<()> {
    let [before, after] = MACS;
    wait_until("two answers fall into one unit of time", LIMIT, || {
        world.set_client_mac(stack.family, before)?;
        let (_, number, mac) = answer(world, stack, tuple)?;
        world.kernel.number_client_hops()?;
        ensure!(
            number != 0 && mac == before,
            "the hop has no number yet, or the old one is believed: {number}, {mac:x?}"
        );
        let (seen, ..) = answer(world, stack, tuple)?;
        world.set_client_mac(stack.family, after)?;
        let (seen_again, _, mac) = answer(world, stack, tuple)?;
        ensure!(seen_again == seen, "a unit of time has ended meanwhile");
        Ok(mac)
    })
    .and_then(|mac| {
        ensure!(mac == before, "the kernel was asked for each answer: {mac:x?}");
        Ok(())
    })
}

#[test]
fn it_is_asked_once_in_a_while() {
    with_world(|world| {
        for stack in STACKS {
            let tuple =
                Tuple { protocol: stack.protocol, source: stack.client(PORT), destination: stack.vip(Role::Web) };
            world.establish(tuple, stack.host(Role::Web))?;
            change_within_a_unit(world, stack, tuple).with_context(|| format!("{stack:?}"))?;
            wait_until("the kernel is asked again", LIMIT, || {
                let (_, _, mac) = answer(world, stack, tuple)?;
                ensure!(mac == MACS[1], "{mac:x?}");
                Ok(())
            })?;
        }
        Ok(())
    });
}
