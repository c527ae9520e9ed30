//! [`ModelRunner`]: from a plan to a packed batch, through the model, to sampled tokens.
//!
//! Owns: the model, the cache's memory, the batch and activation buffers (reused from step to step). Must not know: why
//! the plan is as it is, who listens.
//!
//! Invariant: what a request gets does not depend on the other entries of the plan.

use crate::plan::{PlanEntry, Row, StepOutput, StepPlan};
use crate::request::{Request, Requests, Work};
use crate::sampler::{Noise, RawLogprobs, Sampler};
use crate::{RequestError, SamplingParams, TokenLogprob, logits};
use koma_models::kernels::{self, Cx, GroupKind, KvCache};
use koma_models::{Batch, GroupSlots, Head, Model, Workspace};

#[cfg(feature = "cuda")]
mod on_device;

/// Why a step gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// The device.
    #[error(transparent)]
    Kernels(#[from] koma_models::kernels::Error),
    /// The model gave another number of rows than it was asked for.
    #[error("the model gave {got} rows of {width} values for {expected}")]
    Output {
        /// Rows given.
        got: usize,
        /// Values per row.
        width: usize,
        /// Rows asked for.
        expected: usize,
    },
}

/// Runs one model.
pub(crate) struct ModelRunner {
    /// The model.
    pub(crate) model: Model,
    /// What an encoder's rows mean.
    pub(crate) head: Option<Head>,
    /// Ids that end a generation.
    pub(crate) eos_ids: Vec<u32>,
    /// Team, class and CPU path.
    pub(crate) cx: Cx,
    /// The cache's memory.
    pub(crate) cache: KvCache,
    /// Kinds of its groups.
    pub(crate) kinds: Vec<GroupKind>,
    /// Tokens per block.
    pub(crate) block_size: usize,
    /// A block that no request has, where a device computes; see `on_device`.
    #[cfg(feature = "cuda")]
    pub(crate) spare_block: u32,
    /// Buffers.
    pub(crate) buffers: Buffers,
}

/// What is reused from step to step.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    batch: Batch,
    work: Workspace,
    /// One for each thread of the team.
    samplers: Vec<Sampler>,
    /// Entries of the plan that have a row, and where the samples of each begin.
    sampled: Vec<usize>,
    starts: Vec<usize>,
    output: StepOutput,
    #[cfg(feature = "cuda")]
    chooser: koma_models::kernels::cuda::Chooser,
}

impl Buffers {
    /// With memory for `tokens` tokens in a step, and `blocks` blocks in the tables of each of `groups` cache groups.
    pub(crate) fn new(tokens: usize, groups: usize, blocks: usize) -> Self {
        let mut buffers = Self::default();
        let batch = &mut buffers.batch;
        batch.clear(groups);
        batch.ids.reserve_exact(tokens);
        batch.positions.reserve_exact(tokens);
        for group in &mut batch.groups {
            group.slot_mapping.reserve_exact(tokens);
            // Each block in one table; sharing may need more, and grows it.
            group.tables.blocks.reserve_exact(blocks);
        }
        buffers
    }
}

impl ModelRunner {
    /// Copies blocks, fills the batch, runs the model. Logits or pooled rows stay in the buffers. A device may not be done when this
    /// returns: [`ModelRunner::finish`] waits.
    ///
    /// # Errors
    /// If the device failed, or the model gave the wrong number of rows.
    pub(crate) fn forward(
        &mut self,
        plan: &StepPlan,
        requests: &Requests,
    ) -> Result<(), StepError> {
        self.cx.begin();
        // First and without fail: they belong to forks that need not be in this plan.
        for copy in &plan.copies {
            self.cache
                .copy_block(copy.group, copy.from as usize, copy.to as usize);
        }
        #[cfg_attr(not(feature = "cuda"), expect(unused_mut))]
        let mut expected = if self.is_per_token() {
            plan.tokens
        } else {
            plan.rows()
        };
        #[cfg(feature = "cuda")]
        let filled = if self.chooses_there() {
            on_device::rows_to_fill(plan)
        } else {
            0
        };
        let Buffers { batch, work, .. } = &mut self.buffers;
        batch.clear(self.kinds.len());
        for entry in &plan.entries {
            push(batch, entry, &requests[entry.id]);
            for (g, slots) in batch.groups.iter_mut().enumerate() {
                push_slots(slots, g, entry, &requests[entry.id], self.block_size);
            }
        }
        fill_type_ids(batch, plan, requests);
        fill_skips(batch, plan, requests);
        #[cfg(feature = "cuda")]
        {
            let spare = (self.spare_block, self.block_size);
            on_device::fill_up(batch, filled, &self.kinds, spare);
            expected += filled;
        }
        if self.cx.is_on_device() {
            // The device's memory is found as the step before found it.
            work.forget();
        }
        match &self.model {
            Model::Decoder(model) => model.forward(&self.cx, batch, &mut self.cache, work)?,
            Model::Encoder(model) => {
                work.failed.clear();
                model.forward(&self.cx, batch, work)?;
            }
        }
        #[cfg(feature = "cuda")]
        if self.chooses_there() {
            self.expect_rows(expected)?;
            return Ok(self.choose(plan, requests, filled)?);
        }
        self.expect_rows(expected)
    }

    /// Whether a step is computed on a device, beside this thread.
    pub(crate) fn is_on_device(&self) -> bool {
        self.cx.is_on_device()
    }

    /// Waits until the step of the last [`ModelRunner::forward`] is computed.
    ///
    /// # Errors
    /// If the device failed.
    pub(crate) fn finish(&mut self) -> Result<(), StepError> {
        #[cfg(feature = "cuda")]
        if self.chooses_there() {
            return Ok(self.choices()?);
        }
        Ok(self.cx.settle(&mut self.buffers.work.output)?)
    }

    /// Whether the model gave that many rows.
    fn expect_rows(&self, expected: usize) -> Result<(), StepError> {
        let work = &self.buffers.work;
        let (got, width) = (work.output.rows(), work.output.width());
        if got != expected || (width == 0 && expected > 0) {
            return Err(StepError::Output {
                got,
                width,
                expected,
            });
        }
        Ok(())
    }

    /// Requests of the last [`ModelRunner::forward`] that the device gave no row for, by their place in the plan, and why.
    pub(crate) fn failed(&self) -> &[(usize, kernels::Error)] {
        &self.buffers.work.failed
    }

    /// Turns the rows of the last [`ModelRunner::forward`] into tokens or results.
    pub(crate) fn sample(&mut self, plan: &StepPlan, requests: &Requests) -> &mut StepOutput {
        if self.is_per_token() {
            return self.token_rows(plan, requests);
        }
        #[cfg(feature = "cuda")]
        if self.chooses_there() {
            return self.chosen(plan, requests);
        }
        let Buffers {
            work,
            samplers,
            sampled,
            starts,
            output,
            ..
        } = &mut self.buffers;
        list_samples(plan, (sampled, starts));
        let count = starts.last().copied().unwrap_or_default();
        output.rows.clear();
        let nothing = || Row::Failed(RequestError::NotFinite);
        output.rows.resize_with(count, nothing);
        let width = work.output.width();
        samplers.resize_with(self.cx.threads(), || Sampler::on(self.cx.isa()));
        for sampler in samplers.iter_mut() {
            sampler.reserve(width);
        }
        let (head, eos_ids, failed) = (self.head.as_ref(), &self.eos_ids, &work.failed);
        self.cx.each_row(
            &mut work.output,
            samplers,
            (starts, &mut output.rows),
            &|i, row, sampler, rows| {
                let entry = &plan.entries[sampled[i]];
                let request = &requests[entry.id];
                let failure = failure(failed, i)
                    .or_else(|| (!sampler.is_finite(row)).then_some(RequestError::NotFinite));
                if let Some(error) = failure {
                    rows.fill(Row::Failed(error));
                    return;
                }
                match &request.work {
                    Work::Generate(params) => {
                        logits_to_tokens(row, request, (params, eos_ids), sampler, rows);
                    }
                    Work::Pool(params) => {
                        let row = &mut row[..params.dimensions.unwrap_or(usize::MAX).min(width)];
                        if let Some(head) = head.filter(|_| !params.raw) {
                            head.activate(row);
                        }
                        rows.fill(Row::Pooled(row.to_vec()));
                    }
                }
            },
        );
        output
    }

    fn is_per_token(&self) -> bool {
        self.head.as_ref().is_some_and(Head::is_per_token)
    }

    /// As [`ModelRunner::sample`], where each request has one row per token.
    fn token_rows(&mut self, plan: &StepPlan, requests: &Requests) -> &mut StepOutput {
        let Buffers { work, output, .. } = &mut self.buffers;
        output.rows.clear();
        let mut next = 0;
        for (i, entry) in plan.entries.iter().enumerate() {
            let rows = next..next + entry.num_scheduled;
            next = rows.end;
            if let Some(error) = failure(&work.failed, i) {
                output.rows.push(Row::Failed(error));
                continue;
            }
            let raw = matches!(&requests[entry.id].work, Work::Pool(params) if params.raw);
            let mut values = Vec::with_capacity(rows.len() * work.output.width());
            for r in rows {
                let row = work.output.row_mut(r);
                if let Some(head) = self
                    .head
                    .as_ref()
                    .filter(|_| !raw && logits::is_finite(row))
                {
                    head.activate(row);
                }
                values.extend_from_slice(row);
            }
            output.rows.push(if logits::is_finite(&values) {
                Row::Pooled(values)
            } else {
                Row::Failed(RequestError::NotFinite)
            });
        }
        output
    }
}

/// Why the device gave no row for the request `i` of the batch.
fn failure(failed: &[(usize, kernels::Error)], i: usize) -> Option<RequestError> {
    let (_, error) = failed.iter().find(|(request, _)| *request == i)?;
    Some(RequestError::of_kernels(error))
}

/// Which entries of `plan` have a row, and where the samples of each begin among all; the last number is how many there are.
fn list_samples(plan: &StepPlan, (sampled, starts): (&mut Vec<usize>, &mut Vec<usize>)) {
    sampled.clear();
    starts.clear();
    starts.push(0);
    let mut end = 0;
    for (index, entry) in plan.entries.iter().enumerate() {
        if entry.samples > 0 {
            sampled.push(index);
            end += entry.samples as usize;
            starts.push(end);
        }
    }
}

/// One row gives a token to each continuation that starts from it: one for each of `rows`.
fn logits_to_tokens(
    row: &mut [f32],
    request: &Request,
    (params, eos_ids): (&SamplingParams, &[u32]),
    sampler: &mut Sampler,
    rows: &mut [Row],
) {
    let raw = params.logprobs.map(|top| sampler.logprobs(row, top));
    let position = request.outputs();
    let known = (&request.tally, position);
    logits::edit(row, (params, eos_ids), known, &mut sampler.before);
    for (i, out) in rows.iter_mut().enumerate() {
        let noise = Noise {
            seed: params.seed,
            child: request.order.child + i as u32,
            position: position as u64,
        };
        let id = sampler.sample(row, params, noise);
        let logit = row[id as usize];
        let before = request
            .tally
            .place(id)
            .map_or(logit, |at| sampler.before[at]);
        *out = token(id, (logit, before), raw.as_ref());
    }
}

/// A chosen token; `logit`: its own, and what it was before any edit. The best token has none only if no token is left.
fn token(id: u32, (logit, before): (f32, f32), raw: Option<&RawLogprobs>) -> Row {
    if logit == f32::NEG_INFINITY {
        return Row::Failed(RequestError::NothingAllowed);
    }
    let logprob = raw.map(|raw| TokenLogprob {
        logprob: raw.of(before),
        top: raw.top.clone(),
    });
    Row::Token { id, logprob }
}

fn push(batch: &mut Batch, entry: &PlanEntry, request: &Request) {
    let (start, end) = (
        request.num_computed,
        request.num_computed + entry.num_scheduled,
    );
    batch.ids.extend_from_slice(&request.tokens[start..end]);
    batch.positions.extend(start as u32..end as u32);
    batch.cu_seqlens.push(batch.ids.len() as u32);
    batch.kv_lens.push(end as u32);
    if entry.samples > 0 {
        batch.logit_rows.push(batch.ids.len() as u32 - 1);
    }
}

fn push_slots(
    slots: &mut GroupSlots,
    group: usize,
    entry: &PlanEntry,
    request: &Request,
    block_size: usize,
) {
    if let Some(state) = request.cache.state(group) {
        slots.states.push(state);
        return;
    }
    let table = request.cache.table(group);
    let start = request.num_computed;
    let slot = |at: usize| table[at / block_size] * block_size as u32 + (at % block_size) as u32;
    slots
        .slot_mapping
        .extend((start..start + entry.num_scheduled).map(slot));
    slots.tables.push(table.iter().copied());
}

/// Segments, where any request of the step has them.
fn fill_type_ids(batch: &mut Batch, plan: &StepPlan, requests: &Requests) {
    let of = |entry: &PlanEntry| &requests[entry.id].type_ids;
    if plan.entries.iter().all(|entry| of(entry).is_empty()) {
        return;
    }
    for entry in &plan.entries {
        let ids = of(entry).iter().copied().chain(std::iter::repeat(0));
        let start = requests[entry.id].num_computed;
        batch
            .type_ids
            .extend(ids.skip(start).take(entry.num_scheduled));
    }
}

/// Tokens that are not pooled, where any request of the step has them.
fn fill_skips(batch: &mut Batch, plan: &StepPlan, requests: &Requests) {
    let of = |entry: &PlanEntry| match &requests[entry.id].work {
        Work::Pool(params) => params.skip as u32,
        Work::Generate(_) => 0,
    };
    if plan.entries.iter().any(|entry| of(entry) > 0) {
        batch.skips.extend(plan.entries.iter().map(of));
    }
}
