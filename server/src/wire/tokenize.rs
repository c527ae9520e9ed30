//! The bodies and replies of `/tokenize` and `/detokenize`.

use super::chat::Chat;
use super::{Fields, unserved};
use crate::ApiError;
use serde::Serialize;

/// What to turn into ids.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Subject {
    /// Text; `special` as `add_special_tokens`.
    Prompt { text: String, special: bool },
    /// A chat.
    Chat(Chat),
}

/// A tokenize request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenizeRequest {
    pub(crate) model: Option<String>,
    pub(crate) subject: Subject,
    /// `return_token_strs`.
    pub(crate) strings: bool,
}

impl TokenizeRequest {
    /// Reads `fields`; at most `limit` messages. An empty prompt is fine here: it has no tokens but the tokenizer's own.
    pub(crate) fn parse(mut fields: Fields<'_>, limit: usize) -> Result<Self, ApiError> {
        unserved::refuse(&mut fields, unserved::TOKENIZE)?;
        let model = fields.string("model")?;
        let special = fields.boolean("add_special_tokens")?;
        let subject = if fields.has("messages") {
            if fields.has("prompt") {
                return Err(fields.error("messages", "give either prompt or messages"));
            }
            if special == Some(true) {
                let message = "the chat template writes the special tokens of messages itself";
                return Err(fields.error("add_special_tokens", message));
            }
            Subject::Chat(Chat::parse(&mut fields, limit)?)
        } else {
            Subject::Prompt {
                text: fields.required("prompt")?.string()?,
                special: special.unwrap_or(true),
            }
        };
        let strings = fields.boolean("return_token_strs")?.unwrap_or(false);
        fields.finish();
        Ok(Self {
            model,
            subject,
            strings,
        })
    }
}

/// A detokenize request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetokenizeRequest {
    pub(crate) model: Option<String>,
    pub(crate) tokens: Vec<u32>,
}

impl DetokenizeRequest {
    pub(crate) fn parse(mut fields: Fields<'_>) -> Result<Self, ApiError> {
        let request = Self {
            model: fields.string("model")?,
            tokens: fields.required("tokens")?.ids()?,
        };
        fields.finish();
        Ok(request)
    }
}

/// Token ids of a text.
#[derive(Debug, Serialize)]
pub(crate) struct TokenizeReply {
    pub(crate) count: usize,
    pub(crate) max_model_len: usize,
    pub(crate) tokens: Vec<u32>,
    pub(crate) token_strs: Option<Vec<String>>,
}

/// The text of token ids.
#[derive(Debug, Serialize)]
pub(crate) struct DetokenizeReply {
    pub(crate) prompt: String,
}
