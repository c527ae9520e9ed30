//! Inputs of encoders: single texts, pairs, texts behind a prompt, texts whose tokens keep their places.
//!
//! Owns: which prompt goes before an input, and how much of it is not pooled. Must not know: what becomes of the rows.

use super::{blocking, check_bytes, given, head};
use crate::wire::embeddings::Prompting;
use crate::wire::inputs::{Input, Inputs};
use crate::{ApiError, ServedModel};
use koma_engine::models::tokenizer::{Encoded, Located};
use std::sync::Arc;

/// Ids and segments of encoder inputs with the names of their places; special tokens added, cut where asked.
pub(crate) async fn encoder_inputs(
    model: &Arc<ServedModel>,
    inputs: Inputs,
) -> Result<Vec<(String, Encoded)>, ApiError> {
    let model = Arc::clone(model);
    blocking(move || each(&model, &inputs)).await
}

/// The inputs of an embedder.
pub(crate) struct EmbedderInputs {
    /// As [`encoder_inputs`] gives them.
    pub(crate) list: Vec<(String, Encoded)>,
    /// First tokens of each that are not pooled.
    pub(crate) skip: usize,
}

/// As [`encoder_inputs`], with one of the model's prompts before each text. Token ids are taken as they are, unless a prompt
/// is asked for, which then belongs before them.
pub(crate) async fn embedder_inputs(
    model: &Arc<ServedModel>,
    mut inputs: Inputs,
    prompting: Prompting,
) -> Result<EmbedderInputs, ApiError> {
    let model = Arc::clone(model);
    blocking(move || {
        let prompt = prompt_text(&model, &prompting)?;
        if prompt.is_empty() {
            let list = each(&model, &inputs)?;
            return Ok(EmbedderInputs { list, skip: 0 });
        }
        let mut ids = false;
        for i in 0..inputs.list.len() {
            match &mut inputs.list[i] {
                Input::Text(text) => text.insert_str(0, &prompt),
                Input::Ids(_) if prompting == Prompting::Usual => ids = true,
                Input::Ids(_) | Input::Pair(..) => {
                    let message = "must be text: a prompt goes before it";
                    return Err(ApiError::field(inputs.name(i), message));
                }
            }
        }
        let list = each(&model, &inputs)?;
        let skip = skip(&model, &prompt)?;
        if skip > 0 && ids {
            let message = "must be text: this model leaves its prompt out of the vector";
            return Err(ApiError::field(inputs.field, message));
        }
        if let Some((name, _)) = list.iter().find(|(_, encoded)| encoded.ids.len() <= skip) {
            let message = "is cut before its prompt ends";
            return Err(ApiError::field(name, message));
        }
        Ok(EmbedderInputs { list, skip })
    })
    .await
}

/// The text that goes before inputs; empty if none does.
fn prompt_text(model: &ServedModel, prompting: &Prompting) -> Result<String, ApiError> {
    let head = model.handle.info().head.as_ref();
    let Some(prompts) = head.map(|head| &head.prompts) else {
        return Ok(String::new());
    };
    let text = match prompting {
        Prompting::Usual => prompts.usual(),
        Prompting::Query => prompts.query(),
        Prompting::Document => prompts.document(),
        Prompting::Named(name) => prompts.named.get(name).ok_or_else(|| {
            let names: Vec<&str> = prompts.named.keys().map(String::as_str).collect();
            let message = match names.as_slice() {
                [] => "this model has no prompts".to_owned(),
                names => format!("must be one of this model's prompts: {}", names.join(", ")),
            };
            ApiError::field("prompt_name", message)
        })?,
    };
    Ok(text.to_owned())
}

/// Tokens of a prompt that are not pooled, as sentence-transformers counts them: without a special one at its end.
fn skip(model: &ServedModel, prompt: &str) -> Result<usize, ApiError> {
    let head = model.handle.info().head.as_ref();
    if head.is_none_or(|head| head.prompts.pooled) {
        return Ok(0);
    }
    let tokenizer = model.handle.tokenizer();
    let encoded = tokenizer.encode(prompt, true).map_err(ApiError::internal)?;
    let added = encoded
        .ids
        .last()
        .is_some_and(|id| tokenizer.is_special(*id));
    Ok(encoded.ids.len() - usize::from(added))
}

/// A text for a token classifier.
pub(crate) struct LocatedText {
    pub(crate) text: String,
    pub(crate) tokens: Located,
}

/// The texts of a token classifier with the names of their places; special tokens added, cut where asked.
pub(crate) async fn located_inputs(
    model: &Arc<ServedModel>,
    inputs: Inputs,
) -> Result<Vec<(String, LocatedText)>, ApiError> {
    let model = Arc::clone(model);
    blocking(move || {
        let limit = inputs.cut.limit(window(&model));
        let names: Vec<String> = (0..inputs.list.len()).map(|i| inputs.name(i)).collect();
        let one = |(name, input): (String, Input)| {
            let Input::Text(text) = input else {
                let message = "must be one text: entities are places in it";
                return Err(ApiError::field(name, message));
            };
            let part = match limit {
                Some(limit) => head(&text, limit),
                None => check_bytes(&model, text.len(), &name).map(|()| text.as_str())?,
            };
            let tokens = model.handle.tokenizer().locate(part, limit);
            let tokens = tokens.map_err(|e| ApiError::field(&name, e))?;
            Ok((name, LocatedText { text, tokens }))
        };
        names.into_iter().zip(inputs.list).map(one).collect()
    })
    .await
}

/// Most tokens of an encoder's input: a step takes it whole.
pub(super) fn window(model: &ServedModel) -> usize {
    let info = model.handle.info();
    info.limits.max_len.min(info.config.max_batch_tokens)
}

/// Each input of an encoder with the name of its place.
fn each(model: &ServedModel, inputs: &Inputs) -> Result<Vec<(String, Encoded)>, ApiError> {
    let limit = inputs.cut.limit(window(model));
    let one = |(i, input)| {
        let name = inputs.name(i);
        let encoded = encoder_input(model, input, limit, &name)?;
        Ok((name, encoded))
    };
    inputs.list.iter().enumerate().map(one).collect()
}

fn encoder_input(
    model: &ServedModel,
    input: &Input,
    limit: Option<usize>,
    name: &str,
) -> Result<Encoded, ApiError> {
    let tokenizer = model.handle.tokenizer();
    let (first, second) = match input {
        Input::Text(text) => (text.as_str(), None),
        Input::Pair(first, second) => (&**first, Some(second.as_str())),
        Input::Ids(ids) => {
            let mut encoded = given(ids, model, name)?;
            encoded.ids.truncate(limit.unwrap_or(usize::MAX));
            return Ok(encoded);
        }
    };
    if limit.is_none() {
        check_bytes(model, first.len() + second.map_or(0, str::len), name)?;
    }
    let encoded = match (limit, second) {
        (Some(limit), _) => {
            let second = second.map(|text| head(text, limit));
            tokenizer.encode_within(head(first, limit), second, limit)
        }
        (None, None) => tokenizer.encode(first, true),
        (None, Some(second)) => tokenizer.encode_pair(first, second),
    };
    encoded.map_err(|e| ApiError::field(name, e))
}
