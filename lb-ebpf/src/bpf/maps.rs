//! The maps, and the tables that the steps see in them.
//!
//! A hint leads to a VIP's service or to a backend, and only where hints are not unique does a hash look-up; all else is arrays,
//! indexed by what those returned.

use core::sync::atomic::AtomicUsize;

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::macros::btf_map;
use lb_common::allowance::{Allowance, Answer};
use lb_common::client_hop::{ClientHop, ClientHops};
use lb_common::counters::BackendCounters;
use lb_common::flow::{BUCKET_ENTRIES, Bucket};
use lb_common::hash::{KEY_WORDS, Key};
use lb_common::hint::{self, Hints, NOBODY, Of, SEVERAL, SHARED, place_v4, place_v6};
use lb_common::latency::{self, Kind, Latencies, Sample};
use lb_common::limits::{EVENT_BYTES, MAX_SERVICE_ID, SLOTS, SLOTS_PER_BLOCK, slot_blocks};
use lb_common::mapping::{self, BLOCK, Mapping};
use lb_common::maps::{
    BPF_F_INNER_MAP, BPF_F_MMAPABLE, Backend, EndpointOwners, KeyV4, KeyV6, Load, MissingNeighbour, Service, SlotBlock,
    Vip,
};
use lb_common::reason::{REASON_CAPACITY, Reason};
use lb_ebpf::hook::Hook;
use lb_ebpf::packet::{Verdict, refuse};
use lb_ebpf::tables::{Stage, Tables};

// Sizes marked "load" are set by the agent when it loads the object.

#[btf_map]
static SERVICES_V4: HashMap<KeyV4, Service, { MAX_SERVICE_ID as usize }> = HashMap::new();

#[btf_map]
static SERVICES_V6: HashMap<KeyV6, Service, { MAX_SERVICE_ID as usize }> = HashMap::new();

/// Backend numbers by the backend's address. Load.
#[btf_map]
static ENDPOINTS_V4: HashMap<KeyV4, EndpointOwners, 1024> = HashMap::new();

#[btf_map]
static ENDPOINTS_V6: HashMap<KeyV6, EndpointOwners, 1024> = HashMap::new();

/// By [`Of`], asked before the maps above.
#[btf_map]
static HINTS: Array<Hints, { hint::KINDS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// By service number.
#[btf_map]
static SERVICES: Array<Vip, { MAX_SERVICE_ID as usize + 1 }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Mapped, because only then do values start on a page and each backend fills exactly one cache line. Load.
#[btf_map]
static BACKENDS: Array<Backend, 1024, { BPF_F_MMAPABLE as usize }> = Array::new();

/// By service number; an inner map has the service's own size.
#[btf_map]
static SLOT_TABLES: ArrayOfMaps<SlotTable, { MAX_SERVICE_ID as usize + 1 }> = ArrayOfMaps::new();

type SlotTable = Array<SlotBlock, { slot_blocks(SLOTS) as usize }, { (BPF_F_MMAPABLE | BPF_F_INNER_MAP) as usize }>;

/// By backend number; those of one endpoint share a pool, and only `snat` has any. Load.
#[btf_map]
static PORT_POOLS: ArrayOfMaps<PortPool, 1024> = ArrayOfMaps::new();

type PortPool = Array<mapping::Block, 2, { (BPF_F_MMAPABLE | BPF_F_INNER_MAP) as usize }>;

/// Mapped: buckets on cache lines, and the agent reads it without system calls. Load.
#[btf_map]
static FLOWS: Array<Bucket, 1024, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static CLIENT_HOPS: Array<ClientHops, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// What each processor has last looked for in [`CLIENT_HOPS`] in vain; the agent reads it.
#[btf_map]
static WANTED_HOPS: PerCpuArray<ClientHop, 1> = PerCpuArray::new();

/// By backend. Load.
#[btf_map]
static LOADS: Array<Load, 1024, { BPF_F_MMAPABLE as usize }> = Array::new();

/// By service, the slot that is next.
#[btf_map]
static TURNS: PerCpuArray<u32, { MAX_SERVICE_ID as usize + 1 }> = PerCpuArray::new();

/// Flows whose backend has yet to answer.
#[btf_map]
static SAMPLES: Array<Sample, { latency::SAMPLES }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// By backend. Load.
#[btf_map]
static LATENCIES: Array<Latencies, 1024, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Load.
#[btf_map]
static BACKEND_COUNTERS: PerCpuArray<BackendCounters, 1024> = PerCpuArray::new();

#[btf_map]
static REASON_COUNTERS: PerCpuArray<u64, { REASON_CAPACITY as usize }> = PerCpuArray::new();

#[btf_map]
static EVENTS: RingBuf<MissingNeighbour, { EVENT_BYTES as usize }> = RingBuf::new();

/// [`Allowance`] of each processor, by [`Answer`].
#[btf_map]
static ANSWERS: PerCpuArray<u64, { Answer::ALL.len() }> = PerCpuArray::new();

// Constants that the agent sets before the verifier sees the program, which therefore knows their values.

#[unsafe(no_mangle)]
static HASH_KEY: [u32; KEY_WORDS] = [0; KEY_WORDS];

#[unsafe(no_mangle)]
static BUCKET_MASK: u32 = 0;

/// Jiffies are shifted right by this much to give the unit of flow entries.
#[unsafe(no_mangle)]
static TIME_SHIFT: u32 = 0;

/// Source ports that flows are lent: the first one, and how many.
#[unsafe(no_mangle)]
static FIRST_PORT: u32 = 0;

#[unsafe(no_mangle)]
static PORTS: u32 = 0;

/// That there may be on this host.
#[unsafe(no_mangle)]
static PROCESSORS: u32 = 0;

/// Always zero, but it could be written, so that neither compiler nor verifier can know.
#[unsafe(no_mangle)]
static NOTHING: AtomicUsize = AtomicUsize::new(0);

/// Reads a constant where the agent put it, instead of the zero that the compiler saw.
#[inline(always)]
fn constant<T: Copy>(place: &T) -> T {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::read_volatile(place) }
}

#[inline(always)]
pub(super) fn now() -> u32 {
    // SAFETY: a helper without arguments.
    let jiffies = unsafe { bpf_jiffies64() };
    (jiffies >> constant(&TIME_SHIFT)) as u32
}

/// Whose answers come from an endpoint, as far as one number says it.
#[inline(always)]
fn sole(owners: Option<&EndpointOwners>) -> u16 {
    owners.map_or(NOBODY, |owners| owners.sole().unwrap_or(SHARED))
}

pub(super) struct SecretKey;

impl Key for SecretKey {
    #[inline(always)]
    fn word(&self, index: usize) -> u32 {
        constant(&HASH_KEY[index])
    }
}

/// The compiler has no atomic operations for this target, the kernel has had them since Linux 5.12.
#[inline(always)]
fn compare_and_swap(place: &u64, old: u64, new: u64) -> bool {
    let mut found = old;
    // SAFETY: `place` is an aligned word of a map that programs may write, and everybody who shares it uses whole words.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({place} + 0, r0, {new})",
            place = in(reg) core::ptr::from_ref(place),
            new = in(reg) new,
            inout("r0") found,
        );
    }
    found == old
}

/// The maps as packets see them at a hook. `HINTED`: services and backends are found by hints, and a packet whose hint is not unique
/// goes on in the program that is without.
pub(super) struct Live<H, const HINTED: bool>(pub(super) H);

impl<H: Hook, const HINTED: bool> Live<H, HINTED> {
    /// Zero leads to an entry that is nobody's.
    #[inline(always)]
    fn hint(&self, of: Of, place: usize) -> u16 {
        let hint = HINTS.get(of as u32).map_or(NOBODY, |hints| hints.at(place));
        if hint == SEVERAL {
            self.0.hand_over(Stage::Crowded);
            return NOBODY;
        }
        hint
    }
}

impl<H: Hook, const HINTED: bool> Tables for Live<H, HINTED> {
    type Key = SecretKey;
    type Hook = H;

    #[inline(always)]
    fn hook(&self) -> &H {
        &self.0
    }

    #[inline(always)]
    fn hash_key(&self) -> &SecretKey {
        &SecretKey
    }

    #[inline(always)]
    fn service_v4(&self, address: u32, port: u16, protocol: u8) -> Option<&Service> {
        if !HINTED {
            // SAFETY: elements of a preallocated hash map may be reused while they are read; a service that is being
            // removed may then be taken for another for one packet, as with any update that races with a packet.
            return unsafe { SERVICES_V4.get(&KeyV4 { address, port, protocol, zero: 0 }) };
        }
        let vip = SERVICES.get(self.hint(Of::Services, place_v4(address, port, protocol)).into())?;
        vip.is_v4(address, port, protocol).then_some(&vip.service)
    }

    #[inline(always)]
    fn service_v6(&self, address: [u32; 4], port: u16, protocol: u8) -> Option<&Service> {
        if !HINTED {
            // SAFETY: as above.
            return unsafe { SERVICES_V6.get(&KeyV6 { address, port, protocol, zero: 0 }) };
        }
        let vip = SERVICES.get(self.hint(Of::Services, place_v6(address, port, protocol)).into())?;
        vip.is_v6(address, port, protocol).then_some(&vip.service)
    }

    #[inline(always)]
    fn endpoint_v4(&self, address: u32, port: u16, protocol: u8) -> u16 {
        if !HINTED {
            return sole(self.owners_v4(address, port, protocol));
        }
        match self.hint(Of::Endpoints, place_v4(address, port, protocol)) {
            SHARED => SHARED,
            id => match BACKENDS.get(id.into()) {
                Some(backend) if backend.is_at_v4(address, port, protocol) => id,
                _ => NOBODY,
            },
        }
    }

    #[inline(always)]
    fn endpoint_v6(&self, address: [u32; 4], port: u16, protocol: u8) -> u16 {
        if !HINTED {
            return sole(self.owners_v6(address, port, protocol));
        }
        match self.hint(Of::Endpoints, place_v6(address, port, protocol)) {
            SHARED => SHARED,
            id => match BACKENDS.get(id.into()) {
                Some(backend) if backend.is_at_v6(address, port, protocol) => id,
                _ => NOBODY,
            },
        }
    }

    #[inline(always)]
    fn owners_v4(&self, address: u32, port: u16, protocol: u8) -> Option<&EndpointOwners> {
        // SAFETY: as above.
        unsafe { ENDPOINTS_V4.get(&KeyV4 { address, port, protocol, zero: 0 }) }
    }

    #[inline(always)]
    fn owners_v6(&self, address: [u32; 4], port: u16, protocol: u8) -> Option<&EndpointOwners> {
        // SAFETY: as above.
        unsafe { ENDPOINTS_V6.get(&KeyV6 { address, port, protocol, zero: 0 }) }
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn slot(&self, service: u32, slot: u32) -> Option<u32> {
        let block = SLOT_TABLES.get_value(service, &(slot / SLOTS_PER_BLOCK))?;
        Some(block.0[(slot % SLOTS_PER_BLOCK) as usize])
    }

    #[inline(always)]
    fn turn(&self, service: u32, slots: u32) -> u32 {
        let Some(place) = TURNS.get_ptr_mut(service) else { return 0 };
        // SAFETY: this CPU's own value.
        let place = unsafe { &mut *place };
        // The table may have been longer.
        let turn = if *place < slots { *place } else { 0 };
        *place = turn + 1;
        turn
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn load(&self, backend: u32) -> Option<Load> {
        LOADS.get(backend).copied()
    }

    #[inline(always)]
    fn change_load(&self, backend: u32, by: i32) {
        let Some(load) = LOADS.get(backend) else { return };
        let active = (&raw const load.active).cast_mut();
        // SAFETY: a word of a map that programs may write, read and written whole; what another processor does meanwhile may be
        // lost, until the agent's next sweep.
        unsafe { active.write_volatile(active.read_volatile().saturating_add_signed(by)) };
    }

    #[inline(always)]
    fn bucket_mask(&self) -> u32 {
        constant(&BUCKET_MASK)
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&[u64; BUCKET_ENTRIES]> {
        FLOWS.get(index).map(|bucket| &bucket.0)
    }

    #[inline(always)]
    fn opaque(&self, index: usize) -> usize {
        // SAFETY: a reference is valid to read.
        index ^ unsafe { core::ptr::read_volatile(NOTHING.as_ptr()) }
    }

    #[inline(always)]
    fn store(&self, bucket: &[u64; BUCKET_ENTRIES], index: usize, entry: u64) {
        let first = bucket.as_ptr().cast_mut();
        // SAFETY: `bucket` lies in a map that programs may write; the index is masked to its eight entries; one aligned
        // word is stored at once.
        unsafe { first.add(index & (BUCKET_ENTRIES - 1)).write_volatile(entry) };
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        now()
    }

    #[inline(always)]
    fn ports(&self) -> (u16, u32) {
        (constant(&FIRST_PORT) as u16, constant(&PORTS))
    }

    #[inline(always)]
    fn port_block(&self, backend: u32, block: u32) -> Option<&[Mapping; BLOCK]> {
        PORT_POOLS.get_value(backend, &block).map(|block| &block.0)
    }

    #[inline(always)]
    fn claim(&self, mapping: &Mapping, old: u64, new: u64) -> bool {
        compare_and_swap(&mapping.control, old, new)
    }

    #[inline(always)]
    fn lend(&self, mapping: &Mapping, address: [u32; 4], port: u16) {
        let place = core::ptr::from_ref(mapping).cast_mut();
        // SAFETY: `mapping` lies in a map that programs may write, and nobody else writes what this one has claimed.
        unsafe {
            let words = (&raw mut (*place).address).cast::<u32>();
            let mut word = 0;
            while word < 4 {
                words.add(word).write_volatile(address[word]);
                word += 1;
            }
            (&raw mut (*place).port).write_volatile(port);
        }
    }

    #[inline(always)]
    fn processor(&self) -> (u32, u32) {
        // SAFETY: a helper without arguments.
        (unsafe { bpf_get_smp_processor_id() }, constant(&PROCESSORS))
    }

    #[inline(always)]
    fn hand_over(&self, stage: Stage) -> Verdict {
        self.0.hand_over(stage);
        refuse(self, Reason::MapMiss)
    }

    #[inline(always)]
    fn sample(&self, place: u32) -> Option<&Sample> {
        SAMPLES.get(place)
    }

    #[inline(always)]
    fn set_sample(&self, place: &Sample, sample: Sample) {
        let place = core::ptr::from_ref(place).cast_mut();
        // SAFETY: words of a map that programs may write. Another processor may come between the two; then one sample is wrong, or
        // none.
        unsafe {
            (&raw mut (*place).since).write_volatile(sample.since);
            (&raw mut (*place).awaited).write_volatile(sample.awaited);
        }
    }

    #[inline(always)]
    fn nanoseconds(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn took(&self, backend: u32, kind: Kind, nanoseconds: u64) {
        let Some(latencies) = LATENCIES.get(backend) else { return };
        let kind = kind as usize;
        let bucket = self.opaque(latency::bucket(nanoseconds));
        if bucket >= latency::BUCKETS {
            return;
        }
        let count = (&raw const latencies.counts[kind][bucket]).cast_mut();
        let sum = (&raw const latencies.sums[kind]).cast_mut();
        // SAFETY: words of a map that programs may write, each read and written whole.
        unsafe {
            count.write_volatile(count.read_volatile().wrapping_add(1));
            sum.write_volatile(sum.read_volatile().wrapping_add(nanoseconds));
        }
    }

    #[inline(always)]
    fn count(&self, backend: u32, change: impl FnOnce(&mut BackendCounters)) {
        if let Some(counters) = BACKEND_COUNTERS.get_ptr_mut(backend) {
            // SAFETY: this CPU's own value, and no other program runs on it meanwhile.
            change(unsafe { &mut *counters });
        }
    }

    #[inline(always)]
    fn count_reason(&self, reason: Reason) {
        if let Some(counter) = REASON_COUNTERS.get_ptr_mut(reason as u32) {
            // SAFETY: as above.
            unsafe { *counter += 1 };
        }
    }

    #[inline(always)]
    fn client_hop(&self, number: u32) -> Option<ClientHop> {
        CLIENT_HOPS.get(0)?.get(number)
    }

    #[inline(always)]
    fn client_hop_number(&self, hop: ClientHop) -> u32 {
        let number = CLIENT_HOPS.get(0).map_or(0, |hops| hops.number(hop));
        if number == 0
            && let Some(wanted) = WANTED_HOPS.get_ptr_mut(0)
        {
            // SAFETY: this CPU's own value.
            unsafe { *wanted = hop };
        }
        number
    }

    #[inline(always)]
    fn report(&self, missing: MissingNeighbour) {
        // A full buffer loses the report; the client's next packet makes another one.
        if let Some(mut entry) = EVENTS.reserve(0) {
            entry.write(missing);
            entry.submit(0);
        }
    }

    #[inline(always)]
    fn may_answer(&self, kind: Answer) -> bool {
        let Some(place) = ANSWERS.get_ptr_mut(kind as u32) else { return false };
        // SAFETY: this CPU's own value.
        let place = unsafe { &mut *place };
        match Allowance(*place).take(kind, self.now()) {
            Some(left) => {
                *place = left.0;
                true
            }
            None => false,
        }
    }
}
