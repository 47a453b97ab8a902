//! Packet makers and floors, built into an object of their own that only `xtask bench` embeds.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[expect(unreachable_pub, reason = "the kernel reaches the programs")]
mod bpf;
