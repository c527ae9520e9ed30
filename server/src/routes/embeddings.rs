//! `/v1/embeddings`.

use crate::call::Call;
use crate::pool::Pool;
use crate::routes::answer;
use crate::wire::Fields;
use crate::wire::embeddings::{EmbeddingsReply, EmbeddingsRequest};
use crate::{ApiError, AppState, ServedModel, encode};
use axum::extract::State;
use axum::response::Response;
use koma_engine::models::HeadKind;
use koma_engine::{PoolingParams, TaskKind};

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
    check_dimensions(&model, request.dimensions)?;
    let inputs = encode::embedder_inputs(&model, request.inputs, request.prompting).await?;
    pool.params = PoolingParams {
        raw: request.normalize == Some(false),
        dimensions: request.dimensions,
        skip: inputs.skip,
    };
    let (rows, usage) = pool.run(inputs.list).await?;
    let name = model.name().to_owned();
    let reply = EmbeddingsReply::new(name, rows, request.encoding, usage);
    Ok(answer(&model, &reply))
}

/// Refuses longer vectors than the model has, before any work is done for them.
fn check_dimensions(model: &ServedModel, asked: Option<usize>) -> Result<(), ApiError> {
    let size = model
        .handle
        .info()
        .head
        .as_ref()
        .map_or(0, |head| head.width);
    match asked {
        Some(asked) if asked > size => {
            let message = format!("must be at most {size}, the size of this model's vectors");
            Err(ApiError::field("dimensions", message))
        }
        _ => Ok(()),
    }
}
