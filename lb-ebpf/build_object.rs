//! How build scripts (of lb-agent, of xtask) build an eBPF object. Not a part of this package: they include the file.
//!
//! Two toolchains can do it: rustup's nightly with its source (everywhere), or Debian's `rustc-web` with
//! the prebuilt `core` for the BPF target. `scripts/setup` installs one of them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

const DEBIAN_BPF_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";

/// Builds the package's binary for the BPF target and copies it to `OUT_DIR`.
pub(super) fn build(name: &str, root_dir: &str) -> Result<()> {
    println!("cargo:rerun-if-changed={}", concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-common/src"));
    let toolchain = if nightly_has_source() {
        Toolchain::Nightly
    } else if Path::new(DEBIAN_BPF_CORE).exists() {
        // Debian's compiler is a stable one: this names the crates that use an unstable feature, assembly for this target.
        // Naming them, rather than setting 1, keeps aya-build from asking for `-Z build-std`.
        // SAFETY: a build script's main thread, before any other thread exists.
        unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf,lb_ebpf") };
        Toolchain::Custom("/usr")
    } else {
        bail!(
            "no toolchain can build the eBPF program; run scripts/setup, or install one of:\n  \
             rustup toolchain install nightly --component rust-src\n  \
             apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf"
        );
    };
    aya_build::build_ebpf([Package { name, root_dir, ..Default::default() }], toolchain)
        .with_context(|| format!("building {name} (is bpf-linker installed? scripts/setup does it)"))
}

fn nightly_has_source() -> bool {
    let Ok(output) = Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output() else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success() && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock").exists()
}
