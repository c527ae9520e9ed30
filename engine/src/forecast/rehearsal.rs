//! [`Rehearsal`]: steps of a model whose weights are stand-ins, written down or done.

use super::{ForecastLoad, Lens, Phase};
use crate::EngineConfig;
use koma_models::kernels::{Cx, Error, GroupKind, Isa, KvCache, Op, Team};
use koma_models::{Batch, Model, Outline, StateSlots, Workspace};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time for measuring a step.
const TIME: Duration = Duration::from_millis(120);
/// After this no step is run again.
const LONG: Duration = Duration::from_secs(2);
/// Bytes of cache that steps go through, at most: more than the processor's own caches hold.
const CACHE: usize = 1 << 30;

/// A model and what it runs with.
pub(super) struct Rehearsal {
    model: Model,
    kinds: Vec<GroupKind>,
    /// Writes operations down instead of doing them.
    tracing: Cx,
    /// Does them.
    timing: Cx,
    cache: KvCache,
    blocks: usize,
    block_size: usize,
    vocab: usize,
    max_len: usize,
    batch: Batch,
    work: Workspace,
    /// Every operation that was timed.
    timed: Vec<(Op, f64)>,
}

/// What a step consists of.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Extent {
    pub(super) tokens: usize,
    pub(super) bytes: f64,
    pub(super) operations: f64,
}

impl Rehearsal {
    /// The cache holds what `load` needs, up to a bound beyond which requests share blocks.
    pub(super) fn new(
        (outline, model): (&Outline, Model),
        load: &ForecastLoad,
        config: &EngineConfig,
        (team, isa): (&Arc<Team>, Isa),
    ) -> Result<Self, Error> {
        let groups = &outline.cache_groups;
        let (size, dtype) = (config.block_size, config.kv_dtype);
        let step = config.max_batch_tokens.max(config.max_running);
        let step = step.div_ceil(size) + 1;
        let each = groups.iter().map(|group| group.block_bytes(size, dtype));
        let most = (CACHE / each.sum::<usize>().max(1)).max(step);
        let request = (load.input_len + load.output_len).div_ceil(size);
        let blocks = load.batch.saturating_mul(request).clamp(step, most);
        let mut cache = KvCache::new(groups, blocks, size, dtype)?;
        cache.fill();
        Ok(Self {
            kinds: groups.iter().map(|group| group.kind).collect(),
            tracing: Cx::tracing(Arc::clone(team), config.class, isa),
            timing: Cx::timing(Arc::clone(team), config.class, isa),
            cache,
            blocks,
            block_size: size,
            vocab: outline.limits.vocab,
            max_len: outline.limits.max_len,
            batch: Batch::default(),
            work: Workspace::default(),
            model,
            timed: Vec::new(),
        })
    }

    /// What a step of these requests consists of.
    pub(super) fn extent(&mut self, lens: &Lens) -> Result<Extent, Error> {
        self.fill(lens);
        let ops = self.run(false)?;
        Ok(Extent {
            tokens: self.batch.tokens(),
            bytes: ops.iter().map(|(op, _)| op.bytes()).sum(),
            operations: ops.iter().map(|(op, _)| op.operations()).sum(),
        })
    }

    /// How long a step of these requests takes (the median of some), `sampling` seconds for each row of logits added.
    pub(super) fn time(&mut self, lens: &Lens, sampling: f64) -> Result<Phase, Error> {
        let extent = self.extent(lens)?;
        let (started, mut runs) = (Instant::now(), Vec::new());
        // The first run, in which buffers grow, does not count unless it was a long one.
        while runs.len() < 4 || (started.elapsed() < TIME && runs.len() < 1000) {
            let begun = Instant::now();
            let ops = self.run(true)?;
            runs.push((begun.elapsed().as_secs_f64(), ops));
            if started.elapsed() > LONG {
                break;
            }
        }
        if runs.len() > 1 {
            runs.remove(0);
        }
        runs.sort_by(|a, b| f64::total_cmp(&a.0, &b.0));
        let (seconds, ops) = runs.swap_remove(runs.len() / 2);
        let sum = |wanted: fn(&Op) -> bool| -> f64 {
            let of = ops.iter().filter(|(op, _)| wanted(op));
            of.map(|(_, seconds)| seconds).sum()
        };
        let products = sum(|op| matches!(op, Op::Product { .. }));
        let attention = sum(|op| matches!(op, Op::Attention { .. }));
        let rows = self.batch.logit_rows.len();
        self.timed.extend(ops);
        Ok(Phase {
            tokens: extent.tokens,
            products,
            attention,
            rest: seconds - products - attention + rows as f64 * sampling,
            bytes: extent.bytes,
            operations: extent.operations,
        })
    }

    /// Every operation that was timed, with its seconds.
    pub(super) fn timed(&self) -> &[(Op, f64)] {
        &self.timed
    }

    /// Bytes of activations in the largest steps that `config` allows.
    pub(super) fn largest(&mut self, config: &EngineConfig) -> Result<usize, Error> {
        let len = self.max_len.min(config.max_batch_tokens).max(1);
        let requests = (config.max_batch_tokens / len).clamp(1, config.max_running);
        self.extent(&vec![(len, len, true); requests])?;
        if !self.kinds.is_empty() {
            let running = config.max_running.min(config.max_batch_tokens);
            self.extent(&vec![(1, len, true); running])?;
        }
        Ok(self.work.bytes() + self.tracing.scratch_bytes())
    }

    /// One forward of the batch, done or only written down.
    fn run(&mut self, done: bool) -> Result<Vec<(Op, f64)>, Error> {
        let cx = if done { &self.timing } else { &self.tracing };
        match &self.model {
            Model::Decoder(model) => {
                model.forward(cx, &self.batch, &mut self.cache, &mut self.work)?;
            }
            Model::Encoder(model) => model.forward(cx, &self.batch, &mut self.work)?,
        }
        Ok(cx.take_trace())
    }

    /// Fills the batch. Requests have blocks one after another.
    fn fill(&mut self, lens: &Lens) {
        let (size, blocks) = (self.block_size, self.blocks);
        let batch = &mut self.batch;
        batch.clear(self.kinds.len());
        let mut slots = Vec::new();
        let mut first = 0;
        for &(queries, all, whole) in lens {
            // Tokens that differ: experts are chosen by them.
            let number = batch.ids.len();
            let ids = (number..number + queries).map(|i| (i * 7919 % self.vocab) as u32);
            batch.ids.extend(ids);
            let positions = all - queries..all;
            batch.positions.extend(positions.clone().map(|p| p as u32));
            slots.extend(positions.map(|p| ((first + p / size) % blocks * size + p % size) as u32));
            batch.cu_seqlens.push(batch.ids.len() as u32);
            batch.kv_lens.push(all as u32);
            if whole {
                batch.logit_rows.push(batch.ids.len() as u32 - 1);
            }
            first += all.div_ceil(size);
        }
        for (group, kind) in batch.groups.iter_mut().zip(&self.kinds) {
            if matches!(kind, GroupKind::Recurrent { .. }) {
                let state = StateSlots {
                    read: None,
                    write: 0,
                };
                group.states.resize(lens.len(), state);
                continue;
            }
            group.slot_mapping.extend(&slots);
            let mut first = 0;
            for (_, all, _) in lens {
                let end = first + all.div_ceil(size);
                group.tables.push((first..end).map(|b| (b % blocks) as u32));
                first = end;
            }
        }
    }
}
