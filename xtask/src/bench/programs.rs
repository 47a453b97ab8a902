//! The benchmark's own programs in the kernel: packet makers, and the floors with their small NAT.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_bench_ebpf::{FRAME, Stream, names};
use lb_common::limits::{SLOTS, SLOTS_PER_BLOCK, slot_blocks};
use lb_common::maps::{Backend, KeyV4, Service, SlotBlock};
use lb_common::mode::{Forwarding, ServiceMode, Tracking};
use lb_common::packet::ip::TCP;
use zerocopy::transmute;

use super::packets::{Kind, Order};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-bench-ebpf"));

/// The kernel tells whole nanoseconds for a run; the mean of several has fractions.
const RUNS: u32 = 10;

pub(super) struct Programs {
    object: Ebpf,
    measured: ProgramArray<MapData>,
    stream: Array<MapData, [u8; size_of::<Stream>()]>,
}

/// A floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Floor {
    Transmit,
    Swap,
    Stateless,
}

impl Floor {
    fn name(self) -> &'static str {
        match self {
            Self::Transmit => names::TRANSMIT,
            Self::Swap => names::SWAP,
            Self::Stateless => names::STATELESS,
        }
    }
}

/// What one measurement says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Run {
    pub(super) ns: f64,
    /// XDP verdict of the last packet.
    pub(super) verdict: u32,
}

impl Programs {
    pub(super) fn load() -> Result<Self> {
        let mut object = EbpfLoader::new().load(OBJECT).context("loading the benchmark's programs")?;
        for name in names::PROGRAMS {
            let program: &mut Xdp = object.program_mut(name).ok_or_else(|| missing(name))?.try_into()?;
            program.load().with_context(|| format!("the kernel refuses the program {name}"))?;
        }
        let measured = take(&mut object, names::MEASURED)?.try_into()?;
        let stream = take(&mut object, names::STREAM)?.try_into()?;
        Ok(Self { object, measured, stream })
    }

    /// Gives the NAT floor a VIP and its backends.
    pub(super) fn fill(&mut self, vip: SocketAddr, backends: &[SocketAddr]) -> Result<()> {
        let address = |end: SocketAddr| match end.ip() {
            IpAddr::V4(address) => Ok(u32::from_ne_bytes(address.octets())),
            IpAddr::V6(_) => Err(anyhow!("the NAT floor knows IPv4 only")),
        };
        let mut vips: HashMap<_, [u8; 8], [u8; 8]> = take(&mut self.object, names::VIPS)?.try_into()?;
        let key = KeyV4 { address: address(vip)?, port: vip.port().to_be(), protocol: TCP, zero: 0 };
        let service: [u8; 8] =
            transmute!(Service { id: 1, mode: ServiceMode::new(Tracking::Full, Forwarding::Nat), slots: SLOTS });
        let key: [u8; 8] = transmute!(key);
        vips.insert(key, service, 0)?;

        let mut slots: Array<_, [u8; 64]> = take(&mut self.object, names::SLOTS)?.try_into()?;
        let count = u32::try_from(backends.len())?;
        for block in 0..slot_blocks(SLOTS) {
            let first = block * SLOTS_PER_BLOCK;
            let block_of_slots: [u8; 64] =
                transmute!(SlotBlock(std::array::from_fn(|slot| (first + slot as u32) % count)));
            slots.set(block, block_of_slots, 0)?;
        }

        let mut map: Array<_, [u8; 64]> = take(&mut self.object, names::BACKENDS)?.try_into()?;
        for (number, backend) in (0..count).zip(backends) {
            let address = [address(*backend)?, 0, 0, 0];
            let (destination_mac, source_mac) = super::plane::MACS;
            let port = backend.port().to_be();
            let value: [u8; 64] =
                transmute!(Backend { address, port, destination_mac, source_mac, ..Backend::default() });
            map.set(number, value, 0)?;
        }
        Ok(())
    }

    /// Without a packet maker: the same frame every time.
    pub(super) fn alone(&self, floor: Floor, kind: &Kind, packets: u32) -> Result<Run> {
        run(self.program(floor.name())?, packets, &kind.frame()?)
    }

    pub(super) fn floor(&mut self, floor: Floor, kind: &Kind, order: Order, packets: u32) -> Result<Run> {
        let program: &Xdp = self.object.program(floor.name()).ok_or_else(|| missing(floor.name()))?.try_into()?;
        self.measured.set(0, program.fd()?, 0)?;
        self.start(kind, order, packets)
    }

    /// Sends packets of a kind to a program.
    pub(super) fn send(&mut self, program: &ProgramFd, kind: &Kind, order: Order, packets: u32) -> Result<Run> {
        self.measured.set(0, program, 0).context("putting a packet maker in front of the program")?;
        self.start(kind, order, packets)
    }

    fn start(&mut self, kind: &Kind, order: Order, packets: u32) -> Result<Run> {
        let stream: [u8; size_of::<Stream>()] = transmute!(kind.stream(order)?);
        self.stream.set(0, stream, 0)?;
        run(self.program(kind.maker())?, packets, &kind.frame()?)
    }

    fn program(&self, name: &'static str) -> Result<&Xdp> {
        Ok(self.object.program(name).ok_or_else(|| missing(name))?.try_into()?)
    }
}

/// Runs the program on `packets` packets in all; few packets in one go, many in several.
fn run(program: &Xdp, packets: u32, frame: &[u8]) -> Result<Run> {
    let runs = if packets < 1000 { 1 } else { RUNS };
    let (mut total, mut verdict) = (0.0, 0);
    for index in 0..runs {
        // Shares that add up to all packets.
        let repeat = packets * (index + 1) / runs - packets * index / runs;
        let mut out = [0; FRAME + 256];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), repeat, ..TestRunOptions::default() };
        let result = program.test_run(options).context("running a program")?;
        total += result.duration.as_nanos() as f64 * f64::from(repeat);
        verdict = result.return_value;
    }
    ensure!(verdict != 0, "a packet maker could not jump to the measured program");
    Ok(Run { ns: total / f64::from(packets), verdict })
}

fn take(object: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map> {
    object.take_map(name).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> anyhow::Error {
    anyhow!("the benchmark's object has no {name}")
}
