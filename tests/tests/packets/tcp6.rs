//! Clients' TCP segments over IPv6.

use lb_tests::packets::frame::{ETHERNET, IPV6, patched};
use lb_tests::packets::plan::TCP6;
use lb_tests::packets::{Role, Row, World, check_table, with_world};

use crate::requests::{self, opening};

fn own_rows(world: &World) -> Vec<Row> {
    let host = TCP6.host(Role::Web);
    let short = opening(TCP6, Role::Web, 5000);
    assert_eq!(short.build().len(), ETHERNET + IPV6 + 20, "longer than the shortest frame without any padding");
    let mut rows = vec![Row::request("a SYN and nothing else", world, &short, host).opens()];
    // Bytes 1 to 3 of the header: the lower half of the class and the flow label.
    for label in [[0, 0, 0], [0x0f, 0xff, 0xff], [0, 0, 1]] {
        let frame = opening(TCP6, Role::Web, 5001);
        let row = Row::request(format!("the flow label {label:02x?} is carried"), world, &frame, host);
        rows.push(row.opens().changed(|bytes| patched(bytes, ETHERNET + 1, &label)));
    }
    rows
}

#[test]
fn tcp6() {
    with_world(|world| {
        let rows = [requests::rows(world, TCP6), requests::tcp_rows(world, TCP6), own_rows(world)].concat();
        check_table(world, rows)
    });
}
