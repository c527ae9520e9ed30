//! What benches of other crates drive: the real scheduler over a model that costs nothing, and the sampler.
//!
//! Must not know: how it is timed. Invariant: what runs here is the code that serves, with nothing left out but the model
//! and the clients' channels.

use crate::SamplingParams;
use crate::cache::{CacheShape, RequestCache};
use crate::logits::Penalties;
use crate::plan::{Row, StepOutput, StepPlan};
use crate::request::{ClientId, Order, Request, Work};
use crate::sampler::{Noise, Sampler};
use crate::scheduler::{Output, Scheduler, SchedulerConfig};
use crate::tally::Tally;
use koma_models::kernels::{CacheGroup, GroupKind, HeadLayout};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BLOCK: usize = 16;
/// As the engine's default for decoders.
const MAX_BATCH_TOKENS: usize = 512;

/// Greedy, one continuation, `max_tokens` of output.
pub(crate) fn greedy(max_tokens: usize) -> SamplingParams {
    SamplingParams {
        n: 1,
        max_tokens: Some(max_tokens),
        min_tokens: 0,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: 7,
        stop: Vec::new(),
        stop_token_ids: Vec::new(),
        ignore_eos: false,
        logprobs: None,
        penalties: Penalties::NONE,
        bias: Vec::new(),
        allowed: None,
    }
}

/// A request of `client` with this prompt.
pub(crate) fn request(client: ClientId, prompt: &[u32], params: SamplingParams) -> Request {
    Request {
        client,
        order: Order {
            priority: 0,
            arrival: 0,
            child: 0,
        },
        tokens: prompt.to_vec(),
        tally: Tally::new(&params, prompt),
        type_ids: Vec::new(),
        prompt_len: prompt.len(),
        max_total: prompt.len() + params.max_tokens.unwrap_or(1),
        num_computed: 0,
        unforked: params.n,
        work: Work::Generate(Arc::new(params)),
        cache: RequestCache::default(),
        salt: [0; 32],
        queue_deadline: None,
        deadline: None,
        cached: 0,
        submitted: Instant::now(),
        started: None,
        first_token: None,
    }
}

/// A scheduler that always has the same number of requests: whenever one ends, another comes.
#[derive(Debug)]
pub struct SchedulerDrill {
    scheduler: Scheduler,
    plan: StepPlan,
    rows: StepOutput,
    out: Vec<Output>,
    now: Instant,
    /// Tokens of each prompt, and of each output.
    lengths: (usize, usize),
    running: usize,
    clients: ClientId,
}

impl SchedulerDrill {
    /// `running` requests with different prompts of `prompt` tokens, all computed; each gives `output` tokens more.
    pub fn new(running: usize, prompt: usize, output: usize) -> Self {
        let layout = HeadLayout {
            q_heads: 1,
            kv_heads: 1,
            k_dim: 16,
            v_dim: 16,
        };
        let group = CacheGroup {
            kind: GroupKind::Full(layout),
            layers: 1,
        };
        let scheduler = Scheduler::new(SchedulerConfig {
            max_running: running,
            max_batch_tokens: MAX_BATCH_TOKENS.max(running),
            max_beside: Scheduler::BESIDE,
            chunked: true,
            eos_ids: vec![0],
            cache: CacheShape {
                groups: vec![group],
                blocks: running * ((prompt + output).div_ceil(BLOCK) + 2),
                block_size: BLOCK,
                prefix_cache: true,
                watermark: 0.01,
                max_step: MAX_BATCH_TOKENS.max(running),
            },
        });
        let mut drill = Self {
            scheduler,
            plan: StepPlan::default(),
            rows: StepOutput::default(),
            out: Vec::new(),
            now: Instant::now(),
            lengths: (prompt, output),
            running,
            clients: 0,
        };
        drill.fill();
        while drill.scheduler.stats().generation_tokens < running as u64 {
            drill.step();
        }
        drill
    }

    /// Plans a step and takes a token in for each of its requests. Returns the tokens that it would compute.
    pub fn step(&mut self) -> usize {
        self.now += Duration::from_millis(5);
        self.scheduler.expire(self.now, &mut self.out);
        self.scheduler.schedule(self.now, &mut self.plan);
        self.rows.rows.clear();
        for entry in &self.plan.entries {
            let row = Row::Token {
                id: 1,
                logprob: None,
            };
            let rows = std::iter::repeat_n(row, entry.samples as usize);
            self.rows.rows.extend(rows);
        }
        self.scheduler
            .update(&self.plan, &mut self.rows, self.now, &mut self.out);
        self.out.clear();
        self.fill();
        self.plan.tokens
    }

    /// Requests in the step that was done last.
    pub fn requests(&self) -> usize {
        self.plan.entries.len()
    }

    fn fill(&mut self) {
        let stats = self.scheduler.stats();
        for _ in stats.running + stats.waiting..self.running {
            let (prompt, output) = self.lengths;
            let mut tokens = vec![2; prompt];
            // No two share a block.
            tokens[0] = 3 + self.clients;
            self.scheduler
                .add(request(self.clients, &tokens, greedy(output)));
            self.clients += 1;
        }
    }
}

/// The sampler, row by row.
#[derive(Debug, Default)]
pub struct SamplerDrill(Sampler);

impl SamplerDrill {
    /// What a row of logits costs after the model: the check that it is finite, and the choice. `position` chooses the
    /// random number.
    pub fn sample(&mut self, row: &[f32], params: &SamplingParams, position: u64) -> Option<u32> {
        let noise = Noise {
            seed: params.seed,
            child: 0,
            position,
        };
        self.0
            .is_finite(row)
            .then(|| self.0.sample(row, params, noise))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_keeps_its_number_of_requests_while_they_end_and_begin() {
        let mut drill = SchedulerDrill::new(5, 40, 7);
        for step in 0..40 {
            let tokens = drill.step();
            assert_eq!(drill.requests(), 5, "step {step}");
            assert!(tokens >= 5, "step {step}");
            drill.scheduler.check_integrity().unwrap();
        }
        let stats = drill.scheduler.stats();
        assert!(stats.finished_length >= 5 * 5, "{stats:?}");
        assert_eq!((stats.preemptions, stats.finished_failed), (0, 0));
    }

    #[test]
    fn a_sampler_drill_is_the_sampler() {
        let row: Vec<f32> = (0..1000).map(|i| (i % 37) as f32).collect();
        let mut drill = SamplerDrill::default();
        assert_eq!(drill.sample(&row, &greedy(1), 0), Some(36));
        assert_eq!(drill.sample(&[f32::NAN], &greedy(1), 0), None);
    }
}
