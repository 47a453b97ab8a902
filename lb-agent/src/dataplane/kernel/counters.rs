//! The programs' counters, added up over the CPUs.

use aya::maps::{MapData, PerCpuArray};
use lb_common::counters::BackendCounters;
use lb_common::maps;
use lb_common::reason::Reason;
use zerocopy::transmute;

use super::Kernel;
use super::error::KernelError;
use super::pins::Pins;

pub(super) struct Maps {
    backends: PerCpuArray<MapData, [u8; size_of::<BackendCounters>()]>,
    reasons: PerCpuArray<MapData, u64>,
}

impl Maps {
    pub(super) fn open(pins: &Pins) -> Result<Self, KernelError> {
        Ok(Self {
            backends: pins.map(maps::BACKEND_COUNTERS)?.try_into().map_err(KernelError::map(maps::BACKEND_COUNTERS))?,
            reasons: pins.map(maps::REASON_COUNTERS)?.try_into().map_err(KernelError::map(maps::REASON_COUNTERS))?,
        })
    }
}

impl Kernel {
    /// Since they were last cleared.
    ///
    /// # Errors
    /// When the map cannot be read or has no such backend.
    pub fn counters(&self, backend: u16) -> Result<BackendCounters, KernelError> {
        let values =
            self.counters.backends.get(&u32::from(backend), 0).map_err(KernelError::map(maps::BACKEND_COUNTERS))?;
        Ok(values.iter().fold(BackendCounters::default(), |total, bytes| total.plus(transmute!(*bytes))))
    }

    /// For a number that is given to another backend.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn clear_counters(&mut self, backend: u16) -> Result<(), KernelError> {
        self.clear_latencies(backend);
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| KernelError::io(what)(error))?;
        let zero = aya::maps::PerCpuValues::try_from(vec![[0; size_of::<BackendCounters>()]; cpus])
            .map_err(KernelError::io("count the CPUs"))?;
        self.counters.backends.set(u32::from(backend), zero, 0).map_err(KernelError::map(maps::BACKEND_COUNTERS))
    }

    /// Packets by reason, those reasons only that occurred.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn reasons(&self) -> Result<Vec<(Reason, u64)>, KernelError> {
        let mut counts = Vec::new();
        for reason in Reason::ALL {
            let values =
                self.counters.reasons.get(&(*reason as u32), 0).map_err(KernelError::map(maps::REASON_COUNTERS))?;
            let total = values.iter().sum();
            if total > 0 {
                counts.push((*reason, total));
            }
        }
        Ok(counts)
    }
}
