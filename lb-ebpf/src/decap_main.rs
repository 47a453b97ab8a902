//! An object of its own for backends: the maps and the entry point. What happens to a packet is decided in `decap`.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[path = "bpf/decap.rs"]
mod bpf;
