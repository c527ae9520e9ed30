//! [`Halves`]: tiles of packed rows, rounded to bf16 and multiplied two numbers at a time. Queries and exponentials are rounded,
//! too; products are summed in f32, as are the exponentials before they are rounded.

use super::super::isa::{Simd, Tile};
use super::{Context, Form, LANES, TILE, Task, rough_exp, settle};
use crate::HeadLayout;
use std::ops::Range;

/// A tile in bf16. What no token of it has is left as it was, but for the values of the other token of a pair, which are zeros.
pub(super) struct Halves<'a> {
    /// `[k_dim / 2][TILE]` pairs of a key's numbers.
    pub(super) keys: &'a mut [f32],
    /// `[TILE / 2][padded v_dim]` pairs of two tokens' values.
    pub(super) values: &'a mut [f32],
}

/// The numbers `of(i)` of each of the rows `0..n`, of which there are at most sixteen, rounded, in pairs, as columns: pair `d` of row
/// `i` goes to `to[d * step + i]`. Behind an odd number there is a zero.
#[inline(always)]
unsafe fn transpose<'a, S: Simd>(
    of: impl Fn(usize) -> &'a [f32],
    n: usize,
    (to, step): (&mut [f32], usize),
) {
    let mut tile: Tile = [[0; 16]; 16];
    let len = of(0).len();
    for at in (0..len).step_by(32) {
        let numbers = 32.min(len - at);
        for (i, row) in tile[..n].iter_mut().enumerate() {
            for (part, values) in of(i)[at..at + numbers].chunks(16).enumerate() {
                // SAFETY: as the caller promises, see `isa`; at most 16 values are read, and half of a row is written.
                unsafe {
                    let v = S::load_part(values.as_ptr(), values.len());
                    S::store_bf16(row.as_mut_ptr().add(8 * part).cast(), v);
                }
            }
        }
        let (depth, to) = (numbers.div_ceil(2), &mut to[at / 2 * step..]);
        assert!(to.len() >= (depth - 1) * step + n);
        // SAFETY: as the caller promises, see `isa`; the last place is `to`'s.
        unsafe {
            S::columns(
                (tile.as_ptr().cast(), 16),
                (n, depth),
                (to.as_mut_ptr().cast(), step),
            );
        };
    }
}

impl Halves<'_> {
    /// Where the values of pair `pair` begin.
    fn pair(&self, pair: usize) -> usize {
        pair * (self.values.len() / TILE)
    }
}

impl Form for Halves<'_> {
    fn query_len(layout: &HeadLayout) -> usize {
        layout.k_dim.div_ceil(2)
    }

    #[inline(always)]
    unsafe fn gather<'a, S: Simd>(query: impl Fn(usize) -> &'a [f32], n: usize, to: &mut [f32]) {
        // SAFETY: as the caller promises, see `isa`.
        unsafe { transpose::<S>(query, n, (to, n)) };
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(&mut self, task: &Task<'_>, start: usize, tokens: Range<usize>) {
        let layout = &task.spec.layout;
        let Context::Packed { start: first } = task.context else {
            return; // another form has it
        };
        for t in tokens.clone().step_by(LANES) {
            let key = |i: usize| layout.key(task.qkv.row(first + t + i), task.kv_head);
            let (n, to) = (LANES.min(tokens.end - t), &mut self.keys[t - start..]);
            // SAFETY: as the caller promises, see `isa`.
            unsafe { transpose::<S>(key, n, (to, TILE)) };
        }
        for t in (tokens.start / 2 * 2..tokens.end).step_by(2) {
            let to = self.pair((t - start) / 2);
            let value = |t: usize| {
                let seen = tokens.contains(&t);
                seen.then(|| layout.value(task.qkv.row(first + t), task.kv_head))
            };
            let both = [value(t), value(t + 1)];
            for at in (0..layout.v_dim).step_by(16) {
                let n = 16.min(layout.v_dim - at);
                let to = &mut self.values[to + at..to + at + 16];
                // SAFETY: as the caller promises, see `isa`; a value has `n` numbers from `at` on, and 16 pairs are written.
                unsafe {
                    let part = |value: Option<&[f32]>| match value {
                        Some(value) => S::load_part(value.as_ptr().add(at), n),
                        None => S::splat(0.0),
                    };
                    S::store_pairs(to.as_mut_ptr().cast(), part(both[0]), part(both[1]));
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
        let pairs = q.len() / R;
        let (q, keys, s) = (q.as_ptr().cast::<u32>(), self.keys.as_ptr(), s.as_mut_ptr());
        let step = LANES * W;
        for at in (tokens.start / step * step..tokens.end).step_by(step) {
            // SAFETY: as the caller promises, see `isa`; a tile is a multiple of `step` tokens and has `pairs` lines of keys.
            unsafe {
                let mut c = [[S::splat(0.0); W]; R];
                for d in 0..pairs {
                    multiply::<S, R, W>(&mut c, keys.add(d * TILE + at), (q.add(d * R), 1));
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
        unsafe { rough_exp::<S>(x) }
    }

    #[inline(always)]
    unsafe fn put<S: Simd>(&self, p: *mut f32, i: usize, v: S::F) {
        // SAFETY: as the caller promises, see `isa`. Half as long as the scores, so none that is still to be read is lost.
        unsafe { S::store_bf16(p.cast::<u16>().add(LANES * i), v) }
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
        let (p, states) = (p.as_ptr().cast::<u32>(), states.as_mut_ptr());
        let (mut at, pairs) = (0, tokens.start / 2..tokens.end.div_ceil(2));
        while at < width {
            let values = self.values.as_ptr().wrapping_add(at);
            // SAFETY: as the caller promises, see `isa`; a pair of values is `width` long, and `at` lies within it.
            unsafe {
                if at + LANES * W <= width {
                    let mut c = [[S::splat(0.0); W]; R];
                    for t in pairs.clone() {
                        multiply::<S, R, W>(&mut c, values.add(t * width), (p.add(t), TILE));
                    }
                    settle::<S, R, W>((states, len), (at, width), shrink, &c);
                    at += LANES * W;
                } else {
                    let mut c = [[S::splat(0.0); 1]; R];
                    for t in pairs.clone() {
                        multiply::<S, R, 1>(&mut c, values.add(t * width), (p.add(t), TILE));
                    }
                    settle::<S, R, 1>((states, len), (at, width), shrink, &c);
                    at += LANES;
                }
            }
        }
    }
}

/// Adds to the sums of `R` rows the products of their pairs, `step` apart at `a`, with the `W` vectors at `w`.
#[inline(always)]
unsafe fn multiply<S: Simd, const R: usize, const W: usize>(
    c: &mut [[S::F; W]; R],
    w: *const f32,
    (a, step): (*const u32, usize),
) {
    for (r, c) in c.iter_mut().enumerate() {
        // SAFETY: as the caller promises, see `isa`.
        unsafe {
            let a = *a.add(r * step);
            for (i, c) in c.iter_mut().enumerate() {
                *c = S::dot2_bf16(*c, w.add(LANES * i).cast(), a);
            }
        }
    }
}
