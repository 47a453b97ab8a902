//! What the eBPF programs and the agent share, so that neither can hold another opinion of it: map layouts, reasons,
//! capacities, packet decoding, checksums, the flow hash, and how slots and flow entries are encoded.
//!
//! Nothing here allocates, does I/O or knows the time; all of it is tested on the host.

#![no_std]

#[cfg(test)]
extern crate std;

pub mod allowance;
pub mod checksum;
pub mod client_hop;
pub mod counters;
pub mod decap;
pub mod flow;
pub mod hash;
pub mod hint;
pub mod latency;
pub mod limits;
pub mod mapping;
pub mod maps;
pub mod mode;
pub mod packet;
pub mod price;
pub mod reason;
pub mod route;
pub mod slot;
