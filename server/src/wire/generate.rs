//! [`Generate`]: the fields that chat and completions share, and the reading of a completions body into prompts.

use super::unserved::{self, Neutral};
use super::{Admission, Fields, Kind};
use crate::ApiError;
use koma_engine::{SamplingOptions, SamplingParams};

/// Most stop strings or stop ids that are looked at before the engine checks them.
const MAX_STOPS: usize = 1024;

/// Decoding options, streaming and admission of a generation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Generate {
    pub(crate) options: SamplingOptions,
    pub(crate) admission: Admission,
    pub(crate) stream: bool,
    /// `stream_options.include_usage`.
    pub(crate) include_usage: bool,
    /// `include_stop_str_in_output`.
    pub(crate) include_stop: bool,
    /// The spelling in which the client gave `max_tokens`.
    max_tokens_field: String,
    /// The spelling in which the client gave the number of log-probabilities.
    pub(crate) logprobs_field: &'static str,
}

impl Generate {
    /// Takes the shared fields. `own` are the route's own fields that are not served yet. `logprobs` and
    /// `logprobs_field` stay to be filled in by the route.
    pub(crate) fn parse(
        fields: &mut Fields<'_>,
        own: &[(&str, Neutral)],
    ) -> Result<Self, ApiError> {
        unserved::refuse(fields, unserved::GENERATE)?;
        unserved::refuse(fields, own)?;
        let (max_tokens, max_tokens_field) = max_tokens(fields)?;
        let stream = fields.boolean("stream")?.unwrap_or(false);
        Ok(Self {
            options: SamplingOptions {
                n: fields.integer("n")?,
                max_tokens,
                min_tokens: fields.integer("min_tokens")?,
                temperature: fields.number("temperature")?,
                top_k: fields.integer("top_k")?,
                top_p: fields.number("top_p")?,
                min_p: fields.number("min_p")?,
                seed: fields.integer("seed")?,
                stop: stop(fields)?,
                stop_token_ids: stop_ids(fields)?,
                ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
                logprobs: None,
                presence_penalty: fields.number("presence_penalty")?,
                frequency_penalty: fields.number("frequency_penalty")?,
                repetition_penalty: fields.number("repetition_penalty")?,
                logit_bias: biases(fields)?,
                allowed_token_ids: fields
                    .take("allowed_token_ids")
                    .map(|raw| raw.ids())
                    .transpose()?,
            },
            admission: Admission::parse(fields)?,
            include_usage: include_usage(fields, stream)?,
            stream,
            include_stop: fields
                .boolean("include_stop_str_in_output")?
                .unwrap_or(false),
            max_tokens_field,
            logprobs_field: "logprobs",
        })
    }

    /// Valid parameters for a model of `vocab` ids. Errors name the fields as this client spelled them.
    pub(crate) fn sampling(&self, vocab: usize) -> Result<SamplingParams, ApiError> {
        SamplingParams::new(&self.options, vocab).map_err(|error| {
            let field = match error.field {
                "max_tokens" => &self.max_tokens_field,
                "logprobs" => self.logprobs_field,
                other => other,
            };
            ApiError::field(field, error.message)
        })
    }
}

fn max_tokens(fields: &mut Fields<'_>) -> Result<(Option<i64>, String), ApiError> {
    let old = fields.integer("max_tokens")?;
    let new = fields.integer("max_completion_tokens")?;
    match (old, new) {
        (Some(a), Some(b)) if a != b => Err(fields.error(
            "max_completion_tokens",
            "differs from max_tokens; give one of them",
        )),
        (_, Some(_)) => Ok((new, fields.path_of("max_completion_tokens"))),
        _ => Ok((old, fields.path_of("max_tokens"))),
    }
}

fn stop(fields: &mut Fields<'_>) -> Result<Vec<String>, ApiError> {
    let Some(raw) = fields.take("stop") else {
        return Ok(Vec::new());
    };
    match raw.kind() {
        Kind::String => Ok(vec![raw.string()?]),
        Kind::Array => raw
            .list(MAX_STOPS)?
            .iter()
            .map(super::Raw::string)
            .collect(),
        _ => Err(raw.error("must be a string or a list of strings")),
    }
}

fn stop_ids(fields: &mut Fields<'_>) -> Result<Vec<i64>, ApiError> {
    let Some(raw) = fields.take("stop_token_ids") else {
        return Ok(Vec::new());
    };
    raw.list(MAX_STOPS)?
        .iter()
        .map(super::Raw::integer)
        .collect()
}

/// `logit_bias`: `{"id": bias, ..}`.
fn biases(fields: &mut Fields<'_>) -> Result<Vec<(i64, f64)>, ApiError> {
    let Some(raw) = fields.take("logit_bias") else {
        return Ok(Vec::new());
    };
    let entries = raw.object()?.entries();
    entries
        .map(|(key, bias)| match key.parse::<u32>() {
            Ok(id) => Ok((id.into(), bias.number()?)),
            Err(_) => Err(raw.error("keys must be token ids: integers from 0, as strings")),
        })
        .collect()
}

fn include_usage(fields: &mut Fields<'_>, stream: bool) -> Result<bool, ApiError> {
    let Some(raw) = fields.take("stream_options") else {
        return Ok(false);
    };
    if !stream {
        return Err(raw.error("is only possible with stream: true"));
    }
    let mut options = raw.object()?;
    unserved::refuse(
        &mut options,
        &[("continuous_usage_stats", Neutral::Bool(false))],
    )?;
    let include = options.boolean("include_usage")?.unwrap_or(false);
    options.finish();
    Ok(include)
}
