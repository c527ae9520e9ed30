//! `/v1/chat/completions`.

use crate::call::Call;
use crate::encode;
use crate::generation::Job;
use crate::wire::Fields;
use crate::wire::chat::ChatRequest;
use crate::wire::reply::Api;
use crate::{ApiError, AppState};
use axum::extract::State;
use axum::response::Response;
use koma_engine::TaskKind;

/// The assistant's next message, whole or as a stream.
pub(crate) async fn chat(State(state): State<AppState>, call: Call) -> Result<Response, ApiError> {
    let request = ChatRequest::parse(Fields::body(&call.body)?, state.limits().messages)?;
    converse(&state, &call, request).await
}

/// Answers a request that is read already.
pub(crate) async fn converse(
    state: &AppState,
    call: &Call,
    request: ChatRequest,
) -> Result<Response, ApiError> {
    let model = state.lookup(request.model.as_deref(), TaskKind::Generate)?;
    let job = Job::new(state, call, &model, Api::Chat, request.generate)?;
    let limit = request.cut.limit(job.room());
    let prompt = encode::chat(&model, request.chat, limit).await?;
    job.answer(vec![prompt]).await
}
