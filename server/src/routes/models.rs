//! `/v1/models`.

use crate::AppState;
use crate::wire::models::{ModelCard, ModelList};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

/// All models, in the order they were named.
pub(crate) async fn models(State(state): State<AppState>) -> Response {
    let cards = state
        .models()
        .map(|(name, slot)| ModelCard::new(name, &slot));
    let data = cards.collect();
    Json(ModelList {
        object: "list",
        data,
    })
    .into_response()
}
