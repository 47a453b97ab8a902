//! XDP: a frame in the driver's memory. It is what it looks like.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::ProgramArray;
use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use lb_common::maps::STAGE_CAPACITY;
use lb_common::packet::ETHERNET;
use lb_common::packet::cursor::Cursor;
use lb_common::packet::ip::Header;
use lb_common::packet::outer::{Outer, UDP_LENGTH};
use lb_common::packet::reset::RESET_LENGTH;
use lb_common::packet::rewrite::{Rewritten, Summed};
use lb_ebpf::hook::{Hook, Kept, Quoted};
use lb_ebpf::tables::{Hop, HopQuery, Stage};

use super::fib;

/// Programs that this one goes on in.
#[btf_map]
static STAGES: ProgramArray<STAGE_CAPACITY> = ProgramArray::new();

#[derive(Clone, Copy)]
pub(super) struct XdpHook(pub(super) *mut xdp_md);

impl XdpHook {
    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the context of this program.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// Moves the start of the frame by so many bytes, to the front if negative.
    #[inline(always)]
    fn move_start(&self, by: i32) -> Option<()> {
        // SAFETY: as above.
        (unsafe { bpf_xdp_adjust_head(self.0, by) } == 0).then_some(())
    }

    /// Leaves that many bytes of the frame.
    #[inline(always)]
    fn cut(&self, length: usize) -> Option<()> {
        let surplus = self.frame().len().checked_sub(length)?;
        // SAFETY: as above.
        (unsafe { bpf_xdp_adjust_tail(self.0, -(surplus as i32)) } == 0).then_some(())
    }

    /// Leaves `length` bytes from `offset` on, with `head` bytes between them and Ethernet's header.
    #[inline(always)]
    fn keep(&self, offset: usize, length: usize, head: usize) -> Option<Cursor> {
        self.cut(offset + length)?;
        self.move_start(offset as i32 - (ETHERNET + head) as i32)?;
        Some(self.frame())
    }
}

impl Hook for XdpHook {
    #[inline(always)]
    fn frame(&self) -> Cursor {
        // SAFETY: the context of this program; between the two lies the packet, valid until the program ends. Moving its ends
        // moves within a buffer that stays where it is.
        unsafe { Cursor::new((*self.0).data as usize, (*self.0).data_end as usize) }
    }

    #[inline(always)]
    fn segment(&self) -> Option<usize> {
        None
    }

    #[inline(always)]
    fn has_hidden_tag(&self) -> bool {
        false
    }

    #[inline(always)]
    fn hand_over(&self, stage: Stage) {
        // SAFETY: the context of this program, for a program of the same kind.
        unsafe { STAGES.tail_call(&XdpContext::new(self.0), stage as u32) };
    }

    #[inline(always)]
    fn next_hop_v4(&self, query: HopQuery<u32>) -> Hop {
        fib::lookup_v4(self.0.cast(), self.ingress(), query)
    }

    #[inline(always)]
    fn next_hop_v6(&self, query: HopQuery<[u32; 4]>) -> Hop {
        fib::lookup_v6(self.0.cast(), self.ingress(), query)
    }

    #[inline(always)]
    fn hop_taken<H: Header>(&self) {}

    #[inline(always)]
    fn update_checksum<H: Header, S: Summed>(&self, _: H, header: S, rewritten: Rewritten) {
        header.update_checksum(rewritten.all());
    }

    #[inline(always)]
    fn encapsulate<O: Outer>(&self, offset: usize, udp: bool) -> Option<Cursor> {
        let head = O::LENGTH + if udp { UDP_LENGTH } else { 0 };
        self.move_start(offset as i32 - (ETHERNET + head) as i32)?;
        Some(self.frame())
    }

    #[inline(always)]
    fn encapsulated<const SIZE: usize>(&self, _: Cursor) {}

    #[inline(always)]
    fn quote<H: Header, const SIZE: usize>(&self, ip: H, head: usize) -> Option<Quoted> {
        let frame = self.keep(ip.offset(), SIZE, head)?;
        let quote = frame.window::<SIZE>(ETHERNET + head)?;
        // SAFETY: the window's bytes are there; nothing is subtracted from their sum.
        let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, quote.as_ptr().cast(), SIZE as u32, 0) as u32 };
        Some(Quoted { frame, sum })
    }

    #[inline(always)]
    fn keep_segment<H: Header>(&self, ip: H, head: usize) -> Option<Kept> {
        let frame = self.keep(ip.payload_offset(), RESET_LENGTH, head)?;
        Some(Kept { frame, is_partial: false })
    }
}
