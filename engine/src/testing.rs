//! Builders for this crate's tests: requests, a scheduler with fake outputs, a scheduler with the toy decoder.

use crate::cache::CacheShape;
pub(crate) use crate::drill::{greedy, request};
use crate::plan::{Row, StepOutput, StepPlan};
use crate::request::{ClientId, Request, Work};
use crate::runner::{Buffers, ModelRunner};
use crate::scheduler::{Output, Scheduler, SchedulerConfig};
use crate::toy::{self, ToyDecoder};
use crate::{Event, FinishReason, PoolingParams};
use koma_models::Decoder;
use koma_models::Model;
use koma_models::kernels::{CacheGroup, Class, Cx, Isa, KvCache, KvDtype, Team};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A pooling request.
pub(crate) fn pooling(client: ClientId, prompt: &[u32]) -> Request {
    Request {
        work: Work::Pool(PoolingParams::default()),
        ..request(client, prompt, greedy(1))
    }
}

/// Settings of a scheduler with 4 tokens per block and no watermark.
pub(crate) fn config(groups: Vec<CacheGroup>, blocks: usize) -> SchedulerConfig {
    SchedulerConfig {
        max_running: 8,
        max_batch_tokens: 16,
        max_beside: 16,
        chunked: true,
        eos_ids: vec![toy::EOS],
        cache: CacheShape {
            groups,
            blocks,
            block_size: 4,
            prefix_cache: true,
            watermark: 0.0,
            max_step: 16,
        },
    }
}

/// The groups of the toy decoder: full, sliding, recurrent.
pub(crate) fn toy_groups() -> Vec<CacheGroup> {
    ToyDecoder::slipping(0).cache_groups()
}

/// Only its full group.
pub(crate) fn full_group() -> Vec<CacheGroup> {
    toy_groups()[..1].to_vec()
}

/// A scheduler whose steps are run by hand, by a fake model or by the toy.
pub(crate) struct Rig {
    pub(crate) scheduler: Scheduler,
    pub(crate) plan: StepPlan,
    /// Everything that was sent.
    pub(crate) out: Vec<Output>,
    /// The clock.
    pub(crate) now: Instant,
    /// Whether each step is planned while the fake model computes the one before.
    pub(crate) ahead: bool,
    runner: Option<ModelRunner>,
    budget: usize,
}

impl Rig {
    /// With a fake model: the next token is the number of tokens so far.
    pub(crate) fn fake(config: SchedulerConfig) -> Self {
        Self {
            budget: config.max_batch_tokens,
            scheduler: Scheduler::new(config),
            plan: StepPlan::default(),
            out: Vec::new(),
            now: Instant::now(),
            ahead: false,
            runner: None,
        }
    }

    /// With the toy decoder (see [`ToyDecoder::slipping`]).
    pub(crate) fn toy(config: SchedulerConfig, slip: u32) -> Self {
        let team = Arc::new(Team::new(1));
        let cx = Cx::new(team, Class::Throughput, Isa::Portable);
        Self::toy_on(cx, config, slip)
    }

    /// The same, computed by `cx`.
    pub(crate) fn toy_on(cx: Cx, config: SchedulerConfig, slip: u32) -> Self {
        let shape = &config.cache;
        let (blocks, size) = (shape.blocks, shape.block_size);
        // And one that steps are filled up with.
        let cache = KvCache::on(&cx, &shape.groups, blocks + 1, size, KvDtype::Bf16);
        let runner = ModelRunner {
            model: Model::Decoder(Box::new(ToyDecoder::slipping(slip))),
            head: None,
            eos_ids: config.eos_ids.clone(),
            cx,
            cache: cache.unwrap(),
            kinds: shape.groups.iter().map(|g| g.kind).collect(),
            block_size: shape.block_size,
            #[cfg(feature = "cuda")]
            spare_block: blocks as u32,
            buffers: Buffers::default(),
        };
        Self {
            runner: Some(runner),
            ..Self::fake(config)
        }
    }

    /// Plans, runs and updates one step, and proves all invariants. Gives (client, child, tokens computed) of the plan.
    pub(crate) fn step(&mut self) -> Vec<(ClientId, u32, usize)> {
        self.step_with(|_| {})
    }

    /// The same; `spoil` may damage the plan before it is run.
    pub(crate) fn step_with(
        &mut self,
        spoil: impl FnOnce(&mut StepPlan),
    ) -> Vec<(ClientId, u32, usize)> {
        self.now += Duration::from_millis(1);
        self.scheduler.schedule(self.now, &mut self.plan);
        let requests = self.scheduler.requests();
        let entries = self.plan.entries.iter();
        let planned: Vec<_> = entries
            .map(|e| {
                let r = &requests[e.id];
                (r.client, r.order.child, e.num_scheduled)
            })
            .collect();
        self.check_plan();
        spoil(&mut self.plan);
        if let Some(runner) = &mut self.runner {
            runner.forward(&self.plan, requests).unwrap();
            runner.finish().unwrap();
            let rows = runner.sample(&self.plan, requests);
            self.scheduler
                .update(&self.plan, rows, self.now, &mut self.out);
        } else {
            let mut rows = StepOutput::default();
            for entry in &self.plan.entries {
                let id = requests[entry.id].tokens.len() as u32;
                let row = Row::Token { id, logprob: None };
                let rest = (0..entry.samples).map(|_| row.clone());
                rows.rows.extend(rest);
            }
            if self.ahead {
                self.scheduler.plan_ahead(self.now, &mut self.plan);
            }
            self.scheduler
                .update(&self.plan, &mut rows, self.now, &mut self.out);
        }
        self.check();
        planned
    }

    /// Steps until nobody is left; a request that never ends is an error.
    pub(crate) fn run(&mut self) {
        for _ in 0..10_000 {
            if self.scheduler.is_idle() {
                return;
            }
            self.step();
        }
        panic!("some requests never end");
    }

    /// Proves the invariants.
    pub(crate) fn check(&self) {
        self.scheduler.check_integrity().unwrap();
    }

    fn check_plan(&self) {
        let tokens: usize = self.plan.entries.iter().map(|e| e.num_scheduled).sum();
        assert_eq!(tokens, self.plan.tokens, "sum of the plan");
        assert!(tokens <= self.budget, "{tokens} tokens in a plan");
        let mut ids: Vec<_> = self.plan.entries.iter().map(|e| e.id).collect();
        ids.sort_by_key(|id| format!("{id:?}"));
        ids.dedup();
        assert_eq!(
            ids.len(),
            self.plan.entries.len(),
            "a request twice in a plan"
        );
        assert!(
            self.scheduler.is_idle() || !self.plan.entries.is_empty(),
            "nobody can go on"
        );
    }

    /// Tokens that each continuation gave.
    pub(crate) fn tokens(&self) -> BTreeMap<(ClientId, u32), Vec<u32>> {
        let mut tokens = BTreeMap::<_, Vec<u32>>::new();
        for output in &self.out {
            if let Event::Token { child, id, .. } = output.event {
                tokens.entry((output.client, child)).or_default().push(id);
            }
        }
        tokens
    }

    /// Why each continuation ended; none for one that failed.
    pub(crate) fn ends(&self) -> BTreeMap<(ClientId, u32), FinishReason> {
        let ends = self.out.iter().filter_map(|output| match &output.event {
            Event::Finished { child, reason, .. } => Some(((output.client, *child), *reason)),
            _ => None,
        });
        ends.collect()
    }
}
