//! Fields that clients of other servers know and this one does not serve yet. One that asks for something is refused by
//! name; one that asks for nothing (null, or the value that changes nothing) is fine.

use super::{Fields, Raw};
use crate::ApiError;

/// The values that ask for nothing, apart from null.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Neutral {
    /// Empty list, object or text.
    Empty,
    /// This truth value.
    Bool(bool),
    /// This number.
    Number(f64),
    /// This text.
    Text(&'static str),
    /// An object whose `type` is this text.
    Type(&'static str),
    /// Any value: it asks for nothing where the features it tunes are refused.
    Any,
    /// None but null.
    Null,
}
use Neutral::{Any, Bool, Empty, Null, Number, Text, Type};

/// Of both generating routes.
pub(crate) const GENERATE: &[(&str, Neutral)] = &[
    ("length_penalty", Number(1.0)),
    ("no_repeat_ngram_size", Number(0.0)),
    ("typical_p", Number(1.0)),
    ("early_stopping", Bool(false)),
    ("use_beam_search", Bool(false)),
    ("response_format", Type("text")),
    ("structured_outputs", Empty),
    ("guided_json", Null),
    ("guided_regex", Null),
    ("guided_choice", Empty),
    ("guided_grammar", Null),
    ("grammar", Empty),
    ("json_schema", Empty),
    ("regex", Null),
    ("ebnf", Null),
    ("bad_words", Empty),
    ("logits_processors", Empty),
    ("prompt_logprobs", Null),
    ("echo", Bool(false)),
    ("skip_special_tokens", Bool(true)),
    ("spaces_between_special_tokens", Any),
    ("return_token_ids", Bool(false)),
    ("return_tokens_as_token_ids", Bool(false)),
    ("prompt_embeds", Null),
    ("lora_path", Null),
    ("kv_transfer_params", Null),
    ("truncation_side", Text("left")),
];

/// Of chat alone.
pub(crate) const CHAT: &[(&str, Neutral)] = &[
    ("tools", Empty),
    ("tool_choice", Text("none")),
    ("parallel_tool_calls", Any),
    ("functions", Empty),
    ("function_call", Text("none")),
    ("modalities", Any),
    ("audio", Null),
    ("prediction", Null),
    ("reasoning_effort", Text("none")),
    ("verbosity", Text("medium")),
    ("web_search_options", Null),
    ("store", Bool(false)),
    ("documents", Empty),
    ("chat_template", Null),
    ("continue_final_message", Bool(false)),
    ("add_special_tokens", Bool(false)),
];

/// Of completions alone. `best_of` is checked against `n` by the route's own reader.
pub(crate) const COMPLETION: &[(&str, Neutral)] = &[("suffix", Empty)];

/// Of one message.
pub(crate) const MESSAGE: &[(&str, Neutral)] = &[
    ("tool_calls", Empty),
    ("function_call", Null),
    ("audio", Null),
];

/// Of `/tokenize`.
pub(crate) const TOKENIZE: &[(&str, Neutral)] = &[
    ("continue_final_message", Bool(false)),
    ("chat_template", Null),
    ("tools", Empty),
];

/// Of embeddings, classification and reranking.
pub(crate) const POOL: &[(&str, Neutral)] = &[
    ("prompt", Null),
    ("instruction", Empty),
    ("max_tokens_per_doc", Null),
    ("max_tokens_per_query", Null),
    ("embed_dtype", Text("float32")),
    ("endianness", Text("native")),
    ("add_special_tokens", Bool(true)),
    ("truncation_side", Text("right")),
    ("truncation_direction", Text("Right")),
];

/// Of classification and reranking: prompts are for embeddings.
pub(crate) const PROMPTS: &[(&str, Neutral)] = &[("prompt_name", Null), ("input_type", Null)];

/// Takes the fields of `table` out of `fields`.
///
/// # Errors
/// The first that asks for something.
pub(crate) fn refuse(fields: &mut Fields<'_>, table: &[(&str, Neutral)]) -> Result<(), ApiError> {
    for (name, neutral) in table {
        if let Some(raw) = fields.take(name)
            && !is_neutral(&raw, *neutral)
        {
            let mut error = raw.error("is not supported by this server yet");
            error.code = Some("unsupported_parameter");
            return Err(error);
        }
    }
    Ok(())
}

fn is_neutral(raw: &Raw<'_>, neutral: Neutral) -> bool {
    match neutral {
        Empty => raw.is_empty(),
        Bool(value) => raw.boolean().is_ok_and(|v| v == value),
        Number(value) => raw.number().is_ok_and(|v| v == value),
        Text(value) => raw.string().is_ok_and(|v| v == value),
        Type(value) => raw.object().is_ok_and(|mut fields| {
            let kind = fields.string("type");
            matches!(kind, Ok(Some(kind)) if kind == value)
        }),
        Any => true,
        Null => false,
    }
}
