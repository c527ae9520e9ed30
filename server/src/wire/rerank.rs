//! The body and the reply of `/v1/rerank`.

use super::inputs::text;
use super::{Admission, Cut, Fields, Kind, Raw, UsageReply, raw_scores, unserved};
use crate::ApiError;
use serde::Serialize;
use std::sync::Arc;

/// The query is read with every document: the most bytes that all these copies may have together.
const MAX_QUERY_BYTES: usize = 25 << 20;

/// A rerank request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RerankRequest {
    pub(crate) model: Option<String>,
    pub(crate) query: Arc<str>,
    /// The field the documents came in, as the client spells it.
    pub(crate) field: String,
    pub(crate) documents: Vec<String>,
    /// `top_n`: at most this many results; all if absent.
    pub(crate) top_n: Option<usize>,
    /// `return_documents`: whether results repeat their text; default no.
    pub(crate) return_documents: bool,
    /// `max_tokens_per_doc`: documents of more tokens are scored in parts of so many, and the best part counts.
    pub(crate) part: Option<usize>,
    /// Whether the model's own activation is left out; default no.
    pub(crate) raw: bool,
    pub(crate) cut: Cut,
    pub(crate) admission: Admission,
}

impl RerankRequest {
    /// Reads `fields`; at most `limit` documents. `texts` and `return_text` are other spellings.
    pub(crate) fn parse(mut fields: Fields<'_>, limit: usize) -> Result<Self, ApiError> {
        let count = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
        let part = fields.in_range("max_tokens_per_doc", 1, i64::from(u32::MAX))?;
        unserved::refuse(&mut fields, unserved::POOL)?;
        unserved::refuse(&mut fields, unserved::PROMPTS)?;
        let model = fields.string("model")?;
        let query = text(&fields.required("query")?)?;
        fields.rename("texts", "documents");
        fields.rename("return_text", "return_documents");
        let raw = fields.required("documents")?;
        let documents: Vec<String> = raw
            .list(limit)?
            .iter()
            .map(document)
            .collect::<Result<_, _>>()?;
        if documents.is_empty() {
            return Err(raw.error("must not be empty"));
        }
        if query.len().saturating_mul(documents.len()) > MAX_QUERY_BYTES {
            return Err(fields.error("query", "is too long for so many documents"));
        }
        let top_n = fields.in_range("top_n", 1, i64::from(u32::MAX))?;
        let request = Self {
            model,
            query: query.into(),
            field: raw.path().to_owned(),
            documents,
            top_n: top_n.map(count),
            part: part.map(count),
            return_documents: fields.boolean("return_documents")?.unwrap_or(false),
            raw: raw_scores(&mut fields)?,
            cut: Cut::parse(&mut fields)?,
            admission: Admission::parse(&mut fields)?,
        };
        fields.finish();
        Ok(request)
    }
}

fn document(raw: &Raw<'_>) -> Result<String, ApiError> {
    match raw.kind() {
        Kind::String => text(raw),
        Kind::Object => text(&raw.object()?.required("text")?),
        _ => Err(raw.error("must be a string or an object with a text")),
    }
}

/// The reply.
#[derive(Debug, Serialize)]
pub(crate) struct RerankReply {
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) results: Vec<Ranked>,
    pub(crate) usage: UsageReply,
}

/// One document's score.
#[derive(Debug, Serialize)]
pub(crate) struct Ranked {
    pub(crate) index: usize,
    pub(crate) relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) document: Option<Document>,
}

/// A document, repeated.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    pub(crate) text: String,
}

/// Each document's score: that of its best part. `owners`: the document of each score, every document once or more.
pub(crate) fn best(owners: &[usize], scores: &[f32], documents: usize) -> Vec<f32> {
    let mut best = vec![f32::NEG_INFINITY; documents];
    for (&owner, &score) in owners.iter().zip(scores) {
        best[owner] = best[owner].max(score);
    }
    best
}

/// The results in order: best score first, equal scores in the order given, not more than `top_n`. The
/// engine gives finite scores only.
pub(crate) fn rank(scores: Vec<f32>, top_n: Option<usize>) -> Vec<Ranked> {
    let results = scores.into_iter().enumerate();
    let mut results: Vec<Ranked> = results
        .map(|(index, relevance_score)| Ranked {
            index,
            relevance_score,
            document: None,
        })
        .collect();
    results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
    results.truncate(top_n.unwrap_or(usize::MAX));
    results
}
