//! What a hostile network sends: floods of SYNs from sources that do not exist, and frames that were valid until
//! something was done to them. All of it is drawn from a seed, so that a run can be repeated.
//!
//! Frames that borrow the addresses of a live connection always carry a wrong transport checksum. The hosts at
//! both ends throw them away; only a balancer that believes them can break the connection.

mod frame;
mod mutate;
pub mod socket;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

use self::frame::{Content, Frame, Network, Shape, flag};
use self::socket::PacketSocket;
use crate::lab::address::Family;
use crate::lab::{CLIENT_DEVICE, FAR_END, Lab, netlink};
use crate::programs::{DNS_PORT, HTTP_PORT};

/// Ports that the client's own connections never have: its namespace gives out 1024 and up.
const NEVER_LIVE: std::ops::Range<u16> = 1..1024;
/// Payload that leaves room for the longest headers within an MTU of 1500.
const MAX_PAYLOAD: usize = 1300;

/// The two hardware addresses on the client's link.
#[derive(Debug, Clone, Copy)]
pub struct Macs {
    pub client: [u8; 6],
    pub balancer: [u8; 6],
}

/// How much of it is sent, and from which seed.
#[derive(Debug, Clone, Copy)]
pub struct Assault {
    pub seed: u64,
    pub syns: u32,
    pub mutants: u32,
}

impl Assault {
    /// Sends everything from the client's device, as fast as it takes it; an error unless all of it has left. The
    /// client's ports of live connections are given by family.
    pub fn run(&self, lab: &Lab, live: Vec<(Family, u16)>) -> Result<Duration> {
        let near = lab.balancer.tokio(|| async { netlink::link(&netlink::connect()?, CLIENT_DEVICE).await })?;
        let far = || lab.client.tokio(|| async { netlink::link(&netlink::connect()?, FAR_END).await });
        let before = far()?;
        let macs = Macs { client: before.mac, balancer: near.mac };
        let mut attacker = Attacker::new(self.seed, macs, live);
        let start = Instant::now();
        lab.client.enter(|| -> Result<()> {
            let socket = PacketSocket::open(before.index)?;
            (0..self.syns).try_for_each(|_| socket.send(&attacker.syn()))?;
            (0..self.mutants).try_for_each(|_| socket.send(&attacker.mutant()))
        })?;
        let took = start.elapsed();
        let left = far()?.counters.tx_packets - before.counters.tx_packets;
        let sent = u64::from(self.syns) + u64::from(self.mutants);
        ensure!(left >= sent, "{sent} frames were sent, but only {left} left the device");
        Ok(took)
    }
}

/// SYNs of strangers at a steady rate, for as long as it lives.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// From the client's device, in bursts of a hundredth of a second.
    pub fn start(lab: &Lab, seed: u64, per_second: u32) -> Result<Self> {
        const BURSTS: u32 = 100;
        let near = lab.balancer.tokio(|| async { netlink::link(&netlink::connect()?, CLIENT_DEVICE).await })?;
        let far = lab.client.tokio(|| async { netlink::link(&netlink::connect()?, FAR_END).await })?;
        let mut attacker = Attacker::new(seed, Macs { client: far.mac, balancer: near.mac }, Vec::new());
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = lab.client.thread(move || {
            let socket = PacketSocket::open(far.index)?;
            let mut due = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                (0..per_second / BURSTS).try_for_each(|_| socket.send(&attacker.syn()))?;
                count.fetch_add(u64::from(per_second / BURSTS), Ordering::Relaxed);
                // What cannot be sent in time is not made up for: the rate is an upper bound.
                due = (due + Duration::from_secs(1) / BURSTS).max(Instant::now());
                std::thread::sleep(due - Instant::now());
            }
            Ok(())
        });
        Ok(Self { stop, sent, thread: Some(thread) })
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// # Errors
    /// When a frame could not be sent.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow::anyhow!("the flood has panicked"))?
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // Whoever wants to know calls `stop`.
        let _ = self.end();
    }
}

/// Makes frames, one after another, from a seed.
#[derive(Debug)]
pub struct Attacker {
    rng: Pcg64Mcg,
    macs: Macs,
    /// The client's ports of connections to the VIP's HTTP port that must survive, by family.
    live: Vec<(Family, u16)>,
}

impl Attacker {
    pub fn new(seed: u64, macs: Macs, live: Vec<(Family, u16)>) -> Self {
        Self { rng: Pcg64Mcg::seed_from_u64(seed), macs, live }
    }

    /// A valid SYN to the HTTP port of a VIP, from an address and a port that nobody has.
    pub fn syn(&mut self) -> Vec<u8> {
        let family = self.family();
        let source = self.stranger(family);
        let port = self.rng.random_range(1024..=u16::MAX);
        let content = self.tcp(port, HTTP_PORT, flag::SYN, Vec::new());
        self.frame(source, family.vip(), content, Shape::default()).bytes
    }

    /// A frame of any kind, to which something has been done, or in one case of thirteen nothing.
    pub fn mutant(&mut self) -> Vec<u8> {
        let mut frame = self.base();
        mutate::mutate(&mut self.rng, &mut frame);
        frame.bytes
    }

    fn family(&mut self) -> Family {
        Family::ALL[self.rng.random_range(0..Family::ALL.len())]
    }

    /// An address of the benchmark range, or of the IPv6 one: routed nowhere but back to the client.
    fn stranger(&mut self, family: Family) -> IpAddr {
        let random: u64 = self.rng.random();
        let [a, b, c, ..] = random.to_be_bytes();
        match family {
            Family::V4 => IpAddr::from([198, 18 + (a & 1), b, c]),
            Family::V6 => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&[0x20, 0x01, 0x00, 0x02]);
                bytes[8..].copy_from_slice(&random.to_be_bytes());
                IpAddr::from(bytes)
            }
        }
    }

    fn frame(&self, source: IpAddr, destination: IpAddr, content: Content, shape: Shape) -> Frame {
        frame::build(self.macs, &Network { source, destination, content, shape })
    }

    fn tcp(&mut self, source_port: u16, destination_port: u16, flags: u8, payload: Vec<u8>) -> Content {
        let (sequence, acknowledgement) = (self.rng.random(), self.rng.random());
        Content::Tcp { source_port, destination_port, flags, sequence, acknowledgement, payload }
    }

    /// A frame as it might be before the mutation.
    fn base(&mut self) -> Frame {
        match self.rng.random_range(0..4) {
            0 if !self.live.is_empty() => self.borrowed(),
            1 => self.icmp(),
            _ => self.unrelated(),
        }
    }

    /// TCP with the addresses of a live connection, from either end, its checksum wrong.
    fn borrowed(&mut self) -> Frame {
        let (family, port) = self.live[self.rng.random_range(0..self.live.len())];
        let (flags, payload) = (self.rng.random(), self.payload());
        let from_client = self.rng.random_ratio(4, 5);
        let mut frame = if from_client {
            let content = self.tcp(port, HTTP_PORT, flags, payload);
            self.frame(family.client(), family.vip(), content, Shape::default())
        } else {
            let server = [family.vip(), family.backend(1), family.backend(2)][self.rng.random_range(0..3)];
            let content = self.tcp(HTTP_PORT, port, flags, payload);
            self.frame(server, family.client(), content, Shape::default())
        };
        frame.spoil_checksum();
        frame
    }

    /// An echo, or an error that quotes a flow, live or not. Sequence numbers of live flows are not known to the
    /// attacker, so hosts do not believe the quote.
    fn icmp(&mut self) -> Frame {
        let family = self.family();
        let own = if self.rng.random_bool(0.5) { family.client() } else { self.stranger(family) };
        let kinds: &[u8] = match family {
            Family::V4 => &[8, 0, 3, 4, 11, 12],
            Family::V6 => &[128, 129, 1, 2, 3, 4],
        };
        let kind = kinds[self.rng.random_range(0..kinds.len())];
        let (code, rest) = (self.rng.random_range(0..6), self.rng.random());
        let port = match self.live.len() {
            0 => self.rng.random_range(NEVER_LIVE),
            live => self.live[self.rng.random_range(0..live)].1,
        };
        let inner = self.tcp(HTTP_PORT, port, flag::ACK, Vec::new());
        let mut quote = frame::network_bytes(&Network {
            source: family.vip(),
            destination: own,
            content: inner,
            shape: Shape::default(),
        });
        // As little as 8 bytes of the quoted transport header are common, and less happens.
        let kept = quote.len() - self.rng.random_range(0..=20);
        quote.truncate(kept);
        self.frame(own, family.vip(), Content::Icmp { kind, code, rest, payload: quote }, Shape::default())
    }

    /// TCP or UDP to or past a VIP, of any shape, from all kinds of sources; never a live connection.
    fn unrelated(&mut self) -> Frame {
        let family = self.family();
        let sources = [
            family.client(),
            self.stranger(family),
            self.stranger(family),
            family.vip(),
            family.backend(1),
            family.balancer(),
            frame::strange_source(family),
        ];
        let source = sources[self.rng.random_range(0..sources.len())];
        let destination = if self.rng.random_ratio(9, 10) { family.vip() } else { family.backend(1) };
        let port = self.rng.random_range(NEVER_LIVE);
        let payload = self.payload();
        let content = if self.rng.random_bool(0.5) {
            Content::Udp { source_port: port, destination_port: DNS_PORT, payload }
        } else {
            let flags = if self.rng.random_bool(0.5) { flag::SYN } else { self.rng.random() };
            self.tcp(port, HTTP_PORT, flags, payload)
        };
        let shape = self.shape();
        self.frame(source, destination, content, shape)
    }

    fn payload(&mut self) -> Vec<u8> {
        let length = if self.rng.random_bool(0.5) { 0 } else { self.rng.random_range(0..=MAX_PAYLOAD) };
        let mut payload = vec![0; length];
        self.rng.fill(&mut payload[..]);
        payload
    }

    /// Mostly plain; otherwise options or extension headers, tags, a fragment, or all of it.
    fn shape(&mut self) -> Shape {
        let mut shape = Shape::default();
        if self.rng.random_bool(0.25) {
            shape.options = (0..self.rng.random_range(1..=10) * 4).map(|_| self.rng.random()).collect();
        }
        if self.rng.random_bool(0.25) {
            shape.tags = (0..self.rng.random_range(1..=3)).map(|_| self.rng.random::<u16>() & 0xfff).collect();
        }
        if self.rng.random_bool(0.25) {
            // Offset in units of 8 bytes: the first one, a second one, or one that ends beyond 64 KiB.
            let offset = [0, 0, 185, 0x1fff][self.rng.random_range(0..4)];
            shape.fragment = Some((offset, self.rng.random()));
        }
        shape
    }
}

#[cfg(test)]
mod tests;
