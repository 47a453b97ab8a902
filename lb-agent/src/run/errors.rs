//! Why the agent could not start or go on, with what to do about it.

use std::io;

use thiserror::Error;

use crate::api::BindError;
use crate::config;
use crate::dataplane::kernel::KernelError;
use crate::os::{links, netlink, next_hop};

#[derive(Debug, Error)]
pub enum RunError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] config::Errors),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Link(#[from] links::Error),
    #[error(transparent)]
    NextHop(#[from] next_hop::Error),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("{0}")]
    Unfit(String),
    #[error("loading the data plane needs {0}; run as root (sudo), or grant these capabilities")]
    MissingRights(String),
    #[error("{0} ended unexpectedly; packets go on, start the agent again (and report this)")]
    Ended(&'static str),
    #[error("could not {what}: {source}")]
    Io { what: String, source: io::Error },
}

impl RunError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether more rights would help.
    pub fn is_not_permitted(&self) -> bool {
        match self {
            Self::MissingRights(_) => true,
            Self::Kernel(error) => error.is_not_permitted(),
            Self::Bind(BindError::Io { source, .. }) | Self::Io { source, .. } => {
                source.kind() == io::ErrorKind::PermissionDenied
            }
            _ => false,
        }
    }

    /// Whether what was typed or configured is at fault.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::Config(_))
    }
}
