//! Inputs to token ids, on blocking threads: a long text never holds up the reactor.
//!
//! Owns: which field an error belongs to, checks of ids, where long inputs are cut. Must not know: routes, events.

use crate::wire::chat::Chat;
use crate::wire::inputs::{Input, Inputs};
use crate::{ApiError, ServedModel};
use koma_engine::TaskKind;
use koma_engine::models::tokenizer::Encoded;
use koma_engine::text::{RenderInput, TemplateError};
use std::sync::Arc;

/// Any model can split text into tokens.
pub(crate) const ALL_TASKS: [TaskKind; 4] = [
    TaskKind::Generate,
    TaskKind::Embed,
    TaskKind::Classify,
    TaskKind::Score,
];

/// A prompt ready to be submitted, and the name of its place in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) name: String,
    pub(crate) ids: Vec<u32>,
}

impl Prompt {
    /// Of more than `limit` tokens the first ones go.
    fn new(name: String, mut encoded: Encoded, limit: Option<usize>) -> Self {
        if let Some(limit) = limit {
            encoded.keep_last(limit);
        }
        let ids = encoded.ids;
        Self { name, ids }
    }
}

/// Runs `work` on a thread where waiting and long computing do no harm.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    done.unwrap_or_else(|error| Err(ApiError::internal(error)))
}

/// The prompt of a chat, by the model's template. Of more than `limit` tokens the first ones go.
pub(crate) async fn chat(
    model: &Arc<ServedModel>,
    chat: Chat,
    limit: Option<usize>,
) -> Result<Prompt, ApiError> {
    let model = Arc::clone(model);
    blocking(move || {
        let name = "messages".to_owned();
        let template = model.template.as_ref().ok_or_else(|| {
            ApiError::field(&name, "the model has no chat template; use /v1/completions")
        })?;
        let input = RenderInput {
            messages: &chat.messages,
            add_generation_prompt: chat.generation,
            kwargs: &chat.variables,
        };
        let text = template.render(&input).map_err(|error| match error {
            TemplateError::Reserved(_) => ApiError::field("chat_template_kwargs", error),
            _ => ApiError::field(&name, error),
        })?;
        let encoded = model.handle.tokenizer().encode(&text, false);
        let encoded = encoded.map_err(|e| ApiError::field(&name, e))?;
        Ok(Prompt::new(name, encoded, limit))
    })
    .await
}

/// The prompts of a completions request. `special`: whether the tokenizer adds its own tokens to text. Of more than
/// `room` tokens the first ones go, where the request says so.
pub(crate) async fn prompts(
    model: &Arc<ServedModel>,
    inputs: Inputs,
    special: bool,
    room: usize,
) -> Result<Vec<Prompt>, ApiError> {
    let model = Arc::clone(model);
    blocking(move || {
        let limit = inputs.cut.limit(room);
        let one = |(i, input)| {
            let name = inputs.name(i);
            let encoded = prompt(&model, input, special, &name)?;
            Ok(Prompt::new(name, encoded, limit))
        };
        inputs.list.iter().enumerate().map(one).collect()
    })
    .await
}

/// Ids of one text, for `/tokenize`.
pub(crate) async fn text(
    model: &Arc<ServedModel>,
    text: String,
    special: bool,
) -> Result<Vec<u32>, ApiError> {
    let model = Arc::clone(model);
    blocking(move || {
        let encoded = model.handle.tokenizer().encode(&text, special);
        Ok(encoded.map_err(|e| ApiError::field("prompt", e))?.ids)
    })
    .await
}

/// Ids and segments of encoder inputs with the names of their places; special tokens added, cut where asked.
pub(crate) async fn encoder_inputs(
    model: &Arc<ServedModel>,
    inputs: Inputs,
) -> Result<Vec<(String, Encoded)>, ApiError> {
    let model = Arc::clone(model);
    blocking(move || {
        let limit = inputs.cut.limit(model.handle.info().limits.max_len);
        let one = |(i, input)| {
            let name = inputs.name(i);
            let encoded = encoder_input(&model, input, limit, &name)?;
            Ok((name, encoded))
        };
        inputs.list.iter().enumerate().map(one).collect()
    })
    .await
}

/// Every id is in the vocabulary of the model; `name` is that of the list.
pub(crate) fn check_ids(ids: &[u32], model: &ServedModel, name: &str) -> Result<(), ApiError> {
    let vocab = model.handle.info().limits.vocab;
    match ids.iter().position(|id| *id as usize >= vocab) {
        None => Ok(()),
        Some(at) => {
            let message = format!("token id {} is outside the vocabulary of {vocab}", ids[at]);
            Err(ApiError::field(format!("{name}.{at}"), message))
        }
    }
}

fn prompt(
    model: &ServedModel,
    input: &Input,
    special: bool,
    name: &str,
) -> Result<Encoded, ApiError> {
    let encoded = match input {
        Input::Text(text) => model.handle.tokenizer().encode(text, special),
        Input::Ids(ids) => return given(ids, model, name),
        Input::Pair(..) => Err("must be one text, not a pair".to_owned()),
    };
    let encoded = encoded.map_err(|e| ApiError::field(name, e))?;
    if encoded.ids.is_empty() {
        return Err(ApiError::field(name, "has no tokens"));
    }
    Ok(encoded)
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
    let encoded = match (limit, second) {
        (Some(limit), _) => tokenizer.encode_within(first, second, limit),
        (None, None) => tokenizer.encode(first, true),
        (None, Some(second)) => tokenizer.encode_pair(first, second),
    };
    encoded.map_err(|e| ApiError::field(name, e))
}

/// Ids that the client gave, as they are.
fn given(ids: &[u32], model: &ServedModel, name: &str) -> Result<Encoded, ApiError> {
    check_ids(ids, model, name)?;
    Ok(Encoded {
        ids: ids.to_vec(),
        type_ids: Vec::new(),
    })
}
