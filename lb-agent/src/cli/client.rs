//! The client of the admin socket: one connection and one request per question.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::exit::CliError;
use crate::model::view;

/// The agent answers by itself within 10 s that something takes too long; this is for one that is frozen.
const PATIENCE: Duration = Duration::from_secs(15);
/// Above any answer; keeps a wrong socket from filling the memory.
const MAX_ANSWER_BYTES: usize = 64 << 20;

pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, CliError> {
        self.ask(Method::GET, target, Bytes::new()).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, target: &str, body: &impl Serialize) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Failed(format!("could not ask: {error}")))?;
        self.ask(Method::POST, target, body.into()).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, target: &str, body: Bytes) -> Result<T, CliError> {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| CliError::Failed(format!("could not ask for {target}: {error}")))?;
        let socket = self.socket.display();
        let Ok(answer) = timeout(PATIENCE, self.exchange(request)).await else {
            let detail =
                format!("the agent did not answer on {socket} within {PATIENCE:?}; is it stopped or overloaded?");
            return Err(CliError::Failed(detail));
        };
        let (status, body) = answer?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                let detail =
                    format!("the answer of {socket} is not understood ({error}); do agent and CLI differ in version?");
                CliError::Failed(detail)
            });
        }
        let detail = match serde_json::from_slice::<view::Problem>(&body) {
            Ok(problem) => problem.detail,
            Err(_) => format!("the answer of {socket} is {status} without a reason; is this the agent's socket?"),
        };
        Err(CliError::Refused { status: status.as_u16(), detail })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), CliError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| connect_error(&self.socket, &error))?;
        let broken = |error: &dyn std::fmt::Display| {
            CliError::Failed(format!("the conversation on {} broke off: {error}; try again", self.socket.display()))
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let conversation = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(|error| broken(&error))?.to_bytes()))
        };
        let mut conversation = std::pin::pin!(conversation);
        tokio::select! {
            answer = &mut conversation => answer,
            // The connection may end before the answer has been taken from it.
            _ = connection => conversation.await,
        }
    }
}

fn connect_error(socket: &Path, error: &io::Error) -> CliError {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => CliError::NotRunning { socket: socket.to_owned() },
        ErrorKind::PermissionDenied => CliError::NotPermitted(format!(
            "{} is for root and its group; run this as root (sudo) or join the group",
            socket.display()
        )),
        _ => CliError::Failed(format!("could not connect to {}: {error}; is the path right?", socket.display())),
    }
}

/// A name as one segment of a path or one value of a query. Everything but letters and digits is encoded, so that
/// no name can become syntax; for this one use a dependency is not worth it.
pub(super) fn encode(name: &str) -> String {
    use std::fmt::Write as _;
    name.bytes().fold(String::with_capacity(name.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
