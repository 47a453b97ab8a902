//! The data plane under test: the shipped programs, loaded as the agent loads them, with services and established flows.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::kernel::{Endpoint, Kernel, Sizes};
use lb_agent::model::config::{Ports, Protocol};
use lb_agent::model::pool::{NextHop, ServiceAddress};
use lb_common::counters::BackendCounters;
use lb_common::limits::SLOTS;
use lb_common::slot::Slot;
use lb_tests::lab::address::Family;
use lb_tests::wait::wait_until;

use super::cases::{Case, Service, Table, Traffic};
use super::packets::{Direction, Kind, Order};
use super::programs::{Programs, Run};

pub(super) const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]);
const BACKEND_PORT: u16 = 8080;
/// The kernel runs test packets as if they came in through `lo`.
const LOOPBACK: u32 = 1;
const RESOLVE_LIMIT: Duration = Duration::from_secs(10);
/// Counted packets of flows to fill a table that is not large enough: more than it holds.
const FILL: u32 = 2 << 20;

pub(super) struct Plane {
    kernel: Kernel,
    /// Where the numbers of clients that were never seen begin.
    fresh: u64,
}

/// One service and its backends' numbers.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: u16,
    service: Service,
    family: Family,
    protocol: Protocol,
    first_backend: u16,
}

const ENTRIES: u16 = 32;

/// Every service: kinds × families × protocols.
fn entries() -> impl Iterator<Item = Entry> {
    let mut first_backend = 1;
    let kinds = Service::ALL.into_iter().flat_map(|service| {
        Family::ALL.into_iter().flat_map(move |family| {
            [Protocol::Tcp, Protocol::Udp].into_iter().map(move |protocol| (service, family, protocol))
        })
    });
    (1..=ENTRIES).zip(kinds).map(move |(id, (service, family, protocol))| {
        let entry = Entry { id, service, family, protocol, first_backend };
        first_backend += service.backends();
        entry
    })
}

fn floor_entry() -> Entry {
    entries().next().expect("there are services")
}

impl Entry {
    fn of(case: &Case) -> Self {
        let wanted = (case.service, case.family, case.protocol);
        entries()
            .find(|entry| (entry.service, entry.family, entry.protocol) == wanted)
            .expect("every kind has a service")
    }

    fn backends(self) -> std::ops::Range<u16> {
        self.first_backend..self.first_backend + self.service.backends()
    }

    fn vip(self) -> SocketAddr {
        SocketAddr::new(self.family.vip(), self.service.port())
    }

    /// Backends exist in the maps only; every number has an endpoint of its own.
    fn endpoint(self, number: u16) -> SocketAddr {
        SocketAddr::new(self.family.backend(number), BACKEND_PORT)
    }

    fn kind(self, direction: Direction, server: SocketAddr, opens: bool) -> Kind {
        Kind { direction, protocol: self.protocol, server: (server.ip(), server.port()), opens }
    }
}

impl Plane {
    /// Must be called in the namespace whose routes replies take; `outside` is another interface than `lo` there.
    pub(super) fn open(directory: &Path, table: Table, outside: u32) -> Result<Self> {
        let backends: u16 = entries().map(|entry| entry.service.backends()).sum();
        let sizes = Sizes::new(table.entries(), usize::from(backends), Ports::DEFAULT);
        let mut kernel = Kernel::open(directory, sizes).context("loading the data plane")?;
        for entry in entries() {
            let vip = ServiceAddress { vip: entry.vip().ip(), port: entry.vip().port(), protocol: entry.protocol };
            let ifindex = if entry.service.is_redirected() { outside } else { LOOPBACK };
            let (mode, state) = entry.service.mode();
            for number in entry.backends() {
                let (destination_mac, source_mac) = MACS;
                let endpoint = entry.endpoint(number);
                let backend = Endpoint {
                    service: entry.id,
                    slots: SLOTS,
                    mode,
                    vip,
                    address: endpoint.ip(),
                    port: endpoint.port(),
                    next_hop: Some(NextHop {
                        ifindex,
                        source_mac,
                        destination_mac,
                        mtu: 1500,
                        source: Some(entry.family.balancer()),
                        gateway: None,
                    }),
                    weight: 1,
                    accepts_new: true,
                };
                kernel.tables_mut().put_backend(number, &backend)?;
            }
            kernel.tables_mut().put_service(vip, entry.id, SLOTS, mode)?;
            let slots = entry.backends().cycle().take(SLOTS as usize);
            let slots: Vec<_> = slots.map(|id| Slot::new(id, 0, state)).collect();
            kernel.tables_mut().put_slots(entry.id, &slots)?;
        }
        Ok(Self { kernel, fresh: 1 << 24 })
    }

    /// VIP and backends of the service that the NAT floor imitates.
    pub(super) fn floor_service() -> (SocketAddr, Vec<SocketAddr>) {
        let entry = floor_entry();
        (entry.vip(), entry.backends().map(|number| entry.endpoint(number)).collect())
    }

    /// A packet that every floor looks at.
    pub(super) fn floor_packet() -> Kind {
        let entry = floor_entry();
        entry.kind(Direction::Request, entry.vip(), false)
    }

    /// Clears the flow table and establishes what the case needs.
    pub(super) fn prepare(&mut self, programs: &mut Programs, case: &Case) -> Result<()> {
        let numbers: Vec<_> = entries().flat_map(Entry::backends).collect();
        self.kernel.sweep(|_| false, &numbers).context("clearing the flow table")?;
        let entry = Entry::of(case);
        match case.traffic {
            Traffic::NotOurs => Ok(()),
            Traffic::Requests { flows } | Traffic::Replies { flows } => {
                let replies = self.establish(programs, entry, flows)?;
                if !entry.service.is_answered() {
                    return Ok(());
                }
                let lost = u64::from(flows) / case.table.full_buckets();
                ensure!(replies + lost >= u64::from(flows), "{replies} of {flows} flows are established");
                Ok(())
            }
            Traffic::New if case.table == Table::Default => self.send(programs, case, FILL).map(drop),
            Traffic::New => Ok(()),
        }
    }

    /// Requests, then what each backend answers, if answers come by: a reply passes where it does not belong to the flow. Gives
    /// the number of answers that were forwarded.
    fn establish(&self, programs: &mut Programs, entry: Entry, flows: u32) -> Result<u64> {
        let before = self.counted()?;
        let order = Order::Counted { first: 0 };
        let program = self.kernel.balance_fd()?;
        // A port is lent to what opens a connection.
        let opens = entry.service == Service::Snat;
        programs.send(program, &entry.kind(Direction::Request, entry.vip(), opens), order, flows)?;
        for number in entry.backends().filter(|_| entry.service.is_answered()) {
            let kind = entry.kind(Direction::Reply, entry.endpoint(number), false);
            programs.send(program, &kind, order, flows)?;
        }
        Ok(self.counted()?.reply_packets - before.reply_packets)
    }

    /// The case's packets, to the program; gives what they cost and what was counted.
    pub(super) fn send(
        &mut self,
        programs: &mut Programs,
        case: &Case,
        packets: u32,
    ) -> Result<(Run, BackendCounters)> {
        let (kind, order) = self.packets(case);
        let before = self.counted()?;
        let run = programs.send(self.kernel.balance_fd()?, &kind, order, packets)?;
        if case.traffic == Traffic::New {
            self.fresh += u64::from(packets);
        }
        let after = self.counted()?;
        let counted = BackendCounters {
            packets: after.packets - before.packets,
            reply_packets: after.reply_packets - before.reply_packets,
            new_flows: after.new_flows - before.new_flows,
            ..BackendCounters::default()
        };
        Ok((run, counted))
    }

    /// What the case sends now.
    pub(super) fn packets(&self, case: &Case) -> (Kind, Order) {
        let entry = Entry::of(case);
        let request = |opens| entry.kind(Direction::Request, entry.vip(), opens);
        match case.traffic {
            Traffic::NotOurs => {
                let other = SocketAddr::new(case.family.balancer(), entry.vip().port());
                (entry.kind(Direction::Request, other, false), Order::Random { clients: 4096 })
            }
            Traffic::Requests { flows } => (request(false), Order::Random { clients: flows }),
            Traffic::New => (request(true), Order::Counted { first: self.fresh }),
            Traffic::Replies { flows } => {
                let backend = entry.endpoint(entry.first_backend);
                (entry.kind(Direction::Reply, backend, false), Order::Random { clients: flows })
            }
        }
    }

    /// Sends a datagram to the clients' router and waits until replies find it: the program asks the kernel's tables.
    pub(super) fn resolve_clients(&mut self, programs: &mut Programs) -> Result<()> {
        let answering = |entry: &Entry| entry.protocol == Protocol::Tcp && entry.service.is_answered();
        for entry in entries().filter(answering) {
            let name = format!("the kernel knows the clients' neighbour {}", entry.family.client());
            wait_until(&name, RESOLVE_LIMIT, || {
                let local = SocketAddr::new(unspecified(entry.family), 0);
                std::net::UdpSocket::bind(local)?.send_to(&[0], SocketAddr::new(entry.family.client(), 9))?;
                let replies = self.establish(programs, entry, 1)?;
                ensure!(replies == 1, "a reply was not forwarded; counted: {:?}", self.kernel.reasons()?);
                Ok(())
            })?;
            // As the agent does each second.
            self.kernel.number_client_hops()?;
        }
        Ok(())
    }

    /// All backends together.
    fn counted(&self) -> Result<BackendCounters> {
        let mut total = BackendCounters::default();
        for number in entries().flat_map(Entry::backends) {
            total = total.plus(self.kernel.counters(number)?);
        }
        Ok(total)
    }
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
