//! [`app`]: the route table, one line per route.

use crate::{ApiError, AppState, routes};
use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::get;

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
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
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
