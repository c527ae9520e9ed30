//! `/classify`.

use crate::call::{Call, fresh_id};
use crate::pool::Pool;
use crate::routes::{answer, unix_now};
use crate::wire::Fields;
use crate::wire::classify::{Classified, ClassifyReply, ClassifyRequest};
use crate::{ApiError, AppState, ServedModel};
use axum::extract::State;
use axum::response::Response;
use koma_engine::TaskKind;

/// One set of classes per input.
pub(crate) async fn classify(
    State(state): State<AppState>,
    call: Call,
) -> Result<Response, ApiError> {
    let request = ClassifyRequest::parse(Fields::body(&call.body)?, state.limits().inputs)?;
    label(&state, &call, request).await
}

/// Answers a request that is read already.
pub(crate) async fn label(
    state: &AppState,
    call: &Call,
    request: ClassifyRequest,
) -> Result<Response, ApiError> {
    let model = state.lookup(request.model.as_deref(), TaskKind::Classify)?;
    let mut pool = Pool::new(state, call, &model, TaskKind::Classify, request.admission);
    pool.raw = request.raw;
    let (rows, usage) = pool.run(request.inputs).await?;
    let rows = rows.into_iter().enumerate();
    let data = rows.map(|(index, probs)| Classified {
        index,
        label: best_label(&model, &probs),
        num_classes: probs.len(),
        probs,
    });
    let id = format!("classify-{}", fresh_id());
    let name = model.name().to_owned();
    let reply = ClassifyReply::new(id, unix_now(), name, data.collect(), usage);
    Ok(answer(&model, &reply))
}

/// The name of the largest value; the first of equal ones.
fn best_label(model: &ServedModel, probs: &[f32]) -> Option<String> {
    let order = |(_, a): &(usize, &f32), (_, b): &(usize, &f32)| b.total_cmp(a);
    let (best, _) = probs.iter().enumerate().min_by(order)?;
    let head = model.handle.info().head.as_ref()?;
    head.labels.get(best).cloned()
}
