//! tc (tcx, ingress): a buffer of the kernel's (`sk_buff`), and the helpers of net/core/filter.c that keep what the kernel knows
//! about it true: which checksum is still to be completed, how many packets it stands for, where its headers are.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
    BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
};
use aya_ebpf::btf_maps::ProgramArray;
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_pull_data,
};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;
use lb_common::checksum::Change;
use lb_common::maps::STAGE_CAPACITY;
use lb_common::packet::ETHERNET;
use lb_common::packet::cursor::{Cursor, Window};
use lb_common::packet::ip::Header;
use lb_common::packet::outer::{Outer, OuterV6, UDP_LENGTH};
use lb_common::packet::reset::RESET_LENGTH;
use lb_common::packet::rewrite::{Rewritten, Summed};
use lb_common::packet::transport::Tcp;
use lb_ebpf::hook::{Hook, Kept, Quoted, has_headers, transport_checksum};
use lb_ebpf::tables::{Hop, HopQuery, Stage};

use super::fib;

/// Programs that this one goes on in.
#[btf_map]
static STAGES_TC: ProgramArray<STAGE_CAPACITY> = ProgramArray::new();

/// More than the longest chain of headers that the steps look at: tags, an ICMP error, and what it quotes.
const HEADERS: u32 = 256;
/// Of an IP packet.
const MAX_LENGTH: usize = u16::MAX as usize;
/// What one hop fewer changes in a sum over an IPv6 header: the second byte of a 16-bit word.
const HOP: u32 = Change::NONE.u16(u16::from_ne_bytes([0, 1]), 0).sum() as u32;

#[derive(Clone, Copy)]
pub(super) struct TcHook(pub(super) *mut __sk_buff);

impl TcHook {
    /// The packet, with all headers of it in sight. A packet of the local stack has its payload elsewhere and all headers here,
    /// so nothing has to be moved; others may come in any form.
    #[inline(always)]
    pub(super) fn frame_with_headers(&self) -> Cursor {
        let frame = self.frame();
        let wanted = self.length().min(HEADERS);
        if frame.visible() < wanted as usize && !has_headers(frame) {
            // SAFETY: the context of this program. Should it fail, the packet has few headers in sight, and passes.
            unsafe { bpf_skb_pull_data(self.0, wanted) };
            return self.frame();
        }
        frame
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the context of this program.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    pub(super) fn ifindex(&self) -> u32 {
        // Volatile, or the compiler may load this and a backend's with one instruction, by whichever pointer it is: of the
        // context the verifier allows only loads at fixed places.
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).ifindex) }
    }

    /// Changes a checksum by `change`, as the kernel knows it: complete, to be completed, or none.
    #[inline(always)]
    fn replace(&self, at: usize, change: Change, flags: u32) {
        // In one's complement both are zero.
        if !matches!(change.sum(), 0 | 0xffff) {
            // SAFETY: as above.
            unsafe { bpf_l4_csum_replace(self.0, at as u32, 0, u64::from(change.sum()), u64::from(flags)) };
        }
    }

    /// Tells the sum over the whole packet, where the device has taken one (CHECKSUM_COMPLETE), of a change that no checksum
    /// in the packet makes up for.
    #[inline(always)]
    fn add_to_sum(&self, change: u32) {
        // SAFETY: as above. It fails where there is no such sum.
        unsafe { bpf_csum_update(self.0, change) };
    }

    /// Whether the transport checksum at `at` is still to be completed: then a change of what it covers does not change it.
    /// The kernel does not say so directly.
    #[inline(always)]
    fn is_partial(&self, at: usize) -> bool {
        const PROBE: Change = Change::NONE.words([1]);
        const BACK: Change = Change::NONE.u16(1, 0);
        let Some(before) = self.word(at) else { return false };
        self.replace(at, PROBE, 0);
        let Some(probed) = self.word(at) else { return false };
        if before == probed {
            return true;
        }
        self.replace(at, BACK, 0);
        false
    }

    /// Leaves `length` bytes from `offset` on, with `head` bytes between them and Ethernet's header.
    #[inline(always)]
    fn keep(&self, offset: usize, length: usize, head: usize) -> Option<Cursor> {
        let end = offset + length;
        let room = head as i32 - (offset - ETHERNET) as i32;
        if (self.length() as usize) < end {
            return None;
        }
        // SAFETY: the context of this program, in all three.
        if unsafe { bpf_skb_change_tail(self.0, end as u32, 0) } != 0
            || unsafe { bpf_skb_pull_data(self.0, end as u32) } != 0
            || room != 0 && unsafe { bpf_skb_adjust_room(self.0, room, BPF_ADJ_ROOM_MAC, 0) } != 0
        {
            return None;
        }
        Some(self.frame())
    }

    #[inline(always)]
    fn word(&self, at: usize) -> Option<u16> {
        Some(self.frame().window::<2>(at)?.u16::<0>())
    }
}

/// One's complement sum of the first `length` bytes of a window, in whole words.
#[inline(always)]
fn sum<const SIZE: usize>(bytes: Window<SIZE>, length: usize) -> u32 {
    let length = length.min(SIZE) & !3;
    // SAFETY: the window's bytes are there; nothing is subtracted from their sum.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.as_ptr().cast(), length as u32, 0) as u32 }
}

impl Hook for TcHook {
    #[inline(always)]
    fn frame(&self) -> Cursor {
        // SAFETY: the context of this program; between the two lies the beginning of the packet, valid until a helper moves it,
        // which the verifier watches over.
        unsafe { Cursor::beginning((*self.0).data as usize, (*self.0).data_end as usize, self.length() as usize) }
    }

    #[inline(always)]
    fn segment(&self) -> Option<usize> {
        // SAFETY: the context of this program.
        match unsafe { (*self.0).gso_size } {
            0 => None,
            size => Some(size as usize),
        }
    }

    #[inline(always)]
    fn has_hidden_tag(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0).vlan_present != 0 }
    }

    #[inline(always)]
    fn hand_over(&self, stage: Stage) {
        // SAFETY: the context of this program, for a program of the same kind.
        unsafe { STAGES_TC.tail_call(&TcContext::new(self.0), stage as u32) };
    }

    #[inline(always)]
    fn next_hop_v4(&self, query: HopQuery<u32>) -> Hop {
        fib::lookup_v4(self.0.cast(), self.ifindex(), query)
    }

    #[inline(always)]
    fn next_hop_v6(&self, query: HopQuery<[u32; 4]>) -> Hop {
        fib::lookup_v6(self.0.cast(), self.ifindex(), query)
    }

    #[inline(always)]
    fn hop_taken<H: Header>(&self) {
        // IPv4's header checksum makes up for it.
        if !H::HAS_CHECKSUM {
            self.add_to_sum(HOP);
        }
    }

    /// The kernel takes a change of addresses out of its sum over the packet, since in IPv4 the header checksum makes up for the
    /// addresses already. In IPv6 the addresses themselves do, so it is put back (kernels from 6.16 have a flag for that).
    #[inline(always)]
    fn update_checksum<H: Header, S: Summed>(&self, ip: H, _: S, rewritten: Rewritten) {
        let at = ip.payload_offset() + S::CHECKSUM;
        let flags = if S::ZERO_IS_NONE { BPF_F_MARK_MANGLED_0 } else { 0 };
        self.replace(at, rewritten.addresses, flags | BPF_F_PSEUDO_HDR);
        self.replace(at, rewritten.rest, flags);
        if !H::HAS_CHECKSUM {
            self.add_to_sum(HOP + u32::from(rewritten.addresses.sum()));
        }
    }

    /// The kernel learns what is put in front, so that it can cut up a super-packet with it. The size of the pieces stays: they
    /// have been found to fit.
    #[inline(always)]
    fn encapsulate<O: Outer>(&self, offset: usize, udp: bool) -> Option<Cursor> {
        let head = O::LENGTH + if udp { UDP_LENGTH } else { 0 };
        if offset != ETHERNET || self.length() as usize - ETHERNET + head > MAX_LENGTH {
            return None;
        }
        let family =
            if O::LENGTH == OuterV6::LENGTH { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
        let flags = BPF_F_ADJ_ROOM_FIXED_GSO | family | if udp { BPF_F_ADJ_ROOM_ENCAP_L4_UDP } else { 0 };
        // SAFETY: the context of this program.
        let made = unsafe { bpf_skb_adjust_room(self.0, head as i32, BPF_ADJ_ROOM_MAC, u64::from(flags)) };
        (made == 0).then(|| self.frame())
    }

    /// The room was made of zeroes, which sum up to nothing.
    #[inline(always)]
    fn encapsulated<const SIZE: usize>(&self, frame: Cursor) {
        // SAFETY: as above; adding nothing tells whether there is a sum.
        if unsafe { bpf_csum_update(self.0, 0) } >= 0
            && let Some(head) = frame.window::<SIZE>(ETHERNET)
        {
            self.add_to_sum(sum(head, SIZE));
        }
    }

    /// A checksum in the quote that is still to be completed will be, behind our back, where the packet leaves: then its transport's
    /// part sums up to the complement of what the field holds now, whatever else is in it.
    #[inline(always)]
    fn quote<H: Header, const SIZE: usize>(&self, ip: H, head: usize) -> Option<Quoted> {
        let (offset, transport) = (ip.offset(), ip.payload_offset());
        let field = transport_checksum(ip.protocol()).map(|field| transport + field);
        let held = match field {
            Some(at) if self.is_partial(at) => Some(self.word(at)?),
            _ => None,
        };
        let frame = self.keep(offset, SIZE, head)?;
        let quote = frame.window::<SIZE>(ETHERNET + head)?;
        let sum = match held {
            None => sum(quote, SIZE),
            Some(held) => Change::NONE.words([sum(quote, transport - offset), u32::from(!held)]).sum().into(),
        };
        Some(Quoted { frame, sum })
    }

    #[inline(always)]
    fn keep_segment<H: Header>(&self, ip: H, head: usize) -> Option<Kept> {
        let offset = ip.payload_offset();
        let is_partial = self.is_partial(offset + Tcp::CHECKSUM);
        let frame = self.keep(offset, RESET_LENGTH, head)?;
        Some(Kept { frame, is_partial })
    }
}
