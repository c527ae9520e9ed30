//! `/v1/rerank` and `/rerank`.

use crate::call::{Call, fresh_id};
use crate::pool::Pool;
use crate::routes::answer;
use crate::wire::Fields;
use crate::wire::rerank::{Document, RerankReply, RerankRequest, best, rank};
use crate::{ApiError, AppState, encode};
use axum::extract::State;
use axum::response::Response;
use koma_engine::TaskKind;
use std::sync::Arc;

/// The documents, best first.
pub(crate) async fn rerank(
    State(state): State<AppState>,
    call: Call,
) -> Result<Response, ApiError> {
    let request = RerankRequest::parse(Fields::body(&call.body)?, state.limits().documents)?;
    order(&state, &call, request).await
}

/// Answers a request that is read already: one pair of texts per document.
pub(crate) async fn order(
    state: &AppState,
    call: &Call,
    request: RerankRequest,
) -> Result<Response, ApiError> {
    let model = state.lookup(request.model.as_deref(), TaskKind::Score)?;
    let admission = request.admission.clone();
    let mut pool = Pool::new(state, call, &model, TaskKind::Score, admission);
    pool.params.raw = request.raw;
    let request = Arc::new(request);
    let most = state.limits().documents;
    let (owners, encoded) = encode::rerank_inputs(&model, Arc::clone(&request), most).await?;
    let (rows, usage) = pool.run(encoded).await?;
    let scores = rows.into_iter().map(|row| row.first().copied());
    let scores: Option<Vec<f32>> = scores.collect();
    let scores = scores.ok_or_else(|| ApiError::internal("a score without a value"))?;
    let scores = best(&owners, &scores, request.documents.len());
    let mut results = rank(scores, request.top_n);
    if request.return_documents {
        for result in &mut results {
            let text = request.documents.get(result.index).cloned();
            result.document = text.map(|text| Document { text });
        }
    }
    let reply = RerankReply {
        id: format!("rerank-{}", fresh_id()),
        model: model.name().to_owned(),
        results,
        usage,
    };
    Ok(answer(&model, &reply))
}
