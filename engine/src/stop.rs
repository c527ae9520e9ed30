//! When a continuation ends, as far as token ids tell. (Stop strings are the text layer's business.)
//!
//! Invariant: before `min_tokens` outputs no id stops; the sampler cannot choose one then either.

use crate::{FinishReason, SamplingParams, StopReason};

/// Whether the newest token ends a continuation. `outputs`: output tokens, the newest included; `total`: with the prompt.
pub(crate) fn check(
    params: &SamplingParams,
    eos_ids: &[u32],
    newest: u32,
    outputs: usize,
    at_limit: bool,
) -> Option<(FinishReason, Option<StopReason>)> {
    if outputs > params.min_tokens {
        if params.stop_token_ids.contains(&newest) {
            return Some((FinishReason::Stop, Some(StopReason::Token(newest))));
        }
        if !params.ignore_eos && eos_ids.contains(&newest) {
            return Some((FinishReason::Stop, Some(StopReason::Eos)));
        }
    }
    at_limit.then_some((FinishReason::Length, None))
}
