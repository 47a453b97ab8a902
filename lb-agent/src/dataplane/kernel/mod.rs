//! The programs and maps in the kernel: loaded, pinned, attached, adopted again after a restart, written and read.
//!
//! Everything that packets need is pinned below one versioned directory, so it outlives the agent. One task owns a
//! [`Kernel`]; there are no locks.

mod attach;
mod client_hops;
mod cost;
mod counters;
mod decap;
mod endpoints;
mod error;
mod events;
mod flows;
mod hints;
mod keys;
mod latencies;
mod mapped;
mod object;
mod pins;
mod ports;
mod questions;
mod succession;
mod tables;

pub use attach::{Attachment, Hook, Mode, tc_programs};
pub use cost::{Configuration, Cost, costs};
pub use decap::Decap;
pub use error::KernelError;
pub use events::{Events, Missing};
pub use flows::{FlowRow, Sweep};
pub use object::Sizes;
pub use pins::{Unloaded, pinned_programs, undo, unload};
pub use questions::{Packet, flow_hash};
pub use tables::{Endpoint, KnownBackend, Tables};

use std::path::Path;

use aya::programs::{SchedClassifier, Xdp};
use pins::{Meta, Pins};

/// The loaded data plane.
#[expect(missing_debug_implementations, reason = "aya's maps have none, and there is nothing to see")]
pub struct Kernel {
    pins: Pins,
    meta: Meta,
    balance: Xdp,
    balance_tc: SchedClassifier,
    route: Xdp,
    clock: Xdp,
    tables: tables::Tables,
    flows: flows::Flows,
    client_hops: client_hops::Hops,
    counters: counters::Maps,
    latencies: latencies::Maps,
    /// Whether what was found in place was taken over.
    adopted: bool,
}

impl Kernel {
    /// Takes over what is pinned below `directory`, or loads it afresh. A running data plane of the same layout and sizes goes
    /// on without interruption; if its program is another build, the new one replaces it atomically on each interface. One of
    /// another layout goes on until [`Kernel::attach`] takes its place.
    ///
    /// # Errors
    /// When another agent holds the directory, when the kernel refuses the programs, or when the pinned data plane has
    /// other sizes.
    pub fn open(directory: &Path, sizes: Sizes) -> Result<Self, KernelError> {
        let pins = Pins::lock(directory)?;
        let adopted = match pins.read_meta()? {
            Some(meta) => {
                meta.check(&pins, sizes)?;
                if meta.digest != object::digest() {
                    object::replace(&pins, &meta)?;
                }
                true
            }
            None => {
                object::load_afresh(&pins, sizes, succession::seed_of_another(&pins)?)?;
                false
            }
        };
        let meta = pins.read_meta()?.ok_or_else(|| KernelError::Incomplete(pins.root().to_owned()))?;
        Ok(Self {
            balance: pins.program(object::BALANCE)?,
            balance_tc: pins.tc_program()?,
            route: pins.program(object::ROUTE)?,
            clock: pins.program(object::CLOCK)?,
            tables: tables::Tables::open(&pins, &meta)?,
            flows: flows::Flows::open(&pins, &meta)?,
            client_hops: client_hops::Hops::open(&pins)?,
            counters: counters::Maps::open(&pins)?,
            latencies: latencies::Maps::open(&pins, &meta)?,
            pins,
            meta,
            adopted,
        })
    }

    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The secret that the slot tables are built from.
    pub fn slot_seed(&self) -> [u8; 16] {
        self.meta.slot_seed()
    }

    /// The flow hash's secret key.
    pub fn hash_key(&self) -> [u32; lb_common::hash::KEY_WORDS] {
        self.meta.hash_key()
    }

    /// Kernel's number of the program that balances at a hook.
    pub fn program_id(&self, hook: Hook) -> Result<u32, KernelError> {
        let info = match hook {
            Hook::Xdp => self.balance.info(),
            Hook::Tc => self.balance_tc.info(),
        };
        Ok(info.map_err(KernelError::program("reading the program"))?.id())
    }

    /// Backends that fit, all services together.
    pub fn backend_capacity(&self) -> u32 {
        self.meta.backend_capacity
    }

    pub fn flow_entries(&self) -> u32 {
        self.meta.flow_entries
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    pub fn tables_mut(&mut self) -> &mut Tables {
        &mut self.tables
    }
}
