//! Every limit that a client of the API can run into, in one place.

use std::time::Duration;

/// What one listener grants its clients.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections served at once; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// From the first moment of waiting for a request to the end of its head; ends idle connections too.
    pub header_read: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// For the whole body to arrive.
    pub body_read: Duration,
    pub body_bytes: usize,
    /// For a whole request, the reading of its body included.
    pub request: Duration,
    /// For a client that stops taking its answer.
    pub write_stall: Duration,
    /// For requests under way when the agent stops.
    pub shutdown_grace: Duration,
}

impl Limits {
    pub const DEFAULT: Self = Self {
        connections: 128,
        header_read: Duration::from_secs(10),
        head_bytes: 16 * 1024,
        body_read: Duration::from_secs(5),
        body_bytes: 64 * 1024,
        request: Duration::from_secs(10),
        write_stall: Duration::from_secs(10),
        shutdown_grace: Duration::from_secs(3),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

// A body that is too slow is told so, rather than that the agent is.
const _: () = assert!(Limits::DEFAULT.body_read.as_millis() < Limits::DEFAULT.request.as_millis());
// hyper refuses to be configured with less.
const _: () = assert!(Limits::DEFAULT.head_bytes >= 8192);
