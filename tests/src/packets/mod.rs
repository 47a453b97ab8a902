//! Packet rows: one packet in, and everything that the loaded program makes of it out. The program runs in the kernel
//! (BPF_PROG_TEST_RUN) on real maps and asks the real routing table of a [`World`]; nothing is attached, nothing is sent.
//!
//! A [`row::Row`] says what has happened before, the packet, and the verdict, packet, counters, flow entry and events
//! that are expected of it; [`row::check`] is the one way in, and holds against the row that nothing else has changed.

pub mod carrier;
pub mod frame;
pub mod mutate;
pub mod plan;
pub mod reference;
pub mod row;
pub mod shared;
mod snapshot;
pub mod world;

use lb_agent::dataplane::kernel::Hook;

pub use frame::{Frame, Tuple, flag};
pub use plan::{Host, Role, Stack};
pub use row::{Given, Row, check, check_table};
pub use world::{World, taken, with_world};

/// What the program returned (linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Drop,
    Pass,
    /// Back out of the interface that it came in on.
    Tx,
    Redirect,
}

impl Verdict {
    /// XDP_*, or TC_ACT_*, which knows no difference between an interface and another.
    fn from_code(hook: Hook, code: u32) -> Option<Self> {
        match (hook, code.cast_signed()) {
            (Hook::Xdp, 1) | (Hook::Tc, 2) => Some(Self::Drop),
            (Hook::Xdp, 2) | (Hook::Tc, -1) => Some(Self::Pass),
            (Hook::Xdp, 3) => Some(Self::Tx),
            (Hook::Xdp, 4) | (Hook::Tc, 7) => Some(Self::Redirect),
            _ => None,
        }
    }
}
