//! The validated configuration. [`crate::config`] makes it from YAML or from flags; nothing else constructs it
//! in production, so whoever holds one may rely on every rule that `lb-agent check` enforces.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lb_common::limits::DEFAULT_PORTS;
use serde::{Deserialize, Serialize};

/// Everything that one file says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Interfaces on which the program is attached; at least one, no duplicates.
    pub interfaces: Vec<String>,
    pub hook: Hook,
    pub xdp_mode: XdpMode,
    /// Entries in the flow table; a power of two, 8 bytes each.
    pub flow_table: u32,
    pub snat: Snat,
    pub state_dir: PathBuf,
    pub pin_dir: PathBuf,
    pub api: Api,
    /// In the order of the file; names and (vip, port, protocol) are unique.
    pub services: Vec<Service>,
}

/// What is common to all services with `forward: snat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Snat {
    pub ports: Ports,
}

/// Source ports that flows are lent towards each backend, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    /// Not below `first`.
    pub last: u16,
}

impl Ports {
    pub const DEFAULT: Self = Self { first: DEFAULT_PORTS.0, last: DEFAULT_PORTS.1 };

    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// As it is written.
impl Serialize for Ports {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Api {
    /// The admin socket, mode 0660.
    pub socket: PathBuf,
    /// Read-only HTTP on TCP. Loopback addresses only as long as there is no TLS.
    pub listen: Option<SocketAddr>,
}

/// One VIP, port and protocol, and the pool behind it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Service {
    pub name: String,
    pub vip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub forward: Forward,
    pub scheduler: Scheduler,
    pub affinity: Affinity,
    pub tracking: Tracking,
    pub policy: Policy,
    pub health: Health,
    /// Zero means off.
    #[serde(with = "duration_ms")]
    pub slow_start: Duration,
    /// Zero means no deadline is waited for: flows lose their backend at once.
    #[serde(with = "duration_ms")]
    pub drain_timeout: Duration,
    /// Share of healthy backends, 0–100, under which health is ignored and all enabled ones are used.
    pub panic_threshold_percent: u8,
    pub backends: Vec<Backend>,
}

impl Service {
    /// `192.0.2.10:80/tcp`, `[2001:db8::1]:53/udp`.
    pub fn address(&self) -> String {
        format!("{}/{}", SocketAddr::new(self.vip, self.port), self.protocol)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backend {
    /// Unique within its service; `address:port` when the file gives none.
    pub name: String,
    pub address: IpAddr,
    pub port: u16,
    /// 0–[`MAX_WEIGHT`]; 0 takes no new flows.
    pub weight: u16,
    pub zone: Option<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    /// The backend's own cap on active flows.
    pub max_flows: Option<u32>,
}

pub const MAX_WEIGHT: u16 = 1000;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    pub kind: HealthKind,
    /// Request path of an HTTP check.
    pub path: String,
    /// Where to probe when it is not the backend's own port.
    pub port: Option<u16>,
    #[serde(with = "duration_ms")]
    pub interval: Duration,
    #[serde(with = "duration_ms")]
    pub timeout: Duration,
    /// Successes in a row that bring a backend in.
    pub rise: u32,
    /// Failures in a row that take it out.
    pub fall: u32,
    /// What a UDP check sends (as text; may be empty).
    pub send: String,
    /// What the answer to a UDP check must contain; none: anything but a refusal within the time-out is healthy.
    pub expect: Option<String>,
}

/// Declares an enum of configuration values with one spelling for YAML, JSON, `Display` and error messages.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every spelling, in the order in which help and errors list them.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("unknown value `{text}`, expected one of: {}", Self::NAMES.join(", "))),
                }
            }
        }
    };
}

pub(super) use choice;

choice!(Hook { Auto = "auto", Xdp = "xdp", Tc = "tc" });
choice!(XdpMode { Native = "native", Generic = "generic" });
choice!(Protocol { Tcp = "tcp", Udp = "udp" });
choice!(Forward { Nat = "nat", Snat = "snat", Dsr = "dsr", Ipip = "ipip", Gue = "gue" });
choice!(Scheduler {
    Consistent = "consistent",
    RoundRobin = "round-robin",
    Random = "random",
    LeastConnections = "least-connections",
});
choice!(Affinity { None = "none", ClientIp = "client-ip" });
choice!(Tracking { Auto = "auto", Minimal = "minimal", Full = "full", Off = "off" });
choice!(Policy { Static = "static" });
choice!(HealthKind { Http = "http", Https = "https", Tcp = "tcp", Udp = "udp", Icmp = "icmp", None = "none" });

impl Scheduler {
    /// Whether it works only where every flow is recorded: a flow's backend cannot be found out from its slot.
    pub fn needs_every_flow(self) -> bool {
        self != Self::Consistent
    }
}

impl Forward {
    /// Whether backends answer through this host; otherwise it sees clients' packets only.
    pub fn answers_pass(self) -> bool {
        matches!(self, Self::Nat | Self::Snat)
    }
}

/// Durations as whole milliseconds in JSON, so that every reader can compute with them.
mod duration_ms {
    use std::time::Duration;

    pub(super) fn serialize<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }
}
