//! What has the same hash as a service or a backend, in the table that is asked before the hash maps, is not taken for it; and
//! where several share a hash, each is found.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail, ensure};
use lb_agent::dataplane::kernel::Endpoint;
use lb_agent::model::config::Protocol;
use lb_agent::model::pool::{NextHop, ServiceAddress};
use lb_common::hint::{place_v4, place_v6};
use lb_common::mode::{Forwarding, ServiceMode, Tracking};
use lb_common::packet::ip::{TCP, UDP};
use lb_tests::packets::frame::Macs;
use lb_tests::packets::plan::{Link, STACKS, Stack};
use lb_tests::packets::world::taken;
use lb_tests::packets::{Frame, Verdict, World, flag, with_world};

const NAT: ServiceMode = ServiceMode::new(Tracking::Full, Forwarding::Nat);
const LINK: Link = Link::Backend(1);
const SLOTS: usize = 61;

/// A service with one backend, of numbers that nobody else here has.
#[derive(Debug, Clone, Copy)]
struct Pair {
    stack: Stack,
    vip: SocketAddr,
    backend: SocketAddr,
    service: u16,
    id: u16,
}

impl Pair {
    fn put(&self, world: &mut World) -> Result<()> {
        let (ifindex, Macs { source: source_mac, destination: destination_mac }) = world.hop(LINK);
        let next_hop = NextHop { ifindex, source_mac, destination_mac, mtu: 1500, source: None, gateway: None };
        let endpoint = Endpoint {
            service: self.service,
            slots: u32::try_from(SLOTS)?,
            mode: NAT,
            vip: self.address(),
            address: self.backend.ip(),
            port: self.backend.port(),
            weight: 1,
            next_hop: Some(next_hop),
            accepts_new: true,
        };
        let tables = world.kernel.tables_mut();
        tables.put_backend(self.id, &endpoint)?;
        tables.put_slots(self.service, &taken(&[self.id; SLOTS]))?;
        Ok(tables.put_service(self.address(), self.service, u32::try_from(SLOTS)?, NAT)?)
    }

    fn remove(&self, world: &mut World) -> Result<()> {
        world.kernel.tables_mut().remove_service(self.address(), self.service)?;
        Ok(world.kernel.tables_mut().remove_backend(self.id)?)
    }

    fn address(&self) -> ServiceAddress {
        ServiceAddress { vip: self.vip.ip(), port: self.vip.port(), protocol: self.stack.protocol }
    }

    /// A flow from this port of the client works, both ways.
    fn works(&self, world: &World, port: u16) -> Result<()> {
        let request = Frame::new(self.stack, self.stack.client(port), self.vip).flags(flag::SYN);
        let expected = request.sent_to(self.backend, world.hop(LINK).1).build();
        ensure!(world.run(&request.build())? == (Verdict::Redirect, expected), "a request to {self:?}");
        let reply = Frame::new(self.stack, self.backend, self.stack.client(port)).flags(flag::SYN | flag::ACK);
        let expected = reply.returned_from(self.vip, world.hop(Link::Client).1).build();
        ensure!(world.run(&reply.build())? == (Verdict::Redirect, expected), "a reply of {self:?}");
        Ok(())
    }

    /// It is nobody of ours.
    fn passes(&self, world: &World, port: u16) -> Result<()> {
        let request = Frame::new(self.stack, self.stack.client(port), self.vip).flags(flag::SYN).build();
        ensure!(world.run(&request)? == (Verdict::Pass, request), "a request to {self:?}");
        let reply = Frame::new(self.stack, self.backend, self.stack.client(port)).flags(flag::SYN).build();
        ensure!(world.run(&reply)? == (Verdict::Pass, reply), "a packet of {self:?}");
        Ok(())
    }
}

fn place(stack: Stack, address: SocketAddr) -> usize {
    let (port, protocol) = (address.port().to_be(), if stack.protocol == Protocol::Tcp { TCP } else { UDP });
    match address.ip() {
        IpAddr::V4(ip) => place_v4(u32::from_ne_bytes(ip.octets()), port, protocol),
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let word = |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
            place_v6([word(0), word(4), word(8), word(12)], port, protocol)
        }
    }
}

/// Two ports of an address that have the same hash.
fn colliding(stack: Stack, ip: IpAddr) -> Result<[SocketAddr; 2]> {
    let mut seen = BTreeMap::new();
    for address in (10_001..=u16::MAX).map(|port| SocketAddr::new(ip, port)) {
        if let Some(before) = seen.insert(place(stack, address), address) {
            return Ok([before, address]);
        }
    }
    bail!("55,535 ports of {ip} have as many places of 32,768")
}

#[test]
fn the_same_hash_is_not_the_same_key() {
    with_world(|world| {
        for stack in STACKS {
            let vips = colliding(stack, stack.family.vip())?;
            let backends = colliding(stack, stack.family.backend(1))?;
            let pair = |i: u16| {
                let (vip, backend) = (vips[usize::from(i)], backends[usize::from(i)]);
                Pair { stack, vip, backend, service: 300 + i, id: 500 + i }
            };
            let (known, other) = (pair(0), pair(1));
            known.put(world)?;
            known.works(world, 4000)?;
            other.passes(world, 4000)?;

            other.put(world)?;
            known.works(world, 4001)?;
            other.works(world, 4001)?;

            known.remove(world)?;
            known.passes(world, 4002)?;
            other.works(world, 4002)?;
            other.remove(world)?;
            other.passes(world, 4003)?;
        }
        Ok(())
    });
}
