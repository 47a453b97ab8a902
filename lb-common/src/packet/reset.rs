//! The segment that refuses another one: what a host without a listener answers (RFC 9293, section 3.10.7.1).

use super::cursor::Window;
use super::ip::TCP;
use super::outer::Ends;
use super::transport::ports;
use crate::checksum::Change;
use crate::flow::Flags;

/// Bytes of a TCP header without options.
pub const RESET_LENGTH: usize = 20;

/// What is known of the segment that is refused, all of it as it stands in the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub source_port: u16,
    pub destination_port: u16,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub flags: Flags,
    /// Bytes of data.
    pub data: u32,
}

/// Writes the answer to `refused`. Where the kernel has yet to complete the checksum, its field gets what it completes: the sum over
/// the pseudo header.
#[inline(always)]
pub fn write_reset(header: Window<RESET_LENGTH>, refused: Segment, ends: &Ends, is_partial: bool) {
    const OFFSET: u8 = (RESET_LENGTH as u8 / 4) << 4;
    let ports = ports(refused.destination_port, refused.source_port);
    let (sequence, acknowledgment, flags) = if refused.flags.ack() {
        (refused.acknowledgment, 0, Flags::RST)
    } else {
        // Both flags take a number of their own.
        let controls = u32::from(refused.flags.syn()) + u32::from(refused.flags.0 & Flags::FIN);
        let next = u32::from_be(refused.sequence).wrapping_add(refused.data).wrapping_add(controls);
        (0, next.to_be(), Flags::RST | Flags::ACK)
    };
    let words = [ports, sequence, acknowledgment, u32::from_ne_bytes([OFFSET, flags, 0, 0]), 0];
    let pseudo = ends.pseudo_header(TCP, RESET_LENGTH);
    let checksum = if is_partial { pseudo.sum() } else { pseudo.plus(Change::NONE.words(words)).checksum() };
    header.set_u32::<0>(words[0]);
    header.set_u32::<4>(words[1]);
    header.set_u32::<8>(words[2]);
    header.set_u32::<12>(words[3]);
    header.set_u32::<16>(words[4]);
    header.set_u16::<16>(checksum);
}

#[cfg(test)]
mod tests {
    use super::super::cursor::Cursor;
    use super::*;
    use etherparse::TcpHeader;

    const PORTS: (u16, u16) = (4000, 80);

    /// The answer, with its checksum found right for these addresses.
    fn answer(flags: u8, sequence: u32, acknowledgment: u32, data: u32) -> TcpHeader {
        let (source, destination) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let words = |address: [u8; 4]| [u32::from_ne_bytes(address), 0, 0, 0];
        let ends = Ends { source: words(source), destination: words(destination), class: 0, entropy: 0 };
        let mut bytes = [0xaa; RESET_LENGTH];
        let range = bytes.as_mut_ptr_range();
        // SAFETY: the buffer outlives the cursor.
        let header = unsafe { Cursor::new(range.start as usize, range.end as usize) }.window(0).unwrap();
        let refused = Segment {
            source_port: PORTS.0.to_be(),
            destination_port: PORTS.1.to_be(),
            sequence: sequence.to_be(),
            acknowledgment: acknowledgment.to_be(),
            flags: Flags(flags),
            data,
        };
        write_reset(header, refused, &ends, false);
        let header = TcpHeader::from_slice(&bytes).unwrap().0;
        assert_eq!(header.checksum, header.calc_checksum_ipv4_raw(source, destination, &[]).unwrap());
        assert_eq!((header.source_port, header.destination_port), (PORTS.1, PORTS.0));
        assert!(header.rst && !header.syn && !header.fin && header.window_size == 0);
        header
    }

    #[test]
    fn a_segment_without_acknowledgment_is_acknowledged() {
        for (flags, data, next) in [(Flags::SYN, 0, 1), (Flags::SYN, 9, 10), (Flags::FIN, 5, 6), (0, 7, 7)] {
            let header = answer(flags, u32::MAX, 77, data);
            assert_eq!((header.sequence_number, header.ack), (0, true), "{flags:#x}");
            assert_eq!(header.acknowledgment_number, u32::MAX.wrapping_add(next), "{flags:#x}");
        }
    }

    #[test]
    fn a_segment_with_acknowledgment_is_answered_from_there() {
        for flags in [Flags::ACK, Flags::ACK | Flags::SYN, Flags::ACK | Flags::FIN] {
            let header = answer(flags, 5, 77, 100);
            assert_eq!(
                (header.sequence_number, header.ack, header.acknowledgment_number),
                (77, false, 0),
                "{flags:#x}"
            );
        }
    }
}
