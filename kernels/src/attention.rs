//! Attention: over the paged cache ([`paged`], decoders) and inside a packed batch ([`varlen`], encoders).
//!
//! Sums run in a fixed order per query: tiles of the context counted from its start, so neither the batch nor the chunk
//! that a token came in changes a bit. Keys and values are read as the cache stores them, even those of this step.

use crate::{Cx, KvLayer, Rows};

/// Heads of an attention layer; a row of q, k, v is `[q_heads * k_dim | kv_heads * k_dim | kv_heads * v_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLayout {
    /// Query heads; a multiple of `kv_heads`.
    pub q_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values of a query or key head.
    pub k_dim: usize,
    /// Values of a value head.
    pub v_dim: usize,
}

impl HeadLayout {
    /// Width of a packed q, k, v row.
    pub fn qkv_width(&self) -> usize {
        (self.q_heads + self.kv_heads) * self.k_dim + self.kv_heads * self.v_dim
    }

    /// Width of the attention's output row, `q_heads * v_dim`.
    pub fn out_width(&self) -> usize {
        self.q_heads * self.v_dim
    }

    /// Query head `head` of a row.
    pub fn query<'a>(&self, row: &'a [f32], head: usize) -> &'a [f32] {
        &row[head * self.k_dim..(head + 1) * self.k_dim]
    }

    /// Key head `head` of a row.
    pub fn key<'a>(&self, row: &'a [f32], head: usize) -> &'a [f32] {
        let at = (self.q_heads + head) * self.k_dim;
        &row[at..at + self.k_dim]
    }

    /// Value head `head` of a row.
    pub fn value<'a>(&self, row: &'a [f32], head: usize) -> &'a [f32] {
        let at = (self.q_heads + self.kv_heads) * self.k_dim + head * self.v_dim;
        &row[at..at + self.v_dim]
    }
}

/// What is computed, apart from the shapes of the batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttnSpec {
    /// Heads.
    pub layout: HeadLayout,
    /// Factor on the dot products, usually `1 / sqrt(k_dim)`.
    pub scale: f32,
    /// Whether a token sees only itself and earlier ones ([`paged`] is always causal).
    pub causal: bool,
    /// Tokens seen: itself and the `window - 1` before it (causal); none is all.
    pub window: Option<usize>,
}

/// Block tables of the requests of a step, one after another.
#[derive(Debug, Default, Clone)]
pub struct BlockTables {
    /// Block ids of all requests. An entry whose block was freed behind a sliding window is [`BlockTables::FREED`].
    pub blocks: Vec<u32>,
    /// Where each request's part starts, and the end: `[requests + 1]`.
    pub starts: Vec<u32>,
}

impl BlockTables {
    /// Stands for a block that no query of this or a later step sees.
    pub const FREED: u32 = u32::MAX;

    /// Forgets all requests, keeps the memory.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.starts.clear();
        self.starts.push(0);
    }

    /// Adds the table of one more request.
    pub fn push(&mut self, blocks: impl IntoIterator<Item = u32>) {
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        self.blocks.extend(blocks);
        self.starts.push(self.blocks.len() as u32);
    }

    /// The table of request `i`.
    pub fn table(&self, i: usize) -> &[u32] {
        &self.blocks[self.starts[i] as usize..self.starts[i + 1] as usize]
    }
}

/// Which rows and cached tokens belong together. Request `i` has the query rows `cu_seqlens[i]..cu_seqlens[i + 1]`, its
/// last tokens; they attend to its `kv_lens[i]` cached tokens (those of this step included, already written).
#[derive(Debug, Clone, Copy)]
pub struct AttnMeta<'a> {
    /// Cumulative query lengths, `[requests + 1]`.
    pub cu_seqlens: &'a [u32],
    /// Cached tokens, `[requests]`.
    pub kv_lens: &'a [u32],
    /// Their blocks.
    pub tables: &'a BlockTables,
}

/// Causal attention of each query row over its request's cache. `qkv`: `[tokens, layout.qkv_width()]` (only q is read);
/// `out` becomes `[tokens, layout.out_width()]`.
///
/// # Panics
/// If the shapes do not agree.
#[track_caller]
pub fn paged(
    cx: &Cx,
    qkv: &Rows,
    kv: &KvLayer,
    meta: &AttnMeta<'_>,
    spec: &AttnSpec,
    out: &mut Rows,
) {
    let layout = spec.layout;
    assert_eq!(layout, kv.layout(), "paged: heads");
    assert_eq!(qkv.width(), layout.qkv_width(), "paged: width");
    assert_eq!(
        meta.cu_seqlens.len(),
        meta.kv_lens.len() + 1,
        "paged: requests"
    );
    assert_eq!(
        meta.tables.starts.len(),
        meta.cu_seqlens.len(),
        "paged: tables"
    );
    let _ = cx;
    out.reset(qkv.rows(), layout.out_width());
    let size = kv.block_size();
    for (i, bounds) in meta.cu_seqlens.windows(2).enumerate() {
        let (table, len) = (meta.tables.table(i), meta.kv_lens[i] as usize);
        for r in bounds[0] as usize..bounds[1] as usize {
            let position = len - (bounds[1] as usize - r);
            let first = spec.window.map_or(0, |w| (position + 1).saturating_sub(w));
            for head in 0..layout.q_heads {
                let kv_head = head / (layout.q_heads / layout.kv_heads);
                let slot = |t: usize| table[t / size] as usize * size + t % size;
                attend(
                    layout.query(qkv.row(r), head),
                    first..position + 1,
                    spec.scale,
                    (
                        |t, k: &mut [f32]| kv.read_key(slot(t), kv_head, k),
                        |t, v: &mut [f32]| {
                            kv.read_value(slot(t), kv_head, v);
                        },
                    ),
                    &mut out.row_mut(r)[head * layout.v_dim..(head + 1) * layout.v_dim],
                );
            }
        }
    }
}

/// Attention inside each sequence of a packed batch, no cache. Sequence `i` has the rows `cu_seqlens[i]..cu_seqlens[i + 1]`.
/// `qkv`: `[tokens, layout.qkv_width()]`; `out` becomes `[tokens, layout.out_width()]`.
///
/// # Panics
/// If the shapes do not agree.
#[track_caller]
pub fn varlen(cx: &Cx, qkv: &Rows, cu_seqlens: &[u32], spec: &AttnSpec, out: &mut Rows) {
    let layout = spec.layout;
    assert_eq!(qkv.width(), layout.qkv_width(), "varlen: width");
    let _ = cx;
    out.reset(qkv.rows(), layout.out_width());
    for bounds in cu_seqlens.windows(2) {
        let (start, end) = (bounds[0] as usize, bounds[1] as usize);
        for r in start..end {
            let first = spec
                .window
                .map_or(start, |w| start.max((r + 1).saturating_sub(w)));
            let last = if spec.causal { r + 1 } else { end };
            for head in 0..layout.q_heads {
                let kv_head = head / (layout.q_heads / layout.kv_heads);
                attend(
                    layout.query(qkv.row(r), head),
                    first..last,
                    spec.scale,
                    (
                        |t, k: &mut [f32]| k.copy_from_slice(layout.key(qkv.row(t), kv_head)),
                        |t, v: &mut [f32]| {
                            v.copy_from_slice(layout.value(qkv.row(t), kv_head));
                        },
                    ),
                    &mut out.row_mut(r)[head * layout.v_dim..(head + 1) * layout.v_dim],
                );
            }
        }
    }
}

/// Softmax(scale * q k^T) v for one query and head, in two passes.
fn attend(
    q: &[f32],
    tokens: std::ops::Range<usize>,
    scale: f32,
    (key, value): (impl Fn(usize, &mut [f32]), impl Fn(usize, &mut [f32])),
    out: &mut [f32],
) {
    let mut k = vec![0.0; q.len()];
    let scores: Vec<f32> = tokens
        .clone()
        .map(|t| {
            key(t, &mut k);
            scale * q.iter().zip(&k).map(|(a, b)| a * b).sum::<f32>()
        })
        .collect();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut v = vec![0.0; out.len()];
    let mut sum = 0.0;
    out.fill(0.0);
    for (t, s) in tokens.zip(scores) {
        let p = (s - max).exp();
        sum += p;
        value(t, &mut v);
        out.iter_mut().zip(&v).for_each(|(o, v)| *o += p * v);
    }
    for o in out.iter_mut() {
        *o /= sum;
    }
}
