//! What can be done to a frame: noise, cuts, and lies about lengths, offsets, kinds and ages. Afterwards the IPv4
//! header checksum is put right in half of the cases, so that code behind that check gets to see the rest.

use rand::Rng;

use super::frame::{ETHERNET_LENGTH, Frame, checksum};
use crate::lab::address::Family;

/// The longest frame of an MTU of 1500, with three tags on top.
const MAX_FRAME: usize = 1500 + ETHERNET_LENGTH;

pub(super) fn mutate(rng: &mut impl Rng, frame: &mut Frame) {
    match rng.random_range(0..13) {
        0 => {}
        1 => flip_bits(rng, frame, ETHERNET_LENGTH - 2),
        2 => flip_bits(rng, frame, 0),
        3 => cut(rng, frame),
        4 => set16(rng, frame, length_field(frame)),
        5 => set8(rng, frame, frame.network),
        6 => set16(rng, frame, frame.transport + 12),
        7 => set16(rng, frame, frame.transport + 4),
        8 => age(rng, frame),
        9 => set16(rng, frame, frame.network + 6),
        10 => noise(rng, frame),
        11 => lengthen(rng, frame),
        _ => set16(rng, frame, frame.network - 2),
    }
    if frame.family == Family::V4 && rng.random_bool(0.5) {
        mend_header_checksum(frame);
    }
    frame.bytes.truncate(MAX_FRAME);
}

fn flip_bits(rng: &mut impl Rng, frame: &mut Frame, from: usize) {
    for _ in 0..rng.random_range(1..=16) {
        let at = rng.random_range(from..frame.bytes.len());
        frame.bytes[at] ^= 1 << rng.random_range(0..8);
    }
}

/// Ends the frame anywhere after the Ethernet header: a socket does not send less.
fn cut(rng: &mut impl Rng, frame: &mut Frame) {
    let length = rng.random_range(ETHERNET_LENGTH..=frame.bytes.len());
    frame.bytes.truncate(length);
}

/// Total length, or payload length.
fn length_field(frame: &Frame) -> usize {
    frame.network
        + match frame.family {
            Family::V4 => 2,
            Family::V6 => 4,
        }
}

/// Two bytes of the extremes, a near miss, or anything: lengths, data offset and flags, fragment field, kind.
fn set16(rng: &mut impl Rng, frame: &mut Frame, at: usize) {
    if let Some(field) = frame.bytes.get_mut(at..at + 2) {
        let old = u16::from_be_bytes([field[0], field[1]]);
        let choices = [0, 1, old.wrapping_sub(1), old.wrapping_add(1), u16::MAX, rng.random(), rng.random()];
        field.copy_from_slice(&choices[rng.random_range(0..choices.len())].to_be_bytes());
    }
}

fn set8(rng: &mut impl Rng, frame: &mut Frame, at: usize) {
    if let Some(byte) = frame.bytes.get_mut(at) {
        *byte = rng.random();
    }
}

/// A TTL or hop limit that ends here, or one hop on.
fn age(rng: &mut impl Rng, frame: &mut Frame) {
    let at = frame.network
        + match frame.family {
            Family::V4 => 8,
            Family::V6 => 7,
        };
    if let Some(byte) = frame.bytes.get_mut(at) {
        *byte = rng.random_range(0..=1);
    }
}

/// Replaces a stretch by noise.
fn noise(rng: &mut impl Rng, frame: &mut Frame) {
    let from = rng.random_range(ETHERNET_LENGTH..frame.bytes.len());
    let to = rng.random_range(from..=frame.bytes.len());
    rng.fill(&mut frame.bytes[from..to]);
}

/// Adds bytes that no header speaks of.
fn lengthen(rng: &mut impl Rng, frame: &mut Frame) {
    let room = MAX_FRAME.saturating_sub(frame.bytes.len());
    let more = rng.random_range(0..=room);
    frame.bytes.extend((0..more).map(|_| rng.random::<u8>()));
}

fn mend_header_checksum(frame: &mut Frame) {
    let words = frame.bytes.get(frame.network).map_or(0, |first| usize::from(first & 0x0f));
    if let Some(header) = frame.bytes.get_mut(frame.network..frame.network + words * 4)
        && header.len() >= 20
    {
        header[10..12].fill(0);
        let sum = checksum(&[header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}
