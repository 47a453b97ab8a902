//! Checked access to what a request carries. Each extractor ends in a value within its bounds or in a problem.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::limits::Limits;
use super::problem::ApiError;

/// Longer than any name that a configuration may hold.
const MAX_NAME_BYTES: usize = 255;

/// The path's parameters, percent-decoded; each is fit to be a name.
pub(super) struct Names<T>(pub(super) T);

impl<S: Send + Sync> FromRequestParts<S> for Names<String> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await?;
        check_name(&name)?;
        Ok(Self(name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Names<(String, String, String)> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(names) = Path::<(String, String, String)>::from_request_parts(parts, state).await?;
        for name in [&names.0, &names.1, &names.2] {
            check_name(name)?;
        }
        Ok(Self(names))
    }
}

/// Refuses what no configuration can hold, before it reaches a log or a terminal.
pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(ApiError::bad_request(format!("a name has 1 to {MAX_NAME_BYTES} bytes")));
    }
    if name.chars().any(char::is_control) {
        return Err(ApiError::bad_request("a name has no control characters"));
    }
    Ok(())
}

/// The query string; unknown and repeated keys are errors.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::<T>::from_request_parts(parts, state).await?;
        Ok(Self(params))
    }
}

/// A JSON body; an empty one stands for the default.
///
/// Not `axum::Json`: that one allows no empty body, has no time-out and answers in plain text.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let is_json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"));
        let limit = request.extensions().get().unwrap_or(&Limits::DEFAULT).body_read;
        let Ok(body) = tokio::time::timeout(limit, Bytes::from_request(request, state)).await else {
            let detail = format!("the body did not arrive within {limit:?}");
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, detail));
        };
        let body = body?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json {
            let detail = "the body must be JSON; say so with `content-type: application/json`";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        match serde_json::from_slice(&body) {
            Ok(value) => Ok(Self(value)),
            Err(error) => Err(ApiError::bad_request(format!("the body is not what is expected: {error}"))),
        }
    }
}
