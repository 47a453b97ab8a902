//! The hints in front of the hash maps ([`lb_common::hint`]): a key gets one after it has been put in, and loses it before it is taken
//! out.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use lb_common::hint::{HINTS, Hints as Words, KINDS, NOBODY, Of, SEVERAL, place_v4, place_v6};
use lb_common::maps;

use super::error::KernelError;
use super::keys::Key;
use super::mapped::Mapped;
use super::pins::Pins;

#[derive(Debug)]
pub(super) struct Hints {
    words: Mapped,
    /// By place, what each key that falls on it would have as its hint.
    keys: [BTreeMap<usize, BTreeMap<Key, u16>>; KINDS as usize],
}

impl Hints {
    /// For the keys that the maps have now; those of others, which an agent that died may have left, are cleared.
    pub(super) fn open(pins: &Pins, services: &[(Key, u16)], endpoints: &[(Key, u16)]) -> Result<Self, KernelError> {
        let map = pins.map_data(maps::HINTS)?;
        let bytes = KINDS as usize * size_of::<Words>();
        let words = Mapped::new(map.fd().as_fd(), bytes).map_err(KernelError::io("map the hints"))?;
        let mut hints = Self { words, keys: Default::default() };
        for (of, keys) in [(Of::Services, services), (Of::Endpoints, endpoints)] {
            keys.iter().for_each(|(key, hint)| hints.enter(of, *key, *hint));
            for (place, word) in hints.words.words16()[of as usize * HINTS..].iter().take(HINTS).enumerate() {
                if !hints.keys[of as usize].contains_key(&place) {
                    word.store(NOBODY, Ordering::Release);
                }
            }
        }
        Ok(hints)
    }

    /// The key has been put in; its hint may have been another one before.
    pub(super) fn enter(&mut self, of: Of, key: Key, hint: u16) {
        let place = place(&key);
        self.keys[of as usize].entry(place).or_default().insert(key, hint);
        self.write(of, place);
    }

    /// The key is about to be taken out.
    pub(super) fn leave(&mut self, of: Of, key: &Key) {
        let place = place(key);
        if let Some(keys) = self.keys[of as usize].get_mut(&place) {
            keys.remove(key);
            if keys.is_empty() {
                self.keys[of as usize].remove(&place);
            }
        }
        self.write(of, place);
    }

    fn write(&self, of: Of, place: usize) {
        let keys = self.keys[of as usize].get(&place);
        let hint = keys
            .map_or(NOBODY, |keys| if keys.len() == 1 { *keys.values().next().unwrap_or(&SEVERAL) } else { SEVERAL });
        self.words.words16()[of as usize * HINTS + place].store(hint, Ordering::Release);
    }
}

fn place(key: &Key) -> usize {
    match key {
        Key::V4(key) => place_v4(key.address, key.port, key.protocol),
        Key::V6(key) => place_v6(key.address, key.port, key.protocol),
    }
}
