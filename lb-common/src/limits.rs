//! Every capacity of the data plane, with the relations between them.

use crate::flow::BUCKET_ENTRIES;

/// Highest backend number. Slots hold two of them and a state in 32 bits; 0 means none.
pub const MAX_BACKEND_ID: u16 = 0x7fff;

/// Highest service number; 0 means none.
pub const MAX_SERVICE_ID: u16 = 4095;

/// Services that one endpoint (address, port and protocol) may be a backend of, where its replies come by here: each of them is
/// asked whether it knows the flow.
pub const MAX_MEMBERSHIPS: usize = 8;

/// Source ports that a backend's flows are lent where the configuration does not say: below those that Linux gives to the
/// host's own connections (sysctl `net.ipv4.ip_local_port_range`, 32768 to 60999).
pub const DEFAULT_PORTS: (u16, u16) = (16_384, 32_767);

/// Slots of an ordinary service: a prime (Maglev, NSDI '16, section 3.4, explains the size).
pub const SLOTS: u32 = 65_537;

/// Slots in one value of the slot table's map: one cache line. A plain array of `u32` would waste half of its
/// memory, because the kernel rounds every array element up to 8 bytes.
pub const SLOTS_PER_BLOCK: u32 = 16;

/// Values of a slot table's map for `slots` slots.
pub const fn slot_blocks(slots: u32) -> u32 {
    slots.div_ceil(SLOTS_PER_BLOCK)
}

/// Smallest and largest flow table, in entries of 8 bytes.
pub const MIN_FLOW_ENTRIES: u32 = 1 << 10;
pub const MAX_FLOW_ENTRIES: u32 = 1 << 26;

/// Flow table entries when the configuration does not say.
pub const DEFAULT_FLOW_ENTRIES: u32 = 1 << 20;

/// Bytes of the ring buffer for events from the programs.
pub const EVENT_BYTES: u32 = 1 << 16;

/// Answers of our own that one processor may give: so many in each unit of coarse time (about a second), and at once. Of ICMP errors
/// Linux allows itself 1,000 a second for the whole host (sysctl `icmp_msgs_per_sec`); of resets as many as are asked for, but
/// it is no load balancer whose pool has just gone.
pub const ERRORS_PER_UNIT: u32 = 100;
pub const RESETS_PER_UNIT: u32 = 10_000;

const _: () = assert!(MIN_FLOW_ENTRIES.is_power_of_two() && MAX_FLOW_ENTRIES.is_power_of_two());
const _: () = assert!(MIN_FLOW_ENTRIES as usize >= BUCKET_ENTRIES);
const _: () = assert!(EVENT_BYTES.is_power_of_two() && EVENT_BYTES >= 4096);
