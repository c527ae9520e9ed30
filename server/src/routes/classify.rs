//! `/classify`.

use crate::call::{Call, fresh_id};
use crate::pool::Pool;
use crate::routes::{answer, unix_now};
use crate::wire::Fields;
use crate::wire::UsageReply;
use crate::wire::classify::{Classified, ClassifyReply, ClassifyRequest, EntityReply};
use crate::{ApiError, AppState, ServedModel, encode};
use axum::extract::State;
use axum::response::Response;
use koma_engine::TaskKind;
use koma_engine::text::{Tagged, entities};
use std::sync::Arc;

/// What each input is, or what is in it.
pub(crate) async fn classify(
    State(state): State<AppState>,
    call: Call,
) -> Result<Response, ApiError> {
    let request = ClassifyRequest::parse(Fields::body(&call.body)?, state.limits().inputs)?;
    label(&state, &call, request).await
}

/// Answers a request that is read already. Without a model's name, what only token classifiers know asks for one of them.
pub(crate) async fn label(
    state: &AppState,
    call: &Call,
    request: ClassifyRequest,
) -> Result<Response, ApiError> {
    let named = request.model.as_deref().filter(|name| !name.is_empty());
    let tasks: &[TaskKind] = match (named, request.entities.given()) {
        (None, Some(_)) => &[TaskKind::Tag],
        _ => &[TaskKind::Classify, TaskKind::Tag],
    };
    let (model, task) = state.lookup_any(named, tasks)?;
    let pool = Pool::new(state, call, &model, task, request.admission.clone());
    let (data, usage) = if task == TaskKind::Tag {
        parts(&model, pool, request).await?
    } else {
        whole(&model, pool, request).await?
    };
    let id = format!("classify-{}", fresh_id());
    let name = model.name().to_owned();
    let reply = ClassifyReply::new(id, unix_now(), name, data, usage);
    Ok(answer(&model, &reply))
}

/// One set of classes per input.
async fn whole(
    model: &Arc<ServedModel>,
    mut pool: Pool<'_>,
    request: ClassifyRequest,
) -> Result<(Vec<Classified>, UsageReply), ApiError> {
    if let Some(field) = request.entities.given() {
        let message = "is for token classifiers only; this model gives classes to whole inputs";
        return Err(ApiError::field(field, message));
    }
    pool.params.raw = request.raw;
    let inputs = encode::encoder_inputs(model, request.inputs).await?;
    let (rows, usage) = pool.run(inputs).await?;
    let rows = rows.into_iter().enumerate();
    let data = rows.map(|(index, probs)| Classified::Whole {
        index,
        label: best_label(model, &probs),
        num_classes: probs.len(),
        probs,
    });
    Ok((data.collect(), usage))
}

/// The entities in each input.
async fn parts(
    model: &Arc<ServedModel>,
    pool: Pool<'_>,
    request: ClassifyRequest,
) -> Result<(Vec<Classified>, UsageReply), ApiError> {
    if request.raw {
        let message =
            "is not served for token classifiers: the scores of entities are probabilities";
        return Err(ApiError::field("raw_scores", message));
    }
    let options = request.entities;
    let inputs = encode::located_inputs(model, request.inputs).await?;
    let encoded = inputs.iter();
    let encoded = encoded.map(|(name, input)| (name.clone(), input.tokens.encoded.clone()));
    let (rows, usage) = pool.run(encoded.collect()).await?;
    let model = Arc::clone(model);
    let data = encode::blocking(move || {
        let head = model.handle.info().head.as_ref();
        let labels = head.map_or(&[][..], |head| &head.labels);
        let ignored = options.ignored.unwrap_or_else(|| vec!["O".to_owned()]);
        let results = inputs.iter().zip(&rows).enumerate();
        let data = results.map(|(index, ((_, input), probabilities))| {
            let tagged = Tagged {
                tokenizer: model.handle.tokenizer(),
                labels,
                text: &input.text,
                tokens: &input.tokens,
                probabilities,
            };
            let found = entities(&tagged, options.aggregation.unwrap_or_default(), &ignored);
            let entities = found.into_iter().map(EntityReply::from).collect();
            Classified::Parts { index, entities }
        });
        Ok(data.collect())
    });
    Ok((data.await?, usage))
}

/// The name of the largest value; the first of equal ones.
fn best_label(model: &ServedModel, probs: &[f32]) -> Option<String> {
    let order = |(_, a): &(usize, &f32), (_, b): &(usize, &f32)| b.total_cmp(a);
    let (best, _) = probs.iter().enumerate().min_by(order)?;
    let head = model.handle.info().head.as_ref()?;
    head.labels.get(best).cloned()
}
