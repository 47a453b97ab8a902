//! The eBPF object: embedded in the binary, loaded with the sizes and constants of this data plane.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::ProgramArray;
use aya::programs::{Program, ProgramError, TestRun as _, TestRunOptions, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use lb_common::flow::BUCKET_ENTRIES;
use lb_common::maps;
use sha2::{Digest as _, Sha256};

use super::attach::{Hook, relink_tc, relink_xdp};
use super::error::{KernelError, chain, is_denied};
use super::pins::{Meta, Pins, pin_error};
use crate::model::config::Ports;

pub(super) const BALANCE: &str = "balance";
pub(super) const BALANCE_TC: &str = "balance_tc";
pub(super) const ROUTE: &str = "route";
pub(super) const CLOCK: &str = "clock";
/// Those that a balancing program goes on in: the map, the place in it.
const STAGES: [(&str, &str, u32); 8] = [
    ("lend", maps::STAGES, maps::LEND),
    ("share", maps::STAGES, maps::SHARE),
    ("unusual", maps::STAGES, maps::UNUSUAL),
    ("crowded", maps::STAGES, maps::CROWDED),
    ("lend_tc", maps::STAGES_TC, maps::LEND),
    ("share_tc", maps::STAGES_TC, maps::SHARE),
    ("unusual_tc", maps::STAGES_TC, maps::UNUSUAL),
    ("crowded_tc", maps::STAGES_TC, maps::CROWDED),
];
const PROGRAMS: [&str; 12] = [
    BALANCE,
    BALANCE_TC,
    ROUTE,
    CLOCK,
    STAGES[0].0,
    STAGES[1].0,
    STAGES[2].0,
    STAGES[3].0,
    STAGES[4].0,
    STAGES[5].0,
    STAGES[6].0,
    STAGES[7].0,
];

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

/// How large the maps are made. They cannot grow afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub flow_entries: u32,
    /// Memberships of backends in services that the configuration has now.
    pub backends_needed: u32,
    /// Room for them, with what later reloads may add.
    pub backend_capacity: u32,
    /// Source ports that flows are lent.
    pub ports: Ports,
}

impl Sizes {
    /// Room for four times as many backends as there are, so that reloads seldom meet the end of it.
    pub fn new(flow_entries: u32, backends: usize, ports: Ports) -> Self {
        let needed = u32::try_from(backends).unwrap_or(u32::MAX).saturating_add(1);
        let capacity = needed.saturating_mul(4).clamp(1024, u32::from(lb_common::limits::MAX_BACKEND_ID) + 1);
        Self { flow_entries, backends_needed: needed, backend_capacity: capacity.next_power_of_two(), ports }
    }
}

/// Of the object in this binary: two agents with the same one need not replace each other's programs.
pub(super) fn digest() -> [u8; 32] {
    Sha256::digest(OBJECT).into()
}

/// Loads programs and maps and pins them all. `seed` is that of the data plane whose place this one takes, if there is one.
pub(super) fn load_afresh(pins: &Pins, sizes: Sizes, seed: Option<[u8; 32]>) -> Result<(), KernelError> {
    let hertz = measure_jiffies_per_second()?;
    let meta = match seed {
        Some(seed) => Meta::of_seed(seed, sizes, digest(), hertz)?,
        None => Meta::new(sizes, digest(), hertz)?,
    };
    let mut object = load(&meta, None)?;
    pins.create(meta, |directory| {
        for name in maps::ALL {
            let map = object.map_mut(name).ok_or_else(|| missing(name))?;
            map.pin(directory.join("maps").join(name)).map_err(pin_error)?;
        }
        pin_programs(&mut object, &directory.join("programs"))
    })
}

/// Loads the programs of this binary onto the pinned maps and puts them in the place of the old ones: on each interface in
/// one step, so that no packet is without a program.
pub(super) fn replace(pins: &Pins, meta: &Meta) -> Result<(), KernelError> {
    let mut object = load(meta, Some(pins))?;
    for (hook, ifindex) in pins.links()? {
        let Some(link) = pins.link(hook, ifindex)? else { continue };
        match hook {
            Hook::Xdp => relink_xdp(program(&mut object, BALANCE)?, link.into())?,
            Hook::Tc => relink_tc(program(&mut object, BALANCE_TC)?, link.into())?,
        };
    }
    for name in PROGRAMS {
        let path = pins.program_path(name);
        std::fs::remove_file(&path).map_err(KernelError::io(format!("remove {}", path.display())))?;
    }
    let directory = pins.program_path(BALANCE);
    pin_programs(&mut object, directory.parent().unwrap_or(Path::new("/")))?;
    let mut meta = *meta;
    meta.digest = digest();
    pins.write_meta(meta)
}

/// Maps of the sizes and programs with the constants that `meta` says; on maps that are pinned, or on fresh ones.
pub(super) fn load(meta: &Meta, onto: Option<&Pins>) -> Result<Ebpf, KernelError> {
    let key = meta.hash_key();
    let buckets = meta.flow_entries / BUCKET_ENTRIES as u32;
    let mask = buckets - 1;
    let (first_port, ports) = (u32::from(meta.ports().first), meta.ports().count());
    let processors = u32::try_from(nr_cpus().map_err(|(what, error)| KernelError::io(what)(error))?).unwrap_or(1);
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global(maps::HASH_KEY, key.as_slice(), true)
        .override_global(maps::BUCKET_MASK, &mask, true)
        .override_global(maps::TIME_SHIFT, &meta.time_shift, true)
        .override_global(maps::FIRST_PORT, &first_port, true)
        .override_global(maps::PORTS, &ports, true)
        .override_global(maps::PROCESSORS, &processors, true)
        .map_max_entries(maps::FLOWS, buckets);
    let by_backend = [
        maps::BACKENDS,
        maps::LATENCIES,
        maps::LOADS,
        maps::BACKEND_COUNTERS,
        maps::ENDPOINTS_V4,
        maps::ENDPOINTS_V6,
        maps::PORT_POOLS,
    ];
    for name in by_backend {
        loader.map_max_entries(name, meta.backend_capacity);
    }
    if let Some(pins) = onto {
        for name in maps::ALL {
            loader.map_pin_path(name, pins.map_path(name));
        }
    }
    let mut object = loader.load(OBJECT).map_err(load_error)?;
    for name in PROGRAMS {
        match any_program(&mut object, name)? {
            Program::SchedClassifier(program) => program.load(),
            program => <&mut Xdp>::try_from(program).and_then(Xdp::load),
        }
        .map_err(|error| rejected(name, error))?;
    }
    for (name, map, place) in STAGES {
        let stage = any_program(&mut object, name)?.fd().map_err(KernelError::program(name))?;
        let stage = stage.try_clone().map_err(KernelError::io("copy a program's descriptor"))?;
        let stages = object.map_mut(map).ok_or_else(|| missing(map))?;
        let mut stages = ProgramArray::try_from(stages).map_err(KernelError::map(map))?;
        stages.set(place, &stage, 0).map_err(KernelError::map(map))?;
    }
    Ok(object)
}

fn any_program<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, KernelError> {
    object.program_mut(name).ok_or_else(|| missing(name))
}

/// One of those for `P`'s hook.
fn program<'a, P: ?Sized>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    any_program(object, name)?.try_into().map_err(KernelError::program(name))
}

fn pin_programs(object: &mut Ebpf, directory: &Path) -> Result<(), KernelError> {
    for name in PROGRAMS {
        any_program(object, name)?.pin(directory.join(name)).map_err(pin_error)?;
    }
    Ok(())
}

pub(super) fn missing(name: &'static str) -> KernelError {
    KernelError::Io { what: format!("the object has no {name}"), source: std::io::ErrorKind::NotFound.into() }
}

pub(super) fn load_error(error: EbpfError) -> KernelError {
    if let EbpfError::MapError(aya::maps::MapError::CreateError { io_error, .. }) = &error
        && is_denied(io_error)
    {
        return KernelError::NotPermitted("create BPF maps".into());
    }
    KernelError::Io { what: "loading the eBPF object".into(), source: std::io::Error::other(chain(&error)) }
}

pub(super) fn rejected(name: &'static str, error: ProgramError) -> KernelError {
    match error {
        // The verifier, too, says EACCES to what it does not like; but it says why.
        ProgramError::LoadError { io_error, verifier_log }
            if is_denied(&io_error) && verifier_log.to_string().is_empty() =>
        {
            KernelError::NotPermitted("load BPF programs".into())
        }
        ProgramError::LoadError { io_error, verifier_log } => {
            KernelError::Rejected { name, reason: io_error.to_string(), log: verifier_log.to_string() }
        }
        error => KernelError::program(name)(error),
    }
}

/// The kernel does not say what its HZ is; a program that returns jiffies does, run twice.
fn measure_jiffies_per_second() -> Result<u32, KernelError> {
    const COMMON: [u32; 4] = [100, 250, 300, 1000];
    let sizes = Sizes::new(lb_common::limits::MIN_FLOW_ENTRIES, 0, Ports::DEFAULT);
    // One jiffy a second: no shift, so the program returns jiffies themselves (12 bits of them).
    let mut object = load(&Meta::new(sizes, digest(), 1)?, None)?;
    let clock: &mut Xdp = program(&mut object, CLOCK)?;
    let (start, first) = (Instant::now(), run_clock(clock)?);
    thread::sleep(Duration::from_millis(200));
    let (elapsed, last) = (start.elapsed(), run_clock(clock)?);
    let rate = f64::from(lb_common::flow::age(last, first)) / elapsed.as_secs_f64();
    Ok(nearest(&COMMON, rate))
}

fn nearest(candidates: &[u32], rate: f64) -> u32 {
    let distance = |candidate: u32| (f64::from(candidate) / rate.max(1.0)).ln().abs();
    candidates.iter().copied().min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap_or(250)
}

/// The kernel wants at least an Ethernet header of input.
pub(super) fn run_clock(clock: &Xdp) -> Result<u32, KernelError> {
    let options = TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::default() };
    let result = clock.test_run(options).map_err(KernelError::program("running the clock"))?;
    Ok(result.return_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hertz_are_told_apart() {
        for (measured, is) in [(95.0, 100), (245.0, 250), (260.0, 250), (295.0, 300), (990.0, 1000), (0.0, 100)] {
            assert_eq!(nearest(&[100, 250, 300, 1000], measured), is, "{measured}");
        }
    }

    #[test]
    fn there_is_room_to_grow() {
        let capacity = |backends| Sizes::new(1024, backends, Ports::DEFAULT).backend_capacity;
        assert_eq!((capacity(3), capacity(1000), capacity(32_767)), (1024, 4096, 32_768));
    }
}
