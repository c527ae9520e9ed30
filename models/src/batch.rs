//! The tensors of one forward: what the engine's runner builds and a model reads.

use crate::layers::apart::Apart;
pub use koma_kernels::recurrent::StateSlots;
use koma_kernels::{BlockTables, Error, Routing, Rows};
use std::ops::Range;

/// One step's packed batch. Requests lie one after another; request `i` has the tokens `cu_seqlens[i]..cu_seqlens[i + 1]`.
/// The same buffers are refilled every step.
#[derive(Debug, Default)]
pub struct Batch {
    /// Token ids, `[tokens]`.
    pub ids: Vec<u32>,
    /// Position of each token in its request, from 0, `[tokens]`.
    pub positions: Vec<u32>,
    /// Segment of each token (pair input of encoders), `[tokens]`; empty means all 0.
    pub type_ids: Vec<u32>,
    /// Cumulative lengths, `[requests + 1]`.
    pub cu_seqlens: Vec<u32>,
    /// First tokens of each request that take no part in its pooled vector (encoders), `[requests]`, each below the request's
    /// length; empty means none.
    pub skips: Vec<u32>,
    /// Cached tokens of each request, those of this step included, `[requests]`. For encoders: their length.
    pub kv_lens: Vec<u32>,
    /// Rows of the packed batch whose logits are wanted, ascending. Encoders ignore it: they give one row per request or per token.
    pub logit_rows: Vec<u32>,
    /// Cache blocks, one entry per group of [`crate::Decoder::cache_groups`]; empty for encoders.
    pub groups: Vec<GroupSlots>,
}

/// The cache places of one group in a step. An attention group fills `tables` and `slot_mapping`, a recurrent one `states`.
#[derive(Debug, Default)]
pub struct GroupSlots {
    /// Block table of each request.
    pub tables: BlockTables,
    /// Slot (block * block size + offset) that each token's key and value go to, `[tokens]`.
    pub slot_mapping: Vec<u32>,
    /// State slots of each request, `[requests]`.
    pub states: Vec<StateSlots>,
}

impl Batch {
    /// Empties all buffers and keeps their memory, with `groups` cache groups.
    pub fn clear(&mut self, groups: usize) {
        self.ids.clear();
        self.positions.clear();
        self.type_ids.clear();
        self.cu_seqlens.clear();
        self.cu_seqlens.push(0);
        self.skips.clear();
        self.kv_lens.clear();
        self.logit_rows.clear();
        self.groups.resize_with(groups, GroupSlots::default);
        for group in &mut self.groups {
            group.tables.clear();
            group.slot_mapping.clear();
            group.states.clear();
        }
    }

    /// Makes this batch the requests `some` of `all`, a batch of an encoder.
    pub(crate) fn copy_requests(&mut self, all: &Self, some: Range<usize>) {
        self.clear(0);
        let first = all.cu_seqlens[some.start];
        let tokens = first as usize..all.cu_seqlens[some.end] as usize;
        self.ids.extend_from_slice(&all.ids[tokens.clone()]);
        self.positions
            .extend_from_slice(&all.positions[tokens.clone()]);
        if !all.type_ids.is_empty() {
            self.type_ids.extend_from_slice(&all.type_ids[tokens]);
        }
        if !all.skips.is_empty() {
            self.skips.extend_from_slice(&all.skips[some.clone()]);
        }
        self.kv_lens.extend_from_slice(&all.kv_lens[some.clone()]);
        let ends = &all.cu_seqlens[some.start + 1..=some.end];
        self.cu_seqlens.extend(ends.iter().map(|end| end - first));
    }

    /// Number of requests.
    pub fn requests(&self) -> usize {
        self.kv_lens.len()
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

/// Activations of a forward, owned by the runner and reused from step to step.
#[derive(Debug, Default)]
pub struct Workspace {
    /// The residual stream, `[tokens, hidden]`.
    pub hidden: Rows,
    /// Its normalised form, `[tokens, hidden]`.
    pub normed: Rows,
    /// Packed queries, keys and values; then the inside of a decoder's MLP.
    pub qkv: Rows,
    /// Output of attention.
    pub attended: Rows,
    /// Inside of the MLP.
    pub inner: Rows,
    /// Which experts the tokens of a layer go to.
    pub routing: Routing,
    /// One part of a product whose parts have different formats; embeddings to be added.
    pub side: Rows,
    /// Rotary cosines and sines, one matrix for each kind of rotation in the model.
    pub angles: Vec<Rows>,
    /// Positions as the model numbers them, where it has a way of its own.
    pub positions: Vec<u32>,
    /// The one row of each request that goes on behind the last attention, where there is only one.
    pub picked: Vec<u32>,
    /// The result: a decoder's logits `[logit_rows, vocab]`; an encoder's head or pooled output, one row per request or per
    /// token ([`crate::HeadKind::Tokens`]), before [`crate::Head::activate`].
    pub output: Rows,
    /// Requests of an encoder's batch that its device gave no row for, each once and in ascending order, and why; their rows of
    /// `output` mean nothing. Whoever calls a model empties it before.
    pub failed: Vec<(usize, Error)>,
    /// When set, a model pushes a copy of the hidden states after the embedding and after each layer (parity tests).
    pub trace: Option<Vec<Rows>>,
    /// Where an encoder computes parts of the batch apart.
    pub(crate) apart: Apart,
}

impl Workspace {
    /// One in which a model records its hidden states.
    pub fn traced() -> Self {
        Self {
            trace: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// Bytes of memory that its buffers keep.
    pub fn bytes(&self) -> usize {
        let buffers = [
            &self.hidden,
            &self.normed,
            &self.qkv,
            &self.attended,
            &self.inner,
            &self.side,
            &self.output,
        ];
        buffers
            .into_iter()
            .chain(&self.angles)
            .map(Rows::bytes)
            .sum::<usize>()
            + self.apart.bytes()
    }

    /// Forgets the values of its buffers: memory that they have on a device can be handed out again.
    pub fn forget(&mut self) {
        self.routing = Routing::default();
        let buffers = [
            &mut self.hidden,
            &mut self.normed,
            &mut self.qkv,
            &mut self.attended,
            &mut self.inner,
            &mut self.side,
            &mut self.output,
        ];
        let angles = self.angles.iter_mut();
        buffers
            .into_iter()
            .chain(angles)
            .for_each(|rows| rows.reset(0, 0));
    }

    /// Records the hidden states if somebody asked for them.
    pub fn record(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.push(self.hidden.clone());
        }
    }
}
