//! [`Quads`]: tiles of int8, multiplied in integers where the cache has them, four numbers at a time.
//!
//! A query is two int8 for each value: 127 steps of its largest, and 254ths of a step. So are the exponentials of a tile, each
//! times the scale of its token's value. Both are then as exact as 1/64,000 of the largest, which is far less than the cache was
//! rounded by, and sums of products are exact. Scales of keys are on the scores, before anything is done with these.

use super::super::isa::Simd;
use super::super::quantize::{in_steps, steps};
use super::{Form, LANES, TILE, Task, padded, rough_exp, settle};
use crate::HeadLayout;
use crate::cache::View;
use std::ops::Range;

/// Blocks of sixteen tokens in a tile.
const BLOCKS: usize = TILE / LANES;
/// Parts of a step that are told apart.
const PARTS: f32 = 254.0;

/// Where in a query's exponentials the sums of both int8 and the step are; behind them all: `[BLOCKS][2][16]` bytes.
const TAIL: usize = BLOCKS * 2 * LANES / 4;

/// Where a tile's keys and values are.
pub(super) struct Quads<'a> {
    view: View<'a>,
    store: &'a [u8],
    table: &'a [u32],
    width: usize,
    /// Keys of sixteen tokens: `[k_dim / 4][16]` quads.
    keys: [*const u8; BLOCKS],
    /// Their values: `[4][padded v_dim]` quads.
    values: [*const u8; BLOCKS],
    /// Their scales: `[2][16]`, of the keys and of the values.
    scales: [*const f32; BLOCKS],
}

impl<'a> Quads<'a> {
    pub(super) fn new(
        task: &Task<'_>,
        (view, store): (View<'a>, &'a [u8]),
        table: &'a [u32],
    ) -> Self {
        Self {
            view,
            store,
            table,
            width: padded(task.spec.layout.v_dim),
            keys: [std::ptr::null(); BLOCKS],
            values: [std::ptr::null(); BLOCKS],
            scales: [std::ptr::null(); BLOCKS],
        }
    }
}

fn quads(layout: &HeadLayout) -> usize {
    layout.k_dim.div_ceil(4)
}

impl Form for Quads<'_> {
    /// Both int8, quads of each, their sums and the step.
    fn query_len(layout: &HeadLayout) -> usize {
        2 * quads(layout) + 3
    }

    #[inline(always)]
    unsafe fn gather<'a, S: Simd>(query: impl Fn(usize) -> &'a [f32], n: usize, to: &mut [f32]) {
        for i in 0..n {
            let query = query(i);
            let quads = query.len().div_ceil(4);
            let mut bits = 0;
            for values in query.chunks(LANES) {
                // SAFETY: as the caller promises, see `isa`; at most 16 values are read.
                unsafe {
                    let v = S::load_part(values.as_ptr(), values.len());
                    bits = bits.max(S::abs_bits(v, v));
                }
            }
            let (factor, step) = steps(f32::from_bits(bits));
            let mut sums = [0.0; 2];
            for (part, values) in query.chunks(LANES).enumerate() {
                let mut bytes = [[0i8; 16]; 2];
                // SAFETY: as the caller promises, see `isa`; at most 16 values are read, and 32 are written.
                unsafe {
                    let v = S::load_part(values.as_ptr(), values.len());
                    let split = split::<S>(v, S::splat(factor), bytes.as_mut_ptr().cast());
                    sums[0] += S::sum(split[0]);
                    sums[1] += S::sum(split[1]);
                }
                // Beyond the values there are zeros.
                for d in 0..values.len().div_ceil(4) {
                    for (half, bytes) in bytes.iter().enumerate() {
                        let quad = [0, 1, 2, 3].map(|b| bytes[4 * d + b] as u8);
                        to[(half * quads + 4 * part + d) * n + i] =
                            f32::from_bits(u32::from_le_bytes(quad));
                    }
                }
            }
            to[2 * quads * n + i] = sums[0];
            to[(2 * quads + 1) * n + i] = sums[1];
            to[(2 * quads + 2) * n + i] = step / PARTS;
        }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(&mut self, task: &Task<'_>, start: usize, tokens: Range<usize>) {
        let places = self.view.places;
        for first in (tokens.start / LANES * LANES..tokens.end).step_by(LANES) {
            let (block, offset) = places.find(self.table, first);
            let keys = places.keys(block, task.kv_head, offset);
            let values = places.values(block, task.kv_head, offset);
            let scales = places.scales(block, task.kv_head, offset);
            let of = |first: usize, len: usize| self.store[first..first + len].as_ptr();
            let at = (first - start) / LANES;
            self.keys[at] = of(keys, LANES * 4 * quads(&task.spec.layout));
            self.values[at] = of(values, LANES * self.width);
            self.scales[at] = of(scales, size_of::<[f32; 2 * LANES]>()).cast();
        }
    }

    #[inline(always)]
    unsafe fn score<S: Simd, const R: usize, const W: usize>(
        &self,
        q: &[f32],
        s: &mut [f32],
        tokens: Range<usize>,
    ) {
        let quads = (q.len() / R - 3) / 2;
        let (q, s) = (q.as_ptr(), s.as_mut_ptr());
        let last = (tokens.end - 1) / LANES;
        for at in (tokens.start / LANES..=last).step_by(W) {
            // Vectors beyond the last are the last one once more; their scores are not looked at.
            let (mut keys, mut scales) = ([std::ptr::null(); W], [std::ptr::null(); W]);
            for (w, keys) in keys.iter_mut().enumerate() {
                let at = (at + w).min(last);
                *keys = self.keys[at];
                scales[w] = self.scales[at];
            }
            // SAFETY: as the caller promises, see `isa`; a block has `quads` lines of keys, and the tile's scores have room.
            unsafe {
                let high = products::<S, R, W>(keys, quads, (q, q.add(2 * quads * R)));
                let low = products::<S, R, W>(
                    keys,
                    quads,
                    (q.add(quads * R), q.add((2 * quads + 1) * R)),
                );
                let steps = q.add((2 * quads + 2) * R);
                for (r, high) in high.iter().enumerate() {
                    for (w, high) in high.iter().enumerate().take(BLOCKS - at) {
                        let v = join::<S>(*high, low[r][w], *steps.add(r));
                        let v = S::mul(v, S::load(scales[w]));
                        S::store(s.add(r * TILE + LANES * (at + w)), v);
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
        // SAFETY: as the caller promises, see `isa`. What is 0 is not seen; its scale may be anything.
        unsafe {
            let scale = S::load(self.scales[i].add(LANES));
            let v = S::if_less(S::splat(0.0), v, S::mul(v, scale), v);
            S::store(p.add(LANES * i), v);
        }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, p: *mut f32, vectors: Range<usize>) {
        let (mut bits, last) = (0, vectors.end - 1);
        // SAFETY: as the caller promises, see `isa`. A vector's bytes lie where it or one before it was, and it is read first.
        unsafe {
            for i in vectors.clone().step_by(2) {
                let (a, b) = (LANES * i, LANES * (i + 1).min(last));
                bits = bits.max(S::abs_bits(S::load(p.add(a)), S::load(p.add(b))));
            }
            let (factor, step) = steps(f32::from_bits(bits));
            let (factor, mut sums) = (S::splat(factor), [S::splat(0.0); 2]);
            for i in vectors {
                let v = S::load(p.add(LANES * i));
                let [high, low] = split::<S>(v, factor, p.cast::<i8>().add(2 * LANES * i));
                sums = [S::add(sums[0], high), S::add(sums[1], low)];
            }
            *p.add(TAIL) = S::sum(sums[0]);
            *p.add(TAIL + 1) = S::sum(sums[1]);
            *p.add(TAIL + 2) = step / PARTS;
        }
    }

    #[inline(always)]
    unsafe fn mix<S: Simd, const R: usize, const W: usize>(
        &self,
        p: &[f32],
        (states, len): (&mut [f32], usize),
        shrink: &[f32; 8],
        tokens: Range<usize>,
    ) {
        let vectors = tokens.start / LANES..tokens.end.div_ceil(LANES);
        let (width, p, states) = (self.width, p.as_ptr(), states.as_mut_ptr());
        for at in (0..width).step_by(LANES * W) {
            // Vectors beyond the width are the last one once more, and not stored.
            let mut places = [0; W];
            for (w, place) in places.iter_mut().enumerate() {
                *place = 4 * (at + LANES * w).min(width - LANES);
            }
            // SAFETY: as the caller promises, see `isa`; a quad of values has `4 * width` bytes, of which a place is one.
            unsafe {
                let vectors = vectors.clone();
                let high = self.mixed::<S, R, W>(places, vectors.clone(), (p, 0));
                let mut c = self.mixed::<S, R, W>(places, vectors, (p, 1));
                for (r, c) in c.iter_mut().enumerate() {
                    let step = *p.add(r * TILE + TAIL + 2);
                    for (w, c) in c.iter_mut().enumerate() {
                        *c = join::<S>(high[r][w], *c, step);
                    }
                }
                settle::<S, R, W>((states, len), (at, width), shrink, &c);
            }
        }
    }
}

impl Quads<'_> {
    /// Sums of the values at `places`, with one of both int8 of the exponentials.
    #[inline(always)]
    unsafe fn mixed<S: Simd, const R: usize, const W: usize>(
        &self,
        places: [usize; W],
        vectors: Range<usize>,
        (p, half): (*const f32, usize),
    ) -> [[S::F; W]; R] {
        let step = self.view.places.value_step();
        // SAFETY: as the caller promises, see `isa`.
        unsafe {
            let mut c = start::<S, R, W>((p.add(TAIL + half), TILE));
            for i in vectors {
                let p = p.add((2 * i + half) * LANES / 4).cast::<i32>();
                for t in 0..LANES / 4 {
                    let mut values = [std::ptr::null(); W];
                    for (w, value) in values.iter_mut().enumerate() {
                        *value = self.values[i].add(t * step + places[w]);
                    }
                    multiply::<S, R, W>(&mut c, values, 0, (p.add(t), TILE));
                }
            }
            widen::<S, R, W>(&c)
        }
    }
}

/// Sixteen values in steps, as [`steps`] says: whole steps, and [`PARTS`] of a step. Both are returned, and left as int8 at `to`:
/// `[2][16]`.
#[inline(always)]
unsafe fn split<S: Simd>(v: S::F, factor: S::F, to: *mut i8) -> [S::F; 2] {
    // SAFETY: as the caller promises, see `isa`. Half a step has at most 127 parts.
    unsafe {
        let v = in_steps::<S>(v, factor);
        let high = S::round(v);
        let low = S::round(S::mul(S::sub(v, high), S::splat(PARTS)));
        S::store_i8(to, high);
        S::store_i8(to.add(LANES), low);
        [high, low]
    }
}

/// The sums of both halves as one.
#[inline(always)]
unsafe fn join<S: Simd>(high: S::F, low: S::F, step: f32) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe { S::mul(S::fma(high, S::splat(PARTS), low), S::splat(step)) }
}

/// Products of one of both int8 of the queries with keys.
#[inline(always)]
unsafe fn products<S: Simd, const R: usize, const W: usize>(
    keys: [*const u8; W],
    quads: usize,
    (q, sums): (*const f32, *const f32),
) -> [[S::F; W]; R] {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let mut c = start::<S, R, W>((sums, 1));
        for d in 0..quads {
            let q = q.add(d * R).cast();
            multiply::<S, R, W>(&mut c, keys, d * 4 * LANES, (q, 1));
        }
        widen::<S, R, W>(&c)
    }
}

/// What takes away from the sums of `R` rows that stored numbers are too large: `sums` of the others, `step` apart.
#[inline(always)]
unsafe fn start<S: Simd, const R: usize, const W: usize>(
    (sums, step): (*const f32, usize),
) -> [[S::I; W]; R] {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let mut c = [[S::isplat(0); W]; R];
        for (r, c) in c.iter_mut().enumerate() {
            *c = [S::isplat(-S::BYTE_BIAS * *sums.add(r * step) as i32); W];
        }
        c
    }
}

#[inline(always)]
unsafe fn widen<S: Simd, const R: usize, const W: usize>(c: &[[S::I; W]; R]) -> [[S::F; W]; R] {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let mut wide = [[S::splat(0.0); W]; R];
        for (r, wide) in wide.iter_mut().enumerate() {
            for (w, wide) in wide.iter_mut().enumerate() {
                *wide = S::to_f32(c[r][w]);
            }
        }
        wide
    }
}

/// Adds to the sums of `R` rows the products of their quads, `step` apart at `a`, with the vectors `at` bytes behind `w`.
#[inline(always)]
unsafe fn multiply<S: Simd, const R: usize, const W: usize>(
    c: &mut [[S::I; W]; R],
    w: [*const u8; W],
    at: usize,
    (a, step): (*const i32, usize),
) {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        for (r, c) in c.iter_mut().enumerate() {
            let a = *a.add(r * step);
            for (i, c) in c.iter_mut().enumerate() {
                *c = S::dot4_bytes(*c, S::load_bytes(w[i].add(at)), a);
            }
        }
    }
}
