//! Gives numbers to the next hops that answers to clients take ([`lb_common::client_hop`]).

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{MapData, PerCpuArray};
use lb_common::client_hop::{CLIENT_HOPS, ClientHop, ClientHops};
use lb_common::maps;
use zerocopy::transmute;

use super::Kernel;
use super::error::KernelError;
use super::mapped::Mapped;
use super::pins::Pins;

pub(super) struct Hops {
    table: Mapped,
    wanted: PerCpuArray<MapData, [u8; size_of::<ClientHop>()]>,
    cleared: Option<Instant>,
}

/// A number must not mean another hop as long as a flow entry may believe in it: a unit of coarse time, here with some to spare.
const REST: Duration = Duration::from_secs(4);

impl Hops {
    pub(super) fn open(pins: &Pins) -> Result<Self, KernelError> {
        let map = pins.map_data(maps::CLIENT_HOPS)?;
        let table = Mapped::new(map.fd().as_fd(), size_of::<ClientHops>())
            .map_err(KernelError::io("map the clients' next hops"))?;
        let wanted = pins.map(maps::WANTED_HOPS)?.try_into().map_err(KernelError::map(maps::WANTED_HOPS))?;
        Ok(Self { table, wanted, cleared: None })
    }
}

impl Kernel {
    /// Gives a number to each hop that the program has lately missed. When all are in use, all are taken back.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn number_client_hops(&mut self) -> Result<(), KernelError> {
        let hops = &mut self.client_hops;
        let wanted = hops.wanted.get(&0, 0).map_err(KernelError::map(maps::WANTED_HOPS))?;
        if hops.cleared.is_some_and(|cleared| cleared.elapsed() < REST) {
            return Ok(());
        }
        for hop in wanted.iter().map(|bytes| -> ClientHop { transmute!(*bytes) }).filter(|hop| !hop.is_none()) {
            if !enter(hops.table.words64(), hop) {
                hops.table.words64().iter().step_by(2).for_each(|word| word.store(0, Ordering::Release));
                hops.cleared = Some(Instant::now());
                break;
            }
        }
        Ok(())
    }
}

/// Says whether it has a place. Its first word, which says that it is there, is written last.
fn enter(table: &[AtomicU64], hop: ClientHop) -> bool {
    let places = || table.chunks_exact(2).take(CLIENT_HOPS).skip(1);
    let is_hop = |place: &[AtomicU64]| place.iter().zip(hop.0).all(|(word, own)| word.load(Ordering::Relaxed) == own);
    if places().any(is_hop) {
        return true;
    }
    let Some(free) = places().find(|place| place[0].load(Ordering::Relaxed) == 0) else { return false };
    free[1].store(hop.0[1], Ordering::Release);
    free[0].store(hop.0[0], Ordering::Release);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hop_has_one_place_and_none_the_first() {
        let table: Vec<AtomicU64> = (0..2 * CLIENT_HOPS).map(|_| AtomicU64::new(0)).collect();
        let hop = |n: u8| ClientHop::new(2, 1500, [n; 6], [9; 6]).unwrap();
        for n in (1..16).chain(1..16) {
            assert!(enter(&table, hop(n)), "{n}");
        }
        assert!(!enter(&table, hop(16)), "all are in use");
        let words: Vec<u64> = table.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let read = ClientHops(std::array::from_fn(|n| ClientHop([words[2 * n], words[2 * n + 1]])));
        assert!((1..16).all(|n| read.number(hop(n)) == u32::from(n)) && read.get(0).is_none());
    }
}
