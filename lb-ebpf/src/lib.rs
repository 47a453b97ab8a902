//! The order of steps that a packet takes, generic over where the tables live and at which hook it is met, so that the programs for
//! XDP and tc and the dry run (for `lb-agent flow route`) execute the same decisions. `main.rs` holds the maps and the entry points.
//!
//! Everything is inlined into its entry point: a call from BPF to BPF costs six nanoseconds, a copied struct a `memcpy`.

#![no_std]

pub mod answer;
mod choice;
pub mod decap;
pub mod forward;
pub mod hook;
pub mod icmp;
mod measure;
mod owner;
pub mod packet;
pub mod reply;
pub mod request;
mod scheduler;
mod snat;
pub mod steps;
pub mod tables;
