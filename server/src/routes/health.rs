//! `/health`, `/ready`, `/ping`, `/version`, `/metrics`: answered from flags, never by waiting for a model.

use crate::{ApiError, AppState};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// 200 while every engine is alive and makes progress.
pub(crate) async fn health(State(state): State<AppState>) -> Result<Response, ApiError> {
    match state.sick() {
        None => Ok(Json(json!({"status": "ok"})).into_response()),
        Some(why) => Err(ApiError::unavailable("unhealthy", why, 10)),
    }
}

/// 200 once all models answer, until the server goes down.
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Response, ApiError> {
    if state.is_draining() {
        return Err(ApiError::unavailable(
            "shutting_down",
            "the server is shutting down",
            1,
        ));
    }
    if !state.is_ready() {
        let message = "not all models are loaded";
        return Err(ApiError::unavailable("model_loading", message, 1));
    }
    Ok(Json(json!({"status": "ready"})).into_response())
}

/// `SageMaker`'s check: healthy and ready.
pub(crate) async fn ping(state: State<AppState>) -> Result<Response, ApiError> {
    health(state.clone()).await?;
    ready(state).await
}

/// The program's version.
pub(crate) async fn version() -> Response {
    Json(json!({"version": env!("CARGO_PKG_VERSION")})).into_response()
}

/// Prometheus' text.
pub(crate) async fn metrics(State(state): State<AppState>) -> Response {
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    let body = state.observer().render(&state);
    ([(header::CONTENT_TYPE, text)], body).into_response()
}
