//! [`Wide`]: tiles of f32, copied from the cache or from packed rows.

use super::super::activation;
use super::super::isa::{Simd, Tile};
use super::{Context, Form, LANES, Store, TILE, Task, padded, settle};
use crate::HeadLayout;
use std::ops::Range;

/// A tile, widened.
pub(super) struct Wide<'a> {
    /// `[k_dim][TILE]`
    pub(super) keys: &'a mut [f32],
    /// `[TILE][padded v_dim]`
    pub(super) values: &'a mut [f32],
}

/// The numbers `of(i)` of each of the rows `0..n`, of which there are at most sixteen, as columns: number `d` of row `i` goes to
/// `to[d * step + i]`.
#[inline(always)]
pub(super) unsafe fn transpose<'a, S: Simd>(
    of: impl Fn(usize) -> &'a [f32],
    n: usize,
    (to, step): (&mut [f32], usize),
) {
    let mut tile: Tile = [[0; 16]; 16];
    for at in (0..of(0).len()).step_by(16) {
        let depth = 16.min(of(0).len() - at);
        // SAFETY: as the caller promises, see `isa`; a row has `depth` numbers from `at` on, and the last place is `to`'s.
        unsafe {
            for (i, row) in tile[..n].iter_mut().enumerate() {
                let v = S::load_part(of(i).as_ptr().add(at), depth);
                S::store(row.as_mut_ptr().cast(), v);
            }
            let to = &mut to[at * step..];
            assert!(to.len() >= (depth - 1) * step + n);
            S::columns(
                (tile.as_ptr().cast(), 16),
                (n, depth),
                (to.as_mut_ptr().cast(), step),
            );
        }
    }
}

impl Form for Wide<'_> {
    fn query_len(layout: &HeadLayout) -> usize {
        layout.k_dim
    }

    #[inline(always)]
    unsafe fn gather<'a, S: Simd>(query: impl Fn(usize) -> &'a [f32], n: usize, to: &mut [f32]) {
        // SAFETY: as the caller promises, see `isa`.
        unsafe { transpose::<S>(query, n, (to, n)) };
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(&mut self, task: &Task<'_>, start: usize, tokens: Range<usize>) {
        let layout = &task.spec.layout;
        let width = padded(layout.v_dim);
        match task.context {
            Context::Packed { start: first } => {
                for t in tokens.clone().step_by(LANES) {
                    let key = |i: usize| layout.key(task.qkv.row(first + t + i), task.kv_head);
                    let (n, to) = (LANES.min(tokens.end - t), &mut self.keys[t - start..]);
                    // SAFETY: as the caller promises, see `isa`.
                    unsafe { transpose::<S>(key, n, (to, TILE)) };
                }
                for t in tokens {
                    let row = task.qkv.row(first + t);
                    let to = (t - start) * width;
                    self.values[to..to + layout.v_dim]
                        .copy_from_slice(layout.value(row, task.kv_head));
                }
            }
            Context::Paged { view, table } => {
                let places = view.places;
                let Store::F32(store) = view.store else {
                    return; // another form has it
                };
                for first in (tokens.start / LANES * LANES..tokens.end).step_by(LANES) {
                    let (block, offset) = places.find(table, first);
                    let keys = places.keys(block, task.kv_head, offset);
                    let values = places.values(block, task.kv_head, offset);
                    let to = first - start;
                    for d in 0..layout.k_dim {
                        self.keys[d * TILE + to..][..LANES]
                            .copy_from_slice(&store[keys + d * LANES..][..LANES]);
                    }
                    self.values[to * width..][..LANES * width]
                        .copy_from_slice(&store[values..][..LANES * width]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn score<S: Simd, const R: usize, const W: usize>(
        &self,
        q: &[f32],
        s: &mut [f32],
        tokens: Range<usize>,
    ) {
        let step = LANES * W;
        let dims = self.keys.len() / TILE;
        let (q, keys, s) = (q.as_ptr(), self.keys.as_ptr(), s.as_mut_ptr());
        for at in (tokens.start / step * step..tokens.end).step_by(step) {
            // SAFETY: as the caller promises, see `isa`; a tile is a multiple of `step` tokens.
            unsafe {
                let mut c = [[S::splat(0.0); W]; R];
                for d in 0..dims {
                    let mut k = [S::splat(0.0); W];
                    for (w, k) in k.iter_mut().enumerate() {
                        *k = S::load(keys.add(d * TILE + at + LANES * w));
                    }
                    multiply::<S, R, W>(&mut c, k, (q.add(d * R), 1));
                }
                for (r, c) in c.iter().enumerate() {
                    for (w, c) in c.iter().enumerate() {
                        S::store(s.add(r * TILE + at + LANES * w), *c);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn exp<S: Simd>(x: S::F) -> S::F {
        // SAFETY: as the caller promises, see `isa`.
        unsafe { activation::exp::<S>(x) }
    }

    #[inline(always)]
    unsafe fn put<S: Simd>(&self, p: *mut f32, i: usize, v: S::F) {
        // SAFETY: as the caller promises, see `isa`.
        unsafe { S::store(p.add(LANES * i), v) }
    }

    #[inline(always)]
    unsafe fn mix<S: Simd, const R: usize, const W: usize>(
        &self,
        p: &[f32],
        (states, len): (&mut [f32], usize),
        shrink: &[f32; 8],
        tokens: Range<usize>,
    ) {
        let width = self.values.len() / TILE;
        let (p, values, states) = (p.as_ptr(), self.values.as_ptr(), states.as_mut_ptr());
        for at in (0..width).step_by(LANES * W) {
            // Vectors beyond the width are the last one once more, and not stored.
            let places: [usize; W] = std::array::from_fn(|w| (at + LANES * w).min(width - LANES));
            // SAFETY: as the caller promises, see `isa`; a place is below `width - 16`.
            unsafe {
                let mut c = [[S::splat(0.0); W]; R];
                for t in tokens.clone() {
                    let mut v = [S::splat(0.0); W];
                    for (v, at) in v.iter_mut().zip(places) {
                        *v = S::load(values.add(t * width + at));
                    }
                    multiply::<S, R, W>(&mut c, v, (p.add(t), TILE));
                }
                settle::<S, R, W>((states, len), (at, width), shrink, &c);
            }
        }
    }
}

/// Adds to the sums of `R` rows the products of their values, `step` apart at `a`, with vectors.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, const R: usize, const W: usize>(
    c: &mut [[S::F; W]; R],
    v: [S::F; W],
    (a, step): (*const f32, usize),
) {
    for (r, c) in c.iter_mut().enumerate() {
        // SAFETY: as the caller promises, see `isa`.
        unsafe {
            let a = S::splat(*a.add(r * step));
            for (i, c) in c.iter_mut().enumerate() {
                *c = S::fma(a, v[i], *c);
            }
        }
    }
}
