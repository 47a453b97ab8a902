//! What the agent knows about a backend beside its configuration: how it is reached, what a probe said.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::Protocol;

/// Names a backend across the whole configuration: `web/b1` in the CLI.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BackendKey {
    pub service: String,
    pub backend: String,
}

impl std::fmt::Display for BackendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.service, self.backend)
    }
}

/// Where a frame for an address leaves, as the kernel's routing and neighbour tables say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NextHop {
    pub ifindex: u32,
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    /// MTU of the outgoing interface, bytes of layer 3.
    pub mtu: u32,
    /// This host's own address for packets that way, of the destination's family.
    pub source: Option<IpAddr>,
    /// The neighbour that takes the frame, where that is not the destination itself.
    pub gateway: Option<IpAddr>,
}

/// The result of one probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ProbeOutcome {
    Success {
        latency: Duration,
        load: Option<ReportedLoad>,
    },
    Failure {
        /// For people: `connection refused`, `HTTP status 503`, `no answer within 500ms`.
        reason: String,
    },
    /// The agent itself did not get to run in time: says nothing about the backend.
    Starved {
        late_by: Duration,
    },
}

/// What a backend says about itself in its health answer; every field is optional and untrusted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportedLoad {
    pub cpu_percent: Option<f64>,
    pub active_requests: Option<u64>,
    pub response_time_ms: Option<f64>,
    pub status: Option<String>,
}

/// What makes a service the same service across reloads and restarts, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceAddress {
    pub vip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
}

impl std::fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.vip, self.port), self.protocol)
    }
}
