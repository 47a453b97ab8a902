//! What the program reports: clients whose next hop has no neighbour entry.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{MapData, RingBuf};
use lb_common::maps::{self, MissingNeighbour};
use zerocopy::FromBytes as _;

use super::Kernel;
use super::error::KernelError;
use super::keys::from_words;

/// The ring buffer's reading end. Readable, in the sense of `poll`, when there is something in it.
#[expect(missing_debug_implementations, reason = "aya's maps have none, and there is nothing to see")]
pub struct Events(RingBuf<MapData>);

/// A client that an answer could not be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    pub address: IpAddr,
    /// Where the route to it leaves.
    pub ifindex: u32,
}

impl Kernel {
    /// # Errors
    /// When the ring buffer cannot be opened.
    pub fn events(&self) -> Result<Events, KernelError> {
        let ring = RingBuf::try_from(self.pins.map(maps::EVENTS)?).map_err(KernelError::map(maps::EVENTS))?;
        Ok(Events(ring))
    }
}

impl Events {
    /// The next client that the program found no neighbour for; never waits.
    pub fn next_missing(&mut self) -> Option<Missing> {
        let item = self.0.next()?;
        let told = MissingNeighbour::read_from_bytes(&item).ok()?;
        Some(Missing { address: from_words(told.address, told.version == 6), ifindex: told.ifindex })
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
