//! What can go wrong with a frame of ours on its way: bits, fields, cuts, additions. Most blows aim at the fields that
//! decide something, because random ones mostly hit payload and addresses.

use rand::Rng;

use super::frame::ETHERNET;

/// The largest frame of an MTU of 1500.
const MAX_FRAME: usize = ETHERNET + 1500;

/// One or two blows.
pub fn mutate(rng: &mut impl Rng, frame: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..=2) {
        match rng.random_range(0..16) {
            0 => flip_a_bit(rng, frame, 0),
            1 | 2 => flip_a_bit(rng, frame, ETHERNET),
            3 => cut(rng, frame),
            4 => lengthen(rng, frame),
            5 => shift(rng, frame),
            6 => tag(rng, frame),
            _ => lie(rng, frame),
        }
    }
}

fn flip_a_bit(rng: &mut impl Rng, frame: &mut [u8], from: usize) {
    if from < frame.len() {
        frame[rng.random_range(from..frame.len())] ^= 1 << rng.random_range(0..8);
    }
}

/// The kernel takes no less than an Ethernet header.
fn cut(rng: &mut impl Rng, frame: &mut Vec<u8>) {
    let length = rng.random_range(ETHERNET..=frame.len());
    frame.truncate(length);
}

fn lengthen(rng: &mut impl Rng, frame: &mut Vec<u8>) {
    let room = MAX_FRAME.saturating_sub(frame.len());
    let more = rng.random_range(0..=room.min(64));
    frame.extend((0..more).map(|_| rng.random::<u8>()));
}

/// A byte lost, or one too many.
fn shift(rng: &mut impl Rng, frame: &mut Vec<u8>) {
    let at = rng.random_range(0..frame.len());
    if rng.random() && frame.len() > ETHERNET {
        frame.remove(at);
    } else {
        frame.insert(at, rng.random());
    }
}

/// A VLAN tag, or an EtherType that is not the content's.
fn tag(rng: &mut impl Rng, frame: &mut Vec<u8>) {
    const KINDS: [u16; 6] = [0x8100, 0x88a8, 0x9100, 0x0800, 0x86dd, 0x0806];
    let kind = KINDS[rng.random_range(0..KINDS.len())].to_be_bytes();
    if rng.random() {
        let [high, low] = kind;
        frame.splice(12..12, [high, low, rng.random(), rng.random()]);
    } else {
        frame[12..14].copy_from_slice(&kind);
    }
}

/// Version and header length, lengths, fragment field, TTL, protocol, data offset, flags, ports: the extremes, a near
/// miss, a fragment's mark, or anything.
fn lie(rng: &mut impl Rng, frame: &mut [u8]) {
    const V4: [usize; 13] = [14, 16, 17, 20, 20, 20, 21, 22, 23, 37, 39, 46, 47];
    const V6: [usize; 13] = [14, 18, 19, 20, 21, 21, 22, 38, 57, 58, 59, 66, 67];
    let fields = if frame[12] == 0x08 { V4 } else { V6 };
    if let Some(byte) = frame.get_mut(fields[rng.random_range(0..fields.len())]) {
        let choices = [0, 1, byte.wrapping_sub(1), byte.wrapping_add(1), 0x20, 0xff, rng.random()];
        *byte = choices[rng.random_range(0..choices.len())];
    }
}
