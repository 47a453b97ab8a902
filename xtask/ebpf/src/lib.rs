//! What the benchmark programs and `xtask bench` share: how a stream of packets is described, and the names of programs
//! and maps.
//!
//! BPF_PROG_TEST_RUN with `repeat` hands the same buffer to every run, as the one before left it. So a packet maker runs
//! first: it takes off what a tunnel has put in front, writes the next packet over whatever is there, then jumps (tail call) to the program that is measured.

#![no_std]

/// Bytes of every frame. A packet maker stores two bytes and then words of eight: addresses and ports lie at 2 modulo 4, so
/// no field that programs load spans two of these stores. Such a load would stall the processor, as no packet from a
/// network card does.
pub const FRAME: usize = 2 + 8 * WORDS;
pub const WORDS: usize = 10;

/// A client is an address of 198.18.0.0/15 or 2001:2::/48, the ranges that RFC 2544 and RFC 5180 set aside for benchmarks,
/// and a port from 16384 up. Their free bits number the clients.
pub const ADDRESS_BITS: u32 = 17;
pub const PORT_BITS: u32 = 14;
pub const FIRST_PORT: u16 = 1 << PORT_BITS;

/// Describes a stream of packets: what is the same in all of them, and whose turn it is.
///
/// The turn comes from a linear congruential generator, `value = value * multiplier + increment`. With Knuth's
/// constants (MMIX) and a shift it draws among `mask + 1` clients at random; with ones it counts.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "bpf"), derive(zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct Stream {
    pub value: u64,
    pub multiplier: u64,
    pub increment: u64,
    pub shift: u64,
    pub mask: u64,
    /// The frame's first two bytes, in the lowest bits.
    pub head: u64,
    /// All others; the client's bits are zero.
    pub words: [u64; WORDS],
}

impl Stream {
    /// The next client's number.
    #[inline(always)]
    pub fn advance(&mut self) -> u64 {
        self.value = self.value.wrapping_mul(self.multiplier).wrapping_add(self.increment);
        self.value >> self.shift & self.mask
    }
}

/// Address and port of a client, as they stand in a packet. Neighbouring numbers get distant addresses; no two numbers
/// below 2^31 are the same client.
#[inline(always)]
pub fn client(number: u64) -> (u32, u16) {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let address = spread as u32 & ((1 << ADDRESS_BITS) - 1);
    let port = (spread >> ADDRESS_BITS) as u16 & (FIRST_PORT - 1) | FIRST_PORT;
    (address.to_be(), port.to_be())
}

/// As the object has them.
pub mod names {
    pub const REQUESTS_V4: &str = "requests_v4";
    pub const REPLIES_V4: &str = "replies_v4";
    pub const REQUESTS_V6: &str = "requests_v6";
    pub const REPLIES_V6: &str = "replies_v6";
    pub const TRANSMIT: &str = "transmit";
    pub const SWAP: &str = "swap";
    pub const STATELESS: &str = "stateless";
    pub const MEASURED: &str = "MEASURED";
    pub const STREAM: &str = "STREAM";
    pub const VIPS: &str = "VIPS";
    pub const SLOTS: &str = "SLOTS";
    pub const BACKENDS: &str = "BACKENDS";

    /// Every program.
    pub const PROGRAMS: [&str; 7] = [REQUESTS_V4, REPLIES_V4, REQUESTS_V6, REPLIES_V6, TRANSMIT, SWAP, STATELESS];
}
