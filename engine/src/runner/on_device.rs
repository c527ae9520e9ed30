//! Sampling where the logits are: a device chooses, and ids come back. And steps in which all generate are filled up to one of few
//! numbers of rows, so that a step often asks for what one before asked for, and is replayed as a graph.
//!
//! Invariants: the same tokens as [`super::logits_to_tokens`] gives for the same rows; rows that fill a step up touch nothing that
//! a request has.

use super::{Buffers, ModelRunner, list_samples, token};
use crate::plan::{Row, StepOutput, StepPlan};
use crate::request::{Request, Requests, Work};
use crate::sampler::{Noise, RawLogprobs, Sampler};
use crate::{RequestError, SamplingParams, logits};
use koma_models::kernels::cuda::{Change, Choice, Chooser, Penalties};
use koma_models::kernels::{Error, GroupKind};
use koma_models::{Batch, Model, StateSlots};

/// Rows of a step up to which it is filled up: to a power of two up to 8, then to a multiple of 8, from 64 on of 32. Each number
/// has a graph of its own; weights are read whole for few rows as for one, so that a few more cost little.
const MOST_FILLED: usize = 256;

/// How many rows fill a step of `rows` rows up.
fn to_fill(rows: usize) -> usize {
    let full = match rows {
        0..=8 => rows.next_power_of_two(),
        9..=64 => rows.next_multiple_of(8),
        65..=MOST_FILLED => rows.next_multiple_of(32),
        _ => rows,
    };
    full - rows
}

/// How many rows fill the step of `plan` up: none if one of its requests has more than one token to compute, or gives no token.
pub(super) fn rows_to_fill(plan: &StepPlan) -> usize {
    let mut entries = plan.entries.iter();
    let all = entries.all(|entry| entry.num_scheduled == 1 && entry.samples == 1);
    if all { to_fill(plan.entries.len()) } else { 0 }
}

/// Adds `rows` requests of one token each, which have the spare block: its number, and tokens per block.
pub(super) fn fill_up(
    batch: &mut Batch,
    rows: usize,
    kinds: &[GroupKind],
    (block, size): (u32, usize),
) {
    for _ in 0..rows {
        batch.logit_rows.push(batch.ids.len() as u32);
        batch.ids.push(0);
        batch.positions.push(0);
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.kv_lens.push(1);
        for (group, kind) in batch.groups.iter_mut().zip(kinds) {
            if matches!(kind, GroupKind::Recurrent { .. }) {
                group.states.push(StateSlots {
                    read: None,
                    write: block,
                });
            } else {
                group.slot_mapping.push(block * size as u32);
                group.tables.push(std::iter::once(block));
            }
        }
    }
}

impl ModelRunner {
    /// Whether logits stay on a device.
    pub(super) fn chooses_there(&self) -> bool {
        self.cx.is_on_device() && matches!(self.model, Model::Decoder(_))
    }

    /// Asks the device for the tokens of the plan; `filled`: rows behind those of the plan.
    ///
    /// # Errors
    /// What failed on the device, here or before in this step.
    pub(super) fn choose(
        &mut self,
        plan: &StepPlan,
        requests: &Requests,
        filled: usize,
    ) -> Result<(), Error> {
        let Buffers {
            work,
            chooser,
            sampled,
            starts,
            ..
        } = &mut self.buffers;
        list_samples(plan, (sampled, starts));
        chooser.clear();
        for &index in &*sampled {
            let entry = &plan.entries[index];
            let request = &requests[entry.id];
            if let Work::Generate(params) = &request.work {
                ask(chooser, request, (params, &self.eos_ids), entry.samples);
            }
        }
        for _ in 0..filled {
            chooser.row(None);
            chooser.choose(Choice::BEST);
        }
        chooser.ask(&self.cx, &mut work.output)
    }

    /// Waits for the tokens. Logits come home only where the processor has to choose.
    ///
    /// # Errors
    /// What failed on the device in this step.
    pub(super) fn choices(&mut self) -> Result<(), Error> {
        let Buffers { work, chooser, .. } = &mut self.buffers;
        chooser.wait(&self.cx)?;
        if chooser.leaves_some() {
            self.cx.settle(&mut work.output)?;
        }
        Ok(())
    }

    /// What [`ModelRunner::choose`] was told.
    pub(super) fn chosen(&mut self, plan: &StepPlan, requests: &Requests) -> &mut StepOutput {
        let Buffers {
            work,
            chooser,
            samplers,
            sampled,
            output,
            ..
        } = &mut self.buffers;
        samplers.resize_with(samplers.len().max(1), || Sampler::on(self.cx.isa()));
        output.rows.clear();
        for (row, &index) in sampled.iter().enumerate() {
            let entry = &plan.entries[index];
            let request = &requests[entry.id];
            let Work::Generate(params) = &request.work else {
                continue;
            };
            let failed = !chooser.is_finite(row);
            let raw = params.logprobs.filter(|_| !failed).map(|_| {
                let (log_sum, top) = chooser.logprobs(row);
                RawLogprobs::new(log_sum, top)
            });
            for i in 0..entry.samples {
                if failed {
                    output.rows.push(Row::Failed(RequestError::NotFinite));
                    continue;
                }
                let there = chooser.chosen(output.rows.len());
                let there = there.map(|(id, before)| (id, (before, before)));
                let (id, logits) = there.unwrap_or_else(|| {
                    let values = work.output.row(row);
                    let id = samplers[0].sample(values, params, noise(request, params, i));
                    let logit = values[id as usize];
                    (id, (logit, chooser.before(row, id).unwrap_or(logit)))
                });
                output.rows.push(token(id, logits, raw.as_ref()));
            }
        }
        output
    }
}

/// The noise of continuation `i` of those that start here.
fn noise(request: &Request, params: &SamplingParams, i: u32) -> Noise {
    Noise {
        seed: params.seed,
        child: request.order.child + i,
        position: request.outputs() as u64,
    }
}

/// Tells `chooser` what is asked of a request's row.
fn ask(
    chooser: &mut Chooser,
    request: &Request,
    (params, eos_ids): (&SamplingParams, &[u32]),
    samples: u32,
) {
    chooser.row(params.logprobs);
    if let Some(mask) = &params.allowed {
        chooser.allow(mask.words());
    }
    let changes = request.tally.changes();
    if !changes.is_empty() {
        chooser.change(penalties(params), changes.iter().map(change));
    }
    for id in logits::masked(params, eos_ids, request.outputs()) {
        chooser.take_away(id);
    }
    for i in 0..samples {
        chooser.choose(choice(params, noise(request, params, i)));
    }
}

fn penalties(params: &SamplingParams) -> Penalties {
    let logits::Penalties {
        repetition,
        frequency,
        presence,
    } = params.penalties;
    Penalties {
        repetition,
        frequency,
        presence,
    }
}

fn change(change: &logits::Change) -> Change {
    Change {
        id: change.id,
        bias: change.bias,
        seen: change.seen.into(),
        count: change.count,
    }
}

fn choice(params: &SamplingParams, noise: Noise) -> Choice {
    Choice {
        uniform: noise.uniform(),
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
    }
}

#[cfg(all(test, feature = "cuda-emu"))]
mod tests;
