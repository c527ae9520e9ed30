//! Edits of a row of logits before a token is chosen.
//!
//! In this order, which is that of vLLM's sampler (docs.vllm.ai, `vllm.v1.sample.sampler`): log-probabilities are told of the row
//! as the model gave it; then tokens that are not allowed go, then what would stop before `min_tokens`, then biases are added,
//! then come the penalties (repetition, frequency, presence); what is left of the row is for temperature and truncation.
//!
//! Invariants: a device does the same, operation by operation (`cuda/sampling.cu`); the logits of tokens that a request says
//! nothing of stay as the model gave them.

use crate::SamplingParams;
use crate::tally::Tally;

/// Which tokens may come: a bit for each, that of token 0 the lowest of the first word. Tokens beyond the last word may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenMask {
    words: Vec<u32>,
}

impl TokenMask {
    /// Only `ids`, all below `vocab`.
    pub(crate) fn of(ids: &[u32], vocab: usize) -> Self {
        let mut words = vec![0; vocab.div_ceil(32)];
        for &id in ids {
            words[id as usize / 32] |= 1 << (id % 32);
        }
        Self { words }
    }

    /// `ceil(vocab / 32)` words.
    #[cfg(feature = "cuda")]
    pub(crate) fn words(&self) -> &[u32] {
        &self.words
    }

    fn apply(&self, row: &mut [f32]) {
        let words = self.words.iter().chain(std::iter::repeat(&0));
        for (part, &word) in row.chunks_mut(32).zip(words) {
            for (i, logit) in part.iter_mut().enumerate() {
                if word >> i & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// What a request thinks of tokens that came before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Penalties {
    /// For each time in the output.
    pub(crate) frequency: f32,
    /// Once for what is in the output.
    pub(crate) presence: f32,
    /// Factor for what is in prompt or output: divides logits above 0, multiplies the others (Keskar et al., arXiv:1909.05858).
    pub(crate) repetition: f32,
}

impl Penalties {
    /// Those that change nothing.
    pub(crate) const NONE: Self = Self {
        frequency: 0.0,
        presence: 0.0,
        repetition: 1.0,
    };
}

/// What is known of one token whose logit may change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Change {
    pub(crate) id: u32,
    pub(crate) bias: f32,
    /// Whether it is in prompt or output.
    pub(crate) seen: bool,
    /// Times in the output.
    pub(crate) count: u32,
}

impl Change {
    fn apply(self, logit: f32, penalties: &Penalties) -> f32 {
        let mut x = logit + self.bias;
        if self.seen {
            let factor = penalties.repetition;
            let more = if x > 0.0 { x / factor } else { x * factor };
            // A factor below 1 must not make an infinity of what was none.
            x = if more > f32::MAX { f32::MAX } else { more };
        }
        if self.count > 0 {
            x -= penalties.frequency * self.count as f32;
            x -= penalties.presence;
        }
        x
    }
}

/// Changes `row` as a request asks for its output number `position` (from 0); `before` gets the logits, as they were, of the tokens
/// in its `tally`.
pub(crate) fn edit(
    row: &mut [f32],
    (params, eos_ids): (&SamplingParams, &[u32]),
    (tally, position): (&Tally, usize),
    before: &mut Vec<f32>,
) {
    let changes = tally.changes();
    before.clear();
    before.extend(changes.iter().map(|change| at(row, change.id)));
    if let Some(mask) = &params.allowed {
        mask.apply(row);
    }
    for id in masked(params, eos_ids, position) {
        if let Some(logit) = row.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    for change in changes {
        if let Some(logit) = row.get_mut(change.id as usize) {
            *logit = change.apply(*logit, &params.penalties);
        }
    }
}

fn at(row: &[f32], id: u32) -> f32 {
    row.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY)
}

/// The ids that may not be output number `position` (from 0): before `min_tokens`, whatever would stop. Some may be none of the
/// row's.
pub(crate) fn masked<'a>(
    params: &'a SamplingParams,
    eos_ids: &'a [u32],
    position: usize,
) -> impl Iterator<Item = u32> + 'a {
    let eos = if params.ignore_eos { &[] } else { eos_ids };
    let ids = eos.iter().chain(&params.stop_token_ids).copied();
    ids.take_while(move |_| position < params.min_tokens)
}

/// Whether all values are finite.
#[inline(always)]
pub(crate) fn is_finite(row: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    // Without an early exit the loop is a few vector instructions.
    row.iter()
        .fold(true, |ok, x| ok & (x.to_bits() & EXPONENT != EXPONENT))
}

#[cfg(test)]
mod tests;
