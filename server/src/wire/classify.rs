//! The body and the reply of `/classify`.

use super::inputs::{Input, Inputs, inputs, text};
use super::{Admission, Cut, Fields, Kind, Raw, UsageReply, raw_scores, unserved};
use crate::ApiError;
use serde::Serialize;

/// A classification request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClassifyRequest {
    pub(crate) model: Option<String>,
    pub(crate) inputs: Inputs,
    /// Whether the model's own activation is left out; default no.
    pub(crate) raw: bool,
    pub(crate) admission: Admission,
}

impl ClassifyRequest {
    /// Reads `fields`; at most `limit` inputs. An entry of `input` that is a list of two strings is a pair.
    pub(crate) fn parse(mut fields: Fields<'_>, limit: usize) -> Result<Self, ApiError> {
        unserved::refuse(&mut fields, unserved::POOL)?;
        let request = Self {
            model: fields.string("model")?,
            inputs: inputs_or_pairs(&mut fields, limit)?,
            raw: raw_scores(&mut fields)?,
            admission: Admission::parse(&mut fields)?,
        };
        fields.finish();
        Ok(request)
    }
}

/// As [`inputs`], or all of them pairs.
fn inputs_or_pairs(fields: &mut Fields<'_>, limit: usize) -> Result<Inputs, ApiError> {
    let pairs = match fields.peek("input") {
        Some(raw) if raw.first_kind() == Some(Kind::Array) => {
            let entries = raw.list(limit)?;
            let is_pair = |entry: &Raw<'_>| entry.first_kind() == Some(Kind::String);
            entries.iter().any(is_pair).then_some((raw, entries))
        }
        _ => None,
    };
    let Some((raw, entries)) = pairs else {
        return inputs(fields, "input", limit);
    };
    fields.take("input");
    Ok(Inputs {
        field: raw.path().to_owned(),
        list: entries.iter().map(pair).collect::<Result<_, _>>()?,
        cut: Cut::parse(fields)?,
    })
}

fn pair(raw: &Raw<'_>) -> Result<Input, ApiError> {
    match raw.list(2)?.as_slice() {
        [first, second] => Ok(Input::Pair(text(first)?.into(), text(second)?)),
        _ => Err(raw.error("must be a pair: two strings")),
    }
}

/// The reply.
#[derive(Debug, Serialize)]
pub(crate) struct ClassifyReply {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    data: Vec<Classified>,
    usage: UsageReply,
}

/// One input's classes.
#[derive(Debug, Serialize)]
pub(crate) struct Classified {
    pub(crate) index: usize,
    /// The name of the class of the largest value; none for a model without names.
    pub(crate) label: Option<String>,
    pub(crate) probs: Vec<f32>,
    pub(crate) num_classes: usize,
}

impl ClassifyReply {
    pub(crate) fn new(
        id: String,
        created: u64,
        model: String,
        data: Vec<Classified>,
        usage: UsageReply,
    ) -> Self {
        Self {
            id,
            object: "list",
            created,
            model,
            data,
            usage,
        }
    }
}
