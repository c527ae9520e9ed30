//! [`app`]: the route table, one line per route.

use crate::exchange::exchange;
use crate::{ApiError, AppState, routes};
use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

/// The whole service over `state`.
pub fn app(state: AppState) -> Router {
    Router::new()
        .route("/health", get(routes::health::health))
        .route("/ready", get(routes::health::ready))
        .route(
            "/ping",
            get(routes::health::ping).post(routes::health::ping),
        )
        .route("/version", get(routes::health::version))
        .route("/metrics", get(routes::health::metrics))
        .route("/v1/models", get(routes::models::models))
        .route("/v1/chat/completions", post(routes::chat::chat))
        .route("/v1/completions", post(routes::completions::completions))
        .route("/v1/embeddings", post(routes::embeddings::embeddings))
        .route("/v1/rerank", post(routes::rerank::rerank))
        .route("/rerank", post(routes::rerank::rerank))
        .route("/classify", post(routes::classify::classify))
        .route("/tokenize", post(routes::tokenize::tokenize))
        .route("/detokenize", post(routes::tokenize::detokenize))
        .route("/invocations", post(routes::invocations::invocations))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(state.clone(), exchange))
        .with_state(state)
}

async fn unknown_path(uri: Uri) -> ApiError {
    let message = format!("there is no route {}", uri.path());
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{method} is not possible on {}", uri.path());
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        message,
    )
}
