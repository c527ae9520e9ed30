//! `/v1/embeddings`.

use crate::call::Call;
use crate::pool::Pool;
use crate::routes::answer;
use crate::wire::Fields;
use crate::wire::embeddings::{EmbeddingsReply, EmbeddingsRequest};
use crate::{ApiError, AppState};
use axum::extract::State;
use axum::response::Response;
use koma_engine::TaskKind;
use koma_engine::models::HeadKind;

/// One vector per input.
pub(crate) async fn embeddings(
    State(state): State<AppState>,
    call: Call,
) -> Result<Response, ApiError> {
    let request = EmbeddingsRequest::parse(Fields::body(&call.body)?, state.limits().inputs)?;
    embed(&state, &call, request).await
}

/// Answers a request that is read already.
pub(crate) async fn embed(
    state: &AppState,
    call: &Call,
    request: EmbeddingsRequest,
) -> Result<Response, ApiError> {
    let model = state.lookup(request.model.as_deref(), TaskKind::Embed)?;
    let mut pool = Pool::new(state, call, &model, TaskKind::Embed, request.admission);
    let head = model.handle.info().head.as_ref().map(|head| &head.kind);
    if request.normalize == Some(true) && head == Some(&HeadKind::Embed { normalize: false }) {
        let message = "this model's vectors are not normalised";
        return Err(ApiError::field("normalize", message));
    }
    pool.raw = request.normalize == Some(false);
    let (rows, usage) = pool.run(request.inputs).await?;
    let size = rows.first().map_or(0, Vec::len);
    if request
        .dimensions
        .is_some_and(|d| usize::try_from(d) != Ok(size))
    {
        let message =
            format!("the vectors of this model have {size} dimensions, and no others are served");
        return Err(ApiError::field("dimensions", message));
    }
    let name = model.name().to_owned();
    let reply = EmbeddingsReply::new(name, rows, request.encoding, usage);
    Ok(answer(&model, &reply))
}
