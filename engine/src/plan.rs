//! What scheduler and runner say to each other: [`StepPlan`] there, [`StepOutput`] back.
//!
//! Owns: ids and counts only, in buffers that are reused from step to step. Must not know: how a plan is made or run.
//!
//! Invariant: an output has one row per sample that its plan asks for, in the order of the plan.

use crate::cache::BlockCopy;
use crate::request::RequestId;
use crate::{RequestError, TokenLogprob};

/// The scheduler's decision for one step.
#[derive(Debug, Default)]
pub(crate) struct StepPlan {
    /// Who is in it, each request at most once.
    pub(crate) entries: Vec<PlanEntry>,
    /// Done first, in order.
    pub(crate) copies: Vec<BlockCopy>,
    /// Sum over the entries.
    pub(crate) tokens: usize,
    /// Tokens that prompts may still get of it.
    pub(crate) prompt_room: usize,
    /// Requests that had to give up their blocks for it.
    pub(crate) preempted: usize,
    /// Whether its requests count as computed already, and have a place for the token that it gives.
    pub(crate) counted: bool,
}

/// One request's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlanEntry {
    /// Who.
    pub(crate) id: RequestId,
    /// Its next tokens that are computed.
    pub(crate) num_scheduled: usize,
    /// Rows wanted from its last token: 0 in the middle of its tokens, `n` for the first output of `n` continuations.
    pub(crate) samples: u32,
    /// Its first step ever.
    pub(crate) first: bool,
}

impl StepPlan {
    /// Stands for a token that is being computed.
    pub(crate) const UNKNOWN: u32 = u32::MAX;

    /// Takes a request out.
    pub(crate) fn remove(&mut self, id: RequestId) {
        let tokens = &mut self.tokens;
        self.entries.retain(|entry| {
            let stays = entry.id != id;
            *tokens -= if stays { 0 } else { entry.num_scheduled };
            stays
        });
    }

    /// Empties it and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.copies.clear();
        (self.tokens, self.prompt_room, self.preempted) = (0, 0, 0);
        self.counted = false;
    }

    /// Rows of logits, or results of encoder requests.
    pub(crate) fn rows(&self) -> usize {
        self.entries.iter().filter(|e| e.samples > 0).count()
    }
}

/// One result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Row {
    /// A sampled token.
    Token {
        /// The token.
        id: u32,
        /// If asked for.
        logprob: Option<TokenLogprob>,
    },
    /// An encoder's activated row, or its rows of all tokens one after another.
    Pooled(Vec<f32>),
    /// There is none.
    Failed(RequestError),
}

/// What a step gave.
#[derive(Debug, Default)]
pub(crate) struct StepOutput {
    /// `samples` rows for each entry of the plan, in its order.
    pub(crate) rows: Vec<Row>,
}
