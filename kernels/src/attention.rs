//! Attention: over the paged cache ([`paged`], decoders) and inside a packed batch ([`varlen`], encoders).
//!
//! Sums run in a fixed order per query: tiles of the context counted from its start, so neither the batch nor the chunk
//! that a token came in changes a bit. (On a device there are two orders: `cuda::ops::attention::tiles` says whose is which.) Keys and values are read as the cache stores them, even those of this step.

use crate::cache::LANES;
use crate::cpu::attention::{self as cpu, Attend, Context, Merge, SPLIT, Target, Task};
use crate::cpu::isa::dispatch;
use crate::cpu::shared::Shared;
use crate::cx::{Scratch, reserve};
use crate::{Cx, KvDtype, KvLayer, Op, Rows};
use std::ops::Range;

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
    /// Tokens seen: itself and the `window - 1` before it, and where not causal the `window - 1` after it too; none is all.
    pub window: Option<usize>,
    /// Scaled products are bent to `cap * tanh(product / cap)`, so that none is beyond the cap (Gemma 2, arXiv:2408.00118).
    pub cap: Option<f32>,
    /// Whether [`varlen`] may round queries, keys, values and exponentials to bf16 (f16 on a device without bf16), where that is
    /// faster. ([`paged`] multiplies what its cache has.)
    pub halves: bool,
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
/// If the shapes do not agree, `cu_seqlens` does not ascend from 0, or the tokens of a block are no multiple of 16.
#[track_caller]
pub fn paged(
    cx: &Cx,
    qkv: &Rows,
    kv: &KvLayer<'_>,
    meta: &AttnMeta<'_>,
    spec: &AttnSpec,
    out: &mut Rows,
) {
    let layout = spec.layout;
    assert_eq!(layout, kv.layout(), "paged: heads");
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
    check(qkv, spec, meta.cu_seqlens);
    assert!(kv.block_size().is_multiple_of(LANES), "paged: block size");
    let enough = |i: usize| meta.kv_lens[i] >= meta.cu_seqlens[i + 1] - meta.cu_seqlens[i];
    assert!((0..meta.kv_lens.len()).all(enough), "paged: cached tokens");
    let spec = AttnSpec {
        causal: true,
        ..*spec
    };
    out.reset(qkv.rows(), layout.out_width());
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::paged(stream, qkv, kv, meta, &spec, out);
    }
    let sequence = |i: usize| {
        let rows = meta.cu_seqlens[i] as usize..meta.cu_seqlens[i + 1] as usize;
        let len = meta.kv_lens[i] as usize;
        Sequence {
            len,
            position: len - rows.len(),
            out: rows.start,
            rows,
            context: Context::Paged {
                view: kv.view(),
                table: meta.tables.table(i),
            },
        }
    };
    let requests = (meta.kv_lens.len(), &sequence as &_);
    attend(cx, qkv, (&spec, Some(kv.dtype())), requests, out);
}

/// Attention inside each sequence of a packed batch, no cache. Sequence `i` has the rows `cu_seqlens[i]..cu_seqlens[i + 1]`.
/// `qkv`: `[tokens, layout.qkv_width()]`; `out` becomes `[tokens, layout.out_width()]`.
///
/// # Panics
/// If the shapes do not agree, or `cu_seqlens` does not ascend from 0.
#[track_caller]
pub fn varlen(cx: &Cx, qkv: &Rows, cu_seqlens: &[u32], spec: &AttnSpec, out: &mut Rows) {
    check(qkv, spec, cu_seqlens);
    out.reset(qkv.rows(), spec.layout.out_width());
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::varlen(stream, qkv, (cu_seqlens, None), spec, out);
    }
    let sequence = |i: usize| {
        let rows = cu_seqlens[i] as usize..cu_seqlens[i + 1] as usize;
        Sequence {
            len: rows.len(),
            position: 0,
            out: rows.start,
            context: Context::Packed { start: rows.start },
            rows,
        }
    };
    let sequences = cu_seqlens.len().saturating_sub(1);
    attend(cx, qkv, (spec, None), (sequences, &sequence), out);
}

/// As [`varlen`], of one query of each sequence only: that of row `rows[i]`, one of the sequence's own, with the same bits. `out` becomes
/// `[rows.len(), layout.out_width()]`.
///
/// # Panics
/// As [`varlen`]; if a row is another sequence's.
#[track_caller]
pub fn varlen_one(
    cx: &Cx,
    qkv: &Rows,
    (cu_seqlens, rows): (&[u32], &[u32]),
    spec: &AttnSpec,
    out: &mut Rows,
) {
    check(qkv, spec, cu_seqlens);
    let inside = |(ends, row): (&[u32], &u32)| (ends[0]..ends[1]).contains(row);
    assert!(
        rows.len() + 1 == cu_seqlens.len() && cu_seqlens.windows(2).zip(rows).all(inside),
        "varlen: queries"
    );
    out.reset(rows.len(), spec.layout.out_width());
    #[cfg(feature = "cuda")]
    if let Some(stream) = cx.stream() {
        return crate::cuda::ops::varlen(stream, qkv, (cu_seqlens, Some(rows)), spec, out);
    }
    let sequence = |i: usize| {
        let (start, row) = (cu_seqlens[i] as usize, rows[i] as usize);
        Sequence {
            rows: row..row + 1,
            len: cu_seqlens[i + 1] as usize - start,
            position: row - start,
            out: i,
            context: Context::Packed { start },
        }
    };
    attend(cx, qkv, (spec, None), (rows.len(), &sequence), out);
}

/// Whether the lengths start at 0 and never fall. Tasks write the rows of their own sequence without looking at others, so
/// no two sequences may share a row.
fn ascends(cu_seqlens: &[u32]) -> bool {
    cu_seqlens.first().is_none_or(|&first| first == 0) && cu_seqlens.is_sorted()
}

/// Asserts what both paths need.
#[track_caller]
fn check(qkv: &Rows, spec: &AttnSpec, cu_seqlens: &[u32]) {
    let layout = &spec.layout;
    assert!(
        layout.kv_heads > 0 && layout.q_heads.is_multiple_of(layout.kv_heads),
        "attention: heads"
    );
    assert_eq!(qkv.width(), layout.qkv_width(), "attention: width");
    assert!(ascends(cu_seqlens), "attention: cu_seqlens");
    let covered = cu_seqlens.last().map_or(0, |end| *end as usize);
    assert_eq!(covered, qkv.rows(), "attention: rows of nobody");
}

/// Queries of one request, and what they attend to.
struct Sequence<'a> {
    rows: Range<usize>,
    /// Tokens of the context, and the place of the first query among them.
    len: usize,
    position: usize,
    /// Output row of the first query.
    out: usize,
    context: Context<'a>,
}

/// How the work of one request is cut: tasks of `rows` rows, one key head and `splits` splits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Share {
    /// Tasks of this request and those before it.
    end: usize,
    rows: usize,
    splits: usize,
    /// Where the states of its splits begin, if several tasks do them.
    states: Option<usize>,
}

impl Share {
    fn tasks(&self, sequence: &Sequence<'_>, layout: &HeadLayout) -> usize {
        let blocks = sequence.rows.len().div_ceil(self.rows);
        blocks * layout.kv_heads * sequence.len.div_ceil(SPLIT).div_ceil(self.splits)
    }
}

/// Splits of a context that one task does at most.
const MOST_SPLITS: usize = 16;
/// Rows of a request up to which several tasks may share its context: states take memory.
const FEW_ROWS: usize = 4;

/// Cuts the work into tasks and returns the number of values that the states of shared contexts take. Nothing here changes
/// a result: what a task does of a query is a whole number of splits.
fn cut<'a>(
    cx: &Cx,
    layout: &HeadLayout,
    (sequences, sequence): (usize, &dyn Fn(usize) -> Sequence<'a>),
    shares: &mut Vec<Share>,
) -> usize {
    shares.clear();
    let (mut tasks, mut longest) = (0, 0);
    for i in 0..sequences {
        let sequence = sequence(i);
        let share = Share {
            end: 0,
            rows: cpu::task_rows(
                layout,
                sequence.len,
                matches!(sequence.context, Context::Packed { .. }),
            ),
            splits: usize::MAX,
            states: None,
        };
        tasks += share.tasks(&sequence, layout);
        longest = longest.max(sequence.len.div_ceil(SPLIT));
        shares.push(share);
    }
    let wanted = 4 * cx.threads();
    let splits = (longest * tasks / wanted).clamp(1, MOST_SPLITS);
    let (mut end, mut values) = (0, 0);
    for (i, share) in shares.iter_mut().enumerate() {
        let sequence = sequence(i);
        let all = sequence.len.div_ceil(SPLIT);
        if all > splits && sequence.rows.len() <= FEW_ROWS {
            share.splits = splits;
            share.states = Some(values);
            values += sequence.rows.len() * layout.q_heads * all * cpu::state_len(layout);
        }
        end += share.tasks(&sequence, layout);
        share.end = end;
    }
    values
}

fn attend<'a>(
    cx: &Cx,
    qkv: &'a Rows,
    (spec, cache): (&AttnSpec, Option<KvDtype>),
    (sequences, sequence): (usize, &(dyn Fn(usize) -> Sequence<'a> + Sync)),
    out: &mut Rows,
) {
    let layout = &spec.layout;
    let out = Shared::new(out.as_mut_slice());
    let mut scratch = cx.scratch();
    let Scratch {
        attention, shares, ..
    } = &mut *scratch;
    let states = cut(cx, layout, (sequences, sequence), shares);
    let shares = shares.as_slice();
    let rows = shares.iter().map(|s| s.rows).max().unwrap_or(0);
    let each = cpu::scratch_len(layout, rows);
    let memory = reserve(attention, states + each * cx.threads());
    let (states, work) = memory.split_at_mut(states);
    let (states, work) = (Shared::new(states), Shared::new(work));
    let describe = |ops: &mut Vec<Op>| {
        let lens = (0..sequences).map(|i| (sequence(i).rows.len(), sequence(i).len));
        ops.push(Op::Attention {
            spec: *spec,
            lens: lens.collect(),
            cache,
        });
    };
    let chunk = |thread: usize, chunk: usize| {
        let i = shares.partition_point(|s| s.end <= chunk);
        let (share, sequence) = (shares[i], sequence(i));
        let task = task(&share, &sequence, (qkv, spec), share.end - 1 - chunk);
        let len = sequence.rows.len() * layout.q_heads * cpu::state_len(layout);
        let splits = sequence.len.div_ceil(SPLIT);
        let target = match share.states {
            None => Target::Out(out),
            // SAFETY: the states of this request; its tasks write disjoint ones.
            Some(at) => Target::States {
                states: states.slice(at..at + len * splits),
                first: sequence.rows.start,
                splits,
            },
        };
        let kernel = Attend {
            task: &task,
            target: &target,
            // SAFETY: one chunk at a time has this thread's number.
            scratch: unsafe { work.part(thread * each..(thread + 1) * each) },
        };
        dispatch(cx.isa(), kernel);
    };
    let work = || {
        cx.run_indexed(shares.last().map_or(0, |s| s.end), &chunk);
        for (i, share) in shares.iter().enumerate() {
            if let Some(at) = share.states {
                merge(cx, (layout, &sequence(i)), (&states, at), &out);
            }
        }
    };
    cx.operation(describe, work);
}

/// Task `index` of a request, counted from its last one: the longest causal contexts come first.
fn task<'a>(
    share: &Share,
    sequence: &Sequence<'a>,
    (qkv, spec): (&'a Rows, &'a AttnSpec),
    index: usize,
) -> Task<'a> {
    let all = sequence.len.div_ceil(SPLIT);
    let parts = all.div_ceil(share.splits);
    let heads = spec.layout.kv_heads;
    let (block, kv_head, part) = (index / parts / heads, index / parts % heads, index % parts);
    let first = sequence.rows.start + block * share.rows;
    let rows = first..sequence.rows.end.min(first + share.rows);
    Task {
        spec,
        qkv,
        context: sequence.context,
        len: sequence.len,
        position: sequence.position + block * share.rows,
        out: sequence.out + block * share.rows,
        rows,
        kv_head,
        splits: part * share.splits.min(all)..all.min((part + 1).saturating_mul(share.splits)),
    }
}

/// Merges the splits of a request whose context several tasks shared.
fn merge(
    cx: &Cx,
    (layout, sequence): (&HeadLayout, &Sequence<'_>),
    (states, at): (&Shared<'_, f32>, usize),
    out: &Shared<'_, f32>,
) {
    let each = cpu::state_len(layout) * sequence.len.div_ceil(SPLIT);
    let queries = sequence.rows.len() * layout.q_heads;
    let first = sequence.out * layout.out_width();
    cx.run_rows(queries, each, &|range| {
        for query in range {
            let at = at + query * each;
            let to = first + query * layout.v_dim;
            // SAFETY: a query belongs to one range.
            let (states, out) =
                unsafe { (states.part(at..at + each), out.part(to..to + layout.v_dim)) };
            let kernel = Merge {
                layout,
                states,
                out,
            };
            dispatch(cx.isa(), kernel);
        }
    });
}
