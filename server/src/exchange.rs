//! [`exchange`]: what every HTTP exchange has: a request id, a log line, a count, and an answer even if a handler panics.

use crate::call::RequestId;
use crate::{ApiError, AppState};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::Instant;
use tracing::Instrument;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const PROCESSING_MS: HeaderName = HeaderName::from_static("openai-processing-ms");

/// Wraps all routes.
pub(crate) async fn exchange(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let id = RequestId::of(request.headers());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span = tracing::info_span!("request", id = %id.0, method = %request.method(), route);
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = match answer.instrument(span.clone()).await {
        Ok(response) => response,
        Err(_) => ApiError::internal("a handler panicked").into_response(),
    };
    let elapsed = began.elapsed();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(PROCESSING_MS, millis(elapsed));
    let status = response.status().as_u16();
    span.in_scope(|| tracing::debug!(status, ms = elapsed.as_millis(), "answered"));
    state.observer().http(route, status, elapsed);
    response
}

fn millis(elapsed: std::time::Duration) -> HeaderValue {
    HeaderValue::from(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
