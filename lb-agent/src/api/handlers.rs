//! One function per resource: take the request apart, ask [`Control`], shape the answer.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;

use super::control::{Control, ControlError, FlowFilter, MAX_FLOWS, RouteQuery};
use super::extract::{Body, Names, Params, check_name};
use super::problem::ApiError;
use crate::model::admin::{Action, ActionRequest, VERBS};
use crate::model::config::Protocol;
use crate::model::pool::BackendKey;
use crate::model::view;

type Answer<T> = Result<Json<T>, ApiError>;

const DEFAULT_FLOWS: usize = 100;

pub(super) async fn status<C: Control>(State(control): State<Arc<C>>) -> Json<view::Status> {
    Json(control.status().await)
}

pub(super) async fn services<C: Control>(State(control): State<Arc<C>>) -> Json<Vec<view::Service>> {
    Json(control.status().await.services)
}

pub(super) async fn service<C: Control>(
    State(control): State<Arc<C>>,
    Names(name): Names<String>,
) -> Answer<view::Service> {
    match control.service(&name).await {
        Some(service) => Ok(Json(service)),
        None => Err(ControlError::UnknownService(name).into()),
    }
}

pub(super) async fn backends<C: Control>(
    State(control): State<Arc<C>>,
    Names(name): Names<String>,
) -> Answer<Vec<view::Backend>> {
    match control.service(&name).await {
        Some(service) => Ok(Json(service.backends)),
        None => Err(ControlError::UnknownService(name).into()),
    }
}

pub(super) async fn act<C: Control>(
    State(control): State<Arc<C>>,
    Names((service, backend, verb)): Names<(String, String, String)>,
    Body(request): Body<ActionRequest>,
) -> Answer<view::Backend> {
    match Action::from_request(&verb, request) {
        Some(Ok(action)) => Ok(Json(control.admin(BackendKey { service, backend }, action).await?)),
        Some(Err(error)) => Err(ApiError::bad_request(error.to_string())),
        None => {
            let detail = format!("there is no action `{verb}`; one of: {}", VERBS.join(", "));
            Err(ApiError::new(StatusCode::NOT_FOUND, detail))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FlowParams {
    service: Option<String>,
    backend: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn flows<C: Control>(
    State(control): State<Arc<C>>,
    Params(FlowParams { service, backend, limit }): Params<FlowParams>,
) -> Answer<Vec<view::Flow>> {
    let limit = limit.unwrap_or(DEFAULT_FLOWS);
    if !(1..=MAX_FLOWS).contains(&limit) {
        return Err(ApiError::bad_request(format!("`limit` {limit} is out of range; give 1 to {MAX_FLOWS}")));
    }
    if service.is_none() && backend.is_some() {
        return Err(ApiError::bad_request("`backend` needs `service` beside it: names are unique within a service"));
    }
    for name in service.iter().chain(&backend) {
        check_name(name)?;
    }
    Ok(Json(control.flows(FlowFilter { service, backend, limit }).await?))
}

pub(super) async fn flow_counts<C: Control>(State(control): State<Arc<C>>) -> Answer<Vec<view::FlowCount>> {
    Ok(Json(control.flow_counts().await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteParams {
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
}

pub(super) async fn route<C: Control>(
    State(control): State<Arc<C>>,
    Params(RouteParams { protocol, source, destination }): Params<RouteParams>,
) -> Answer<view::Route> {
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(ApiError::bad_request("`source` and `destination` must both be IPv4 or both IPv6"));
    }
    Ok(Json(control.route(RouteQuery { protocol, source, destination }).await?))
}

pub(super) async fn reload<C: Control>(State(control): State<Arc<C>>) -> Answer<view::ReloadSummary> {
    Ok(Json(control.reload().await?))
}

/// Alive: the agent's runtime answers. Says nothing about traffic.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz<C: Control>(State(control): State<Arc<C>>) -> Result<&'static str, ApiError> {
    match control.ready().await {
        Ok(()) => Ok("ready\n"),
        Err(reason) => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, reason)),
    }
}

pub(super) async fn metrics<C: Control>(State(control): State<Arc<C>>) -> impl IntoResponse {
    let text = control.metrics().await;
    // Only OpenMetrics ends so, and a scraper reads counters of the one format wrongly under the name of the other.
    let content_type = if text.ends_with("# EOF\n") {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    ([(header::CONTENT_TYPE, content_type)], text)
}
