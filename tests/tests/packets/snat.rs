//! Flows that are lent a port of the balancer: both ends rewritten, each answer to its own client, and an end to what can be
//! lent. Which port a flow gets is the program's choice, so these are conversations instead of rows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice, icmpv4, icmpv6};
use lb_common::mode::{Forwarding, ServiceMode, Tracking};
use lb_common::reason::Reason;
use lb_tests::lab::address::Family;
use lb_tests::packets::frame::{ARRIVING, Checksum, ETHERNET, Macs};
use lb_tests::packets::plan::{Link, STACKS};
use lb_tests::packets::shared::{LINK, Shared};
use lb_tests::packets::world::PORTS;
use lb_tests::packets::{Frame, Stack, Verdict, World, flag, with_world};
use lb_tests::wait::wait_until;

const SYN_ACK: u8 = flag::SYN | flag::ACK;
const FIN_ACK: u8 = flag::FIN | flag::ACK;
/// Longer than the port of a connection that its client has ended is held.
const HELD: Duration = Duration::from_secs(15);

/// One VIP over one backend, which knows its clients by ports of the balancer.
fn lender(world: &mut World, stack: Stack) -> Result<Shared> {
    let shared = Shared::new(stack, 0, 1);
    shared.put(world, ServiceMode::new(Tracking::Full, Forwarding::Snat))?;
    Ok(shared)
}

/// The port that a frame to the backend comes from.
fn source_port(frame: &[u8]) -> Result<u16> {
    match SlicedPacket::from_ethernet(frame)?.transport.context("no transport header")? {
        TransportSlice::Tcp(tcp) => Ok(tcp.source_port()),
        TransportSlice::Udp(udp) => Ok(udp.source_port()),
        other => anyhow::bail!("{other:?}"),
    }
}

/// This host's end of the flow that the client's packet belongs to, once it has been sent as it must.
fn sent(world: &World, lender: &Shared, frame: &Frame) -> Result<SocketAddr> {
    let (verdict, out) = world.run(&frame.build())?;
    ensure!(verdict == Verdict::Redirect, "{frame:?}: {verdict:?}");
    let own = SocketAddr::new(lender.own(), source_port(&out)?);
    ensure!(PORTS.contains(own.port()), "from port {}", own.port());
    let expected = Frame { source: own, ..frame.sent_to(lender.backend(), world.hop(LINK).1) };
    ensure!(out == expected.build(), "{frame:?} became {out:02x?}");
    Ok(own)
}

/// The backend's packet reaches that client as the VIP's.
fn returned(world: &World, lender: &Shared, answer: &Frame, client: SocketAddr) -> Result<()> {
    let (verdict, out) = world.run(&answer.build())?;
    let expected = Frame { destination: client, ..answer.returned_from(lender.vip(0), world.hop(Link::Client).1) };
    ensure!(verdict == Verdict::Redirect && out == expected.build(), "{answer:?} to {client}: {verdict:?} {out:02x?}");
    Ok(())
}

#[test]
fn both_ends_are_rewritten() {
    with_world(|world| {
        for stack in STACKS {
            let lender = lender(world, stack)?;
            let client = stack.client(5000);
            let request = |flags| Frame::new(stack, client, lender.vip(0)).flags(flags);
            let own = sent(world, &lender, &request(flag::SYN))?;
            let answer = |flags| Frame::new(stack, lender.backend(), own).flags(flags);
            returned(world, &lender, &answer(SYN_ACK), client)?;
            for frame in [
                request(flag::ACK).payload(101),
                request(flag::ACK).class(0xb9).hops(2),
                request(flag::ACK).checksum(Checksum::Off(0x55)),
                request(flag::SYN),
            ] {
                ensure!(sent(world, &lender, &frame)? == own, "another port");
            }
            for frame in [answer(flag::ACK).payload(1001), answer(flag::ACK).checksum(Checksum::Off(0x55)).padding(6)] {
                returned(world, &lender, &frame, client)?;
            }
            if !stack.is_tcp() && stack.family == Family::V4 {
                ensure!(sent(world, &lender, &request(0).checksum(Checksum::Zero))? == own, "no checksum stays none");
            }
            ensure!(world.route(request(flag::ACK).tuple())?.pack() & 0xffff == u32::from(lender.id(0)), "the dry run");
            let counters = world.kernel.counters(lender.id(0))?;
            ensure!(counters.new_flows == 1 && counters.reply_packets == 3, "{counters:?}");
        }
        Ok(())
    });
}

/// What a client gets for a packet that can go nowhere.
fn reset(frame: &Frame) -> Vec<u8> {
    let macs = Macs { destination: frame.macs.source, source: frame.macs.destination };
    let ethernet = PacketBuilder::ethernet2(macs.source, macs.destination);
    let opens = frame.flags & flag::ACK == 0;
    let mut out = Vec::new();
    let (from, to) = (frame.destination.port(), frame.source.port());
    // The sequence number and the acknowledgement of every frame that is built here.
    let (sequence, acknowledged) = if opens { (0, 0x1020_3041) } else { (0x5060_7080, 0) };
    macro_rules! written {
        ($ip:expr) => {{
            let tcp = $ip.tcp(from, to, sequence, 0).rst();
            if opens { tcp.ack(acknowledged).write(&mut out, &[]) } else { tcp.write(&mut out, &[]) }
        }};
    }
    match (frame.destination.ip(), frame.source.ip()) {
        (IpAddr::V4(vip), IpAddr::V4(client)) => {
            let mut ip = etherparse::Ipv4Header::new(20, 64, etherparse::IpNumber::TCP, vip.octets(), client.octets())
                .expect("a small packet");
            ip.dont_fragment = true;
            written!(ethernet.ip(etherparse::IpHeaders::Ipv4(ip, Default::default())))
        }
        (IpAddr::V6(vip), IpAddr::V6(client)) => written!(ethernet.ipv6(vip.octets(), client.octets(), 64)),
        _ => unreachable!("both are of one family"),
    }
    .expect("a small frame");
    out
}

fn refused(world: &World, frame: &Frame, reason: Reason) -> Result<()> {
    let count = |world: &World| -> Result<u64> { Ok(world.reasons()?.get(&reason).copied().unwrap_or(0)) };
    let before = count(world)?;
    let (verdict, out) = world.run(&frame.build())?;
    ensure!(count(world)? == before + 1, "{frame:?} is not counted as {reason:?}");
    if frame.stack.is_tcp() && frame.flags & flag::RST == 0 {
        ensure!(verdict == Verdict::Tx && out == reset(frame), "{frame:?}: {verdict:?} {out:02x?}");
    } else if frame.stack.is_tcp() {
        ensure!(verdict == Verdict::Drop, "{frame:?}: {verdict:?}");
    } else {
        // As many errors as are allowed.
        ensure!(matches!(verdict, Verdict::Tx | Verdict::Drop), "{frame:?}: {verdict:?}");
    }
    Ok(())
}

/// A pool of a hundred ports and three hundred flows.
#[test]
fn a_hundred_ports_carry_a_hundred_flows() {
    with_world(|world| {
        for stack in STACKS {
            let lender = lender(world, stack)?;
            let mut borrowers = BTreeMap::new();
            for port in 1000..1300 {
                let client = stack.client(port);
                let frame = Frame::new(stack, client, lender.vip(0)).flags(flag::SYN);
                if borrowers.len() < 100 {
                    let own = sent(world, &lender, &frame)?;
                    ensure!(borrowers.insert(own, client).is_none(), "{own} is lent twice");
                } else {
                    refused(world, &frame, Reason::NoPort)?;
                }
            }
            let ports: BTreeSet<u16> = borrowers.keys().map(SocketAddr::port).collect();
            ensure!(ports.into_iter().eq(PORTS.first..=PORTS.last), "not all ports are lent");
            ensure!(world.kernel.lent_ports()?[&lender.id(0)] == 100, "the agent counts others");
            for (own, client) in &borrowers {
                let answer = Frame::new(stack, lender.backend(), *own).flags(SYN_ACK);
                returned(world, &lender, &answer, *client)?;
                let request = Frame::new(stack, *client, lender.vip(0)).flags(flag::ACK);
                ensure!(sent(world, &lender, &request)? == *own, "another port");
            }
            world.forget()?;
            world.kernel.tables_mut().remove_backend(lender.id(0))?;
        }
        Ok(())
    });
}

#[test]
fn ports_come_back() {
    with_world(|world| {
        let stack = STACKS[0];
        let lender = lender(world, stack)?;
        let clients = |from: u16| (from..from + 100).map(|port| stack.client(port));
        let opened =
            |world: &World, client| sent(world, &lender, &Frame::new(stack, client, lender.vip(0)).flags(flag::SYN));
        for client in clients(1000) {
            let own = opened(world, client)?;
            let request = |flags| Frame::new(stack, client, lender.vip(0)).flags(flags);
            let answer = |flags| Frame::new(stack, lender.backend(), own).flags(flags);
            returned(world, &lender, &answer(SYN_ACK), client)?;
            sent(world, &lender, &request(flag::ACK))?;
            sent(world, &lender, &request(FIN_ACK))?;
            returned(world, &lender, &answer(FIN_ACK), client)?;
            sent(world, &lender, &request(flag::ACK))?;
        }
        // The client may begin anew from the same port, which the backend knows by the same port too.
        opened(world, stack.client(1000))?;
        let other = Frame::new(stack, stack.client(3000), lender.vip(0)).flags(flag::SYN);
        refused(world, &other, Reason::NoPort)?;
        wait_until("the ports are free", HELD, || {
            let lent = world.kernel.lent_ports()?[&lender.id(0)];
            ensure!(lent == 1, "{lent} are lent");
            Ok(())
        })?;
        let mut again = BTreeSet::new();
        for client in clients(2000).skip(1) {
            ensure!(again.insert(opened(world, client)?), "lent twice");
        }
        refused(world, &other, Reason::NoPort)
    });
}

/// Nobody's flow: neither the balancer's own connections nor what comes too late may be taken for one.
#[test]
fn what_has_no_port_is_told_so() {
    with_world(|world| {
        for stack in STACKS {
            let lender = lender(world, stack)?;
            let client = stack.client(6000);
            let own = sent(world, &lender, &Frame::new(stack, client, lender.vip(0)).flags(flag::SYN))?;
            let elsewhere = SocketAddr::new(own.ip(), if own.port() == PORTS.last { PORTS.first } else { PORTS.last });
            for to in [elsewhere, SocketAddr::new(own.ip(), 22), SocketAddr::new(stack.family.client(), own.port())] {
                let frame = Frame::new(stack, lender.backend(), to).flags(SYN_ACK).build();
                ensure!(world.run(&frame)? == (Verdict::Pass, frame), "to {to}");
            }
            if stack.is_tcp() {
                for flags in [flag::ACK, FIN_ACK, flag::RST, flag::RST | flag::ACK] {
                    let frame = Frame::new(stack, stack.client(6001), lender.vip(0)).flags(flags).tcp_options(3);
                    refused(world, &frame.payload(77), Reason::NoMapping)?;
                }
            }
        }
        Ok(())
    });
}

/// An ICMP error of a router or host about `packet`.
fn error(from: IpAddr, to: IpAddr, macs: Macs, hops: u8, packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let ethernet = PacketBuilder::ethernet2(macs.source, macs.destination);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
            let ip = ethernet.ipv4(from.octets(), to.octets(), hops);
            ip.icmpv4(Icmpv4Type::DestinationUnreachable(kind)).write(&mut frame, packet)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = ethernet.ipv6(from.octets(), to.octets(), hops);
            ip.icmpv6(Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)).write(&mut frame, packet)
        }
        _ => unreachable!("one family"),
    }
    .expect("frames are small");
    frame
}

/// As much as an error must quote: the IP header and eight bytes. A TCP checksum is behind them.
fn quote(frame: &Frame) -> Vec<u8> {
    frame.build()[ETHERNET..frame.transport_offset() + 8].to_vec()
}

#[test]
fn errors_find_the_other_side() {
    with_world(|world| {
        for stack in STACKS {
            let lender = lender(world, stack)?;
            let (client, vip, backend) = (stack.client(7000), lender.vip(0), lender.backend());
            let own = sent(world, &lender, &Frame::new(stack, client, vip).flags(flag::SYN))?;
            let router = stack.family.far_client(9);
            let frame = |from, to| Frame::new(stack, from, to).payload(40);
            // About an answer: the backend gets it, from the balancer, about what it has sent itself.
            let about_answer = error(router, vip.ip(), ARRIVING, 64, &quote(&frame(vip, client)));
            let expected = error(own.ip(), backend.ip(), world.hop(LINK).1, 63, &quote(&frame(backend, own)));
            let found = world.run(&about_answer)?;
            ensure!(found == (Verdict::Redirect, expected), "{stack:?}: {found:02x?}");
            // About a request: the client gets it, about what it has sent itself; the backend is the VIP to it.
            for (sender, shown) in [(router, router), (backend.ip(), vip.ip())] {
                let about_request = error(sender, own.ip(), ARRIVING, 64, &quote(&frame(own, backend)));
                let macs = world.hop(Link::Client).1;
                let expected = error(shown, client.ip(), macs, 63, &quote(&frame(client, vip)));
                let found = world.run(&about_request)?;
                ensure!(found == (Verdict::Redirect, expected), "{stack:?} from {sender}: {found:02x?}");
            }
            // About a connection of the balancer itself.
            let mine = SocketAddr::new(own.ip(), 50_000);
            let foreign = error(router, mine.ip(), ARRIVING, 64, &quote(&frame(mine, backend)));
            ensure!(world.run(&foreign)? == (Verdict::Pass, foreign), "{stack:?}");
        }
        Ok(())
    });
}
