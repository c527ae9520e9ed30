//! Edits of a row of logits before sampling.
//!
//! Invariant: an edit only takes tokens away; the logits of the others stay as the model gave them.

use crate::SamplingParams;

/// Takes the ids away that may not be output number `position` (from 0): before `min_tokens`, whatever would stop.
pub(crate) fn mask(row: &mut [f32], params: &SamplingParams, eos_ids: &[u32], position: usize) {
    if position >= params.min_tokens {
        return;
    }
    let eos = if params.ignore_eos { &[] } else { eos_ids };
    for &id in eos.iter().chain(&params.stop_token_ids) {
        if let Some(logit) = row.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Whether all values are finite.
#[inline(always)]
pub(crate) fn is_finite(row: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    // Without an early exit the loop is a few vector instructions.
    row.iter()
        .fold(true, |ok, x| ok & (x.to_bits() & EXPONENT != EXPONENT))
}
