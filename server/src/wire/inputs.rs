//! Prompts and inputs: text or token ids, one or several.

use super::{Cut, Fields, Kind, Raw};
use crate::ApiError;
use std::sync::Arc;

/// One prompt as a client gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// Text, not empty.
    Text(String),
    /// Token ids, at least one.
    Ids(Vec<u32>),
    /// Two texts that the tokenizer joins (encoders). Many pairs may share the first.
    Pair(Arc<str>, String),
}

/// The inputs of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// The field they came in, as the client spells it.
    pub(crate) field: String,
    pub(crate) list: Vec<Input>,
    /// What to do with those that are too long.
    pub(crate) cut: Cut,
}

impl Inputs {
    /// The name of input `i` in errors: the field's, with its place where there are several.
    pub(crate) fn name(&self, i: usize) -> String {
        if self.list.len() == 1 {
            self.field.clone()
        } else {
            format!("{}.{i}", self.field)
        }
    }
}

/// The inputs of the required field `name`: `"text"`, `["text", ...]`, `[1, 2]` or `[[1, 2], ...]`; at most `limit`.
pub(crate) fn inputs(
    fields: &mut Fields<'_>,
    name: &str,
    limit: usize,
) -> Result<Inputs, ApiError> {
    let raw = fields.required(name)?;
    let list = match raw.kind() {
        Kind::String => vec![Input::Text(text(&raw)?)],
        Kind::Array if raw.is_empty() => return Err(raw.error("must not be empty")),
        Kind::Array if raw.first_kind() == Some(Kind::Number) => vec![Input::Ids(raw.ids()?)],
        Kind::Array => {
            let entries = raw.list(limit)?;
            entries.iter().map(entry).collect::<Result<_, _>>()?
        }
        _ => return Err(raw.error("must be a string, a list of strings, or token ids")),
    };
    Ok(Inputs {
        field: raw.path().to_owned(),
        list,
        cut: Cut::parse(fields)?,
    })
}

/// Non-empty text.
pub(crate) fn text(raw: &Raw<'_>) -> Result<String, ApiError> {
    let text = raw.string()?;
    if text.is_empty() {
        return Err(raw.error("must not be empty"));
    }
    Ok(text)
}

fn entry(raw: &Raw<'_>) -> Result<Input, ApiError> {
    match raw.kind() {
        Kind::String => Ok(Input::Text(text(raw)?)),
        Kind::Array if raw.is_empty() => Err(raw.error("must not be empty")),
        Kind::Array => Ok(Input::Ids(raw.ids()?)),
        _ => Err(raw.error("must be a string or a list of token ids")),
    }
}
