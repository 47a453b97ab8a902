//! What the steps hand to each other: a packet that is ours, the judgement of it, and what becomes of the frame.

use lb_common::packet::Ethernet;
use lb_common::packet::cursor::Cursor;
use lb_common::packet::ip::{Header, TCP};
use lb_common::packet::transport::Transport;
use lb_common::reason::{Outcome, Reason};

use crate::hook::Hook as _;
use crate::tables::Tables;

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To the kernel's stack.
    Pass,
    Drop,
    /// Out of this interface; the frame is complete.
    Send {
        ifindex: u32,
    },
    /// Out of the interface that it came in by, turned around.
    Return,
}

/// A packet that is ours: its headers, and where it is.
#[derive(Clone, Copy)]
pub(crate) struct Packet<H, P> {
    pub(crate) ethernet: Ethernet,
    pub(crate) ip: H,
    pub(crate) transport: P,
    pub(crate) frame: Cursor,
}

impl<H: Header, P: Transport> Packet<H, P> {
    /// Bytes of the IP packet, once [`Packet::check`] has found the length plausible.
    #[inline(always)]
    pub(crate) fn length(&self) -> u16 {
        (self.ip.packet_end() - self.ip.offset()) as u16
    }

    /// Bytes of the IP packets that this one stands for, of the largest of them.
    #[inline(always)]
    pub(crate) fn length_on_wire<T: Tables>(&self, tables: &T) -> u16 {
        match tables.hook().segment() {
            None => self.length(),
            Some(payload) => {
                let headers = self.ip.payload_offset() - self.ip.offset() + self.transport.header_length();
                (headers + payload) as u16
            }
        }
    }

    /// What no well-behaved sender makes, and what we do not forward, in the order in which it is told.
    #[inline(always)]
    pub(crate) fn check(&self) -> Result<(), Reason> {
        if self.ip.is_fragment() {
            return Err(Reason::Fragment);
        }
        let (offset, end) = (self.ip.payload_offset(), self.ip.packet_end());
        if end > self.frame.len() || end < offset || !self.transport.fits(end - offset) {
            return Err(Reason::Malformed);
        }
        if P::PROTOCOL == TCP && self.transport.flags().nonsense() {
            return Err(Reason::TcpFlags);
        }
        if self.ip.source() == self.ip.destination() {
            return Err(Reason::Land);
        }
        if !H::is_host(self.ip.source()) {
            return Err(Reason::Martian);
        }
        // The last one: its sender is told.
        if self.ip.hops_left() <= 1 {
            return Err(Reason::TtlExpired);
        }
        Ok(())
    }
}

/// Counts the reason; the verdict is the reason's own.
#[inline(always)]
pub fn refuse<T: Tables>(tables: &T, reason: Reason) -> Verdict {
    tables.count_reason(reason);
    match reason.outcome() {
        Outcome::Drop => Verdict::Drop,
        Outcome::Pass => Verdict::Pass,
    }
}
