//! The BPF side at a backend: the entry point, maps, helpers.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::btf_maps::{HashMap, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use lb_common::decap::{Counter, MAX_ADDRESSES, MAX_SOURCES};
use lb_common::packet::cursor::Cursor;
use lb_ebpf::decap::{self, Host, Verdict};

/// The kernel hands out helpers for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[btf_map]
static SOURCES: LpmTrie<[u32; 4], u32, { MAX_SOURCES as usize }> = LpmTrie::new();

#[btf_map]
static ADDRESSES: HashMap<[u32; 4], u32, { MAX_ADDRESSES as usize }> = HashMap::new();

#[btf_map]
static COUNTERS: PerCpuArray<u64, { Counter::ALL.len() }> = PerCpuArray::new();

struct Live<'a>(&'a XdpContext);

impl Live<'_> {
    #[inline(always)]
    fn frame(&self) -> Cursor {
        // SAFETY: the kernel's bounds of this packet, valid until the program ends; moving its start moves within a buffer
        // that stays where it is.
        unsafe { Cursor::new(self.0.data(), self.0.data_end()) }
    }
}

impl Host for Live<'_> {
    #[inline(always)]
    fn is_allowed(&self, source: [u32; 4]) -> bool {
        SOURCES.get(&Key::new(128, source)).is_some()
    }

    #[inline(always)]
    fn is_own(&self, address: [u32; 4]) -> bool {
        // SAFETY: only whether it is there is asked.
        unsafe { ADDRESSES.get(&address) }.is_some()
    }

    #[inline(always)]
    fn count(&self, counter: Counter, more: u64) {
        if let Some(place) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: this CPU's own value.
            unsafe { *place += more };
        }
    }

    #[inline(always)]
    fn strip(&self, bytes: usize) -> Option<Cursor> {
        // SAFETY: the context of this program.
        let moved = unsafe { bpf_xdp_adjust_head(self.0.as_ptr().cast(), bytes as i32) };
        (moved == 0).then(|| self.frame())
    }
}

#[xdp]
#[inline(always)]
fn decap(ctx: XdpContext) -> u32 {
    let live = Live(&ctx);
    match decap::decap(&live, live.frame()) {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
