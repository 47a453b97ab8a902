//! Clients' TCP segments over IPv4.

use lb_tests::packets::plan::TCP4;
use lb_tests::packets::{Role, Row, World, check_table, with_world};

use crate::requests::{self, opening, to};

fn own_rows(world: &World) -> Vec<Row> {
    let host = TCP4.host(Role::Web);
    let options = |words: usize| {
        let frame = to(TCP4, Role::Web, 5000).ip_options(words).payload(21);
        Row::request(format!("a header of {} words", 5 + words), world, &frame, host).opens()
    };
    let mut rows: Vec<_> = (0..=10).map(options).collect();
    let short = opening(TCP4, Role::Web, 5001).padding(6);
    assert_eq!(short.build().len(), 60, "the shortest frame on a wire");
    rows.push(Row::request("a SYN padded to the shortest frame", world, &short, host).opens());
    let both = opening(TCP4, Role::Web, 5002).ip_options(10).tcp_options(10).payload(3);
    rows.push(Row::request("all the options that there can be", world, &both, host).opens());
    rows
}

#[test]
fn tcp4() {
    with_world(|world| {
        let rows = [requests::rows(world, TCP4), requests::tcp_rows(world, TCP4), own_rows(world)].concat();
        check_table(world, rows)
    });
}
