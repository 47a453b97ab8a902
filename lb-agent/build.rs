//! Builds the eBPF object and leaves it in `OUT_DIR`, where `dataplane::kernel` embeds it.

#[path = "../lb-ebpf/build_object.rs"]
mod build_object;

fn main() -> anyhow::Result<()> {
    build_object::build("lb-ebpf", concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf"))
}
