//! Attention of some queries over some of a context: online softmax over tiles, in one fixed order.
//!
//! Owns: tasks, and which tiles a query sees. How a tile's keys and values are multiplied is its form's business ([`Form`]): f32
//! ([`wide`]), int8 as the cache stores them ([`quads`]), bf16 as the cache stores them ([`pairs`] where the processor multiplies it, else [`stored`]), or
//! rows rounded to bf16 ([`halves`]). Scores, the [`softmax`] and the sums of tiles are
//! f32 in all of them.
//!
//! Invariant: a query's sums run over tiles of [`TILE`] tokens counted from position 0, merged in order inside splits of
//! [`SPLIT`] tokens, and splits are merged in order; a tile or split that a query does not see changes nothing. So its
//! bits depend neither on the queries beside it nor on which chunk did which split.

mod halves;
mod pairs;
mod quads;
mod softmax;
mod stored;
mod wide;

use super::isa::{Kernel, Simd};
use super::shared::Shared;
use crate::cache::{LANES, Store, View};
use crate::{AttnSpec, HeadLayout, Rows};
use halves::Halves;
use pairs::{Pairs, Places};
use quads::Quads;
pub(crate) use softmax::{Merge, padded, state_len};
use softmax::{clear, divide, merge_all, rough_exp, settle, soften};
use std::ops::Range;
use stored::Stored;
use wide::Wide;

/// Tokens whose scores are computed at a time.
pub(crate) const TILE: usize = 128;
/// Tokens that are summed up from nothing; the unit of work that can go to another chunk.
pub(crate) const SPLIT: usize = 512;
/// Queries of a chunk, at most, if a head does not have more; where a tile is made of rows, which is worth more queries.
const QUERIES: [usize; 2] = [48, 128];
/// Queries whose scores are held at a time.
const GROUP: usize = 8;

/// Where keys and values of one sequence lie.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Context<'a> {
    /// In the blocks of a cache layer.
    Paged { view: View<'a>, table: &'a [u32] },
    /// In the q, k, v rows from this one on.
    Packed { start: usize },
}

/// The queries that a chunk does, `rows` of `qkv` with all query heads of one key head, and the splits that it does.
#[derive(Debug, Clone)]
pub(crate) struct Task<'a> {
    pub(crate) spec: &'a AttnSpec,
    pub(crate) qkv: &'a Rows,
    pub(crate) context: Context<'a>,
    /// Tokens of the context.
    pub(crate) len: usize,
    pub(crate) rows: Range<usize>,
    /// Position of the first of them.
    pub(crate) position: usize,
    /// Its output row; those of the others follow.
    pub(crate) out: usize,
    pub(crate) kv_head: usize,
    pub(crate) splits: Range<usize>,
}

/// Where a task's results go.
pub(crate) enum Target<'a> {
    /// All splits were done: the attention's output rows.
    Out(Shared<'a, f32>),
    /// One state for each query of the request and split: `[rows][q_heads][splits][state_len]`. `first`: the first row.
    States {
        states: Shared<'a, f32>,
        first: usize,
        splits: usize,
    },
}

/// Values that a query takes in any form.
fn query_len(layout: &HeadLayout) -> usize {
    let forms = [
        Wide::query_len,
        Stored::query_len,
        Pairs::query_len,
        Quads::query_len,
        Halves::query_len,
    ];
    forms.map(|len| len(layout)).into_iter().fold(0, usize::max)
}

fn group(layout: &HeadLayout) -> usize {
    layout.q_heads / layout.kv_heads
}

/// Rows of a task over a context of `len` tokens, `packed` in rows or in a cache: about 100 us of work.
pub(crate) fn task_rows(layout: &HeadLayout, len: usize, packed: bool) -> usize {
    let each = 2 * (layout.k_dim + layout.v_dim) * len.max(1);
    let queries = (8_000_000 / each).clamp(1, QUERIES[usize::from(packed)]);
    (queries / group(layout)).max(1)
}

/// Scratch values that a task of `rows` rows needs.
pub(crate) fn scratch_len(layout: &HeadLayout, rows: usize) -> usize {
    let queries = rows * group(layout);
    let per_query = query_len(layout) + 2 * state_len(layout);
    queries * per_query + TILE * (GROUP + layout.k_dim + padded(layout.v_dim))
}

/// A task with its scratch memory.
pub(crate) struct Attend<'a> {
    pub(crate) task: &'a Task<'a>,
    pub(crate) target: &'a Target<'a>,
    pub(crate) scratch: &'a mut [f32],
}

/// Keys and values of a tile in the form in which they are multiplied. `R` queries are multiplied at a time, with `W` vectors
/// of tokens or values.
trait Form {
    /// Values that a query takes.
    fn query_len(layout: &HeadLayout) -> usize;
    /// The `n` queries that lie together in `to`: `[query_len][n]`.
    unsafe fn gather<'a, S: Simd>(query: impl Fn(usize) -> &'a [f32], n: usize, to: &mut [f32]);
    /// Makes `tokens` the tile, which begins at `start`.
    unsafe fn load<S: Simd>(&mut self, task: &Task<'_>, start: usize, tokens: Range<usize>);
    /// Scores of queries with `tokens` of the tile, or with whole vectors of them: `s = q k^T`, sums in the order of the
    /// head's values. `s`: `[R][TILE]`.
    unsafe fn score<S: Simd, const R: usize, const W: usize>(
        &self,
        q: &[f32],
        s: &mut [f32],
        tokens: Range<usize>,
    );
    /// e^x for `x <= 0`, as exact as the form is.
    unsafe fn exp<S: Simd>(x: S::F) -> S::F;
    /// Leaves sixteen exponentials, the `i`-th vector of a query's tile, in its memory: `[TILE]`.
    unsafe fn put<S: Simd>(&self, p: *mut f32, i: usize, v: S::F);
    /// Comes after the last of these `vectors`, of which there is one or more.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, _p: *mut f32, _vectors: Range<usize>) {}
    /// Adds the values of `tokens` to the outputs of queries: `state = state * shrink + p v`. `p`: `[R][TILE]`, as was left
    /// there.
    unsafe fn mix<S: Simd, const R: usize, const W: usize>(
        &self,
        p: &[f32],
        states: (&mut [f32], usize),
        shrink: &[f32; 8],
        tokens: Range<usize>,
    );
}

/// Scratch memory, cut up, but for what the form has.
struct Work<'a> {
    /// `[queries / n][the form's query_len][n]`: the queries in groups as [`query_group`] says.
    queries: &'a mut [f32],
    /// `[GROUP][TILE]`: scores, then their exponentials.
    scores: &'a mut [f32],
    /// `[queries][state_len]`: of the split in progress.
    states: &'a mut [f32],
    /// `[queries][state_len]`: of the splits that ended.
    totals: &'a mut [f32],
}

impl<'a> Work<'a> {
    /// And the form's `[TILE][k_dim]` and `[TILE][padded v_dim]`.
    fn new(
        scratch: &'a mut [f32],
        layout: &HeadLayout,
        queries: usize,
    ) -> (Self, [&'a mut [f32]; 2]) {
        let (q, rest) = scratch.split_at_mut(queries * query_len(layout));
        let (keys, rest) = rest.split_at_mut(TILE * layout.k_dim);
        let (values, rest) = rest.split_at_mut(TILE * padded(layout.v_dim));
        let (scores, rest) = rest.split_at_mut(GROUP * TILE);
        let (states, rest) = rest.split_at_mut(queries * state_len(layout));
        let work = Self {
            queries: q,
            scores,
            states,
            totals: &mut rest[..queries * state_len(layout)],
        };
        (work, [keys, values])
    }
}

impl Task<'_> {
    /// Tokens that row `row` (of the task) sees.
    fn seen(&self, row: usize) -> Range<usize> {
        let position = self.position + row;
        let window = self.spec.window.unwrap_or(usize::MAX);
        let first = (position + 1).saturating_sub(window);
        let end = if self.spec.causal {
            position + 1
        } else {
            self.len.min(position.saturating_add(window))
        };
        first..end
    }

    fn queries(&self) -> usize {
        self.rows.len() * group(&self.spec.layout)
    }
}

/// Queries whose sums are in registers at a time.
#[inline(always)]
fn query_group<S: Simd>(left: usize) -> usize {
    let most = if S::ISA.panel().0 >= 12 { 8 } else { 2 };
    let fits = |n: &usize| *n <= left && *n <= most;
    [8, 7, 6, 5, 4, 3, 2].into_iter().find(fits).unwrap_or(1)
}

/// Calls `$body` with `$R` as the constant `$n`, and `$W` as the number of vectors for which there are registers.
macro_rules! with_group {
    ($S:ident, $n:expr, $R:ident, $W:ident => $body:expr) => {
        with_group!(@arms $n, $R, $W, $body,
            8 2 $S::ISA.panel().0 >= 12, 7 2 $S::ISA.panel().0 >= 12, 6 2 $S::ISA.panel().0 >= 12, 5 2 $S::ISA.panel().0 >= 12,
            4 4 $S::ISA.panel().0 >= 12, 3 4 $S::ISA.panel().0 >= 12, 2 4 $S::ISA.panel().0 >= 12, 2 2 true)
    };
    (@arms $n:expr, $R:ident, $W:ident, $body:expr, $($r:literal $w:literal $if:expr),*) => {
        match $n {
            $($r if $if => {
                const $R: usize = $r;
                const $W: usize = $w;
                $body
            })*
            _ => {
                const $R: usize = 1;
                const $W: usize = 4;
                $body
            }
        }
    };
}

impl Kernel for Attend<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let layout = &self.task.spec.layout;
        let (mut work, [keys, values]) = Work::new(self.scratch, layout, self.task.queries());
        let (task, work) = (self.task, &mut work);
        // SAFETY: as the caller promises, see `isa`.
        unsafe {
            if let Context::Paged { view, table } = task.context {
                match view.store {
                    Store::Bf16(store) => {
                        let at = Places::new((view, store), table);
                        if const { S::ISA.has_bf16() } {
                            let mut form = Pairs::new(task, at, values);
                            return attend::<S, _>(task, self.target, work, &mut form);
                        }
                        let mut form = Stored::new(task, at);
                        return attend::<S, _>(task, self.target, work, &mut form);
                    }
                    Store::Int8(store) => {
                        let mut form = Quads::new(task, (view, store), table);
                        return attend::<S, _>(task, self.target, work, &mut form);
                    }
                    Store::F32(_) | Store::There(_) => {}
                }
            }
            // Other paths multiply bf16 no faster than f32.
            if task.spec.halves
                && const { S::ISA.has_bf16() }
                && matches!(task.context, Context::Packed { .. })
            {
                let mut form = Halves { keys, values };
                return attend::<S, _>(task, self.target, work, &mut form);
            }
            let mut form = Wide { keys, values };
            attend::<S, _>(task, self.target, work, &mut form);
        }
    }
}

#[inline(always)]
unsafe fn attend<S: Simd, F: Form>(
    task: &Task<'_>,
    target: &Target<'_>,
    work: &mut Work<'_>,
    form: &mut F,
) {
    let layout = &task.spec.layout;
    // SAFETY: as the caller promises, see `isa`.
    unsafe { gather::<S, F>(task, work.queries) };
    clear(work.totals, layout);
    let seen = task.seen(0).start..task.seen(task.rows.len() - 1).end;
    let mut splits = task.splits.clone();
    if matches!(target, Target::Out(_)) {
        // The others would change nothing.
        splits.start = splits.start.max(seen.start / SPLIT);
        splits.end = splits.end.min(seen.end.div_ceil(SPLIT));
    }
    let alone = splits.len() == 1;
    for split in splits {
        clear(work.states, layout);
        let tokens = split * SPLIT..(split + 1) * SPLIT;
        let (first, end) = (seen.start.max(tokens.start), seen.end.min(tokens.end));
        for tile in first / TILE..end.div_ceil(TILE) {
            let tokens = first.max(tile * TILE)..end.min((tile + 1) * TILE);
            if !tokens.is_empty() {
                // SAFETY: as the caller promises, see `isa`.
                unsafe { add_tile::<S, F>(task, work, form, (tile * TILE, tokens)) };
            }
        }
        // SAFETY: as the caller promises, see `isa`.
        unsafe {
            match target {
                // Merged into nothing, a state is what it was.
                Target::Out(_) if alone => std::mem::swap(&mut work.totals, &mut work.states),
                Target::Out(_) => merge_all::<S>(work.totals, work.states, layout),
                Target::States {
                    states,
                    first,
                    splits,
                } => keep(task, work.states, states, (*first, *splits, split)),
            }
        }
    }
    if let Target::Out(out) = target {
        for (query, state) in work.totals.chunks_exact(state_len(layout)).enumerate() {
            let (row, head) = place(task, query);
            let row = task.out + row - task.rows.start;
            let at = row * layout.out_width() + head * layout.v_dim;
            // SAFETY: a task alone has these outputs.
            divide(state, unsafe { out.part(at..at + layout.v_dim) });
        }
    }
}

/// Row of `qkv` and query head of query `query`.
fn place(task: &Task<'_>, query: usize) -> (usize, usize) {
    let group = group(&task.spec.layout);
    let row = task.rows.start + query / group;
    (row, task.kv_head * group + query % group)
}

/// Copies the states of a split to where the merge finds them.
///
/// # Safety
/// No other task has these queries and this split.
unsafe fn keep(
    task: &Task<'_>,
    from: &[f32],
    to: &Shared<'_, f32>,
    (first, splits, split): (usize, usize, usize),
) {
    let (len, heads) = (state_len(&task.spec.layout), task.spec.layout.q_heads);
    for (query, state) in from.chunks_exact(len).enumerate() {
        let (row, head) = place(task, query);
        let at = (((row - first) * heads + head) * splits + split) * len;
        // SAFETY: the caller's promise.
        unsafe { to.part(at..at + len) }.copy_from_slice(state);
    }
}

/// Brings the queries into groups.
#[inline(always)]
unsafe fn gather<S: Simd, F: Form>(task: &Task<'_>, to: &mut [f32]) {
    let layout = &task.spec.layout;
    let (queries, len) = (task.queries(), F::query_len(layout));
    let mut first = 0;
    while first < queries {
        let n = query_group::<S>(queries - first);
        let to = &mut to[first * len..(first + n) * len];
        let query = |i: usize| {
            let (row, head) = place(task, first + i);
            layout.query(task.qkv.row(row), head)
        };
        // SAFETY: as the caller promises, see `isa`.
        unsafe { F::gather::<S>(query, n, to) };
        first += n;
    }
}

/// Adds `tokens` of the tile that begins at `start` to the states.
#[inline(always)]
unsafe fn add_tile<S: Simd, F: Form>(
    task: &Task<'_>,
    work: &mut Work<'_>,
    form: &mut F,
    (start, tokens): (usize, Range<usize>),
) {
    let layout = &task.spec.layout;
    let (group, len) = (group(layout), state_len(layout));
    let query_len = F::query_len(layout);
    let in_tile = tokens.start - start..tokens.end - start;
    let vectors = in_tile.start / LANES..in_tile.end.div_ceil(LANES);
    // SAFETY: as the caller promises, see `isa`.
    unsafe { form.load::<S>(task, start, tokens) };
    let (queries, mut first) = (task.queries(), 0);
    while first < queries {
        let n = query_group::<S>(queries - first);
        let q = &work.queries[first * query_len..(first + n) * query_len];
        let s = &mut work.scores[..n * TILE];
        let states = &mut work.states[first * len..(first + n) * len];
        // SAFETY: as the caller promises, see `isa`; the parts have the lengths that `Work` says.
        unsafe {
            with_group!(S, n, R, W => form.score::<S, R, W>(q, s, in_tile.clone()));
            let mut shrink = [0.0; 8];
            for i in 0..n {
                let seen = task.seen((first + i) / group);
                let seen =
                    seen.start.max(start) - start..seen.end.min(start + TILE).max(start) - start;
                let s = &mut s[i * TILE..(i + 1) * TILE];
                let limits = &mut states[i * len..(i + 1) * len][len - 2..];
                let seen = (vectors.clone(), seen);
                shrink[i] = soften::<S, F>((&*form, s), seen, task.spec, limits);
            }
            let states = (states, len);
            with_group!(S, n, R, W => form.mix::<S, R, W>(s, states, &shrink, in_tile.clone()));
        }
        first += n;
    }
}
