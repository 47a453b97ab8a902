//! The BPF side: entry points, maps, helpers.

mod fib;
mod maps;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_ebpf::packet::Verdict;
use lb_ebpf::steps;
use maps::{DryRun, Live};

/// The kernel hands out helpers for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The load balancer. Inlined into the wrapper that the attribute makes: the call between them would cost each packet six
/// nanoseconds.
#[xdp]
#[inline(always)]
fn balance(ctx: XdpContext) -> u32 {
    let tables = Live::new(ctx.as_ptr());
    match steps::balance(&tables, tables.frame()) {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
        Verdict::Return => XDP_TX,
        Verdict::Send { ifindex } if ifindex == ctx.ingress_ifindex() as u32 => XDP_TX,
        // SAFETY: a plain helper call; an interface that is gone makes the kernel drop the packet.
        Verdict::Send { ifindex } => unsafe { bpf_redirect(ifindex, 0) as u32 },
    }
}

/// Which backend would this packet get? Run with BPF_PROG_TEST_RUN, never attached; changes and counts nothing.
/// The answer is [`lb_common::route::Route`], packed.
#[xdp]
fn route(ctx: XdpContext) -> u32 {
    let tables = Live::new(ctx.as_ptr());
    let frame = tables.frame();
    steps::route(&DryRun(tables), frame)
}

/// The kernel's clock in the unit of flow entries, for the agent. Never attached.
#[xdp]
fn clock(_: XdpContext) -> u32 {
    maps::now()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
