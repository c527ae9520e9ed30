//! Attention of some queries over some of a context: online softmax over tiles, in one fixed order.
//!
//! Invariant: a query's sums run over tiles of [`TILE`] tokens counted from position 0, merged in order inside splits of
//! [`SPLIT`] tokens, and splits are merged in order; a tile or split that a query does not see changes nothing. So its
//! bits depend neither on the queries beside it nor on which chunk did which split. Scores and sums are f32; keys and
//! values are widened from what the cache stores.

use super::activation::{cap, exp};
use super::isa::{Kernel, Simd};
use super::shared::Shared;
use super::tile;
use crate::cache::View;
use crate::{AttnSpec, HeadLayout, Rows};
use std::ops::Range;

/// Tokens whose scores are computed at a time; keys and values of a tile fit the first-level cache.
pub(crate) const TILE: usize = 64;
/// Tokens that are summed up from nothing; the unit of work that can go to another chunk.
pub(crate) const SPLIT: usize = 512;
/// The largest score before there is one; finite, so that differences are.
const LOWEST: f32 = -1e30;
/// Queries of a chunk, at most, if a head does not have more.
const QUERIES: usize = 48;

/// Numbers of the tokens of a tile, to compare with.
const NUMBERS: [f32; TILE] = {
    let mut numbers = [0.0; TILE];
    let mut i = 0;
    while i < TILE {
        numbers[i] = i as f32;
        i += 1;
    }
    numbers
};

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

/// Values of a state: the output before division, padded, then its largest score and its sum.
pub(crate) fn state_len(layout: &HeadLayout) -> usize {
    padded(layout.v_dim) + 2
}

pub(crate) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(16)
}

fn group(layout: &HeadLayout) -> usize {
    layout.q_heads / layout.kv_heads
}

/// Rows of a task over a context of `len` tokens: about 100 us of work.
pub(crate) fn task_rows(layout: &HeadLayout, len: usize) -> usize {
    let each = 2 * (layout.k_dim + layout.v_dim) * len.max(1);
    let queries = (8_000_000 / each).clamp(1, QUERIES);
    (queries / group(layout)).max(1)
}

/// Scratch values that a task of `rows` rows needs.
pub(crate) fn scratch_len(layout: &HeadLayout, rows: usize) -> usize {
    let queries = rows * group(layout);
    let per_query = layout.k_dim + TILE + 2 * state_len(layout);
    queries * per_query + TILE * (layout.k_dim + padded(layout.v_dim))
}

/// A task with its scratch memory.
pub(crate) struct Attend<'a> {
    pub(crate) task: &'a Task<'a>,
    pub(crate) target: &'a Target<'a>,
    pub(crate) scratch: &'a mut [f32],
}

/// Scratch memory, cut up.
struct Work<'a> {
    /// `[queries / n][k_dim][n]`: the queries in groups as [`query_group`] says.
    queries: &'a mut [f32],
    /// `[k_dim][TILE]`
    keys: &'a mut [f32],
    /// `[TILE][padded v_dim]`
    values: &'a mut [f32],
    /// `[queries][TILE]`: scores, then their exponentials.
    scores: &'a mut [f32],
    /// `[queries][state_len]`: of the split in progress.
    states: &'a mut [f32],
    /// `[queries][state_len]`: of the splits that ended.
    totals: &'a mut [f32],
}

impl<'a> Work<'a> {
    fn new(scratch: &'a mut [f32], layout: &HeadLayout, queries: usize) -> Self {
        let (q, rest) = scratch.split_at_mut(queries * layout.k_dim);
        let (keys, rest) = rest.split_at_mut(TILE * layout.k_dim);
        let (values, rest) = rest.split_at_mut(TILE * padded(layout.v_dim));
        let (scores, rest) = rest.split_at_mut(queries * TILE);
        let (states, rest) = rest.split_at_mut(queries * state_len(layout));
        Self {
            queries: q,
            keys,
            values,
            scores,
            states,
            totals: &mut rest[..queries * state_len(layout)],
        }
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
    let most = if S::ROWS >= 12 { 8 } else { 2 };
    let fits = |n: &usize| *n <= left && *n <= most;
    [8, 4, 2].into_iter().find(fits).unwrap_or(1)
}

/// Calls `$body` with `$R` as the constant `$n`.
macro_rules! with_group {
    ($n:expr, $R:ident => $body:expr) => {
        match $n {
            8 => {
                const $R: usize = 8;
                $body
            }
            4 => {
                const $R: usize = 4;
                $body
            }
            2 => {
                const $R: usize = 2;
                $body
            }
            _ => {
                const $R: usize = 1;
                $body
            }
        }
    };
}

impl Kernel for Attend<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (task, layout) = (self.task, &self.task.spec.layout);
        let queries = task.queries();
        let mut work = Work::new(self.scratch, layout, queries);
        gather::<S>(task, work.queries);
        clear(work.totals, layout);
        let seen = task.seen(0).start..task.seen(task.rows.len() - 1).end;
        for split in task.splits.clone() {
            clear(work.states, layout);
            let tokens = split * SPLIT..(split + 1) * SPLIT;
            let (first, end) = (seen.start.max(tokens.start), seen.end.min(tokens.end));
            for tile in first / TILE..end.div_ceil(TILE) {
                let tokens = first.max(tile * TILE)..end.min((tile + 1) * TILE);
                if !tokens.is_empty() {
                    // SAFETY: as the caller promises, see `isa`.
                    unsafe { add_tile::<S>(task, &mut work, tile * TILE, tokens) };
                }
            }
            // SAFETY: as the caller promises, see `isa`.
            unsafe {
                match self.target {
                    Target::Out(_) => merge_all::<S>(work.totals, work.states, layout),
                    Target::States {
                        states,
                        first,
                        splits,
                    } => keep(task, work.states, states, (*first, *splits, split)),
                }
            }
        }
        if let Target::Out(out) = self.target {
            for (query, state) in work.totals.chunks_exact(state_len(layout)).enumerate() {
                let (row, head) = place(task, query);
                let at = row * layout.out_width() + head * layout.v_dim;
                // SAFETY: a task alone has these outputs.
                divide(state, unsafe { out.part(at..at + layout.v_dim) });
            }
        }
    }
}

/// Row of `qkv` and query head of query `query`.
fn place(task: &Task<'_>, query: usize) -> (usize, usize) {
    let group = group(&task.spec.layout);
    let row = task.rows.start + query / group;
    (row, task.kv_head * group + query % group)
}

fn clear(states: &mut [f32], layout: &HeadLayout) {
    for state in states.chunks_exact_mut(state_len(layout)) {
        state.fill(0.0);
        state[padded(layout.v_dim)] = LOWEST;
    }
}

fn divide(state: &[f32], out: &mut [f32]) {
    let sum = state[state.len() - 1];
    for (o, v) in out.iter_mut().zip(state) {
        *o = v / sum;
    }
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
fn gather<S: Simd>(task: &Task<'_>, to: &mut [f32]) {
    let layout = &task.spec.layout;
    let (queries, mut first) = (task.queries(), 0);
    while first < queries {
        let n = query_group::<S>(queries - first);
        let to = &mut to[first * layout.k_dim..(first + n) * layout.k_dim];
        for i in 0..n {
            let (row, head) = place(task, first + i);
            let query = layout.query(task.qkv.row(row), head);
            for (to, q) in to.chunks_exact_mut(n).zip(query) {
                to[i] = *q;
            }
        }
        first += n;
    }
}

/// Adds `tokens` of the tile that begins at `start` to the states.
#[inline(always)]
unsafe fn add_tile<S: Simd>(
    task: &Task<'_>,
    work: &mut Work<'_>,
    start: usize,
    tokens: Range<usize>,
) {
    let layout = &task.spec.layout;
    let group = group(layout);
    let in_tile = tokens.start - start..tokens.end - start;
    // SAFETY: as the caller promises, see `isa`.
    unsafe { tile::load::<S>(task, (work.keys, work.values), start, tokens) };
    let (queries, mut first) = (task.queries(), 0);
    while first < queries {
        let n = query_group::<S>(queries - first);
        let q = &work.queries[first * layout.k_dim..(first + n) * layout.k_dim];
        let s = &mut work.scores[first * TILE..(first + n) * TILE];
        let len = state_len(layout);
        let states = &mut work.states[first * len..(first + n) * len];
        // SAFETY: as the caller promises, see `isa`; the parts have the lengths that `Work` says.
        unsafe {
            with_group!(n, R => score::<S, R>(q, work.keys, s, in_tile.clone()));
            let mut shrink = [0.0; 8];
            for i in 0..n {
                let seen = task.seen((first + i) / group);
                let seen =
                    seen.start.max(start) - start..seen.end.min(start + TILE).max(start) - start;
                let s = &mut s[i * TILE..(i + 1) * TILE];
                let state = &mut states[i * len..(i + 1) * len];
                shrink[i] = soften::<S>(s, seen, task.spec, &mut state[len - 2..]);
            }
            with_group!(n, R => mix::<S, R>(s, work.values, (states, len), (&shrink, in_tile.clone())));
        }
        first += n;
    }
}

/// Scores of `R` queries with the tokens of a tile (whole sixteens of them): `s = q k^T`, sums in the order of the head's
/// values. `q`: `[k_dim][R]`; `keys`: `[k_dim][TILE]`; `s`: `[R][TILE]`.
#[inline(always)]
unsafe fn score<S: Simd, const R: usize>(
    q: &[f32],
    keys: &[f32],
    s: &mut [f32],
    tokens: Range<usize>,
) {
    let dims = keys.len() / TILE;
    let (q, keys, s) = (q.as_ptr(), keys.as_ptr(), s.as_mut_ptr());
    for at in (tokens.start / 32 * 32..tokens.end).step_by(32) {
        // SAFETY: as the caller promises, see `isa`; a tile is a multiple of 32 tokens.
        unsafe {
            let mut c = [[S::splat(0.0); 2]; R];
            for d in 0..dims {
                let k = keys.add(d * TILE + at);
                let k = [S::load(k), S::load(k.add(16))];
                for (r, c) in c.iter_mut().enumerate() {
                    let q = S::splat(*q.add(d * R + r));
                    *c = [S::fma(q, k[0], c[0]), S::fma(q, k[1], c[1])];
                }
            }
            for (r, c) in c.iter().enumerate() {
                S::store(s.add(r * TILE + at), c[0]);
                S::store(s.add(r * TILE + at + 16), c[1]);
            }
        }
    }
}

/// Scores to exponentials, for one query: 0 where it does not see. Brings `limits` (largest score, sum) up to date and
/// returns the factor that what was summed up so far must take.
#[inline(always)]
unsafe fn soften<S: Simd>(
    s: &mut [f32],
    seen: Range<usize>,
    spec: &AttnSpec,
    limits: &mut [f32],
) -> f32 {
    let s = s.as_mut_ptr();
    // SAFETY: as the caller promises, see `isa`; `s` has a tile's scores, as has `NUMBERS`.
    unsafe {
        let bounds = (seen.start as f32 - 0.5, seen.end as f32 - 0.5);
        let hidden = seen != (0..TILE);
        let mut v = [S::splat(0.0); TILE / 16];
        let mut largest = S::splat(LOWEST);
        for (i, v) in v.iter_mut().enumerate() {
            *v = S::mul(S::load(s.add(16 * i)), S::splat(spec.scale));
            if let Some(most) = spec.cap {
                *v = cap::<S>(*v, most);
            }
            if hidden {
                *v = keep_seen::<S>(*v, i, bounds, LOWEST);
            }
            largest = S::max(*v, largest);
        }
        let top = limits[0].max(S::largest(largest));
        let mut sums = [S::splat(0.0); 2];
        for (i, v) in v.iter().enumerate() {
            let mut p = exp::<S>(S::sub(*v, S::splat(top)));
            if hidden {
                p = keep_seen::<S>(p, i, bounds, 0.0);
            }
            S::store(s.add(16 * i), p);
            sums[i % 2] = S::add(sums[i % 2], p);
        }
        let shrink = first_lane::<S>(exp::<S>(S::splat(limits[0] - top)));
        limits[1] = limits[1] * shrink + S::sum(S::add(sums[0], sums[1]));
        limits[0] = top;
        shrink
    }
}

/// `v` of the tokens `16 * i..` of a tile where they lie between the bounds, `other` elsewhere.
#[inline(always)]
unsafe fn keep_seen<S: Simd>(v: S::F, i: usize, (start, end): (f32, f32), other: f32) -> S::F {
    // SAFETY: as the caller promises, see `isa`; there are `TILE` numbers.
    unsafe {
        let number = S::load(NUMBERS.as_ptr().add(16 * i));
        let v = S::if_less(number, S::splat(end), v, S::splat(other));
        S::if_less(number, S::splat(start), S::splat(other), v)
    }
}

#[inline(always)]
unsafe fn first_lane<S: Simd>(v: S::F) -> f32 {
    let mut lane = 0.0;
    // SAFETY: as the caller promises, see `isa`; one value.
    unsafe { S::store_part(&raw mut lane, 1, v) };
    lane
}

/// Adds the values of a tile to the outputs of `R` queries: `state = state * shrink + p v`. `p`: `[R][TILE]`; `values`:
/// `[TILE][padded v_dim]`.
#[inline(always)]
unsafe fn mix<S: Simd, const R: usize>(
    p: &[f32],
    values: &[f32],
    (states, len): (&mut [f32], usize),
    (shrink, tokens): (&[f32; 8], Range<usize>),
) {
    let width = values.len() / TILE;
    let (p, values, states) = (p.as_ptr(), values.as_ptr(), states.as_mut_ptr());
    for at in (0..width).step_by(32) {
        // The second half of the last pair may lie beyond the width: then it is the first once more, and not stored.
        let other = if at + 16 < width { at + 16 } else { at };
        // SAFETY: as the caller promises, see `isa`; `at + 16 <= width < len`.
        unsafe {
            let mut c = [[S::splat(0.0); 2]; R];
            for t in tokens.clone() {
                let v = values.add(t * width);
                let v = [S::load(v.add(at)), S::load(v.add(other))];
                for (r, c) in c.iter_mut().enumerate() {
                    let p = S::splat(*p.add(r * TILE + t));
                    *c = [S::fma(p, v[0], c[0]), S::fma(p, v[1], c[1])];
                }
            }
            for (r, c) in c.iter().enumerate() {
                let shrink = S::splat(shrink[r]);
                let state = states.add(r * len);
                for (at, c) in [at, other]
                    .into_iter()
                    .zip(c)
                    .take(1 + usize::from(other > at))
                {
                    S::store(state.add(at), S::fma(S::load(state.add(at)), shrink, *c));
                }
            }
        }
    }
}

/// `total` and then `part`, for one query.
#[inline(always)]
pub(crate) unsafe fn merge<S: Simd>(total: &mut [f32], part: &[f32]) {
    let n = total.len() - 2;
    if part[n + 1] == 0.0 {
        return; // it sees nothing there
    }
    // SAFETY: as the caller promises, see `isa`; `n` is a multiple of 16.
    unsafe {
        let top = total[n].max(part[n]);
        let a = exp::<S>(S::splat(total[n] - top));
        let b = exp::<S>(S::splat(part[n] - top));
        total[n + 1] = total[n + 1] * first_lane::<S>(a) + part[n + 1] * first_lane::<S>(b);
        total[n] = top;
        for at in (0..n).step_by(16) {
            let o = total.as_mut_ptr().add(at);
            let add = S::mul(S::load(part.as_ptr().add(at)), b);
            S::store(o, S::fma(S::load(o), a, add));
        }
    }
}

#[inline(always)]
unsafe fn merge_all<S: Simd>(totals: &mut [f32], states: &[f32], layout: &HeadLayout) {
    let len = state_len(layout);
    for (total, state) in totals.chunks_exact_mut(len).zip(states.chunks_exact(len)) {
        // SAFETY: as the caller promises, see `isa`.
        unsafe { merge::<S>(total, state) };
    }
}

/// Merges the splits of one query. `states`: `[splits][state_len]`; `out`: `[v_dim]`.
pub(crate) struct Merge<'a> {
    pub(crate) layout: &'a HeadLayout,
    /// The first is the total in the end.
    pub(crate) states: &'a mut [f32],
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Merge<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let len = state_len(self.layout);
        let (total, parts) = self.states.split_at_mut(len);
        for part in parts.chunks_exact(len) {
            // SAFETY: as the caller promises, see `isa`.
            unsafe { merge::<S>(total, part) };
        }
        divide(total, self.out);
    }
}
