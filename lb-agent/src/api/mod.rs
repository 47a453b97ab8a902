//! The HTTP API: resources under `/api/v1`, `/healthz`, `/readyz` and `/metrics`, served to administrators on a unix
//! socket and, read-only, on TCP. It owns the wire format and the limits that keep a client from hurting the agent;
//! what is shown and done comes from whoever implements [`Control`].

mod control;
mod extract;
mod handlers;
mod limits;
#[cfg(test)]
pub(crate) mod memory;
mod problem;
mod serve;
mod stall;
#[cfg(test)]
mod tests;
mod unix;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};

pub use control::{Control, ControlError, FlowFilter, MAX_FLOWS, RouteQuery};
pub use limits::Limits;
pub use problem::PROBLEM_JSON;
pub use serve::{serve_tcp, serve_unix};
pub use unix::{AdminSocket, BindError};

use problem::ApiError;

/// Reads and writes: for the admin socket.
pub fn router<C: Control>(control: Arc<C>, limits: &Limits) -> Router {
    let routes = reads::<C>()
        .route("/api/v1/services/{name}/backends/{backend}/{action}", post(handlers::act::<C>))
        .route("/api/v1/config/reload", post(handlers::reload::<C>));
    finish(routes, control, limits)
}

/// Reads only: for TCP, where nobody says who they are.
pub fn read_only_router<C: Control>(control: Arc<C>, limits: &Limits) -> Router {
    finish(reads::<C>(), control, limits).layer(middleware::from_fn(refuse_writes))
}

fn reads<C: Control>() -> Router<Arc<C>> {
    Router::new()
        .route("/api/v1/status", get(handlers::status::<C>))
        .route("/api/v1/services", get(handlers::services::<C>))
        .route("/api/v1/services/{name}", get(handlers::service::<C>))
        .route("/api/v1/services/{name}/backends", get(handlers::backends::<C>))
        .route("/api/v1/flows", get(handlers::flows::<C>))
        .route("/api/v1/flows/count", get(handlers::flow_counts::<C>))
        .route("/api/v1/flows/route", get(handlers::route::<C>))
        .route("/healthz", get(handlers::healthz))
        .route("/readyz", get(handlers::readyz::<C>))
        .route("/metrics", get(handlers::metrics::<C>))
}

fn finish<C: Control>(routes: Router<Arc<C>>, control: Arc<C>, limits: &Limits) -> Router {
    routes
        .fallback(no_such_resource)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(control)
        .layer(Extension(*limits))
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(middleware::from_fn_with_state(limits.request, answer_in_time))
        .layer(middleware::map_response(harden))
}

async fn no_such_resource(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no resource at {}", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let detail = format!("{method} is not possible on {}; the header `allow` says what is", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

async fn refuse_writes(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let detail = "this address is read-only; changes are made on the admin socket (lb-agent does so)";
    let mut response = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

async fn answer_in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("the agent did not finish this request within {limit:?}; its log may say why");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response()
        }
    }
}

/// Live figures must not be kept by a cache, and a name in them must not be taken for a page by a browser.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("content-security-policy"), HeaderValue::from_static("default-src 'none'"));
    response
}
