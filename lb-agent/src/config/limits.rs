//! Every bound on what a configuration may hold, in one place. What the data plane can hold is the reason for
//! the counts; the rest keeps a hostile or mistaken file from costing more than a moment.

use std::time::Duration;

/// Largest configuration file.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;
/// Deepest nesting of lists and mappings; the format itself needs six.
pub const MAX_NESTING: usize = 16;
/// Keys, values, lists and mappings in one file, aliases counted at their full size.
pub const MAX_NODES: usize = 500_000;
/// Errors that are kept; the others are only counted.
pub const MAX_REPORTED_ERRORS: usize = 100;

/// Services that the data plane holds.
pub const MAX_SERVICES: usize = 4_095;
/// Backends of all services that the data plane holds together.
pub const MAX_BACKENDS: usize = 32_767;
/// One XDP program is attached per interface.
pub const MAX_INTERFACES: usize = 64;

/// Characters in the name of a service, a backend or a zone.
pub const MAX_NAME_CHARS: usize = 64;
/// Linux: IFNAMSIZ without the closing zero.
pub const MAX_INTERFACE_NAME_BYTES: usize = 15;
/// Linux: PATH_MAX without the closing zero.
pub const MAX_PATH_BYTES: usize = 4_095;
/// Linux: `sun_path` without the closing zero.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;
pub const MAX_LABELS: usize = 32;
pub const MAX_LABEL_VALUE_CHARS: usize = 256;

/// Entries of the flow table, 8 bytes each: 8 KiB to 512 MiB.
pub const FLOW_TABLE_ENTRIES: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 26;

/// Source ports under `snat`; each holds one flow to a backend at a time.
pub const MIN_LENT_PORTS: u32 = 16;

pub const HEALTH_INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_hours(1);
pub const MIN_HEALTH_TIMEOUT: Duration = Duration::from_millis(1);
pub const HEALTH_COUNT: std::ops::RangeInclusive<u64> = 1..=100;
/// A request line that common servers still accept.
pub const MAX_HEALTH_PATH_BYTES: usize = 2_048;
/// Fits an unfragmented datagram on every link.
pub const MAX_HEALTH_DATAGRAM_BYTES: usize = 1_024;
pub const SLOW_START: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);
pub const DRAIN_TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);

const _: () = {
    assert!(FLOW_TABLE_ENTRIES.start().is_power_of_two() && FLOW_TABLE_ENTRIES.end().is_power_of_two());
    assert!(*FLOW_TABLE_ENTRIES.end() <= u32::MAX as u64, "model::config::Config counts entries in 32 bits");
    // A slot has 15 bits for the number of a backend.
    assert!(MAX_BACKENDS < 1 << 15);
};
