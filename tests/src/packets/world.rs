//! The world that rows run in: a lab's balancer with fixed neighbours, a data plane of its own that is configured as
//! [`super::plan`] says, and the means to change and to restore both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lb_agent::dataplane::kernel::{self, Endpoint, Events, Hook, Kernel, Missing, Sizes, flow_hash};
use lb_agent::model::config::Ports;
use lb_agent::model::pool::{NextHop, ServiceAddress};
use lb_common::counters::BackendCounters;
use lb_common::flow::{self, FlowEntry, TIME_MASK};
use lb_common::hash::FlowHash;
use lb_common::limits::MIN_FLOW_ENTRIES;
use lb_common::mode::{Forwarding, ServiceMode, Tracking};
use lb_common::reason::Reason;
use lb_common::route::Route;
use lb_common::slot::{Slot, SlotState};

use super::Verdict;
use super::frame::{ETHERNET, Frame, Macs, Tuple, flag};
use super::plan::{BACKEND_NUMBERS, Host, Link, NARROW, NARROW_MTU, Reach, Role, STACKS, Stack};
use super::snapshot::{self, Answers, FlowTable, Snapshot};
use crate::lab::address::Family;
use crate::lab::{CLIENT_DEVICE, Lab, Options, netlink, with_lab};

/// Hardware addresses that no device has: neighbours are entered, never asked.
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0xcc, 1];

fn backend_mac(i: u16) -> [u8; 6] {
    [2, 0, 0, 0, 0xbb, i.to_be_bytes()[1]]
}

/// A client on the narrow link, whose neighbour is known.
pub fn narrow_client(family: Family) -> std::net::IpAddr {
    family.beside_backend(2, 50)
}

/// A client on a wide link, whose neighbour nobody knows.
pub fn unknown_client(family: Family) -> std::net::IpAddr {
    family.beside_backend(3, 77)
}

/// The loaded data plane, and where its packets come from and go to.
#[expect(missing_debug_implementations, reason = "aya's maps have none, and there is nothing to see")]
pub struct World {
    pub kernel: Kernel,
    flows: FlowTable,
    answers: Answers,
    events: Events,
    loopback: u32,
    links: Vec<netlink::Link>,
    /// Of all services, but for what a row says.
    mode: ServiceMode,
    /// Whose program is run.
    hook: Hook,
}

/// Takes the pins away, also when a row panics.
struct Unload(PathBuf);

impl Drop for Unload {
    fn drop(&mut self) {
        if let Err(error) = kernel::unload(&self.0) {
            eprintln!("unloading {}: {error}", self.0.display());
        }
    }
}

/// Runs rows in a world of their own, at each hook: with the smallest flow table there is, so that rows see all of it and can fill it.
/// Without root it says that they are skipped and why.
pub fn with_world(rows: impl Fn(&mut World) -> Result<()> + Send + Sync) {
    with_lab(Options { far_end_programs: false, ..Options::default() }, |lab| {
        prepare(lab)?;
        lab.balancer.enter(|| {
            let unload = Unload(lab.pin_dir().to_owned());
            let mut world = World::open(&unload.0)?;
            for hook in Hook::ALL {
                world.hook = hook;
                rows(&mut world).with_context(|| format!("at the {} hook", hook.name()))?;
            }
            Ok(())
        })
    });
}

/// Neighbours, routes and MTUs on top of the lab's.
fn prepare(lab: &Lab) -> Result<()> {
    lab.balancer.tokio(|| async {
        let handle = netlink::connect()?;
        netlink::set_mtu(&handle, &device(NARROW), NARROW_MTU).await?;
        for family in Family::ALL {
            netlink::set_neighbour(&handle, CLIENT_DEVICE, family.client(), CLIENT_MAC).await?;
            for i in 1..=3 {
                netlink::set_neighbour(&handle, &device(Link::Backend(i)), family.backend(i), backend_mac(i)).await?;
            }
            netlink::set_neighbour(&handle, &device(NARROW), narrow_client(family), CLIENT_MAC).await?;
            netlink::add_unreachable_route(&handle, family.apart(0), family.prefix_length()).await?;
        }
        Ok(())
    })
}

fn device(link: Link) -> String {
    match link {
        Link::Loopback => "lo".to_owned(),
        Link::Client => CLIENT_DEVICE.to_owned(),
        Link::Backend(i) => format!("be{i}"),
    }
}

/// Source ports that flows are lent: few, and not a whole number of blocks.
pub const PORTS: Ports = Ports { first: 40_000, last: 40_099 };
/// Where a row does not say otherwise.
const PLAIN: ServiceMode = ServiceMode::new(Tracking::Full, Forwarding::Nat);

/// That of links for large frames.
const WIDE_MTU: u32 = 9000;

/// Slots of services that record every flow.
pub fn taken(backends: &[u16]) -> Vec<Slot> {
    backends.iter().map(|&backend| Slot::new(backend, 0, SlotState::Tracked)).collect()
}

impl World {
    fn open(pin_dir: &Path) -> Result<Self> {
        let kernel = Kernel::open(pin_dir, Sizes::new(MIN_FLOW_ENTRIES, usize::from(BACKEND_NUMBERS.end), PORTS))?;
        let (loopback, links) = links()?;
        let (flows, answers, events) = (FlowTable::open(pin_dir)?, Answers::open(pin_dir)?, kernel.events()?);
        let mut world = Self { kernel, flows, answers, events, loopback, links, mode: PLAIN, hook: Hook::Xdp };
        for stack in STACKS {
            for role in Role::ALL {
                world.put_service(stack, role)?;
            }
        }
        world.restore()?;
        Ok(world)
    }

    /// Everything but the counters as the plan says, no flow remembered, and no answer given.
    pub fn restore(&mut self) -> Result<()> {
        self.answers.refill()?;
        let changed = std::mem::replace(&mut self.mode, PLAIN) != PLAIN;
        for stack in STACKS {
            self.set_forwarding(stack.family, true)?;
            for role in Role::ALL {
                if changed {
                    self.put_service(stack, role)?;
                }
                for host in stack.hosts(role) {
                    self.put_backend(host, true)?;
                }
                self.kernel.tables_mut().put_slots(stack.service(role), &taken(&stack.slots(role)))?;
            }
        }
        self.forget()
    }

    fn put_service(&mut self, stack: Stack, role: Role) -> Result<()> {
        let slots = u32::try_from(stack.slots(role).len()).context("a small table")?;
        let (vip, id, mode) = (stack.service_address(role), stack.service(role), self.mode);
        Ok(self.kernel.tables_mut().put_service(vip, id, slots, mode)?)
    }

    /// What the host's service records from here on, and all its slots.
    pub fn set_tracking(&mut self, host: Host, tracking: Tracking, slot: Slot) -> Result<()> {
        self.set_mode(host, ServiceMode::new(tracking, Forwarding::Nat))?;
        let (stack, role) = owner(host);
        let slots = vec![slot; stack.slots(role).len()];
        self.kernel.tables_mut().put_slots(host.service, &slots)?;
        Ok(())
    }

    /// How the host's service is treated from here on.
    pub fn set_mode(&mut self, host: Host, mode: ServiceMode) -> Result<()> {
        self.mode = mode;
        let (stack, role) = owner(host);
        self.put_service(stack, role)?;
        stack.hosts(role).into_iter().try_for_each(|host| self.put_backend(host, true))
    }

    /// Empties the flow table.
    pub fn forget(&mut self) -> Result<()> {
        self.flows.clear()
    }

    pub fn put_backend(&mut self, host: Host, accepts_new: bool) -> Result<()> {
        let (stack, role) = owner(host);
        let slots = u32::try_from(stack.slots(role).len()).context("a small table")?;
        let next_hop = match host.reach {
            Reach::Entry(link) => {
                let (ifindex, macs) = self.hop(link);
                let Macs { source: source_mac, destination: destination_mac } = macs;
                let mtu = if link == NARROW { NARROW_MTU } else { WIDE_MTU };
                Some(NextHop { ifindex, source_mac, destination_mac, mtu, source: None, gateway: None })
            }
            Reach::Asked(_) | Reach::Refused(_) => None,
        };
        let vip = ServiceAddress { vip: host.vip.ip(), port: host.vip.port(), protocol: stack.protocol };
        let (address, port) = (host.address.ip(), host.address.port());
        let endpoint = Endpoint {
            service: host.service,
            slots,
            mode: self.mode,
            vip,
            address,
            port,
            weight: 1,
            next_hop,
            accepts_new,
        };
        Ok(self.kernel.tables_mut().put_backend(host.id, &endpoint)?)
    }

    /// All slots of the backend's service become the backend's.
    pub fn point(&mut self, host: Host) -> Result<()> {
        let (stack, role) = owner(host);
        let slots = vec![host.id; stack.slots(role).len()];
        self.kernel.tables_mut().put_slots(host.service, &taken(&slots))?;
        Ok(())
    }

    /// Whether the kernel forwards what comes in on the loopback device.
    pub fn set_forwarding(&self, family: Family, on: bool) -> Result<()> {
        let version = if family == Family::V4 { "ipv4" } else { "ipv6" };
        let path = format!("/proc/sys/net/{version}/conf/lo/forwarding");
        std::fs::write(&path, if on { "1" } else { "0" }).with_context(|| format!("writing {path}"))
    }

    /// Enters another hardware address for the client that every row's answers go to.
    pub fn set_client_mac(&self, family: Family, mac: [u8; 6]) -> Result<()> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
        runtime
            .block_on(async { netlink::set_neighbour(&netlink::connect()?, CLIENT_DEVICE, family.client(), mac).await })
    }

    /// Interface and addresses of frames that leave on a link for its one host.
    pub fn hop(&self, link: Link) -> (u32, Macs) {
        match link {
            // Whatever the entry says: nobody is there.
            Link::Loopback => {
                (self.loopback, Macs { destination: [2, 0, 0, 0, 0xdd, 1], source: [2, 0, 0, 0, 0xdd, 2] })
            }
            Link::Client => (self.links[0].index, Macs { destination: CLIENT_MAC, source: self.links[0].mac }),
            Link::Backend(i) => {
                let link = &self.links[usize::from(i)];
                (link.index, Macs { destination: backend_mac(i), source: link.mac })
            }
        }
    }

    /// Where a request for the backend goes: verdict and addresses, or why it does not go anywhere. `length` is the
    /// IP packet's.
    pub fn way(&self, host: &Host, length: usize) -> Result<(Verdict, Macs), Reason> {
        match host.reach {
            Reach::Entry(Link::Loopback) => Ok((Verdict::Tx, self.hop(Link::Loopback).1)),
            Reach::Asked(NARROW) | Reach::Entry(NARROW) if length > NARROW_MTU as usize => Err(Reason::TooBig),
            Reach::Entry(link) | Reach::Asked(link) => Ok((Verdict::Redirect, self.hop(link).1)),
            Reach::Refused(reason) => Err(reason),
        }
    }

    /// Whether the program can be run on a frame: of one that is cut off before the end of its IP header, the kernel makes no
    /// buffer for a test at tc (bpf_prog_test_run_skb).
    pub fn takes(&self, frame: &[u8]) -> bool {
        let header = match frame.get(12..14) {
            Some([0x08, 0x00]) => 20,
            Some([0x86, 0xdd]) => 40,
            _ => 1,
        };
        self.hook == Hook::Xdp || frame.len() >= ETHERNET + header
    }

    /// The program on a frame.
    pub fn run(&self, frame: &[u8]) -> Result<(Verdict, Vec<u8>)> {
        let (code, out, _) = self.kernel.run(self.hook, frame, 1)?;
        match Verdict::from_code(self.hook, code).with_context(|| format!("no verdict of a program: {code}"))? {
            Verdict::Redirect if self.goes_back(frame, &out) => Ok((Verdict::Tx, out)),
            verdict => Ok((verdict, out)),
        }
    }

    /// Whether a frame that came in by the loopback device leaves by it. At tc the kernel does not tell where a frame is
    /// redirected to, but its addresses do.
    fn goes_back(&self, frame: &[u8], out: &[u8]) -> bool {
        let turned_around = out[6..12] == frame[..6];
        self.hook == Hook::Tc && (turned_around || out[..6] == self.hop(Link::Loopback).1.destination)
    }

    pub fn route(&self, tuple: Tuple) -> Result<Route> {
        self.kernel.route(tuple)?.context("both addresses are of one family")
    }

    /// The backend of a new flow.
    pub fn slot_host(&self, stack: Stack, role: Role, tuple: Tuple) -> Host {
        let slots = stack.slots(role);
        let id = slots[self.hash(tuple).slot(u32::try_from(slots.len()).expect("a small table")) as usize];
        stack.hosts(role).into_iter().find(|host| host.id == id).expect("a slot names a backend")
    }

    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(&self.kernel, &self.flows)
    }

    pub fn counters(&self) -> Result<BTreeMap<u16, BackendCounters>> {
        snapshot::counters(&self.kernel)
    }

    pub fn reasons(&self) -> Result<BTreeMap<Reason, u64>> {
        snapshot::reasons(&self.kernel)
    }

    pub fn events(&mut self) -> Result<Vec<Missing>> {
        Ok(snapshot::events(&mut self.events))
    }

    pub fn hash(&self, tuple: Tuple) -> FlowHash {
        flow_hash(&self.kernel.hash_key(), self.mode, tuple).expect("both addresses are of one family")
    }

    pub fn bucket_of(&self, tuple: Tuple) -> u32 {
        self.hash(tuple).bucket(self.flows.buckets() - 1)
    }

    /// What is remembered of a flow.
    pub fn entry(&self, tuple: Tuple) -> Result<Option<FlowEntry>> {
        let bucket = self.flows.bucket(self.bucket_of(tuple))?;
        Ok(flow::find(&bucket, self.hash(tuple).tag()).map(|index| FlowEntry(bucket[index])))
    }

    /// Whether the flow's bucket has no free place.
    pub fn is_full(&self, tuple: Tuple) -> Result<bool> {
        Ok(!flow::has_room(&self.flows.bucket(self.bucket_of(tuple))?))
    }

    /// Makes a flow look as if it had been silent for so many units of time more.
    pub fn age(&mut self, tuple: Tuple, units: u32) -> Result<()> {
        let index = self.bucket_of(tuple);
        let mut bucket = self.flows.bucket(index)?;
        let place = flow::find(&bucket, self.hash(tuple).tag()).context("the flow is not remembered")?;
        let entry = FlowEntry(bucket[place]);
        let state = entry.state().context("the place is free")?;
        let seen = entry.seen().wrapping_sub(units) & TIME_MASK;
        bucket[place] = FlowEntry::new(entry.tag(), entry.backend(), seen, state).0;
        self.flows.set_bucket(index, bucket)
    }

    /// Flows of one service that share a bucket, as many as asked.
    pub fn rivals(&self, stack: Stack, role: Role, count: usize) -> Vec<Tuple> {
        let tuple = |i: u32| {
            let [_, host, high, low] = i.to_be_bytes();
            let source = (stack.family.far_client(host), u16::from_be_bytes([high, low])).into();
            Tuple { protocol: stack.protocol, source, destination: stack.vip(role) }
        };
        let first = self.bucket_of(tuple(1));
        (1..).map(tuple).filter(|tuple| self.bucket_of(*tuple) == first).take(count).collect()
    }

    /// Has a flow's handshake pass, or a datagram and its answer.
    pub fn establish(&self, tuple: Tuple, host: Host) -> Result<()> {
        let (stack, _) = owner(host);
        let request = Frame::new(stack, tuple.source, tuple.destination);
        let answer = Frame::new(stack, host.address, tuple.source);
        let (opening, greeting) = (request.clone().flags(flag::SYN), answer.flags(flag::SYN | flag::ACK));
        for frame in [opening, greeting, request] {
            let (verdict, _) = self.run(&frame.build())?;
            ensure!(verdict == Verdict::Redirect, "a handshake's packet: {verdict:?}");
        }
        Ok(())
    }
}

/// Whose backend it is.
fn owner(host: Host) -> (Stack, Role) {
    let all = STACKS.into_iter().flat_map(|stack| Role::ALL.map(|role| (stack, role)));
    all.into_iter().find(|(stack, role)| stack.service(*role) == host.service).expect("hosts come from the plan")
}

/// The loopback device's number, then the client's and the backends' links, read in this thread's namespace.
fn links() -> Result<(u32, Vec<netlink::Link>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(async {
        let handle = netlink::connect()?;
        let mut links = Vec::new();
        for link in [Link::Client, Link::Backend(1), Link::Backend(2), Link::Backend(3)] {
            links.push(netlink::link(&handle, &device(link)).await?);
        }
        let loopback = netlink::message(&handle, &device(Link::Loopback)).await?.header.index;
        Ok((loopback, links))
    })
}
