//! The BPF side: entry points, maps, helpers.

mod dry_run;
mod fib;
mod maps;
mod tc;
mod xdp;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use dry_run::DryRun;
use lb_ebpf::hook::Hook as _;
use lb_ebpf::packet::Verdict;
use lb_ebpf::steps;
use maps::Live;
use tc::TcHook;
use xdp::XdpHook;

/// The kernel hands out helpers for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The load balancer at XDP. Inlined into the wrapper that the attribute makes: the call between them would cost each packet
/// six nanoseconds.
#[xdp]
#[inline(always)]
fn balance(ctx: XdpContext) -> u32 {
    let hook = XdpHook(ctx.as_ptr().cast());
    finish(&ctx, steps::balance(&Live::<_, true>(hook), hook.frame()))
}

/// Where `balance` goes on with packets that share a hint: it does the same by hash maps.
#[xdp]
#[inline(always)]
fn crowded(ctx: XdpContext) -> u32 {
    let hook = XdpHook(ctx.as_ptr().cast());
    finish(&ctx, steps::balance(&Live::<_, false>(hook), hook.frame()))
}

/// Where `balance` goes on with clients' packets under `snat`.
#[xdp]
#[inline(always)]
fn lend(ctx: XdpContext) -> u32 {
    let hook = XdpHook(ctx.as_ptr().cast());
    finish(&ctx, steps::lend(&Live::<_, false>(hook), hook.frame()))
}

/// Where `balance` goes on with packets of backends that it cannot tell the service of by itself.
#[xdp]
#[inline(always)]
fn share(ctx: XdpContext) -> u32 {
    let hook = XdpHook(ctx.as_ptr().cast());
    finish(&ctx, steps::share(&Live::<_, false>(hook), hook.frame()))
}

/// Where `balance` goes on with tagged frames and ICMP.
#[xdp]
#[inline(always)]
fn unusual(ctx: XdpContext) -> u32 {
    let hook = XdpHook(ctx.as_ptr().cast());
    finish(&ctx, steps::unusual(&Live::<_, false>(hook), hook.frame()))
}

#[inline(always)]
fn finish(ctx: &XdpContext, verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
        Verdict::Return => XDP_TX,
        Verdict::Send { ifindex } if ifindex == ctx.ingress_ifindex() as u32 => XDP_TX,
        // SAFETY: a plain helper call; an interface that is gone makes the kernel drop the packet.
        Verdict::Send { ifindex } => unsafe { bpf_redirect(ifindex, 0) as u32 },
    }
}

/// The load balancer at tc. What it passes, other programs at this hook get to see.
#[classifier]
#[inline(always)]
fn balance_tc(ctx: TcContext) -> i32 {
    let hook = TcHook(ctx.as_ptr().cast());
    finish_tc(hook, steps::balance(&Live::<_, true>(hook), hook.frame_with_headers()))
}

#[classifier]
#[inline(always)]
fn crowded_tc(ctx: TcContext) -> i32 {
    let hook = TcHook(ctx.as_ptr().cast());
    finish_tc(hook, steps::balance(&Live::<_, false>(hook), hook.frame_with_headers()))
}

#[classifier]
#[inline(always)]
fn lend_tc(ctx: TcContext) -> i32 {
    let hook = TcHook(ctx.as_ptr().cast());
    finish_tc(hook, steps::lend(&Live::<_, false>(hook), hook.frame_with_headers()))
}

#[classifier]
#[inline(always)]
fn share_tc(ctx: TcContext) -> i32 {
    let hook = TcHook(ctx.as_ptr().cast());
    finish_tc(hook, steps::share(&Live::<_, false>(hook), hook.frame_with_headers()))
}

#[classifier]
#[inline(always)]
fn unusual_tc(ctx: TcContext) -> i32 {
    let hook = TcHook(ctx.as_ptr().cast());
    finish_tc(hook, steps::unusual(&Live::<_, false>(hook), hook.frame_with_headers()))
}

#[inline(always)]
fn finish_tc(hook: TcHook, verdict: Verdict) -> i32 {
    let ifindex = match verdict {
        Verdict::Pass => return TC_ACT_UNSPEC,
        Verdict::Drop => return TC_ACT_SHOT as i32,
        Verdict::Return => hook.ifindex(),
        Verdict::Send { ifindex } => ifindex,
    };
    // SAFETY: as above.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// Which backend would this packet get? Run with BPF_PROG_TEST_RUN, never attached; changes and counts nothing.
/// The answer is [`lb_common::route::Route`], packed. Inlined: the verifier allows no pointers into a packet to be passed as the compiler
/// passes them.
#[xdp]
#[inline(always)]
fn route(ctx: XdpContext) -> u32 {
    let hook = XdpHook(ctx.as_ptr().cast());
    steps::route(&DryRun(Live(hook)), hook.frame())
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
