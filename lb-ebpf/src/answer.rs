//! Answers of our own to a client, made of its packet and sent back the way that it came, as if the VIP itself had: what is too big,
//! what has come too far, and what nobody will take. A client that is told gives up or adapts at once, instead of
//! waiting until it no longer believes in us.
//!
//! Who asks for answers does not decide how many there are ([`lb_common::allowance`]), and gets none that is larger than the packet.

use lb_common::allowance::Answer;
use lb_common::flow::Flags;
use lb_common::packet::Ethernet;
use lb_common::packet::icmp::{ERROR_LENGTH, QUOTE, Told, write_error};
use lb_common::packet::ip::{Header, TCP};
use lb_common::packet::outer::{Ends, Outer};
use lb_common::packet::reset::{RESET_LENGTH, Segment, write_reset};
use lb_common::packet::transport::Transport;
use lb_common::packet::{ETHERNET, cursor::Cursor};
use lb_common::reason::Reason;

use crate::hook::{Hook as _, Kept, Quoted};
use crate::packet::{Packet, Verdict};
use crate::tables::{Family, Tables};

/// The packet does not fit its way to the backend; `mtu` is what would have fitted. Programs cannot cut packets into fragments, so
/// the answer is given whether or not IPv4's don't-fragment is set: without it the sender would never learn why nothing arrives.
#[inline(always)]
pub(crate) fn too_big<H: Family, T: Tables>(tables: &T, ethernet: Ethernet, ip: H, mtu: u16) -> Verdict {
    tables.count_reason(Reason::TooBig);
    if !H::is_host(ip.source()) || !may_answer(tables, Answer::Error) {
        return Verdict::Drop;
    }
    // What is too big is longer than the quote, except on links that carry less than any that are in use.
    back(error::<H, T, QUOTE>(tables, ethernet, ip, Told::TooBig { mtu }))
}

/// A client's packet that the steps refuse for `reason`: whether its sender is told, and how. The packet's lengths are plausible.
#[inline(always)]
pub(crate) fn refuse<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, reason: Reason) -> Verdict {
    match reason {
        Reason::TtlExpired => {
            tables.count_reason(reason);
            tell(tables, packet, Told::HopsExceeded)
        }
        Reason::NoBackend | Reason::Hairpin | Reason::NoPort | Reason::NoMapping => {
            tables.count_reason(reason);
            match packet.transport.segment(packet.ip.packet_end() - packet.ip.payload_offset()) {
                Some(segment) => reset(tables, packet, segment),
                None => tell(tables, packet, Told::PortUnreachable),
            }
        }
        reason => crate::packet::refuse(tables, reason),
    }
}

/// By an ICMP error that quotes the first eight bytes behind the IP header, or of TCP its header. With options between them it would have
/// to quote more than some packets have; then there is none.
#[inline(always)]
fn tell<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, told: Told) -> Verdict {
    let ip = packet.ip;
    if ip.payload_offset() - ip.offset() != <H as Header>::Outer::LENGTH || !may_answer(tables, Answer::Error) {
        return Verdict::Drop;
    }
    let ethernet = packet.ethernet;
    back(match (H::VERSION, P::PROTOCOL) {
        (4, TCP) => error::<H, T, 40>(tables, ethernet, ip, told),
        (4, _) => error::<H, T, 28>(tables, ethernet, ip, told),
        (_, TCP) => error::<H, T, 60>(tables, ethernet, ip, told),
        (_, _) => error::<H, T, 48>(tables, ethernet, ip, told),
    })
}

#[inline(always)]
fn error<H: Family, T: Tables, const QUOTED: usize>(tables: &T, ethernet: Ethernet, ip: H, told: Told) -> Option<()> {
    let (macs, ends) = (ethernet.addresses(), turned(ip));
    let head = <H as Header>::Outer::LENGTH + ERROR_LENGTH;
    let Quoted { frame, sum } = tables.hook().quote::<H, QUOTED>(ip, head)?;
    let payload = ERROR_LENGTH + QUOTED;
    let message = headers::<H>(frame, macs, &ends, H::ICMP, payload)?;
    write_error::<H>(frame.window(message)?, told, QUOTED, sum, &ends);
    Some(())
}

/// By a segment. One that is itself a refusal is not answered.
#[inline(always)]
fn reset<H: Family, P: Transport, T: Tables>(tables: &T, packet: &Packet<H, P>, refused: Segment) -> Verdict {
    if refused.flags.0 & Flags::RST != 0 || !may_answer(tables, Answer::Reset) {
        return Verdict::Drop;
    }
    back(turn_into_reset(tables, packet, refused))
}

#[inline(always)]
fn turn_into_reset<H: Family, P: Transport, T: Tables>(
    tables: &T,
    packet: &Packet<H, P>,
    refused: Segment,
) -> Option<()> {
    let (macs, ends) = (packet.ethernet.addresses(), turned(packet.ip));
    let Kept { frame, is_partial } = tables.hook().keep_segment(packet.ip, <H as Header>::Outer::LENGTH)?;
    let segment = headers::<H>(frame, macs, &ends, TCP, RESET_LENGTH)?;
    write_reset(frame.window(segment)?, refused, &ends, is_partial);
    Some(())
}

/// From the packet's receiver to its sender.
#[inline(always)]
fn turned<H: Family>(ip: H) -> Ends {
    Ends {
        source: H::address_to_words(ip.destination()),
        destination: H::address_to_words(ip.source()),
        class: 0,
        entropy: 0,
    }
}

/// Writes Ethernet's header, turned around, and IP's. Gives where the next one begins.
#[inline(always)]
fn headers<H: Header>(
    frame: Cursor,
    (to_us, from): ([u8; 6], [u8; 6]),
    ends: &Ends,
    protocol: u8,
    payload: usize,
) -> Option<usize> {
    H::Outer::write(frame, ends, protocol, payload as u16)?;
    let ethernet = Ethernet::parse(frame)?;
    ethernet.set_addresses(from, to_us);
    ethernet.set_ether_type(H::Outer::ETHER_TYPE);
    Some(ETHERNET + H::Outer::LENGTH)
}

#[inline(always)]
fn back(made: Option<()>) -> Verdict {
    made.map_or(Verdict::Drop, |()| Verdict::Return)
}

#[inline(always)]
fn may_answer<T: Tables>(tables: &T, kind: Answer) -> bool {
    let may = tables.may_answer(kind);
    if !may {
        tables.count_reason(Reason::AnswerLimit);
    }
    may
}
