//! Models driven by hand: the smallest thing that fills a batch, without scheduler or cache manager.

use koma_kernels::{
    BlockTables, CacheGroup, Class, Cx, GroupKind, Isa, KvCache, KvDtype, Rows, Team,
};
use koma_models::{Batch, Decoder, Encoder, Loaded, Model, Workspace};
use std::sync::Arc;

const BLOCK: usize = 16;

/// A context of one model on `threads` threads.
pub fn context(threads: usize) -> Cx {
    Cx::new(
        Arc::new(Team::new(threads)),
        Class::Throughput,
        Isa::detect(),
    )
}

/// The decoder of a loaded model.
///
/// # Panics
/// If it is an encoder.
pub fn decoder(loaded: &Loaded) -> &dyn Decoder {
    match &loaded.model {
        Model::Decoder(decoder) => decoder.as_ref(),
        Model::Encoder(_) => panic!("{} is an encoder", loaded.identity.architecture),
    }
}

/// The encoder of a loaded model.
///
/// # Panics
/// If it is a decoder.
pub fn encoder(loaded: &Loaded) -> &dyn Encoder {
    match &loaded.model {
        Model::Encoder(encoder) => encoder.as_ref(),
        Model::Decoder(_) => panic!("{} is a decoder", loaded.identity.architecture),
    }
}

/// One sequence of a decoder, with a cache of its own whose blocks lie in reverse order.
pub struct Sequence<'a> {
    decoder: &'a dyn Decoder,
    cx: Cx,
    cache: KvCache,
    batch: Batch,
    /// The buffers; `work.output` are the last logits, `work.trace` hidden states if it was set.
    pub work: Workspace,
    table: Vec<u32>,
    /// What each cache group sees of the tokens before: a number of tokens, or none for all.
    windows: Vec<Option<usize>>,
    len: usize,
}

impl<'a> Sequence<'a> {
    /// Room for `capacity` tokens.
    ///
    /// # Panics
    /// If there is no memory.
    pub fn new(decoder: &'a dyn Decoder, kv: KvDtype, capacity: usize) -> Self {
        Self::on(context(2), decoder, kv, capacity)
    }

    /// The same, computed by `cx`.
    ///
    /// # Panics
    /// If there is no memory.
    pub fn on(cx: Cx, decoder: &'a dyn Decoder, kv: KvDtype, capacity: usize) -> Self {
        let blocks = capacity.div_ceil(BLOCK);
        let groups = decoder.cache_groups();
        Self {
            decoder,
            cache: KvCache::on(&cx, &groups, blocks, BLOCK, kv).expect("memory"),
            cx,
            batch: Batch::default(),
            work: Workspace::default(),
            windows: groups.iter().map(window).collect(),
            table: (0..blocks as u32).rev().collect(),
            len: 0,
        }
    }

    /// Computes `ids`, the next tokens; wants the logits of all of them or of the last.
    ///
    /// # Panics
    /// If the model fails.
    pub fn feed(&mut self, ids: &[u32], all: bool) -> &Rows {
        let (start, end) = (self.len, self.len + ids.len());
        let b = &mut self.batch;
        b.clear(self.windows.len());
        b.ids.extend_from_slice(ids);
        b.positions.extend(start as u32..end as u32);
        b.cu_seqlens.push(ids.len() as u32);
        b.kv_lens.push(end as u32);
        let last = ids.len() as u32 - 1;
        b.logit_rows
            .extend(if all { 0..last + 1 } else { last..last + 1 });
        let slot = |t: usize| self.table[t / BLOCK] * BLOCK as u32 + (t % BLOCK) as u32;
        for (group, window) in b.groups.iter_mut().zip(&self.windows) {
            // Blocks wholly behind the window of this step's first token are gone, as in the engine.
            let seen = window.map_or(0, |w| (start + 1).saturating_sub(w));
            let blocks = self.table[..end.div_ceil(BLOCK)].iter().enumerate();
            group.tables.push(blocks.map(|(i, block)| {
                if (i + 1) * BLOCK <= seen {
                    BlockTables::FREED
                } else {
                    *block
                }
            }));
            group.slot_mapping.extend((start..end).map(slot));
        }
        self.len = end;
        let done = self
            .decoder
            .forward(&self.cx, b, &mut self.cache, &mut self.work);
        done.expect("forward");
        &self.work.output
    }

    /// Feeds `ids` in chunks of `chunk` tokens; the last token's logits.
    pub fn feed_chunks(&mut self, ids: &[u32], chunk: usize) -> Vec<f32> {
        for part in ids.chunks(chunk) {
            self.feed(part, false);
        }
        self.work.output.row(0).to_vec()
    }

    /// `count` tokens after what was fed, always the likeliest one.
    pub fn greedy(&mut self, count: usize) -> Vec<u32> {
        let mut tokens: Vec<u32> = Vec::with_capacity(count);
        while tokens.len() < count {
            let token = crate::golden::argmax(self.work.output.row(self.work.output.rows() - 1));
            tokens.push(token);
            if tokens.len() < count {
                self.feed(&[token], false);
            }
        }
        tokens
    }
}

/// Tokens that a group of attention layers sees.
fn window(group: &CacheGroup) -> Option<usize> {
    match group.kind {
        GroupKind::Full(_) => None,
        GroupKind::Sliding { window, .. } => Some(window),
        GroupKind::Recurrent { .. } => panic!("states are not driven by hand"),
    }
}

/// A text as an encoder reads it: ids, and segments (or none).
pub type Input = (Vec<u32>, Vec<u32>);

/// Raw rows of `inputs`, all in one packed batch.
pub fn encode(encoder: &dyn Encoder, inputs: &[Input]) -> Vec<Vec<f32>> {
    let work = encode_traced(encoder, inputs, Workspace::default());
    (0..inputs.len())
        .map(|i| work.output.row(i).to_vec())
        .collect()
}

/// As [`encode`], computed by `cx`.
///
/// # Panics
/// If the model fails.
pub fn encode_on(cx: &Cx, encoder: &dyn Encoder, inputs: &[Input]) -> Vec<Vec<f32>> {
    let mut work = Workspace::default();
    let done = encoder.forward(cx, &packed(inputs), &mut work);
    done.expect("forward");
    cx.settle(&mut work.output).expect("forward");
    (0..inputs.len())
        .map(|i| work.output.row(i).to_vec())
        .collect()
}

/// Raw rows of all tokens of `inputs`, all in one packed batch, those of an input one after another.
pub fn encode_rows(encoder: &dyn Encoder, inputs: &[Input]) -> Vec<Vec<f32>> {
    let work = encode_traced(encoder, inputs, Workspace::default());
    let (rows, width) = (work.output.as_slice(), work.output.width());
    let mut next = 0;
    let one = |(ids, _): &Input| {
        let values = next * width..(next + ids.len()) * width;
        next += ids.len();
        rows[values].to_vec()
    };
    inputs.iter().map(one).collect()
}

/// As [`encode`], without the first `skips[i]` tokens of input `i` in its vector.
pub fn encode_skipping(encoder: &dyn Encoder, inputs: &[Input], skips: &[u32]) -> Vec<Vec<f32>> {
    let mut batch = packed(inputs);
    batch.skips.extend_from_slice(skips);
    let work = run(encoder, &batch, Workspace::default());
    (0..inputs.len())
        .map(|i| work.output.row(i).to_vec())
        .collect()
}

/// As [`encode`], with all buffers.
///
/// # Panics
/// If the model fails.
pub fn encode_traced(encoder: &dyn Encoder, inputs: &[Input], work: Workspace) -> Workspace {
    run(encoder, &packed(inputs), work)
}

fn run(encoder: &dyn Encoder, batch: &Batch, mut work: Workspace) -> Workspace {
    let done = encoder.forward(&context(2), batch, &mut work);
    done.expect("forward");
    work
}

fn packed(inputs: &[Input]) -> Batch {
    let mut batch = Batch::default();
    batch.clear(0);
    for (ids, types) in inputs {
        batch.ids.extend_from_slice(ids);
        batch.type_ids.extend_from_slice(types);
        batch.positions.extend(0..ids.len() as u32);
        batch.cu_seqlens.push(batch.ids.len() as u32);
        batch.kv_lens.push(ids.len() as u32);
    }
    batch
}
