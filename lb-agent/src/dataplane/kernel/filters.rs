//! The filters in front of the hash maps ([`lb_common::filter`]): a bit is set before a key is put in, and cleared when the last key
//! that falls on it has left.

use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use lb_common::filter::{FILTERS, Filter, Of, WORDS, bit_v4, bit_v6, mask_of, word_of};
use lb_common::maps;

use super::error::KernelError;
use super::keys::Key;
use super::mapped::Mapped;
use super::pins::Pins;

#[derive(Debug)]
pub(super) struct Filters {
    words: Mapped,
    /// Keys by bit, of each filter.
    keys: Vec<u32>,
}

const BITS: usize = WORDS * 64;

impl Filters {
    /// With the keys that the maps have now; bits of others, which an agent that died may have left, are cleared.
    pub(super) fn open(pins: &Pins, services: &[Key], endpoints: &[Key]) -> Result<Self, KernelError> {
        let map = pins.map_data(maps::FILTERS)?;
        let bytes = FILTERS as usize * size_of::<Filter>();
        let words = Mapped::new(map.fd().as_fd(), bytes).map_err(KernelError::io("map the filters"))?;
        let mut filters = Self { words, keys: vec![0; FILTERS as usize * BITS] };
        services.iter().for_each(|key| filters.enter(Of::Services, key));
        endpoints.iter().for_each(|key| filters.enter(Of::Endpoints, key));
        for (word, keys) in filters.words.words64().iter().zip(filters.keys.chunks_exact(64)) {
            let bits = (0..64).filter(|bit| keys[*bit] > 0).fold(0, |bits, bit| bits | 1 << bit);
            word.store(bits, Ordering::Release);
        }
        Ok(filters)
    }

    /// A key is about to be put in.
    pub(super) fn enter(&mut self, of: Of, key: &Key) {
        let bit = bit(key);
        self.keys[of as usize * BITS + bit as usize] += 1;
        self.words.words64()[of as usize * WORDS + word_of(bit)].fetch_or(mask_of(bit), Ordering::Release);
    }

    /// A key has been taken out.
    pub(super) fn leave(&mut self, of: Of, key: &Key) {
        let bit = bit(key);
        let keys = &mut self.keys[of as usize * BITS + bit as usize];
        *keys = keys.saturating_sub(1);
        if *keys == 0 {
            self.words.words64()[of as usize * WORDS + word_of(bit)].fetch_and(!mask_of(bit), Ordering::Release);
        }
    }
}

fn bit(key: &Key) -> u32 {
    match key {
        Key::V4(key) => bit_v4(key.address, key.port),
        Key::V6(key) => bit_v6(key.address, key.port),
    }
}
