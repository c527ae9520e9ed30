//! Raw options become validated parameters once, at the edge; the engine cannot be handed an invalid request.

use crate::ParamError;

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
    /// Stop strings, at most 16, each non-empty.
    pub stop: Vec<String>,
    /// Stop ids, below the vocabulary.
    pub stop_token_ids: Vec<i64>,
    /// Whether end ids do not stop; default no.
    pub ignore_eos: bool,
    /// Log-probabilities of this many best tokens, 0 to 20; default: none at all.
    pub logprobs: Option<i64>,
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
}

impl SamplingParams {
    /// Validates `options` for a model with `vocab` ids.
    ///
    /// # Errors
    /// The first field that is not finite or out of range.
    pub fn new(options: &SamplingOptions, vocab: usize) -> Result<Self, ParamError> {
        let _ = (options, vocab);
        unimplemented!("contract")
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

/// Parameters of a pooling request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolingParams {
    /// Leave the head's activation (softmax, sigmoid, normalisation) out.
    pub raw: bool,
}
