//! Clients' datagrams over IPv6.

use lb_common::flow::FlowState;
use lb_tests::packets::frame::Checksum;
use lb_tests::packets::plan::UDP6;
use lb_tests::packets::{Given, Role, Row, World, check_table, with_world};

use crate::requests::{self, to};

fn own_rows(world: &World) -> Vec<Row> {
    let host = UDP6.host(Role::Web);
    let known = to(UDP6, Role::Web, 5002).payload(12);
    // Only tunnels may leave it out (RFC 6935), and none is invented for those who do.
    let unsummed = to(UDP6, Role::Web, 5001).checksum(Checksum::Zero).payload(9);
    vec![
        Row::request("no checksum, which IPv6 does not allow, stays none", world, &unsummed, host).opens(),
        Row::request("of a flow that has been answered", world, &known, host)
            .given([Given::Established(known.tuple(), host)])
            .remembers(FlowState::Established),
        Row::request("a second datagram before any answer", world, &known, host)
            .given([Given::Packet(known.clone())])
            .remembers(FlowState::HalfOpen),
    ]
}

#[test]
fn udp6() {
    with_world(|world| {
        let rows = [requests::rows(world, UDP6), own_rows(world)].concat();
        check_table(world, rows)
    });
}
