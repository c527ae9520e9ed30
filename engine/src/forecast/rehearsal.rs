//! [`Rehearsal`]: steps of a model without weights, in a tracing context.

use super::{Lens, Step};
use crate::EngineConfig;
use koma_models::kernels::{Class, Cx, Error, GroupKind, Isa, KvCache, Op, Team};
use koma_models::{Batch, Model, Outline, StateSlots, Workspace};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time for measuring what is not traced of a step.
const TIME: Duration = Duration::from_millis(30);

/// A model and what it runs with.
pub(super) struct Rehearsal {
    model: Model,
    kinds: Vec<GroupKind>,
    cx: Cx,
    cache: KvCache,
    block_size: usize,
    /// Slots of the cache: tokens of the largest step.
    slots: usize,
    max_len: usize,
    batch: Batch,
    work: Workspace,
}

impl Rehearsal {
    /// The cache holds the tokens of one step only: what is read from it does not matter here.
    pub(super) fn new(
        (outline, model): (&Outline, Model),
        config: &EngineConfig,
        (team, isa): (&Arc<Team>, Isa),
    ) -> Result<Self, Error> {
        let groups = &outline.cache_groups;
        let most = config.max_batch_tokens.max(config.max_running);
        let blocks = most
            .max(outline.limits.max_len.min(most))
            .div_ceil(config.block_size)
            + 1;
        let (size, dtype) = (config.block_size, config.kv_dtype);
        Ok(Self {
            kinds: groups.iter().map(|group| group.kind).collect(),
            cx: Cx::tracing(Arc::clone(team), Class::Throughput, isa),
            cache: KvCache::new(groups, blocks, size, dtype)?,
            block_size: size,
            slots: blocks * size,
            max_len: outline.limits.max_len,
            batch: Batch::default(),
            work: Workspace::default(),
            model,
        })
    }

    /// One step of these requests: what it does, and how long what is not traced takes (the median of some).
    pub(super) fn step(&mut self, lens: &Lens) -> Result<Step, Error> {
        self.fill(lens);
        self.run()?;
        let operations = counted(self.cx.take_trace());
        let (started, mut times) = (Instant::now(), Vec::new());
        while times.len() < 3 || (started.elapsed() < TIME && times.len() < 1000) {
            let begun = Instant::now();
            self.run()?;
            times.push(begun.elapsed().as_secs_f64());
            self.cx.take_trace();
        }
        times.sort_by(f64::total_cmp);
        Ok(Step {
            tokens: self.batch.tokens(),
            rows: self.batch.logit_rows.len(),
            operations,
            rest: times[times.len() / 2],
        })
    }

    /// Bytes of activations in the largest steps that `config` allows.
    pub(super) fn largest(&mut self, config: &EngineConfig) -> Result<usize, Error> {
        let len = self.max_len.min(config.max_batch_tokens).max(1);
        let requests = (config.max_batch_tokens / len).clamp(1, config.max_running);
        self.fill(&vec![(len, len, true); requests]);
        self.run()?;
        if !self.kinds.is_empty() {
            self.fill(&vec![
                (1, len, true);
                config.max_running.min(config.max_batch_tokens)
            ]);
            self.run()?;
        }
        self.cx.take_trace();
        Ok(self.work.bytes() + self.cx.scratch_bytes())
    }

    fn run(&mut self) -> Result<(), Error> {
        match &self.model {
            Model::Decoder(model) => {
                model.forward(&self.cx, &self.batch, &mut self.cache, &mut self.work)
            }
            Model::Encoder(model) => model.forward(&self.cx, &self.batch, &mut self.work),
        }
    }

    /// Fills the batch. Blocks and slots are any that there are.
    fn fill(&mut self, lens: &Lens) {
        let batch = &mut self.batch;
        batch.clear(self.kinds.len());
        for &(queries, all, whole) in lens {
            batch.ids.extend((0..queries).map(|_| 0));
            batch.positions.extend((all - queries) as u32..all as u32);
            batch.cu_seqlens.push(batch.ids.len() as u32);
            batch.kv_lens.push(all as u32);
            if whole {
                batch.logit_rows.push(batch.ids.len() as u32 - 1);
            }
        }
        let slots = (0..batch.ids.len()).map(|token| (token % self.slots) as u32);
        for (group, kind) in batch.groups.iter_mut().zip(&self.kinds) {
            if matches!(kind, GroupKind::Recurrent { .. }) {
                let state = StateSlots {
                    read: None,
                    write: 0,
                };
                group.states.resize(lens.len(), state);
                continue;
            }
            group.slot_mapping.extend(slots.clone());
            for (_, all, _) in lens {
                let blocks = all.div_ceil(self.block_size);
                group.tables.push(std::iter::repeat_n(0, blocks));
            }
        }
    }
}

/// Equal operations together, with how many there are.
fn counted(trace: Vec<Op>) -> Vec<(Op, usize)> {
    let mut all: Vec<(Op, usize)> = Vec::new();
    for op in trace {
        match all.iter_mut().find(|(known, _)| *known == op) {
            Some((_, count)) => *count += 1,
            None => all.push((op, 1)),
        }
    }
    all
}
