//! A query with each of many documents, or with each part of them.
//!
//! Owns: how documents are cut into parts. Must not know: scores.

use super::encoders::window;
use super::{blocking, check_bytes, head};
use crate::wire::rerank::RerankRequest;
use crate::{ApiError, ServedModel};
use koma_engine::models::tokenizer::{Encoded, First};
use std::sync::Arc;

/// The document of each pair, and the pairs with the names of their places; special tokens added, cut where asked. The query is
/// split into tokens once. More than `most` parts together are refused.
pub(crate) async fn rerank_inputs(
    model: &Arc<ServedModel>,
    request: Arc<RerankRequest>,
    most: usize,
) -> Result<(Vec<usize>, Vec<(String, Encoded)>), ApiError> {
    let model = Arc::clone(model);
    blocking(move || {
        let one = request.documents.len() == 1;
        let name = |i: usize| {
            if one {
                request.field.clone()
            } else {
                format!("{}.{i}", request.field)
            }
        };
        let limit = request.cut.limit(window(&model));
        let query = limit.map_or(&*request.query, |limit| head(&request.query, limit));
        if limit.is_none() {
            check_bytes(&model, query.len(), "query")?;
        }
        let query = model.handle.tokenizer().first(query);
        let query = query.map_err(|e| ApiError::field("query", e))?;
        let (mut owners, mut list) = (Vec::new(), Vec::new());
        for (i, document) in request.documents.iter().enumerate() {
            let pairs = pairs(&model, &request, (&query, document), &name(i))?;
            if request.part.is_some() && list.len() + pairs.len() > most {
                let message = format!("documents have more than {most} parts together");
                return Err(ApiError::field("max_tokens_per_doc", message));
            }
            owners.extend(pairs.iter().map(|_| i));
            list.extend(pairs.into_iter().map(|pair| (name(i), pair)));
        }
        Ok((owners, list))
    })
    .await
}

/// The pairs of one document.
fn pairs(
    model: &ServedModel,
    request: &RerankRequest,
    (query, document): (&First, &str),
    name: &str,
) -> Result<Vec<Encoded>, ApiError> {
    let (tokenizer, window) = (model.handle.tokenizer(), window(model));
    let limit = request.cut.limit(window);
    if request.part.is_some() || limit.is_none() {
        check_bytes(model, request.query.len() + document.len(), name)?;
    }
    let pairs = match (request.part, limit) {
        (Some(part), limit) => {
            let window = limit.unwrap_or(window).min(window);
            tokenizer.pairs_with(query, document, (part, window))
        }
        (None, Some(limit)) => {
            let pair = tokenizer.pair_with(query, head(document, limit), Some(limit));
            pair.map(|pair| vec![pair])
        }
        (None, None) => tokenizer
            .pair_with(query, document, None)
            .map(|pair| vec![pair]),
    };
    pairs.map_err(|e| ApiError::field(name, e))
}
