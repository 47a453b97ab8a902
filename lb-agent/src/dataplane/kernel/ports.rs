//! Pools of source ports (`snat`): one for each endpoint, which its memberships share, made when the first of them needs it. The
//! programs lend and take back by themselves ([`lb_common::mapping`]); here pools are made, counted and given up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use aya::maps::{Array, ArrayOfMaps, MapData, MapError};
use lb_common::mapping::{self, BLOCK, Block, Control, Mapping};
use lb_common::maps::{self, BPF_F_INNER_MAP, BPF_F_MMAPABLE};
use zerocopy::transmute;

use super::error::KernelError;
use super::keys::{from_words, to_words};
use super::mapped::Mapped;
use super::pins::{Meta, Pins};
use super::tables::{map_entries, typed};
use super::{Kernel, object};
use crate::model::config::Ports;

type Bytes = [u8; size_of::<Block>()];

const MAPPING_WORDS: usize = size_of::<Mapping>() / 8;
/// Words of the pool's own address.
const ADDRESS: usize = std::mem::offset_of!(Mapping, address) / 8;

pub(super) struct Pools {
    pools: ArrayOfMaps<MapData, Array<MapData, Bytes>>,
    /// The same map once more, for file descriptors.
    maps: ArrayOfMaps<MapData, MapData>,
    /// By backend number.
    mapped: BTreeMap<u16, Mapped>,
    ports: Ports,
}

impl Pools {
    pub(super) fn open(pins: &Pins, meta: &Meta) -> Result<Self, KernelError> {
        let (pools, maps) = (typed(pins, maps::PORT_POOLS)?, typed(pins, maps::PORT_POOLS)?);
        Ok(Self { pools, maps, mapped: BTreeMap::new(), ports: meta.ports() })
    }

    /// Gives the backend a pool whose ports belong to `source`: the one that it has, that of another membership, or a new one.
    pub(super) fn provide(&mut self, number: u16, source: IpAddr, other: Option<u16>) -> Result<(), KernelError> {
        if !self.mapped.contains_key(&number) {
            let index = u32::from(number);
            if self.existing(number)?.is_none() {
                let pool = match other {
                    Some(other) => self.pools.get(&other.into(), 0),
                    None => Array::create(mapping::blocks(self.ports.count()), BPF_F_MMAPABLE | BPF_F_INNER_MAP),
                };
                let pool = pool.map_err(KernelError::map(maps::PORT_POOLS))?;
                self.pools.set(index, &pool, 0).map_err(KernelError::map(maps::PORT_POOLS))?;
            }
            let missing = || KernelError::Map { name: maps::PORT_POOLS, source: MapError::KeyNotFound };
            let mapped = self.existing(number)?.ok_or_else(missing)?;
            self.mapped.insert(number, mapped);
        }
        let words = self.mapped[&number].words64();
        let address: [u64; 2] = transmute!(to_words(source));
        for (word, new) in words[ADDRESS..].iter().zip(address) {
            if word.load(Ordering::Relaxed) != new {
                word.store(new, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The backend has no flows any more, or its service lends no ports.
    pub(super) fn give_up(&mut self, number: u16) -> Result<(), KernelError> {
        let Some(pool) = self.existing(number)? else { return Ok(()) };
        // Others may share it, and the number will be another backend's.
        for control in controls(&pool).filter(|control| Control(control.load(Ordering::Relaxed)).backend() == number) {
            control.store(0, Ordering::Relaxed);
        }
        self.mapped.remove(&number);
        let none = Array::create(1, BPF_F_MMAPABLE | BPF_F_INNER_MAP).map_err(KernelError::map(maps::PORT_POOLS))?;
        self.pools.set(u32::from(number), &none, 0).map_err(KernelError::map(maps::PORT_POOLS))
    }

    /// Whom the ports of this backend's pool belong to.
    pub(super) fn source(&self, number: u16, v6: bool) -> Option<IpAddr> {
        let pool = self.existing(number).ok()??;
        let words: [u64; 2] = std::array::from_fn(|word| pool.words64()[ADDRESS + word].load(Ordering::Relaxed));
        Some(from_words(transmute!(words), v6))
    }

    /// The pool in place, if there is one of the right size.
    fn existing(&self, number: u16) -> Result<Option<Mapped>, KernelError> {
        let map = match self.maps.get(&number.into(), 0) {
            Ok(map) => map,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(KernelError::map(maps::PORT_POOLS)(error)),
        };
        let blocks = mapping::blocks(self.ports.count());
        if map_entries(&map)? != blocks {
            return Ok(None);
        }
        let mapped = Mapped::new(map.fd().as_fd(), blocks as usize * size_of::<Block>());
        mapped.map(Some).map_err(KernelError::io("map a pool of ports"))
    }
}

/// The mappings' first words, without those of the pool's own block.
fn controls(pool: &Mapped) -> impl Iterator<Item = &std::sync::atomic::AtomicU64> {
    pool.words64().iter().step_by(MAPPING_WORDS).skip(BLOCK)
}

impl Kernel {
    /// Ports that are lent, by backend; backends without a pool are missing.
    ///
    /// # Errors
    /// When the kernel's clock cannot be asked.
    pub fn lent_ports(&self) -> Result<BTreeMap<u16, u64>, KernelError> {
        let pools = &self.tables.pools().mapped;
        if pools.is_empty() {
            return Ok(BTreeMap::new());
        }
        let now = object::run_clock(&self.clock)?;
        let lent = |number: u16, pool| {
            let lent = controls(pool).map(|control| Control(control.load(Ordering::Relaxed)));
            lent.filter(|control| control.backend() == number && !control.is_free(now)).count() as u64
        };
        Ok(pools.iter().map(|(number, pool)| (*number, lent(*number, pool))).collect())
    }
}
