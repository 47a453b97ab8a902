//! Builds the benchmark's own eBPF programs and leaves them in `OUT_DIR`, where `bench::programs` embeds them.

#[path = "../lb-ebpf/build_object.rs"]
mod build_object;

fn main() -> anyhow::Result<()> {
    build_object::build("lb-bench-ebpf", concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf"))
}
