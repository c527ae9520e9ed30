//! Raw options become validated parameters once, at the edge; the engine cannot be handed an invalid request.

use crate::ParamError;
use crate::logits::{Penalties, TokenMask};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

/// Decoding options as a client gives them; none means the default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingOptions {
    /// Continuations, 1 to 128; default 1.
    pub n: Option<i64>,
    /// Most output tokens, at least 1; default: what the window leaves.
    pub max_tokens: Option<i64>,
    /// Fewest output tokens before an end id, stop id or stop string counts; default 0.
    pub min_tokens: Option<i64>,
    /// 0 (greedy) to 2; default 1.
    pub temperature: Option<f64>,
    /// Keep this many; 0 or -1 means all; default all.
    pub top_k: Option<i64>,
    /// Keep the smallest set with this mass, above 0 to 1; default 1.
    pub top_p: Option<f64>,
    /// Keep what has at least this part of the best probability, 0 to 1; default 0.
    pub min_p: Option<f64>,
    /// Seed of the noise, any i64; default: drawn per request.
    pub seed: Option<i64>,
    /// Stop strings, at most 16, each of 1 to 1,024 bytes.
    pub stop: Vec<String>,
    /// Stop ids, below the vocabulary, at most 1,024.
    pub stop_token_ids: Vec<i64>,
    /// Whether end ids do not stop; default no.
    pub ignore_eos: bool,
    /// Log-probabilities of this many best tokens, 0 to 20; default: none at all.
    pub logprobs: Option<i64>,
    /// Off the logit of each token that the output has, -2 to 2; default 0.
    pub presence_penalty: Option<f64>,
    /// Off the logit of a token for each time that the output has it, -2 to 2; default 0.
    pub frequency_penalty: Option<f64>,
    /// Divides logits above 0 of tokens in prompt or output, and multiplies those below, 0.01 to 100; default 1.
    pub repetition_penalty: Option<f64>,
    /// Added to the logits of these ids, each -100 to 100, at most 300; of equal ids the last counts.
    pub logit_bias: Vec<(i64, f64)>,
    /// Only these ids may come, at least one; default: all.
    pub allowed_token_ids: Option<Vec<u32>>,
}

/// Valid decoding parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    pub(crate) n: u32,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) min_tokens: usize,
    pub(crate) temperature: f32,
    pub(crate) top_k: usize,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) seed: u64,
    pub(crate) stop: Vec<String>,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) ignore_eos: bool,
    pub(crate) logprobs: Option<usize>,
    pub(crate) penalties: Penalties,
    /// Ids ascend.
    pub(crate) bias: Vec<(u32, f32)>,
    /// None: all.
    pub(crate) allowed: Option<TokenMask>,
}

impl SamplingParams {
    /// Validates `options` for a model with `vocab` ids.
    ///
    /// # Errors
    /// The first field that is not finite or out of range.
    pub fn new(options: &SamplingOptions, vocab: usize) -> Result<Self, ParamError> {
        let o = options;
        let max_tokens = o.max_tokens.map(|m| integer("max_tokens", m, 1, MAX_COUNT));
        let max_tokens = max_tokens.transpose()?.map(|m| m as usize);
        let min_tokens = integer("min_tokens", o.min_tokens.unwrap_or(0), 0, MAX_COUNT)? as usize;
        if let Some(max) = max_tokens.filter(|max| min_tokens > *max) {
            let message = format!("must not be above max_tokens ({max}), got {min_tokens}");
            return Err(error("min_tokens", message));
        }
        let top_p = number("top_p", o.top_p.unwrap_or(1.0), 0.0, 1.0)? as f32;
        if top_p <= 0.0 {
            return Err(error("top_p", "must be above 0, got 0".to_owned()));
        }
        let top_k = integer("top_k", o.top_k.unwrap_or(0), -1, MAX_COUNT)?;
        let logprobs = o.logprobs.map(|k| integer("logprobs", k, 0, 20));
        Ok(Self {
            n: integer("n", o.n.unwrap_or(1), 1, 128)? as u32,
            max_tokens,
            min_tokens,
            temperature: number("temperature", o.temperature.unwrap_or(1.0), 0.0, 2.0)? as f32,
            top_k: top_k.max(0) as usize,
            top_p,
            min_p: number("min_p", o.min_p.unwrap_or(0.0), 0.0, 1.0)? as f32,
            seed: o.seed.map_or_else(draw_seed, |seed| seed as u64),
            stop: stop_strings(&o.stop)?,
            stop_token_ids: stop_ids(&o.stop_token_ids, vocab)?,
            ignore_eos: o.ignore_eos,
            logprobs: logprobs.transpose()?.map(|k| k as usize),
            penalties: penalties(o)?,
            bias: biases(&o.logit_bias, vocab)?,
            allowed: allowed(o.allowed_token_ids.as_deref(), vocab)?,
        })
    }

    /// Continuations.
    pub fn n(&self) -> u32 {
        self.n
    }

    /// Stop strings.
    pub fn stop(&self) -> &[String] {
        &self.stop
    }

    /// Most output tokens, if the request says so.
    pub fn max_tokens(&self) -> Option<usize> {
        self.max_tokens
    }

    /// Fewest output tokens.
    pub fn min_tokens(&self) -> usize {
        self.min_tokens
    }
}

/// Counts above this are refused: no window is as long, and sums of them cannot overflow.
const MAX_COUNT: i64 = i32::MAX as i64;
const MAX_STOPS: usize = 16;
/// Bytes of a stop string at most.
const MAX_STOP_LEN: usize = 1024;
const MAX_STOP_IDS: usize = 1024;
const MAX_BIASES: usize = 300;

fn error(field: &'static str, message: String) -> ParamError {
    ParamError { field, message }
}

fn integer(field: &'static str, value: i64, min: i64, max: i64) -> Result<i64, ParamError> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    let message = format!("must be from {min} to {max}, got {value}");
    Err(error(field, message))
}

fn number(field: &'static str, value: f64, min: f64, max: f64) -> Result<f64, ParamError> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    let message = format!("must be from {min} to {max}, got {value:?}");
    Err(error(field, message))
}

fn stop_strings(stop: &[String]) -> Result<Vec<String>, ParamError> {
    let refuse = |message: String| Err(error("stop", message));
    if stop.len() > MAX_STOPS {
        return refuse(format!("at most {MAX_STOPS} strings, got {}", stop.len()));
    }
    for (i, string) in stop.iter().enumerate() {
        if string.is_empty() {
            return refuse(format!("string {i} is empty"));
        }
        if string.len() > MAX_STOP_LEN {
            let len = string.len();
            return refuse(format!(
                "string {i} has {len} bytes, more than {MAX_STOP_LEN}"
            ));
        }
    }
    Ok(stop.to_vec())
}

fn stop_ids(ids: &[i64], vocab: usize) -> Result<Vec<u32>, ParamError> {
    if ids.len() > MAX_STOP_IDS {
        let message = format!("at most {MAX_STOP_IDS} ids, got {}", ids.len());
        return Err(error("stop_token_ids", message));
    }
    ids.iter()
        .map(|&id| token("stop_token_ids", id, vocab))
        .collect()
}

fn token(field: &'static str, id: i64, vocab: usize) -> Result<u32, ParamError> {
    match u32::try_from(id) {
        Ok(id) if (id as usize) < vocab => Ok(id),
        _ => {
            let message = format!("ids are from 0 to below {vocab}, got {id}");
            Err(error(field, message))
        }
    }
}

fn penalties(o: &SamplingOptions) -> Result<Penalties, ParamError> {
    let of_output = |field, value: Option<f64>| number(field, value.unwrap_or(0.0), -2.0, 2.0);
    let repetition = o.repetition_penalty.unwrap_or(1.0);
    Ok(Penalties {
        presence: of_output("presence_penalty", o.presence_penalty)? as f32,
        frequency: of_output("frequency_penalty", o.frequency_penalty)? as f32,
        repetition: number("repetition_penalty", repetition, 0.01, 100.0)? as f32,
    })
}

fn biases(given: &[(i64, f64)], vocab: usize) -> Result<Vec<(u32, f32)>, ParamError> {
    if given.len() > MAX_BIASES {
        let message = format!("at most {MAX_BIASES} ids, got {}", given.len());
        return Err(error("logit_bias", message));
    }
    let mut biases = BTreeMap::new();
    for &(id, bias) in given {
        let bias = number("logit_bias", bias, -100.0, 100.0)? as f32;
        biases.insert(token("logit_bias", id, vocab)?, bias);
    }
    Ok(biases.into_iter().collect())
}

fn allowed(ids: Option<&[u32]>, vocab: usize) -> Result<Option<TokenMask>, ParamError> {
    let Some(ids) = ids else { return Ok(None) };
    if ids.is_empty() {
        let message = "must allow at least one id".to_owned();
        return Err(error("allowed_token_ids", message));
    }
    for &id in ids {
        token("allowed_token_ids", id.into(), vocab)?;
    }
    Ok(Some(TokenMask::of(ids, vocab)))
}

/// A seed that nobody can foresee: the standard library draws the keys of its hash maps from the system.
fn draw_seed() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// Parameters of a pooling request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolingParams {
    /// Leave the head's activation (softmax, sigmoid, normalisation) out.
    pub raw: bool,
    /// Keep this many values of an embedder's vector and normalise what is kept, if the head normalises (Kusupati et al.,
    /// arXiv:2205.13147); none keeps all.
    pub dimensions: Option<usize>,
    /// First tokens of the prompt that take no part in the pooled vector.
    pub skip: usize,
}

#[cfg(test)]
mod tests;
