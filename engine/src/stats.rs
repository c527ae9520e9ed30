//! Plain numbers about an engine: counters since its start, gauges of now, one record per step.

use std::time::Duration;

/// A snapshot. Counters only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Gauge: requests that run.
    pub running: usize,
    /// Gauge: requests that wait.
    pub waiting: usize,
    /// Gauge: blocks held by requests, summed over cache groups.
    pub blocks_used: usize,
    /// All blocks, summed over cache groups.
    pub blocks_total: usize,
    /// Steps.
    pub steps: u64,
    /// Prompt tokens of admitted requests.
    pub prompt_tokens: u64,
    /// Of these, taken from the prefix cache.
    pub prompt_tokens_cached: u64,
    /// Tokens computed (prompt and output; recomputed ones again).
    pub computed_tokens: u64,
    /// Output tokens.
    pub generation_tokens: u64,
    /// Tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Tokens found there.
    pub prefix_hits: u64,
    /// Preemptions.
    pub preemptions: u64,
    /// Ended by stop.
    pub finished_stop: u64,
    /// Ended by length.
    pub finished_length: u64,
    /// Ended because the client left.
    pub finished_aborted: u64,
    /// Ended by an error.
    pub finished_failed: u64,
    /// Pooling requests that got their result.
    pub finished_pooled: u64,
}

/// One step, as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepRecord {
    /// Number of the step, from 1.
    pub step: u64,
    /// When it began, since the engine's start.
    pub at: Duration,
    /// Requests in it.
    pub requests: u32,
    /// Tokens computed.
    pub tokens: u32,
    /// Rows of logits (or pooled rows).
    pub rows: u32,
    /// Requests that still wait.
    pub waiting: u32,
    /// Blocks held after it.
    pub blocks_used: u32,
    /// Requests preempted while planning it.
    pub preempted: u32,
    /// Requests that ended in it.
    pub finished: u32,
    /// Time to plan.
    pub schedule: Duration,
    /// Time of the forward.
    pub forward: Duration,
    /// Time to sample and to update.
    pub update: Duration,
    /// Whether it, or a part of it, failed on its device.
    pub failed: bool,
}
