//! `/v1/completions`.

use crate::call::Call;
use crate::encode;
use crate::generation::Job;
use crate::wire::Fields;
use crate::wire::completion::CompletionRequest;
use crate::wire::reply::Api;
use crate::{ApiError, AppState};
use axum::extract::State;
use axum::response::Response;
use koma_engine::TaskKind;

/// Continuations of the prompts, whole or as a stream.
pub(crate) async fn completions(
    State(state): State<AppState>,
    call: Call,
) -> Result<Response, ApiError> {
    let request = CompletionRequest::parse(Fields::body(&call.body)?, state.limits().inputs)?;
    complete(&state, &call, request).await
}

/// Answers a request that is read already.
pub(crate) async fn complete(
    state: &AppState,
    call: &Call,
    request: CompletionRequest,
) -> Result<Response, ApiError> {
    let model = state.lookup(request.model.as_deref(), TaskKind::Generate)?;
    let job = Job::new(state, call, &model, Api::Completion, request.generate)?;
    job.check_count(request.prompts.list.len())?;
    let prompts = encode::prompts(&model, request.prompts, request.special, job.room()).await?;
    job.answer(prompts).await
}
