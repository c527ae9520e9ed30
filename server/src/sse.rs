//! Server-sent events: `data: JSON`, a comment when nothing happens for long, `data: [DONE]` at the end.

use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use std::convert::Infallible;
use std::time::Duration;

/// What ends a stream.
pub(crate) const DONE: &str = "[DONE]";
/// Proxies and load balancers close a connection that is silent for longer (60 s is common).
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Asks nginx and its kin not to collect the events.
const NO_BUFFER: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The reply that sends each text of `events` as one event. Dropping the reply drops `events`.
pub(crate) fn reply(events: impl Stream<Item = String> + Send + 'static) -> Response {
    let events = events.map(|text| Ok::<_, Infallible>(Event::default().data(text)));
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(alive).into_response();
    let headers = response.headers_mut();
    headers.insert(NO_BUFFER, HeaderValue::from_static("no"));
    response
}
