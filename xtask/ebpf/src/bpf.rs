//! The BPF side. Each packet maker knows where in a frame the client stands; the floors are the least that any program, any
//! program that looks at headers, and any NAT must do.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, HashMap, ProgramArray};
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use lb_bench_ebpf::{FRAME, Stream, WORDS, client};
use lb_common::hash::{FlowHash, KEY_WORDS};
use lb_common::limits::{SLOTS as SLOT_COUNT, SLOTS_PER_BLOCK, slot_blocks};
use lb_common::maps::{BPF_F_MMAPABLE, Backend, KeyV4, Service, SlotBlock};
use lb_common::packet::cursor::Cursor;
use lb_common::packet::ip::{Header as _, Ipv4, TCP};
use lb_common::packet::rewrite::{self, Summed as _};
use lb_common::packet::transport::{Tcp, Transport as _};
use lb_common::packet::{ETHERNET, Ethernet, IPV4};

/// The kernel hands out helpers for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The program that is measured.
#[btf_map]
static MEASURED: ProgramArray<1> = ProgramArray::new();

#[btf_map]
static STREAM: Array<Stream, 1> = Array::new();

#[xdp]
pub fn requests_v4(ctx: XdpContext) -> u32 {
    make::<26, 34, 0>(&ctx)
}

#[xdp]
pub fn replies_v4(ctx: XdpContext) -> u32 {
    make::<30, 34, 16>(&ctx)
}

#[xdp]
pub fn requests_v6(ctx: XdpContext) -> u32 {
    make::<34, 54, 0>(&ctx)
}

#[xdp]
pub fn replies_v6(ctx: XdpContext) -> u32 {
    make::<50, 54, 16>(&ctx)
}

/// Makes the next packet, with the client in the word at `ADDRESS` and in the ports at `PORTS`, from bit `PORT_SHIFT`, and
/// jumps to the measured program.
#[inline(always)]
fn make<const ADDRESS: usize, const PORTS: usize, const PORT_SHIFT: u32>(ctx: &XdpContext) -> u32 {
    let surplus = (ctx.data_end() - ctx.data()).wrapping_sub(FRAME) as i32;
    // What the last run has put in front of the frame goes first. This costs as much as putting it there.
    // SAFETY: the context of this program; it moves the start of the packet within its buffer.
    if surplus != 0 && unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), surplus) } != 0 {
        return XDP_ABORTED;
    }
    let (Some(stream), Some(frame)) = (STREAM.get_ptr_mut(0), frame(ctx)) else {
        return XDP_ABORTED;
    };
    // SAFETY: one process runs these programs, on one CPU.
    let stream = unsafe { &mut *stream };
    let (address, port) = client(stream.advance());
    // SAFETY: the frame has FRAME bytes, and every offset lies within; BPF does not mind unaligned words.
    unsafe {
        *frame.cast::<u16>() = stream.head as u16;
        let mut index = 0;
        while index < WORDS {
            *frame.add(2 + 8 * index).cast::<u64>() = stream.words[index];
            index += 1;
        }
        *frame.add(ADDRESS).cast::<u32>() |= address;
        *frame.add(PORTS).cast::<u32>() |= (port as u32) << PORT_SHIFT;
        // Where the jump fails, the next line is reached.
        MEASURED.tail_call(ctx, 0);
    }
    XDP_ABORTED
}

/// The start of the frame, if it is as long as a packet maker's.
#[inline(always)]
fn frame(ctx: &XdpContext) -> Option<*mut u8> {
    (ctx.data() + FRAME <= ctx.data_end()).then_some(ctx.data() as *mut u8)
}

/// The floor of all programs.
#[xdp]
pub fn transmit(_: XdpContext) -> u32 {
    XDP_TX
}

/// The floor of programs that look at packets: parses to the ports and swaps the MAC addresses.
#[xdp]
pub fn swap(ctx: XdpContext) -> u32 {
    swapped(&ctx).map_or(XDP_PASS, |()| XDP_TX)
}

#[inline(always)]
fn swapped(ctx: &XdpContext) -> Option<()> {
    let (_, _, tcp) = parse(ctx)?;
    let frame = frame(ctx)?;
    // Without a use of the ports the compiler would leave out the parsing.
    if tcp.ports() == 0 {
        return None;
    }
    let mut index = 0;
    while index < 6 {
        // SAFETY: the frame has FRAME bytes, and starts at an even address.
        unsafe { core::ptr::swap(frame.add(index).cast::<u16>(), frame.add(index + 6).cast::<u16>()) };
        index += 2;
    }
    Some(())
}

// The maps of the NAT floor have the layouts of the real ones.

#[btf_map]
static VIPS: HashMap<KeyV4, Service, 16> = HashMap::new();

#[btf_map]
static SLOTS: Array<SlotBlock, { slot_blocks(SLOT_COUNT) as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static BACKENDS: Array<Backend, 16, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The floor of NAT: VIP, hash, slot, backend, DNAT. It remembers nothing, counts nothing, checks nothing and knows one
/// protocol.
#[xdp]
pub fn stateless(ctx: XdpContext) -> u32 {
    translated(&ctx).map_or(XDP_PASS, |()| XDP_TX)
}

#[inline(always)]
fn translated(ctx: &XdpContext) -> Option<()> {
    const KEY: [u32; KEY_WORDS] = [0x9e37_79b9; KEY_WORDS];
    let (ethernet, ip, tcp) = parse(ctx)?;
    let key = KeyV4 { address: ip.destination(), port: tcp.destination_port(), protocol: TCP, zero: 0 };
    // SAFETY: nobody changes the map while programs run.
    let service = unsafe { VIPS.get(&key) }?;
    let hash = FlowHash::v4(&KEY, ip.source(), ip.destination(), tcp.ports(), TCP);
    let slot = hash.slot(service.slots);
    let block = SLOTS.get(slot / SLOTS_PER_BLOCK)?;
    let backend = BACKENDS.get(block.0[(slot % SLOTS_PER_BLOCK) as usize])?;
    tcp.update_checksum(rewrite::destination(ip, tcp, backend.address[0], backend.port).all());
    ethernet.set_addresses(backend.destination_mac, backend.source_mac);
    Some(())
}

#[inline(always)]
fn parse(ctx: &XdpContext) -> Option<(Ethernet, Ipv4, Tcp)> {
    // SAFETY: the kernel's bounds of this packet; nothing moves them here.
    let frame = unsafe { Cursor::new(ctx.data(), ctx.data_end()) };
    let ethernet = Ethernet::parse(frame).filter(|ethernet| ethernet.ether_type() == IPV4)?;
    let ip = Ipv4::parse(frame, ETHERNET).filter(|ip| ip.protocol() == TCP)?;
    let tcp = Tcp::parse(frame, ip.payload_offset())?;
    Some((ethernet, ip, tcp))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
