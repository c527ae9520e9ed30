//! Edits of a row of logits before sampling.
//!
//! Invariant: an edit only takes tokens away; the logits of the others stay as the model gave them.

use crate::SamplingParams;

/// Takes the ids away that may not be output number `position` (from 0): before `min_tokens`, whatever would stop.
pub(crate) fn mask(row: &mut [f32], params: &SamplingParams, eos_ids: &[u32], position: usize) {
    for id in masked(params, eos_ids, position) {
        if let Some(logit) = row.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// Those ids; some may be none of the row's.
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
