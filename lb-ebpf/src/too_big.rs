//! The answer to a packet that does not fit its way to the backend: "fragmentation needed" (RFC 1191) or "packet too big"
//! (RFC 8201), as if the VIP itself had sent it.
//!
//! Programs cannot cut packets into fragments, so the answer is given whether or not IPv4's don't-fragment is set: without it the
//! sender would never learn why nothing arrives. It goes back the way that the packet came.

use lb_common::packet::icmp::{QUOTE, TOO_BIG_LENGTH, write_too_big};
use lb_common::packet::ip::Header;
use lb_common::packet::outer::{Ends, Outer};
use lb_common::packet::{ETHERNET, Ethernet};
use lb_common::reason::Reason;

use crate::hook::{Hook as _, Quoted};
use crate::packet::Verdict;
use crate::tables::{Family, Tables};

/// Counts the packet and turns it into the answer; `mtu` is what would have fitted. Drops it without one where nobody could be
/// meant by the answer, or where too many have been given.
#[inline(always)]
pub(crate) fn answer<H: Family, T: Tables>(tables: &T, ethernet: Ethernet, ip: H, mtu: u16) -> Verdict {
    tables.count_reason(Reason::TooBig);
    if !H::is_host(ip.source()) || !tables.may_answer() {
        return Verdict::Drop;
    }
    // What is too big is longer than the quote, except on links that carry less than any that are in use.
    turn_around(tables, ethernet, ip, mtu).map_or(Verdict::Drop, |()| Verdict::Return)
}

#[inline(always)]
fn turn_around<H: Family, T: Tables>(tables: &T, ethernet: Ethernet, ip: H, mtu: u16) -> Option<()> {
    let (to_us, from) = ethernet.addresses();
    let ends = Ends {
        source: H::address_to_words(ip.destination()),
        destination: H::address_to_words(ip.source()),
        class: 0,
        entropy: 0,
    };
    let head = <H as Header>::Outer::LENGTH + TOO_BIG_LENGTH;
    let Quoted { frame, sum } = tables.hook().quote(ip, head)?;
    <H as Header>::Outer::write(frame, &ends, H::ICMP, (TOO_BIG_LENGTH + QUOTE) as u16)?;
    let message = frame.window(ETHERNET + <H as Header>::Outer::LENGTH)?;
    write_too_big::<H>(message, mtu, sum, &ends);
    let ethernet = Ethernet::parse(frame)?;
    ethernet.set_addresses(from, to_us);
    ethernet.set_ether_type(<H as Header>::Outer::ETHER_TYPE);
    Some(())
}
