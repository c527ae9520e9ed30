//! `/tokenize` and `/detokenize`.

use crate::call::Call;
use crate::encode;
use crate::routes::answer;
use crate::wire::Fields;
use crate::wire::tokenize::{
    DetokenizeReply, DetokenizeRequest, Subject, TokenizeReply, TokenizeRequest,
};
use crate::{ApiError, AppState};
use axum::extract::State;
use axum::response::Response;
use std::sync::Arc;

/// Token ids of a text or of a chat.
pub(crate) async fn tokenize(
    State(state): State<AppState>,
    call: Call,
) -> Result<Response, ApiError> {
    let request = TokenizeRequest::parse(Fields::body(&call.body)?, state.limits().messages)?;
    // A chat without a model means one that chats.
    let chats = matches!(request.subject, Subject::Chat(_));
    let named = request
        .model
        .as_deref()
        .is_some_and(|name| !name.is_empty());
    let tasks = if chats && !named {
        &encode::ALL_TASKS[..1]
    } else {
        &encode::ALL_TASKS[..]
    };
    let model = state.lookup_any(request.model.as_deref(), tasks)?.0;
    let tokens = match request.subject {
        Subject::Chat(chat) => encode::chat(&model, chat, None).await?.ids,
        Subject::Prompt { text, special } => encode::text(&model, text, special).await?,
    };
    let tokenizer = model.handle.tokenizer();
    let spelling = |id: &u32| tokenizer.token(*id).unwrap_or_default();
    let reply = TokenizeReply {
        count: tokens.len(),
        max_model_len: model.handle.info().limits.max_len,
        token_strs: request
            .strings
            .then(|| tokens.iter().map(spelling).collect()),
        tokens,
    };
    Ok(answer(&model, &reply))
}

/// The text of token ids, special ones included.
pub(crate) async fn detokenize(
    State(state): State<AppState>,
    call: Call,
) -> Result<Response, ApiError> {
    let request = DetokenizeRequest::parse(Fields::body(&call.body)?)?;
    let model = state
        .lookup_any(request.model.as_deref(), &encode::ALL_TASKS)?
        .0;
    let served = Arc::clone(&model);
    let prompt = encode::blocking(move || {
        encode::check_ids(&request.tokens, &served, "tokens")?;
        Ok(served.handle.tokenizer().decode(&request.tokens, false))
    });
    let reply = DetokenizeReply {
        prompt: prompt.await?,
    };
    Ok(answer(&model, &reply))
}
