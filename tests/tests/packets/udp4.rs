//! Clients' datagrams over IPv4.

use lb_common::flow::FlowState;
use lb_tests::packets::frame::{Checksum, ETHERNET, IPV4, patched};
use lb_tests::packets::plan::UDP4;
use lb_tests::packets::{Given, Role, Row, World, check_table, with_world};

use crate::requests::{self, to};

fn own_rows(world: &World) -> Vec<Row> {
    let host = UDP4.host(Role::Web);
    let options = |words: usize| {
        let frame = to(UDP4, Role::Web, 5000).ip_options(words).payload(21);
        Row::request(format!("a header of {} words", 5 + words), world, &frame, host).opens()
    };
    let unsummed = |length: usize| {
        let frame = to(UDP4, Role::Web, 5001).checksum(Checksum::Zero).payload(length);
        Row::request(format!("no checksum over {length} bytes stays none"), world, &frame, host).opens()
    };
    let known = to(UDP4, Role::Web, 5002).payload(12);
    let mut rows: Vec<_> = (0..=10).map(options).chain([0, 1, 2, 513].into_iter().map(unsummed)).collect();
    rows.push(
        Row::request("of a flow that has been answered", world, &known, host)
            .given([Given::Established(known.tuple(), host)])
            .remembers(FlowState::Established),
    );
    rows.push(
        Row::request("a second datagram before any answer", world, &known, host)
            .given([Given::Packet(known.clone())])
            .remembers(FlowState::HalfOpen),
    );
    let spare = to(UDP4, Role::Web, 5003).checksum(Checksum::Zero).payload(20);
    rows.push(
        Row::request("bytes between the datagram's end and the packet's", world, &spare, host)
            .opens()
            .changed(|bytes| patched(bytes, ETHERNET + IPV4 + 4, &[0, 8 + 12])),
    );
    rows.push(
        Row::request("an empty datagram padded to 60 bytes", world, &to(UDP4, Role::Web, 5004).padding(18), host)
            .opens(),
    );
    rows
}

#[test]
fn udp4() {
    with_world(|world| {
        let rows = [requests::rows(world, UDP4), own_rows(world)].concat();
        check_table(world, rows)
    });
}
