//! The packets of a case: which program makes them, and what they look like apart from the client.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};
use etherparse::PacketBuilder;
use lb_agent::model::config::Protocol;
use lb_bench_ebpf::{FIRST_PORT, FRAME, Stream, WORDS, names};
use lb_tests::lab::address::Family;

/// Towards a backend or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Reply,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// One of so many clients, at random; a power of two.
    Random { clients: u32 },
    /// One after the other, never twice; the first is given.
    Counted { first: u64 },
}

/// All packets that differ in nothing but the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) direction: Direction,
    pub(super) protocol: Protocol,
    /// The end that is no client: a VIP, or a backend.
    pub(super) server: (IpAddr, u16),
    /// TCP: opens the connection.
    pub(super) opens: bool,
}

const HOPS: u8 = 64;
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

impl Kind {
    /// The name of the program that makes them.
    pub(super) fn maker(&self) -> &'static str {
        match (self.direction, self.server.0) {
            (Direction::Request, IpAddr::V4(_)) => names::REQUESTS_V4,
            (Direction::Reply, IpAddr::V4(_)) => names::REPLIES_V4,
            (Direction::Request, IpAddr::V6(_)) => names::REQUESTS_V6,
            (Direction::Reply, IpAddr::V6(_)) => names::REPLIES_V6,
        }
    }

    /// The frame of client 0.
    pub(super) fn frame(&self) -> Result<[u8; FRAME]> {
        let family = if self.server.0.is_ipv4() { Family::V4 } else { Family::V6 };
        let client = (first_client(family), FIRST_PORT);
        let (source, destination) = match self.direction {
            Direction::Request => (client, self.server),
            Direction::Reply => (self.server, client),
        };
        let ethernet = PacketBuilder::ethernet2(MACS.0, MACS.1);
        let ip = match (source.0, destination.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), HOPS),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), HOPS),
            _ => bail!("the two ends are of different families"),
        };
        let mut frame = Vec::with_capacity(FRAME);
        match self.protocol {
            Protocol::Tcp => {
                let tcp = ip.tcp(source.1, destination.1, 1, 64_000);
                let tcp = if self.opens { tcp.syn() } else { tcp.ack(1) };
                let payload = vec![0; FRAME - tcp.size(0)];
                tcp.write(&mut frame, &payload)?;
            }
            Protocol::Udp => {
                let udp = ip.udp(source.1, destination.1);
                let payload = vec![0; FRAME - udp.size(0)];
                udp.write(&mut frame, &payload)?;
            }
        }
        ensure!(frame.len() == FRAME, "the frame has {} bytes instead of {FRAME}", frame.len());
        Ok(std::array::from_fn(|byte| frame[byte]))
    }

    /// The stream as the packet maker reads it.
    pub(super) fn stream(&self, order: Order) -> Result<Stream> {
        let frame = self.frame()?;
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| frame[at + byte]));
        let head = u64::from(u16::from_ne_bytes([frame[0], frame[1]]));
        let words: [u64; WORDS] = std::array::from_fn(|index| word(2 + 8 * index));
        Ok(match order {
            Order::Counted { first } => Stream {
                value: first.wrapping_sub(1),
                multiplier: 1,
                increment: 1,
                shift: 0,
                mask: u64::MAX,
                head,
                words,
            },
            // Knuth's generator (The Art of Computer Programming 2, section 3.3.4, MMIX); the upper bits are the random ones.
            Order::Random { clients } => Stream {
                value: 1,
                multiplier: 6_364_136_223_846_793_005,
                increment: 1_442_695_040_888_963_407,
                shift: 32,
                mask: u64::from(clients - 1),
                head,
                words,
            },
        })
    }
}

/// The client without its bits: the packet maker puts them in.
fn first_client(family: Family) -> IpAddr {
    match family {
        Family::V4 => std::net::Ipv4Addr::new(198, 18, 0, 0).into(),
        Family::V6 => std::net::Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const REQUEST: Kind = Kind {
        direction: Direction::Request,
        protocol: Protocol::Tcp,
        server: (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 80),
        opens: false,
    };

    #[test]
    fn every_kind_fills_the_frame() {
        let v6 = (IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 80);
        for server in [REQUEST.server, v6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for direction in [Direction::Request, Direction::Reply] {
                    Kind { direction, protocol, server, opens: true }.frame().unwrap();
                }
            }
        }
    }

    #[test]
    fn all_clients_take_their_turn_and_no_others() {
        let mut random = REQUEST.stream(Order::Random { clients: 64 }).unwrap();
        let drawn: BTreeSet<_> = (0..2000).map(|_| random.advance()).collect();
        assert_eq!(drawn, (0..64).collect());
        let mut counted = REQUEST.stream(Order::Counted { first: 5 }).unwrap();
        assert_eq!([counted.advance(), counted.advance()], [5, 6]);
    }

    #[test]
    fn clients_are_told_apart() {
        let clients: BTreeSet<_> = (0..1_000_000).map(lb_bench_ebpf::client).collect();
        assert_eq!(clients.len(), 1_000_000);
    }
}
