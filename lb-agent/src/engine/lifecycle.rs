//! The life of the agent: created → starting → running → stopping → stopped, with error as the way out of each.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifecycle {
    /// No configuration yet.
    Created,
    /// Configured, not yet attached.
    Starting,
    Running,
    /// The agent ends; the data plane goes on.
    Stopping,
    Stopped,
    Error,
}

impl Lifecycle {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }

    /// Whether the pools follow events. Outside of this nothing may change the data plane.
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }

    pub(super) fn allows(self, to: Self) -> bool {
        match to {
            Self::Created => false,
            Self::Starting => self == Self::Created,
            Self::Running => self == Self::Starting,
            Self::Stopping => !matches!(self, Self::Stopping | Self::Stopped),
            Self::Stopped => self == Self::Stopping,
            Self::Error => !matches!(self, Self::Stopped | Self::Error),
        }
    }
}

impl fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
