//! How long backends have taken, as the programs count it ([`lb_common::latency`]), and how many of their flows they look at.

use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use lb_common::latency::{BUCKETS, KINDS, Kind, Latencies, SAMPLES, Sample, of};
use lb_common::maps;

use super::Kernel;
use super::error::KernelError;
use super::mapped::Mapped;
use super::pins::{Meta, Pins};

const WORDS: usize = size_of::<Latencies>() / 8;
const SUMS: usize = core::mem::offset_of!(Latencies, sums) / 8;

pub(super) struct Maps {
    latencies: Mapped,
    samples: Mapped,
}

impl Maps {
    pub(super) fn open(pins: &Pins, meta: &Meta) -> Result<Self, KernelError> {
        let latencies = pins.map_data(maps::LATENCIES)?;
        let bytes = meta.backend_capacity as usize * size_of::<Latencies>();
        let samples = pins.map_data(maps::SAMPLES)?;
        Ok(Self {
            latencies: Mapped::new(latencies.fd().as_fd(), bytes).map_err(KernelError::io("map the latencies"))?,
            samples: Mapped::new(samples.fd().as_fd(), SAMPLES * size_of::<Sample>())
                .map_err(KernelError::io("map the samples"))?,
        })
    }
}

impl Kernel {
    /// Counts by bucket and the sum, nanoseconds, of a kind; both wrap.
    pub fn latencies(&self, backend: u16, kind: Kind) -> Option<([u32; BUCKETS], u64)> {
        let place = usize::from(backend) * WORDS;
        let counts = self.latencies.latencies.words32().get(2 * place + kind as usize * BUCKETS..)?.get(..BUCKETS)?;
        let sum = self.latencies.latencies.words64().get(place + SUMS + kind as usize)?;
        Some((std::array::from_fn(|bucket| counts[bucket].load(Ordering::Relaxed)), sum.load(Ordering::Relaxed)))
    }

    pub(super) fn clear_latencies(&self, backend: u16) {
        let place = usize::from(backend) * WORDS;
        if let Some(words) = self.latencies.latencies.words64().get(place..place + WORDS) {
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    /// Backends whose handshakes are waited for longer than `nanoseconds`, once for each of them: the sample is given up.
    pub fn unanswered(&self, now: u64, nanoseconds: u64) -> Vec<u16> {
        let mut found = Vec::new();
        for words in self.latencies.samples.words64().chunks_exact(size_of::<Sample>() / 8) {
            let (awaited, since) = (words[0].load(Ordering::Acquire), words[1].load(Ordering::Relaxed));
            let Some((backend, Kind::Handshake)) = of(awaited) else { continue };
            let is_late = now.saturating_sub(since) > nanoseconds;
            if is_late && words[0].compare_exchange(awaited, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                found.push(backend);
            }
        }
        found
    }
}

const _: () = assert!(KINDS == Kind::ALL.len());
