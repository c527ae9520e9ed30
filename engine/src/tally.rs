//! [`Tally`]: the tokens whose logits a request changes, each once, with how often it gave them.
//!
//! Owns: counts, kept as tokens come, so that no step looks at all tokens again. Must not know: rows of logits.
//!
//! Invariant: ids ascend. A function of the parameters and the tokens alone: preemption leaves it as it is, a fork copies it.

use crate::SamplingParams;
use crate::logits::{Change, Penalties};

/// Counts of tokens, empty where a request has neither biases nor penalties.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tally {
    changes: Vec<Change>,
    /// Whether tokens are counted at all.
    counts: bool,
}

impl Tally {
    /// Of a request with this `prompt` and no output.
    pub(crate) fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let change = |id, bias, seen| Change {
            id,
            bias,
            seen,
            count: 0,
        };
        let biases = params.bias.iter();
        let mut changes: Vec<Change> = biases.map(|&(id, bias)| change(id, bias, false)).collect();
        if params.penalties.repetition != Penalties::NONE.repetition {
            changes.extend(prompt.iter().map(|&id| change(id, 0.0, true)));
            // A bias is before the prompt's tokens of its id, and stays.
            changes.sort_by_key(|change| change.id);
            changes.dedup_by(|next, kept| {
                let same = next.id == kept.id;
                kept.seen |= same && next.seen;
                same
            });
        }
        Self {
            changes,
            counts: params.penalties != Penalties::NONE,
        }
    }

    /// Counts a token of the output.
    pub(crate) fn push(&mut self, id: u32) {
        if !self.counts {
            return;
        }
        match self.place(id) {
            Ok(at) => {
                let change = &mut self.changes[at];
                (change.seen, change.count) = (true, change.count + 1);
            }
            Err(at) => {
                let change = Change {
                    id,
                    bias: 0.0,
                    seen: true,
                    count: 1,
                };
                self.changes.insert(at, change);
            }
        }
    }

    /// Those tokens.
    pub(crate) fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Where among them the token is, or would be.
    pub(crate) fn place(&self, id: u32) -> Result<usize, usize> {
        self.changes.binary_search_by_key(&id, |change| change.id)
    }
}
