//! The online softmax (Milakov and Gimelshein, arXiv:1805.02867): what of a context has been summed up for a query, and how more
//! is added.
//!
//! Owns: states, `[padded v_dim]` sums of weighted values, then the largest score and the sum of the exponentials. Must not know
//! how scores are made.

use super::super::activation::{cap, exp};
use super::super::isa::{Kernel, Simd};
use super::{Form, LANES, TILE};
use crate::{AttnSpec, HeadLayout};
use std::ops::Range;

/// The largest score before there is one; finite, so that differences are.
const LOWEST: f32 = -1e30;
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

/// Coefficients of 2^x on |x| <= 1/2, highest power first: a cubic whose relative error is at most 1e-4, a twentieth of what
/// rounding to bf16 does.
const EXP2: [f32; 4] = [0.055_171_67, 0.242_630_9, 0.693_262_6, 1.0];

/// Values of a state: the output before division, padded, then its largest score and its sum.
pub(crate) fn state_len(layout: &HeadLayout) -> usize {
    padded(layout.v_dim) + 2
}

pub(crate) fn padded(dim: usize) -> usize {
    dim.next_multiple_of(16)
}

pub(super) fn clear(states: &mut [f32], layout: &HeadLayout) {
    for state in states.chunks_exact_mut(state_len(layout)) {
        state.fill(0.0);
        state[padded(layout.v_dim)] = LOWEST;
    }
}

#[inline(always)]
pub(super) fn divide(state: &[f32], out: &mut [f32]) {
    let sum = state[state.len() - 1];
    for (o, v) in out.iter_mut().zip(state) {
        *o = v / sum;
    }
}

/// e^x for `x <= 0`, to 1e-4 of it.
#[inline(always)]
pub(super) unsafe fn rough_exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let x = S::mul(x, S::splat(std::f32::consts::LOG2_E));
        // What is smaller becomes 0 beside the largest, which is 1. A NaN stays.
        let x = S::max(S::splat(-126.0), x);
        let n = S::round(x);
        let f = S::sub(x, n);
        let mut p = S::splat(EXP2[0]);
        for c in &EXP2[1..] {
            p = S::fma(p, f, S::splat(*c));
        }
        S::scale2(p, n)
    }
}

/// Scores to exponentials, for one query and some vectors of a tile: 0 where it does not see. Brings `limits` (largest
/// score, sum) up to date and returns the factor that what was summed up so far must take.
#[inline(always)]
pub(super) unsafe fn soften<S: Simd, F: Form>(
    (form, s): (&F, &mut [f32]),
    (vectors, seen): (Range<usize>, Range<usize>),
    spec: &AttnSpec,
    limits: &mut [f32],
) -> f32 {
    let s = s.as_mut_ptr();
    // SAFETY: as the caller promises, see `isa`; `s` has a tile's scores, as has `NUMBERS`.
    unsafe {
        let bounds = (seen.start as f32 - 0.5, seen.end as f32 - 0.5);
        let hides = |i: usize| seen.start > LANES * i || seen.end < LANES * (i + 1);
        let mut largest = S::splat(LOWEST);
        for i in vectors.clone() {
            let at = s.add(LANES * i);
            let mut v = S::mul(S::load(at), S::splat(spec.scale));
            if let Some(most) = spec.cap {
                v = cap::<S>(v, most);
            }
            if hides(i) {
                v = keep_seen::<S>(v, i, bounds, LOWEST);
            }
            S::store(at, v);
            largest = S::max(v, largest);
        }
        let top = limits[0].max(S::largest(largest));
        // Two, for shorter chains.
        let mut sums = [S::splat(0.0); 2];
        for i in vectors.clone() {
            let v = S::load(s.add(LANES * i));
            let mut p = F::exp::<S>(S::sub(v, S::splat(top)));
            if hides(i) {
                p = keep_seen::<S>(p, i, bounds, 0.0);
            }
            form.put::<S>(s, i, p);
            if i.is_multiple_of(2) {
                sums[0] = S::add(sums[0], p);
            } else {
                sums[1] = S::add(sums[1], p);
            }
        }
        form.finish::<S>(s, vectors);
        let shrink = if top > limits[0] {
            first_lane::<S>(exp::<S>(S::splat(limits[0] - top)))
        } else {
            1.0
        };
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
        let number = S::load(NUMBERS.as_ptr().add(LANES * i));
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

/// `state = state * shrink + c` for `W` vectors of `R` queries, from `at` on, those of them that lie below `width`.
#[inline(always)]
pub(super) unsafe fn settle<S: Simd, const R: usize, const W: usize>(
    (states, len): (*mut f32, usize),
    (at, width): (usize, usize),
    shrink: &[f32; 8],
    c: &[[S::F; W]; R],
) {
    for (r, c) in c.iter().enumerate() {
        for (w, c) in c.iter().enumerate() {
            let at = at + LANES * w;
            if at < width {
                // SAFETY: as the caller promises, see `isa`; `at + 16 <= width < len`.
                unsafe {
                    let state = states.add(r * len + at);
                    S::store(state, S::fma(S::load(state), S::splat(shrink[r]), *c));
                }
            }
        }
    }
}

/// `total` and then `part`, for one query.
#[inline(always)]
unsafe fn merge<S: Simd>(total: &mut [f32], part: &[f32]) {
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
pub(super) unsafe fn merge_all<S: Simd>(totals: &mut [f32], states: &[f32], layout: &HeadLayout) {
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
