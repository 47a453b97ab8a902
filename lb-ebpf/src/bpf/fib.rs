//! The kernel's routing and neighbour tables, asked through `bpf_fib_lookup` (net/core/filter.c).

use core::ffi::c_void;
use core::mem::{MaybeUninit, size_of};

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
    BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Query,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use lb_common::reason::Reason;
use lb_ebpf::tables::{Hop, HopQuery};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// For a packet that came in by interface `ifindex`; `ctx` is the context of the program, of either kind.
#[inline(always)]
pub(super) fn lookup_v4(ctx: *mut c_void, ifindex: u32, asked: HopQuery<u32>) -> Hop {
    let mut query = MaybeUninit::uninit();
    let query = fill(&mut query, ifindex, AF_INET, asked.length, asked.protocol);
    query.__bindgen_anon_2.tos = asked.class;
    query.__bindgen_anon_3.ipv4_src = asked.source;
    query.__bindgen_anon_4.ipv4_dst = asked.destination;
    lookup(ctx, query)
}

#[inline(always)]
pub(super) fn lookup_v6(ctx: *mut c_void, ifindex: u32, asked: HopQuery<[u32; 4]>) -> Hop {
    let mut query = MaybeUninit::uninit();
    let query = fill(&mut query, ifindex, AF_INET6, asked.length, asked.protocol);
    query.__bindgen_anon_3.ipv6_src = asked.source;
    query.__bindgen_anon_4.ipv6_dst = asked.destination;
    lookup(ctx, query)
}

/// Fills the query in its place, word by word and volatile: of anything else the compiler makes a call to `memset`.
#[inline(always)]
fn fill(place: &mut MaybeUninit<Query>, ifindex: u32, family: u8, length: u16, protocol: u8) -> &mut Query {
    let mut word = 0;
    while word < size_of::<Query>() / 4 {
        // SAFETY: within the query, which is aligned to four.
        unsafe { place.as_mut_ptr().cast::<u32>().add(word).write_volatile(0) };
        word += 1;
    }
    // SAFETY: all of it is written; it is integers and unions of integers, for which all zeroes is a value.
    let query = unsafe { place.assume_init_mut() };
    query.family = family;
    query.l4_protocol = protocol;
    query.__bindgen_anon_1.tot_len = length;
    query.ifindex = ifindex;
    query
}

#[inline(always)]
fn lookup(ctx: *mut c_void, query: &mut Query) -> Hop {
    // SAFETY: the query is initialised and as long as said.
    let result = unsafe { bpf_fib_lookup(ctx, query, size_of::<Query>() as i32, 0) };
    if result < 0 {
        return Hop::Refused(Reason::NoRoute);
    }
    match result as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => Hop::Found {
            ifindex: query.ifindex,
            destination: query.dmac,
            source: query.smac,
            // SAFETY: a union of integers; as a length was asked about, the kernel has filled in the MTU.
            mtu: unsafe { query.__bindgen_anon_1.mtu_result },
        },
        BPF_FIB_LKUP_RET_NO_NEIGH => Hop::NoNeighbour { ifindex: query.ifindex },
        // Local delivery, among other things that are not for us to send.
        BPF_FIB_LKUP_RET_NOT_FWDED => Hop::Local,
        BPF_FIB_LKUP_RET_FWD_DISABLED => Hop::Refused(Reason::ForwardingOff),
        // SAFETY: a union of integers; for this answer the kernel has filled in the MTU.
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Hop::TooBig { mtu: unsafe { query.__bindgen_anon_1.mtu_result } },
        _ => Hop::Refused(Reason::NoRoute),
    }
}
