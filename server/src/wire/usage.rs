//! [`UsageReply`]: counts of tokens as clients expect them.

use koma_engine::Usage;
use serde::Serialize;

/// `usage` of a reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct UsageReply {
    prompt_tokens: usize,
    total_tokens: usize,
    completion_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

impl UsageReply {
    /// Adds a prompt: once for all its continuations.
    pub(crate) fn add_prompt(&mut self, usage: Usage) {
        self.prompt_tokens += usage.prompt;
        self.prompt_tokens_details.cached_tokens += usage.cached;
        self.total_tokens += usage.prompt;
    }

    /// Adds a continuation's output.
    pub(crate) fn add_completion(&mut self, usage: Usage) {
        self.completion_tokens += usage.completion;
        self.total_tokens += usage.completion;
    }
}
