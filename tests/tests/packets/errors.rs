//! Packets that are too big for their way, and the ICMP errors about them: whatever the mode, the client hears what fits.

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
use lb_common::reason::Reason;
use lb_tests::lab::address::Family;
use lb_tests::packets::carrier::Carrier;
use lb_tests::packets::frame::ARRIVING;
use lb_tests::packets::plan::STACKS;
use lb_tests::packets::{Frame, Role, Row, Verdict, World, check_table, flag, with_world};

/// An ICMP error from a router to the sender of `packet`, which is the VIP.
pub(crate) fn error_about(packet: &[u8], family: Family, hops: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let ethernet = PacketBuilder::ethernet2(ARRIVING.source, ARRIVING.destination);
    match (family.far_client(9), family.vip()) {
        (std::net::IpAddr::V4(router), std::net::IpAddr::V4(vip)) => {
            let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
            let ip = ethernet.ipv4(router.octets(), vip.octets(), hops);
            ip.icmpv4(Icmpv4Type::DestinationUnreachable(kind)).write(&mut frame, packet)
        }
        (std::net::IpAddr::V6(router), std::net::IpAddr::V6(vip)) => {
            let ip = ethernet.ipv6(router.octets(), vip.octets(), hops);
            ip.icmpv6(Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)).write(&mut frame, packet)
        }
        _ => unreachable!("one family"),
    }
    .expect("frames are small");
    frame
}

/// Bytes of the IP packet without a payload.
fn headers(frame: &Frame) -> usize {
    frame.clone().payload(0).build().len() - 14
}

const MTU: usize = 1400;

fn carried(world: &World, carrier: Carrier) -> Vec<Row> {
    let room = MTU - carrier.overhead();
    let frame = |port: u16, length: usize| {
        let frame = carrier.frame(port).flags(flag::ACK);
        let head = headers(&frame);
        frame.payload(length - head)
    };
    let named = |name: &str| format!("{}: {name}", carrier.name());
    let fits = frame(4000, room);
    let fitting = Row::sent(named("fits"), &fits, carrier.backend, Verdict::Redirect, carrier.sent(world, &fits));
    let mut rows = vec![fitting.opens()];
    for length in [room + 1, 1500] {
        let frame = frame(4001, length);
        let row = Row::sent(named("too big"), &frame, carrier.backend, Verdict::Tx, frame.too_big(room));
        rows.push(row.counting(Reason::TooBig).opens());
    }
    // An error that is too big is dropped: nobody is told about errors.
    let answer = Frame::new(carrier.stack, carrier.vip(), carrier.stack.client(4002)).payload(1400);
    let error = error_about(&answer.build()[14..], carrier.stack.family, 64);
    let bytes = error.len() as u64;
    let row = Row::refused(named("an error that is too big"), error, Reason::TooBig, Verdict::Drop);
    rows.push(row.counted(carrier.backend, |counters| (counters.packets, counters.bytes) = (1, bytes)));
    if carrier.stack.family == Family::V4 {
        let options = frame(4004, 1400).ip_options(10);
        let row = Row::sent(named("with options"), &options, carrier.backend, Verdict::Tx, options.too_big(room));
        rows.push(row.counting(Reason::TooBig).opens());
    }
    let padded = frame(4005, 1500).padding(9);
    let row = Row::sent(named("padded"), &padded, carrier.backend, Verdict::Tx, padded.too_big(room));
    rows.push(row.counting(Reason::TooBig).opens());
    rows
}

#[test]
fn a_packet_that_does_not_fit_is_answered() {
    with_world(|world| {
        let carriers = Carrier::all();
        for carrier in carriers {
            carrier.put(world, Some(1400))?;
            let rows = carried(world, carrier);
            check_table(world, rows)?;
        }
        Ok(())
    });
}

/// Under nat the next hop's MTU counts too, the agent's or the kernel's.
#[test]
fn nat_answers_as_well() {
    with_world(|world| {
        let mut rows = Vec::new();
        for stack in STACKS {
            let narrow = stack.hosts(Role::Spread)[1];
            for port in 4000..4010 {
                let frame = Frame::new(stack, stack.client(port), stack.vip(Role::Spread)).payload(1300);
                let host = world.slot_host(stack, Role::Spread, frame.tuple());
                let row = Row::request(format!("{} from port {port}", stack.name()), world, &frame, host).opens();
                rows.push(row);
            }
            let established = Frame::new(stack, stack.client(4011), stack.vip(Role::Spread)).payload(1300);
            rows.push(
                Row::request(format!("{}: the narrow one", stack.name()), world, &established, narrow)
                    .given([lb_tests::packets::Given::Moved(narrow)])
                    .opens(),
            );
        }
        check_table(world, rows)
    });
}
