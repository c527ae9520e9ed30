//! [`Stored`]: tiles of bf16 on processors that do not multiply it, widened where the cache has them. Queries and exponentials are f32.

use super::super::isa::Simd;
use super::pairs::{BLOCKS, Places, offset};
use super::wide::{multiply, transpose};
use super::{Form, LANES, TILE, Task, padded, rough_exp, settle};
use crate::HeadLayout;
use std::ops::Range;

/// A tile where it is.
pub(super) struct Stored<'a> {
    at: Places<'a>,
    /// The padded `v_dim`.
    width: usize,
}

impl<'a> Stored<'a> {
    pub(super) fn new(task: &Task<'_>, at: Places<'a>) -> Self {
        let width = padded(task.spec.layout.v_dim);
        Self { at, width }
    }
}

/// Of sixteen pairs at each of these places the lower numbers (`part` 0) or the upper ones.
#[inline(always)]
unsafe fn halves<S: Simd, const W: usize>(at: [*const u8; W], part: usize) -> [S::F; W] {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let mut out = [S::splat(0.0); W];
        for (out, at) in out.iter_mut().zip(at) {
            *out = S::load_half(at, part);
        }
        out
    }
}

impl Form for Stored<'_> {
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
        self.at.find(task, start, tokens);
    }

    #[inline(always)]
    unsafe fn score<S: Simd, const R: usize, const W: usize>(
        &self,
        q: &[f32],
        s: &mut [f32],
        tokens: Range<usize>,
    ) {
        let dims = q.len() / R;
        let (q, s) = (q.as_ptr(), s.as_mut_ptr());
        let last = (tokens.end - 1) / LANES;
        for at in (tokens.start / LANES..=last).step_by(W) {
            // Vectors beyond the last are the last one once more; their scores are not looked at.
            let mut keys = [std::ptr::null(); W];
            for (w, keys) in keys.iter_mut().enumerate() {
                *keys = self.at.keys[(at + w).min(last)];
            }
            // SAFETY: as the caller promises, see `isa`; a block has a line of keys for two numbers, and the tile's scores have room.
            unsafe {
                let mut c = [[S::splat(0.0); W]; R];
                for d in (0..dims / 2 * 2).step_by(2) {
                    let line = keys.map(|keys| keys.wrapping_add(d * 2 * LANES));
                    multiply::<S, R, W>(&mut c, halves::<S, W>(line, 0), (q.add(d * R), 1));
                    multiply::<S, R, W>(&mut c, halves::<S, W>(line, 1), (q.add((d + 1) * R), 1));
                }
                if dims % 2 == 1 {
                    let line = keys.map(|keys| keys.wrapping_add((dims - 1) * 2 * LANES));
                    let q = (q.add((dims - 1) * R), 1);
                    multiply::<S, R, W>(&mut c, halves::<S, W>(line, 0), q);
                }
                for (r, c) in c.iter().enumerate() {
                    for (w, c) in c.iter().enumerate().take(BLOCKS - at) {
                        S::store(s.add(r * TILE + LANES * (at + w)), *c);
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
        let width = self.width;
        let (p, states) = (p.as_ptr(), states.as_mut_ptr());
        for at in (0..width).step_by(LANES * W) {
            // Vectors beyond the width are the last one once more, and not stored.
            let mut places = [0; W];
            for (w, place) in places.iter_mut().enumerate() {
                *place = 4 * (at + LANES * w).min(width - LANES);
            }
            let line = |t: usize| offset(self.at.pair(t), places);
            // SAFETY: as the caller promises, see `isa`; a pair of values has `4 * width` bytes, of which a place is one.
            unsafe {
                let mut c = [[S::splat(0.0); W]; R];
                let (start, end) = (tokens.start, tokens.end);
                if start % 2 == 1 {
                    let v = halves::<S, W>(line(start), 1);
                    multiply::<S, R, W>(&mut c, v, (p.add(start), TILE));
                }
                for t in (start.next_multiple_of(2)..end / 2 * 2).step_by(2) {
                    let line = line(t);
                    multiply::<S, R, W>(&mut c, halves::<S, W>(line, 0), (p.add(t), TILE));
                    multiply::<S, R, W>(&mut c, halves::<S, W>(line, 1), (p.add(t + 1), TILE));
                }
                if end % 2 == 1 {
                    let v = halves::<S, W>(line(end - 1), 0);
                    multiply::<S, R, W>(&mut c, v, (p.add(end - 1), TILE));
                }
                settle::<S, R, W>((states, len), (at, width), shrink, &c);
            }
        }
    }
}
