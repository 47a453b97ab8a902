//! What the programs count. All counters are per CPU and only grow; the agent adds the CPUs up.

/// One backend's counters: one cache line per CPU. A service's figures are the sum over its backends.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
pub struct BackendCounters {
    /// From clients to the backend.
    pub packets: u64,
    /// Bytes of the whole frame.
    pub bytes: u64,
    /// From the backend to clients.
    pub reply_packets: u64,
    pub reply_bytes: u64,
    /// Flows given to this backend.
    pub new_flows: u64,
    /// Resets that the backend sent.
    pub resets: u64,
    /// Flow entries of this backend that made room for others, while half-open and while stale.
    pub evicted_half_open: u64,
    pub evicted_stale: u64,
}

impl BackendCounters {
    /// The sum, field by field: of one backend over the CPUs.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            reply_packets: self.reply_packets + other.reply_packets,
            reply_bytes: self.reply_bytes + other.reply_bytes,
            new_flows: self.new_flows + other.new_flows,
            resets: self.resets + other.resets,
            evicted_half_open: self.evicted_half_open + other.evicted_half_open,
            evicted_stale: self.evicted_stale + other.evicted_stale,
        }
    }
}

const _: () = assert!(size_of::<BackendCounters>() == 64);
