//! What the API needs of the agent behind it.

use std::net::SocketAddr;

use crate::model::admin::Action;
use crate::model::config::Protocol;
use crate::model::pool::BackendKey;
use crate::model::view;

/// The agent as the API sees it. The binary's composition root implements it over the running agent, tests in memory.
pub trait Control: Send + Sync + 'static {
    fn status(&self) -> impl Future<Output = view::Status> + Send;

    /// `None`: there is no service of this name.
    fn service(&self, name: &str) -> impl Future<Output = Option<view::Service>> + Send;

    /// Applies the action and returns the backend as it then is.
    fn admin(
        &self,
        backend: BackendKey,
        action: Action,
    ) -> impl Future<Output = Result<view::Backend, ControlError>> + Send;

    fn flows(&self, filter: FlowFilter) -> impl Future<Output = Result<Vec<view::Flow>, ControlError>> + Send;

    /// One row for each backend of each service.
    fn flow_counts(&self) -> impl Future<Output = Result<Vec<view::FlowCount>, ControlError>> + Send;

    /// Asks the loaded program where a packet of this flow would go.
    fn route(&self, query: RouteQuery) -> impl Future<Output = Result<view::Route, ControlError>> + Send;

    /// Reads the configuration again and applies all of it or nothing.
    fn reload(&self) -> impl Future<Output = Result<view::ReloadSummary, ControlError>> + Send;

    /// Prometheus text.
    fn metrics(&self) -> impl Future<Output = String> + Send;

    /// `Ok` while attached and serving; otherwise why not.
    fn ready(&self) -> impl Future<Output = Result<(), String>> + Send;
}

/// The most rows that one request for flows returns.
pub const MAX_FLOWS: usize = 10_000;

/// Which flows to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowFilter {
    pub service: Option<String>,
    /// Only together with `service`.
    pub backend: Option<String>,
    /// 1–[`MAX_FLOWS`].
    pub limit: usize,
}

/// The 5-tuple of a packet from a client; both addresses are of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteQuery {
    pub protocol: Protocol,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// Why the agent did not do as asked. The texts are for people and say what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("there is no service `{0}`; `lb-agent service list` shows those that exist")]
    UnknownService(String),
    #[error("there is no backend `{0}`; `lb-agent backend list` shows those that exist")]
    UnknownBackend(BackendKey),
    /// It contradicts the present state: draining a backend that is being removed.
    #[error("{0}")]
    Conflict(String),
    /// The file that a reload found breaks a rule; the old configuration stays in force.
    #[error("{0}")]
    InvalidConfig(String),
    /// Not possible now: starting, stopping, detached.
    #[error("{0}")]
    Unavailable(String),
    /// The agent's own fault, or the kernel's.
    #[error("{0}")]
    Internal(String),
}
