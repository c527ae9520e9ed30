//! Inputs to token ids, on blocking threads: a long text never holds up the reactor.
//!
//! Owns: which field an error belongs to, checks of ids, where long inputs are cut. Must not know: routes, events.

mod encoders;
mod pairs;

pub(crate) use encoders::{embedder_inputs, encoder_inputs, located_inputs};
pub(crate) use pairs::rerank_inputs;

use crate::wire::chat::Chat;
use crate::wire::inputs::{Input, Inputs};
use crate::{ApiError, ServedModel};
use axum::http::StatusCode;
use koma_engine::TaskKind;
use koma_engine::models::tokenizer::Encoded;
use koma_engine::text::{RenderInput, TemplateError};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Texts that are split at once: more would only take memory and the processors from the engines.
const MAX_AT_ONCE: usize = 8;
/// Bytes that a token stands for at most, and what is granted beyond: longer text is surely too long, and not even split
/// into tokens.
const TOKEN_BYTES: usize = 256;
const SPARE_BYTES: usize = 64 << 10;

/// Any model can split text into tokens.
pub(crate) const ALL_TASKS: [TaskKind; 5] = [
    TaskKind::Generate,
    TaskKind::Embed,
    TaskKind::Classify,
    TaskKind::Tag,
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
    static PLACES: Semaphore = Semaphore::const_new(MAX_AT_ONCE);
    let span = tracing::Span::current();
    // Held until the work has ended, even if the client leaves before.
    let place = PLACES.acquire().await.map_err(ApiError::internal)?;
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        span.in_scope(work)
    });
    // The error would tell the panic's text, which may hold a part of a prompt.
    let failed = |_| Err(ApiError::internal("a blocking task panicked"));
    done.await.unwrap_or_else(failed)
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
        let text = bounded(&model, &text, limit, &name)?;
        let encoded = model.handle.tokenizer().encode(text, false);
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
            let encoded = prompt(&model, input, special, limit, &name)?;
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
        check_bytes(&model, text.len(), "prompt")?;
        let encoded = model.handle.tokenizer().encode(&text, special);
        Ok(encoded.map_err(|e| ApiError::field("prompt", e))?.ids)
    })
    .await
}

/// The longest text that may still fit into `max_len` tokens: beyond it, text is refused or cut before it is split.
fn most_bytes(max_len: usize) -> usize {
    max_len
        .saturating_mul(TOKEN_BYTES)
        .saturating_add(SPARE_BYTES)
}

/// Refuses text of `len` bytes that is longer than any that fits.
fn check_bytes(model: &ServedModel, len: usize, name: &str) -> Result<(), ApiError> {
    let max_len = model.handle.info().limits.max_len;
    let most = most_bytes(max_len);
    if len <= most {
        return Ok(());
    }
    let message = format!(
        "{name}: text of {len} bytes is too long for the model's {max_len} tokens; more than {most} bytes are not looked at"
    );
    let status = StatusCode::BAD_REQUEST;
    Err(ApiError::new(status, "context_length_exceeded", message).in_field(name))
}

/// The beginning of `text` that may matter where tokens behind `max_len` are cut off.
fn head(text: &str, max_len: usize) -> &str {
    &text[..text.floor_char_boundary(most_bytes(max_len))]
}

/// The end of `text` that may matter where only the last `max_len` tokens are kept.
fn tail(text: &str, max_len: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(most_bytes(max_len)))..]
}

/// `text` for a decoder: its end where it is cut, else all of it unless it is too long.
fn bounded<'a>(
    model: &ServedModel,
    text: &'a str,
    limit: Option<usize>,
    name: &str,
) -> Result<&'a str, ApiError> {
    match limit {
        Some(limit) => Ok(tail(text, limit)),
        None => check_bytes(model, text.len(), name).map(|()| text),
    }
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
    limit: Option<usize>,
    name: &str,
) -> Result<Encoded, ApiError> {
    let encoded = match input {
        Input::Text(text) => {
            let text = bounded(model, text, limit, name)?;
            model.handle.tokenizer().encode(text, special)
        }
        Input::Ids(ids) => return given(ids, model, name),
        Input::Pair(..) => Err("must be one text, not a pair".to_owned()),
    };
    let encoded = encoded.map_err(|e| ApiError::field(name, e))?;
    if encoded.ids.is_empty() {
        return Err(ApiError::field(name, "has no tokens"));
    }
    Ok(encoded)
}

/// Ids that the client gave, as they are.
fn given(ids: &[u32], model: &ServedModel, name: &str) -> Result<Encoded, ApiError> {
    check_ids(ids, model, name)?;
    Ok(Encoded {
        ids: ids.to_vec(),
        type_ids: Vec::new(),
    })
}
