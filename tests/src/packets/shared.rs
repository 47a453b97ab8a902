//! A backend that several services share, beside those of the plan: for each family and protocol one endpoint, which is the only
//! member of each of its services.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lb_agent::dataplane::kernel::Endpoint;
use lb_agent::model::pool::{NextHop, ServiceAddress};
use lb_common::mode::ServiceMode;

use super::frame::Macs;
use super::plan::{Link, STACKS, Stack};
use super::world::{World, taken};

/// Those of the plan and of the carriers have lower numbers.
const FIRST_SERVICE: u16 = 200;
const FIRST_BACKEND: u16 = 300;
const FIRST_PORT: u16 = 7000;
const BACKEND_PORT: u16 = 9900;
const SLOTS: usize = 61;
const MTU: u32 = 1500;
/// The backend's link.
pub const LINK: Link = Link::Backend(1);

#[derive(Debug, Clone, Copy)]
pub struct Shared {
    pub stack: Stack,
    number: u16,
    services: u16,
}

impl Shared {
    /// `services` of them, from the number `first` on; up to ten for each stack.
    pub fn new(stack: Stack, first: u16, services: u16) -> Self {
        let position = STACKS.iter().position(|other| *other == stack).expect("there are four");
        Self { stack, number: u16::try_from(position).expect("there are four") * 10 + first, services }
    }

    pub fn vip(&self, service: u16) -> SocketAddr {
        SocketAddr::new(self.stack.family.vip(), FIRST_PORT + self.number + service)
    }

    /// Of the backend as a member of this service.
    pub fn id(&self, service: u16) -> u16 {
        FIRST_BACKEND + self.number + service
    }

    pub fn backend(&self) -> SocketAddr {
        SocketAddr::new(self.stack.family.backend(1), BACKEND_PORT)
    }

    /// The balancer's address towards the backend.
    pub fn own(&self) -> IpAddr {
        self.stack.family.balancer_at(1)
    }

    /// Has all its services in the world.
    pub fn put(&self, world: &mut World, mode: ServiceMode) -> Result<()> {
        (0..self.services).try_for_each(|service| self.put_one(world, service, mode))
    }

    /// One of its services, of any mode, as if it had never been there before.
    pub fn put_one(&self, world: &mut World, service: u16, mode: ServiceMode) -> Result<()> {
        world.forget()?;
        world.kernel.tables_mut().remove_backend(self.id(service))?;
        world.kernel.clear_counters(self.id(service))?;
        let (ifindex, Macs { source: source_mac, destination: destination_mac }) = world.hop(LINK);
        let source = Some(self.own());
        let next_hop = Some(NextHop { ifindex, source_mac, destination_mac, mtu: MTU, source, gateway: None });
        let vip = self.vip(service);
        let vip = ServiceAddress { vip: vip.ip(), port: vip.port(), protocol: self.stack.protocol };
        let number = FIRST_SERVICE + self.number + service;
        let slots = u32::try_from(SLOTS)?;
        let (address, port) = (self.backend().ip(), self.backend().port());
        let endpoint =
            Endpoint { service: number, slots, mode, vip, address, port, weight: 1, next_hop, accepts_new: true };
        let tables = world.kernel.tables_mut();
        tables.put_backend(self.id(service), &endpoint)?;
        tables.put_slots(number, &taken(&[self.id(service); SLOTS]))?;
        Ok(tables.put_service(vip, number, slots, mode)?)
    }
}
