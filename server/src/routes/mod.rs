//! One file per route: read the body into its valid type, find the model, ask it, answer.

pub(crate) mod chat;
pub(crate) mod classify;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod health;
pub(crate) mod invocations;
pub(crate) mod models;
pub(crate) mod rerank;
pub(crate) mod tokenize;

use crate::ServedModel;
use axum::Json;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

const MODEL: HeaderName = HeaderName::from_static("x-koma-model");

/// `reply` as JSON, with the model in its head.
pub(crate) fn answer(model: &ServedModel, reply: &impl Serialize) -> Response {
    with_model(model, Json(reply).into_response())
}

/// `response` with `x-koma-model: NAME@HASH`, the first 12 digits of the weights' hash.
pub(crate) fn with_model(model: &ServedModel, mut response: Response) -> Response {
    let value = format!("{}@{}", model.name(), model.short_hash());
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        response.headers_mut().insert(MODEL, value);
    }
    response
}

pub(crate) fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |t| t.as_secs())
}
