//! The body of `/v1/chat/completions`, and messages wherever they occur.

use super::generate::Generate;
use super::{Cut, Fields, Kind, Raw, unserved};
use crate::ApiError;
use serde_json::{Map, Value};

/// Most parts of one message.
const MAX_PARTS: usize = 1024;

/// Messages and what else the chat template gets.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chat {
    /// Objects with `role` and `content` (text), and `name` and `tool_call_id` where given; at least one.
    pub(crate) messages: Vec<Value>,
    /// `add_generation_prompt`.
    pub(crate) generation: bool,
    /// `chat_template_kwargs`.
    pub(crate) variables: Map<String, Value>,
}

impl Chat {
    /// Takes `messages` and its companions; at most `limit` messages.
    pub(crate) fn parse(fields: &mut Fields<'_>, limit: usize) -> Result<Self, ApiError> {
        Ok(Self {
            messages: messages(&fields.required("messages")?, limit)?,
            generation: fields.boolean("add_generation_prompt")?.unwrap_or(true),
            variables: fields.map("chat_template_kwargs")?.unwrap_or_default(),
        })
    }
}

/// A chat request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChatRequest {
    pub(crate) model: Option<String>,
    pub(crate) chat: Chat,
    /// How `messages` that are too long are cut: tokens of the prompt's beginning go.
    pub(crate) cut: Cut,
    pub(crate) generate: Generate,
}

impl ChatRequest {
    /// Reads `fields`; at most `limit` messages.
    pub(crate) fn parse(mut fields: Fields<'_>, limit: usize) -> Result<Self, ApiError> {
        let model = fields.string("model")?;
        let chat = Chat::parse(&mut fields, limit)?;
        let mut generate = Generate::parse(&mut fields, unserved::CHAT)?;
        let wanted = fields.boolean("logprobs")?.unwrap_or(false);
        let top = fields.integer("top_logprobs")?;
        if !wanted && top.is_some_and(|top| top != 0) {
            return Err(fields.error("top_logprobs", "is only possible with logprobs: true"));
        }
        generate.options.logprobs = wanted.then_some(top.unwrap_or(0));
        generate.logprobs_field = "top_logprobs";
        let cut = Cut::parse(&mut fields)?;
        fields.finish();
        Ok(Self {
            model,
            chat,
            cut,
            generate,
        })
    }
}

fn messages(raw: &Raw<'_>, limit: usize) -> Result<Vec<Value>, ApiError> {
    let messages: Vec<Value> = raw
        .list(limit)?
        .iter()
        .map(message)
        .collect::<Result<_, _>>()?;
    if messages.is_empty() {
        return Err(raw.error("must not be empty"));
    }
    Ok(messages)
}

fn message(raw: &Raw<'_>) -> Result<Value, ApiError> {
    let mut fields = raw.object()?;
    unserved::refuse(&mut fields, unserved::MESSAGE)?;
    let role = super::inputs::text(&fields.required("role")?)?;
    let content = content(&fields.required("content")?)?;
    let mut message = Map::new();
    message.insert("role".to_owned(), role.into());
    message.insert("content".to_owned(), content.into());
    for name in ["name", "tool_call_id"] {
        if let Some(value) = fields.string(name)? {
            message.insert(name.to_owned(), value.into());
        }
    }
    fields.finish();
    Ok(message.into())
}

fn content(raw: &Raw<'_>) -> Result<String, ApiError> {
    match raw.kind() {
        Kind::String => raw.string(),
        Kind::Array => raw.list(MAX_PARTS)?.iter().map(part).collect(),
        _ => Err(raw.error("must be a string or a list of text parts")),
    }
}

fn part(raw: &Raw<'_>) -> Result<String, ApiError> {
    if raw.kind() == Kind::String {
        return raw.string();
    }
    let mut fields = raw.object()?;
    let kind = fields.required("type")?;
    match kind.string()?.as_str() {
        "text" | "input_text" => fields.required("text")?.string(),
        _ => Err(kind.error("must be \"text\": other parts are not supported by this server yet")),
    }
}
