//! [`Pairs`]: tiles of bf16, multiplied where the cache has them, two numbers at a time.
//!
//! A query is two bf16 for it, what it is rounded to and what that leaves: its rounding alone would move every score, as that
//! of a key moves one. Exponentials are rounded to one. Products are summed in f32, as are the exponentials before they are
//! rounded.

use super::super::isa::Simd;
use super::{Form, LANES, TILE, Task, padded, rough_exp, settle};
use crate::HeadLayout;
use crate::cache::View;
use std::ops::Range;

/// Blocks of sixteen tokens in a tile.
pub(super) const BLOCKS: usize = TILE / LANES;

/// Where a tile's keys and values are in a cache of bf16.
pub(super) struct Places<'a> {
    view: View<'a>,
    store: &'a [u16],
    table: &'a [u32],
    /// Keys of sixteen tokens: `[k_dim / 2][16]` pairs.
    pub(super) keys: [*const u8; BLOCKS],
    /// Their values: `[8][padded v_dim]` pairs.
    values: [*const u8; BLOCKS],
}

impl<'a> Places<'a> {
    pub(super) fn new((view, store): (View<'a>, &'a [u16]), table: &'a [u32]) -> Self {
        Self {
            view,
            store,
            table,
            keys: [std::ptr::null(); BLOCKS],
            values: [std::ptr::null(); BLOCKS],
        }
    }

    /// Makes `tokens` the tile, which begins at `start`.
    pub(super) fn find(&mut self, task: &Task<'_>, start: usize, tokens: Range<usize>) {
        let places = self.view.places;
        for first in (tokens.start / LANES * LANES..tokens.end).step_by(LANES) {
            let (block, offset) = places.find(self.table, first);
            let keys = places.keys(block, task.kv_head, offset);
            let values = places.values(block, task.kv_head, offset);
            let end = values + LANES * padded(task.spec.layout.v_dim);
            let at = (first - start) / LANES;
            self.keys[at] = self.store[keys..end].as_ptr().cast();
            self.values[at] = self.store[values..end].as_ptr().cast();
        }
    }

    /// Where the pair of values is in which token `t` of the tile is.
    pub(super) fn pair(&self, t: usize) -> *const u8 {
        let step = self.view.places.value_step() * size_of::<u16>();
        self.values[t / LANES].wrapping_add(t % LANES / 2 * step)
    }
}

/// A tile where it is.
pub(super) struct Pairs<'a> {
    at: Places<'a>,
    /// Values of a pair of tokens of which only the second or only the first is in the tile: `[2][padded v_dim]` pairs, with
    /// zeros for the other.
    edges: &'a mut [f32],
}

impl<'a> Pairs<'a> {
    /// `edges`: two lines of the padded `v_dim`, or more.
    pub(super) fn new(task: &Task<'_>, at: Places<'a>, edges: &'a mut [f32]) -> Self {
        let edges = &mut edges[..2 * padded(task.spec.layout.v_dim)];
        Self { at, edges }
    }

    fn width(&self) -> usize {
        self.edges.len() / 2
    }

    /// Copies the pair of token `t` with only the bits under `mask`.
    unsafe fn keep_half(&mut self, edge: usize, t: usize, mask: u32) {
        let (from, width) = (self.at.pair(t).cast::<[u8; 4]>(), self.width());
        for (d, to) in self.edges[edge * width..][..width].iter_mut().enumerate() {
            // SAFETY: the caller's promise: the tile has this token, and its pair as many numbers.
            let pair = u32::from_le_bytes(unsafe { from.add(d).read() });
            *to = f32::from_bits(pair & mask);
        }
    }
}

impl Form for Pairs<'_> {
    /// Both bf16, pairs of each.
    fn query_len(layout: &HeadLayout) -> usize {
        layout.k_dim.next_multiple_of(2)
    }

    #[inline(always)]
    unsafe fn gather<'a, S: Simd>(query: impl Fn(usize) -> &'a [f32], n: usize, to: &mut [f32]) {
        for i in 0..n {
            let query = query(i);
            let (mut high, mut low) = ([0u32; 8], [0u32; 8]);
            let (highs, lows) = to.split_at_mut(to.len() / 2);
            for (part, values) in query.chunks(16).enumerate() {
                // SAFETY: as the caller promises, see `isa`; at most 16 values are read, and 16 are written or read again.
                unsafe {
                    let v = S::load_part(values.as_ptr(), values.len());
                    S::store_bf16(high.as_mut_ptr().cast(), v);
                    let rounded = S::load_bf16(high.as_ptr().cast());
                    S::store_bf16(low.as_mut_ptr().cast(), S::sub(v, rounded));
                }
                // Beyond the values there are zeros.
                for d in 0..values.len().div_ceil(2) {
                    let at = (8 * part + d) * n + i;
                    highs[at] = f32::from_bits(high[d]);
                    lows[at] = f32::from_bits(low[d]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn load<S: Simd>(&mut self, task: &Task<'_>, start: usize, tokens: Range<usize>) {
        self.at.find(task, start, tokens.clone());
        let (first, end) = (tokens.start - start, tokens.end - start);
        // SAFETY: both tokens are in the tile.
        unsafe {
            if first % 2 == 1 {
                self.keep_half(0, first, 0xffff_0000);
            }
            if end % 2 == 1 {
                self.keep_half(1, end - 1, 0xffff);
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
        let pairs = q.len() / R / 2;
        let (q, s) = (q.as_ptr().cast::<u32>(), s.as_mut_ptr());
        let last = (tokens.end - 1) / LANES;
        for at in (tokens.start / LANES..=last).step_by(W) {
            // Vectors beyond the last are the last one once more; their scores are not looked at.
            let mut keys = [std::ptr::null(); W];
            for (w, keys) in keys.iter_mut().enumerate() {
                *keys = self.at.keys[(at + w).min(last)];
            }
            // SAFETY: as the caller promises, see `isa`; a block has `pairs` lines of keys, and the tile's scores have room.
            unsafe {
                let mut c = [[S::splat(0.0); W]; R];
                for d in 0..pairs {
                    let (high, low) = (q.add(d * R), q.add((pairs + d) * R));
                    multiply::<S, R, W>(&mut c, keys, d * 4 * LANES, (high, 1));
                    multiply::<S, R, W>(&mut c, keys, d * 4 * LANES, (low, 1));
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
        let width = self.width();
        let (p, states) = (p.as_ptr().cast::<u32>(), states.as_mut_ptr());
        let edges = self.edges.as_ptr().cast::<u8>();
        for at in (0..width).step_by(LANES * W) {
            // Vectors beyond the width are the last one once more, and not stored.
            let mut places = [0; W];
            for (w, place) in places.iter_mut().enumerate() {
                *place = 4 * (at + LANES * w).min(width - LANES);
            }
            // SAFETY: as the caller promises, see `isa`; a pair of values has `4 * width` bytes, of which a place is one.
            unsafe {
                let mut c = [[S::splat(0.0); W]; R];
                if tokens.start % 2 == 1 {
                    let p = (p.add(tokens.start / 2), TILE);
                    multiply::<S, R, W>(&mut c, offset(edges, places), 0, p);
                }
                for t in (tokens.start.next_multiple_of(2)..tokens.end / 2 * 2).step_by(2) {
                    let p = (p.add(t / 2), TILE);
                    multiply::<S, R, W>(&mut c, offset(self.at.pair(t), places), 0, p);
                }
                if tokens.end % 2 == 1 {
                    let p = (p.add(tokens.end / 2), TILE);
                    let edge = edges.wrapping_add(4 * width);
                    multiply::<S, R, W>(&mut c, offset(edge, places), 0, p);
                }
                settle::<S, R, W>((states, len), (at, width), shrink, &c);
            }
        }
    }
}

/// The places after `start`.
#[inline(always)]
pub(super) fn offset<const W: usize>(start: *const u8, places: [usize; W]) -> [*const u8; W] {
    let mut pointers = [start; W];
    for (pointer, place) in pointers.iter_mut().zip(places) {
        *pointer = start.wrapping_add(place);
    }
    pointers
}

/// Adds to the sums of `R` rows the products of their pairs, `step` apart at `a`, with the vectors `at` bytes behind `w`.
#[inline(always)]
unsafe fn multiply<S: Simd, const R: usize, const W: usize>(
    c: &mut [[S::F; W]; R],
    w: [*const u8; W],
    at: usize,
    (a, step): (*const u32, usize),
) {
    for (r, c) in c.iter_mut().enumerate() {
        // SAFETY: as the caller promises, see `isa`.
        unsafe {
            let a = *a.add(r * step);
            for (i, c) in c.iter_mut().enumerate() {
                *c = S::dot2_bf16(*c, w[i].add(at), a);
            }
        }
    }
}
