//! The body of `/v1/completions`.

use super::generate::Generate;
use super::inputs::{Inputs, inputs};
use super::{Fields, unserved};
use crate::ApiError;

/// `OpenAI`'s default of `max_tokens` on this route.
const DEFAULT_MAX_TOKENS: i64 = 16;

/// A completions request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CompletionRequest {
    pub(crate) model: Option<String>,
    pub(crate) prompts: Inputs,
    /// `add_special_tokens`: whether the tokenizer adds its own (begin of sequence); default yes. Ids are taken as given.
    pub(crate) special: bool,
    pub(crate) generate: Generate,
}

impl CompletionRequest {
    /// Reads `fields`; at most `limit` prompts.
    pub(crate) fn parse(mut fields: Fields<'_>, limit: usize) -> Result<Self, ApiError> {
        let model = fields.string("model")?;
        let prompts = inputs(&mut fields, "prompt", limit)?;
        let special = fields.boolean("add_special_tokens")?.unwrap_or(true);
        let mut generate = Generate::parse(&mut fields, unserved::COMPLETION)?;
        generate.options.logprobs = fields.integer("logprobs")?;
        generate
            .options
            .max_tokens
            .get_or_insert(DEFAULT_MAX_TOKENS);
        let best_of = fields.integer("best_of")?;
        if best_of.is_some_and(|best_of| best_of != generate.options.n.unwrap_or(1)) {
            return Err(fields.error(
                "best_of",
                "is not supported by this server yet unless it equals n",
            ));
        }
        fields.finish();
        Ok(Self {
            model,
            prompts,
            special,
            generate,
        })
    }
}
