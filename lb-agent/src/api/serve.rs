//! The accept loop of both listeners: a bounded number of connections, each with hyper's limits, and a shutdown that
//! lets requests under way finish.
//!
//! Not `axum::serve`: that one has neither a header time-out nor a cap on connections.

use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use super::limits::Limits;
use super::stall::StallGuard;
use super::unix::AdminSocket;

/// Serves the admin socket until `cancel`, then removes it.
pub async fn serve_unix(socket: AdminSocket, router: Router, limits: Limits, cancel: CancellationToken) {
    let (listener, file) = socket.into_parts();
    serve(listener, router, limits, cancel).await;
    drop(file);
}

/// Serves TCP until `cancel`. The router should be a [`super::read_only_router`].
pub async fn serve_tcp(listener: TcpListener, router: Router, limits: Limits, cancel: CancellationToken) {
    serve(listener, router, limits, cancel).await;
}

async fn serve<L: Listener>(mut listener: L, router: Router, limits: Limits, cancel: CancellationToken) {
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    let slots = Arc::new(Semaphore::new(limits.connections));
    while let Some(Ok(slot)) = cancel.run_until_cancelled(Arc::clone(&slots).acquire_owned()).await {
        let Some((stream, _)) = cancel.run_until_cancelled(listener.accept()).await else { break };
        let stream = StallGuard::new(stream, limits.write_stall);
        let connection = serve_connection(stream, router.clone(), limits, cancel.clone());
        let abort = abort.clone();
        connections.spawn(async move {
            abort.run_until_cancelled(connection).await;
            drop(slot);
        });
    }
    // Whoever connects from here on is refused at once instead of waiting for nobody.
    drop(listener);
    connections.close();
    if timeout(limits.shutdown_grace, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "api connections did not finish in time and were cut");
        abort.cancel();
        connections.wait().await;
    }
}

async fn serve_connection<S>(stream: StallGuard<S>, router: Router, limits: Limits, cancel: CancellationToken)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| router.clone().call(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_buf_size(limits.head_bytes)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // A client that goes away or is too slow is its own affair.
        tracing::debug!(%error, "an api connection ended early");
    }
}
