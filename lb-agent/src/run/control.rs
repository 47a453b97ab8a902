//! The API's view of the agent: each call becomes a message to the task that owns everything.

use tokio::sync::{mpsc, oneshot};

use super::requests::{Answer, Request};
use crate::api::{Control, ControlError, FlowFilter, RouteQuery};
use crate::engine::Lifecycle;
use crate::model::admin::Action;
use crate::model::pool::BackendKey;
use crate::model::view;

#[derive(Debug, Clone)]
pub(super) struct Handle {
    requests: mpsc::Sender<Request>,
}

impl Handle {
    pub(super) fn new(requests: mpsc::Sender<Request>) -> Self {
        Self { requests }
    }

    /// None: the agent's task has ended.
    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    }

    async fn ask_or_gone<T>(
        &self,
        request: impl FnOnce(Answer<Result<T, ControlError>>) -> Request,
    ) -> Result<T, ControlError> {
        let gone = || ControlError::Unavailable("the agent is stopping; try again when it runs".into());
        self.ask(request).await.unwrap_or_else(|| Err(gone()))
    }
}

impl Control for Handle {
    async fn status(&self) -> view::Status {
        self.ask(Request::Status).await.unwrap_or_else(|| view::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: Lifecycle::Stopped.as_str().to_owned(),
            pid: std::process::id(),
            uptime_seconds: 0.0,
            config_generation: 0,
            config_file: None,
            attachments: Vec::new(),
            flow_table: view::FlowTable::default(),
            services: Vec::new(),
            reasons: Vec::new(),
        })
    }

    async fn service(&self, name: &str) -> Option<view::Service> {
        self.status().await.services.into_iter().find(|service| service.name == name)
    }

    async fn admin(&self, backend: BackendKey, action: Action) -> Result<view::Backend, ControlError> {
        self.ask_or_gone(|answer| Request::Admin(backend, action, answer)).await
    }

    async fn flows(&self, filter: FlowFilter) -> Result<Vec<view::Flow>, ControlError> {
        self.ask_or_gone(|answer| Request::Flows(filter, answer)).await
    }

    async fn flow_counts(&self) -> Result<Vec<view::FlowCount>, ControlError> {
        let counts = self.status().await.services.into_iter().flat_map(|service| {
            let name = service.name;
            service.backends.into_iter().map(move |backend| view::FlowCount {
                service: name.clone(),
                backend: backend.name,
                flows: backend.active_flows,
            })
        });
        Ok(counts.collect())
    }

    async fn route(&self, query: RouteQuery) -> Result<view::Route, ControlError> {
        self.ask_or_gone(|answer| Request::Route(query, answer)).await
    }

    async fn reload(&self) -> Result<view::ReloadSummary, ControlError> {
        self.ask_or_gone(Request::Reload).await
    }

    async fn metrics(&self) -> String {
        self.ask(Request::Metrics).await.unwrap_or_default()
    }

    async fn ready(&self) -> Result<(), String> {
        let status = self.status().await;
        if status.state != Lifecycle::Running.as_str() {
            return Err(format!("the agent is {}", status.state));
        }
        if status.attachments.is_empty() {
            return Err("the program is attached to no interface".into());
        }
        Ok(())
    }
}
