//! How long backends take, as the program measures it of sampled flows: what begins a wait, what ends it, and what does neither.

use anyhow::{Result, ensure};
use lb_common::latency::{Kind, MAX_SHIFT};
use lb_common::mode::{Forwarding, ServiceMode, Tracking};
use lb_tests::packets::plan::{Host, STACKS, TCP4, TCP6};
use lb_tests::packets::{Frame, Role, Stack, Verdict, World, flag, with_world};

const PORT: u16 = 8300;

/// One flow to the only backend of a service.
struct Flow {
    stack: Stack,
    host: Host,
    port: u16,
}

impl Flow {
    fn request(&self, world: &World, flags: u8, payload: usize) -> Result<()> {
        let frame = Frame::new(self.stack, self.stack.client(self.port), self.stack.vip(Role::Web));
        sent(world, &frame.flags(flags).payload(payload))
    }

    fn reply(&self, world: &World, flags: u8, payload: usize) -> Result<()> {
        let frame = Frame::new(self.stack, self.host.address, self.stack.client(self.port));
        sent(world, &frame.flags(flags).payload(payload))
    }

    /// How many were measured, by kind; each took longer than nothing and less than a minute.
    fn measured(&self, world: &World) -> Result<[u32; 2]> {
        let mut found = [0; 2];
        for kind in Kind::ALL {
            let Some((counts, sum)) = world.kernel.latencies(self.host.id, kind) else { continue };
            found[kind as usize] = counts.iter().sum();
            let count = u64::from(found[kind as usize]);
            ensure!((count..=60_000_000_000 * count).contains(&sum), "{count} of {kind:?} took {sum} ns");
        }
        Ok(found)
    }
}

fn sent(world: &World, frame: &Frame) -> Result<()> {
    let (verdict, _) = world.run(&frame.build())?;
    ensure!(matches!(verdict, Verdict::Redirect | Verdict::Tx), "{verdict:?}");
    Ok(())
}

fn flow(world: &mut World, stack: Stack, shift: u32) -> Result<Flow> {
    let host = stack.host(Role::Web);
    world.kernel.tables_mut().set_sampling(host.id, shift);
    world.kernel.clear_counters(host.id)?;
    Ok(Flow { stack, host, port: PORT })
}

#[test]
fn each_turn_of_a_connection_is_measured_once() {
    with_world(|world| {
        for stack in [TCP4, TCP6] {
            let flow = flow(world, stack, 0)?;
            flow.request(world, flag::SYN, 0)?;
            flow.request(world, flag::SYN, 0)?;
            ensure!(flow.measured(world)? == [0, 0], "nobody has answered");
            flow.reply(world, flag::SYN | flag::ACK, 0)?;
            flow.reply(world, flag::SYN | flag::ACK, 0)?;
            ensure!(flow.measured(world)? == [1, 0], "a handshake: {:?}", flow.measured(world)?);
            flow.request(world, flag::ACK, 0)?;
            flow.reply(world, flag::ACK | flag::PSH, 10)?;
            ensure!(flow.measured(world)? == [1, 0], "the backend spoke of itself");
            for turn in 1..=3 {
                // A request of two segments, one of them twice, and an answer of two behind an empty acknowledgement.
                flow.request(world, flag::ACK, 100)?;
                flow.request(world, flag::ACK, 100)?;
                flow.request(world, flag::ACK | flag::PSH, 50)?;
                flow.reply(world, flag::ACK, 0)?;
                ensure!(flow.measured(world)? == [1, turn - 1], "an acknowledgement is no answer");
                flow.reply(world, flag::ACK, 1000)?;
                flow.reply(world, flag::ACK | flag::PSH, 10)?;
                ensure!(flow.measured(world)? == [1, turn], "{:?}", flow.measured(world)?);
            }
        }
        Ok(())
    });
}

#[test]
fn datagrams_are_measured_to_their_answer() {
    with_world(|world| {
        for stack in STACKS.into_iter().filter(|stack| !stack.is_tcp()) {
            let flow = flow(world, stack, 0)?;
            for turn in 1..=3 {
                flow.request(world, 0, 10)?;
                flow.request(world, 0, 10)?;
                flow.reply(world, 0, 10)?;
                flow.reply(world, 0, 10)?;
                ensure!(flow.measured(world)? == [0, turn], "{:?}", flow.measured(world)?);
            }
        }
        Ok(())
    });
}

/// Where answers do not pass, a client's next packet tells of them.
#[test]
fn without_answers_the_client_tells() {
    with_world(|world| {
        for stack in [TCP4, TCP6] {
            let flow = flow(world, stack, 0)?;
            world.set_mode(flow.host, ServiceMode::new(Tracking::Full, Forwarding::Dsr))?;
            flow.request(world, flag::SYN, 0)?;
            flow.request(world, flag::SYN, 0)?;
            ensure!(flow.measured(world)? == [0, 0], "a SYN again");
            flow.request(world, flag::ACK, 0)?;
            ensure!(flow.measured(world)? == [1, 0], "{:?}", flow.measured(world)?);
            flow.request(world, flag::ACK | flag::PSH, 100)?;
            flow.request(world, flag::ACK | flag::PSH, 100)?;
            ensure!(flow.measured(world)? == [1, 0], "the request again");
            flow.request(world, flag::ACK, 0)?;
            ensure!(flow.measured(world)? == [1, 1], "{:?}", flow.measured(world)?);
        }
        Ok(())
    });
}

#[test]
fn flows_that_are_not_sampled_are_not_measured() {
    with_world(|world| {
        for stack in [TCP4, TCP6] {
            let mut flow = flow(world, stack, MAX_SHIFT)?;
            for port in PORT..PORT + 64 {
                flow.port = port;
                flow.request(world, flag::SYN, 0)?;
                flow.reply(world, flag::SYN | flag::ACK, 0)?;
            }
            // One in 32,768: of 64 flows one is in one run of 500.
            ensure!(flow.measured(world)?[0] <= 2, "{:?}", flow.measured(world)?);
        }
        Ok(())
    });
}

/// A handshake that nobody answers is told once, of the backend that did not.
#[test]
fn silence_is_noticed() {
    with_world(|world| {
        let flow = flow(world, TCP4, 0)?;
        world.kernel.unanswered(u64::MAX, 0);
        flow.request(world, flag::SYN, 0)?;
        ensure!(world.kernel.unanswered(0, 0).is_empty(), "it has not been waited for yet");
        ensure!(world.kernel.unanswered(u64::MAX, 1) == [flow.host.id], "nobody has answered");
        ensure!(world.kernel.unanswered(u64::MAX, 1).is_empty(), "it was told");
        flow.reply(world, flag::SYN | flag::ACK, 0)?;
        ensure!(flow.measured(world)? == [0, 0], "it is not waited for any more");
        Ok(())
    });
}
