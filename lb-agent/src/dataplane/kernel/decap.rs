//! The small program for backends, with maps of its own. Nothing of it is pinned: it goes with the process that holds it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_common::decap::{ADDRESSES, COUNTERS, Counter, MAPPED_BITS, PROGRAM, SOURCES, mapped};

use super::attach::{Mode, refused};
use super::error::KernelError;
use super::keys::to_words;
use super::object::{load_error, missing, rejected};
use crate::model::prefix::Prefix;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-decap"));

/// The loaded program; attached until it is dropped.
#[expect(missing_debug_implementations, reason = "aya's maps have none, and there is nothing to see")]
pub struct Decap {
    object: Ebpf,
    sources: LpmTrie<MapData, [u32; 4], u32>,
    addresses: HashMap<MapData, [u32; 4], u32>,
    counters: PerCpuArray<MapData, u64>,
    known: BTreeSet<IpAddr>,
}

impl Decap {
    /// Loads the program, which lets nobody in yet.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn load() -> Result<Self, KernelError> {
        let mut object = EbpfLoader::new().load(OBJECT).map_err(load_error)?;
        program(&mut object)?.load().map_err(|error| rejected(PROGRAM, error))?;
        Ok(Self {
            sources: take(&mut object, SOURCES)?,
            addresses: take(&mut object, ADDRESSES)?,
            counters: take(&mut object, COUNTERS)?,
            known: BTreeSet::new(),
            object,
        })
    }

    /// Believes tunnels from these addresses.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn allow(&mut self, source: Prefix) -> Result<(), KernelError> {
        let before = if source.address().is_ipv4() { MAPPED_BITS } else { 0 };
        let key = Key::new(before + u32::from(source.length()), key(source.address()));
        self.sources.insert(&key, 1, 0).map_err(KernelError::map(SOURCES))
    }

    /// Takes these for this host's own addresses, and no others.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> Result<(), KernelError> {
        for address in addresses.difference(&self.known) {
            self.addresses.insert(key(*address), 1, 0).map_err(KernelError::map(ADDRESSES))?;
        }
        for address in self.known.difference(&addresses) {
            match self.addresses.remove(&key(*address)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(KernelError::map(ADDRESSES)(error)),
            }
        }
        self.known = addresses;
        Ok(())
    }

    /// # Errors
    /// When the interface has a program already, or its driver does not take this one.
    pub fn attach(&mut self, interface: &str, ifindex: u32, mode: Mode) -> Result<(), KernelError> {
        let mode = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let attached = program(&mut self.object)?.attach_to_if_index(ifindex, mode);
        attached.map(drop).map_err(|error| refused(interface, error))
    }

    /// # Errors
    /// When the map cannot be read.
    pub fn counter(&self, counter: Counter) -> Result<u64, KernelError> {
        let values = self.counters.get(&(counter as u32), 0).map_err(KernelError::map(COUNTERS))?;
        Ok(values.iter().sum())
    }

    /// Runs the program on a frame, for tests: the XDP verdict, and the frame as it goes to the stack.
    ///
    /// # Errors
    /// When the kernel cannot run it.
    pub fn run(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>), KernelError> {
        let mut out = vec![0; frame.len()];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result =
            program(&mut self.object)?.test_run(options).map_err(KernelError::program("running the program"))?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }
}

fn key(address: IpAddr) -> [u32; 4] {
    let words = to_words(address);
    if address.is_ipv4() { mapped(words[0]) } else { words }
}

fn program(object: &mut Ebpf) -> Result<&mut Xdp, KernelError> {
    let program = object.program_mut(PROGRAM).ok_or_else(|| missing(PROGRAM))?;
    program.try_into().map_err(KernelError::program(PROGRAM))
}

fn take<T: TryFrom<Map, Error = MapError>>(object: &mut Ebpf, name: &'static str) -> Result<T, KernelError> {
    let map = object.take_map(name).ok_or_else(|| missing(name))?;
    T::try_from(map).map_err(KernelError::map(name))
}
