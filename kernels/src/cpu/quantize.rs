//! Activations in the form that a product's kernel reads, made once per product.
//!
//! Block formats: for each 32 columns, for each row, eight dwords of int8, a correction for each scale of the weight's block
//! (one, or one for each half), the scale (f32): the largest absolute value / 127, as in llama.cpp's Q8 blocks but kept in
//! f32. The correction is what the kernel adds for the offset of the stored weights: an i32 of minus that offset (or minus
//! the path's bias for int8 weights) times the sum of the int8; for grouped formats that sum; or the f32
//! `scale * sum`, times the block's minimum.
//!
//! Panels (F32, F16, FP8: f32 values; BF16: two bf16, or f32 values of an even number of columns): rows in groups, each `[columns][rows of the group]` dwords, so that a
//! kernel reads one ascending stream. INT8: see `int8`.
//!
//! A block with a NaN or an infinity gets a NaN as its scale: it must not turn into ordinary numbers.

use super::codes::{BLOCK, Codes, Value};
use super::int8;
use super::isa::{Kernel, Simd, Tile};
use super::panel::group_rows;
use super::shared::Shared;
use crate::grouped::Code;
use crate::{Format, Isa};
use std::ops::Range;

/// As [`block_dwords`], of integers in a grouped format.
pub(crate) const GROUPED_DWORDS: usize = 10;
/// Below this a scale would be subnormal; the block counts as 0.
const TINY: f32 = 1e-30;

/// What values whose largest is `max` are multiplied with to be in 127 steps (0 if they are nothing or not all numbers), and
/// the size of a step (a NaN if they are not).
#[inline(always)]
pub(super) fn steps(max: f32) -> (f32, f32) {
    if !max.is_finite() {
        (0.0, f32::NAN)
    } else if max > TINY {
        (127.0 / max, max / 127.0)
    } else {
        (0.0, 0.0)
    }
}

/// `v` in steps, as [`steps`] says; zeros where the factor is 0, whatever `v` is.
#[inline(always)]
pub(super) unsafe fn in_steps<S: Simd>(v: S::F, factor: S::F) -> S::F {
    // SAFETY: as the caller promises, see `isa`.
    unsafe {
        let zero = S::splat(0.0);
        S::if_less(zero, factor, S::mul(v, factor), zero)
    }
}

/// Dwords of one row of a block: 8 of int8, the corrections, the scale.
pub(crate) const fn block_dwords(codes: Codes) -> usize {
    9 + codes.groups()
}

/// Dwords that the activations of a product take on a path.
pub(crate) fn dwords(format: Format, (rows, cols): (usize, usize), isa: Isa) -> usize {
    rows * match (format, Codes::of(format)) {
        (_, Some(codes)) => cols / BLOCK * block_dwords(codes),
        (Format::Bf16, _) if isa.has_bf16() => cols.div_ceil(2),
        (Format::Bf16, _) => cols.next_multiple_of(2),
        (Format::Int8, _) => int8::dwords(cols),
        (Format::Grouped(groups), _) if groups.code != Code::Fp8 => {
            cols.div_ceil(BLOCK) * GROUPED_DWORDS
        }
        _ => cols,
    }
}

/// Makes some rows of activations; `rows` begins at a multiple of the path's group of rows.
pub(crate) struct Activations<'a> {
    pub(crate) format: Format,
    /// `[all, cols]`
    pub(crate) x: &'a [f32],
    pub(crate) cols: usize,
    pub(crate) all: usize,
    pub(crate) rows: Range<usize>,
    pub(crate) to: &'a Shared<'a, u32>,
}

impl Kernel for Activations<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: as the caller promises, see `isa`.
        unsafe {
            match (self.format, Codes::of(self.format)) {
                (_, Some(codes)) => {
                    // The factor of an i32 correction; none for the f32 one.
                    let offset = match codes.value {
                        Value::Min => None,
                        Value::Minus(offset) => Some(-i32::from(offset)),
                        Value::Signed | Value::Table(_) => Some(-S::BYTE_BIAS),
                    };
                    self.blocks::<S>(codes.groups(), offset);
                }
                (Format::Grouped(groups), _) if groups.code != Code::Fp8 => {
                    self.blocks::<S>(1, Some(1));
                }
                (Format::Int8, _) => int8::activations::<S>(&self),
                (Format::Bf16, _) if S::ISA.has_bf16() => self.panels::<S, true>(),
                _ => self.panels::<S, false>(),
            }
        }
    }
}

impl Activations<'_> {
    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.x[row * self.cols..(row + 1) * self.cols]
    }

    #[inline(always)]
    unsafe fn panels<S: Simd, const BF16: bool>(&self) {
        let dwords = |values: usize| match self.format {
            Format::Bf16 if BF16 => values.div_ceil(2),
            Format::Bf16 => values.next_multiple_of(2),
            _ => values,
        };
        let (depth, round) = (dwords(self.cols), self.format == Format::Bf16 && !BF16);
        let mut tile: Tile = [[0; 16]; 16];
        let (mut first, each) = (self.rows.start, if BF16 { 32 } else { 16 });
        while first < self.rows.end {
            let n = group_rows(self.all - first, S::ISA.panel().0);
            // SAFETY: a group belongs to one chunk.
            let group = unsafe { self.to.part(first * depth..(first + n) * depth) };
            let mut to = group.as_mut_ptr();
            for at in (0..self.cols).step_by(each) {
                let values = each.min(self.cols - at);
                // SAFETY: as the caller promises, see `isa`; a row has `values` from `at` on, and the group `[depth][n]` dwords.
                unsafe {
                    for (i, tile) in tile[..n].iter_mut().enumerate() {
                        let row = &self.row(first + i)[at..at + values];
                        line::<S, BF16>(row, tile);
                        if round {
                            rounded::<S>(tile);
                        }
                    }
                    let columns = dwords(values);
                    S::columns((tile.as_ptr().cast(), 16), (n, columns), (to, n));
                    to = to.add(columns * n);
                }
            }
            first += n;
        }
    }

    /// `groups`: corrections of a block.
    #[inline(always)]
    unsafe fn blocks<S: Simd>(&self, groups: usize, offset: Option<i32>) {
        let dwords = 9 + groups;
        for r in self.rows.clone() {
            for (b, v) in self.row(r).chunks(BLOCK).enumerate() {
                let at = (b * self.all + r) * dwords;
                // SAFETY: a row belongs to one chunk.
                let to = unsafe { self.to.part(at..at + dwords) };
                // SAFETY: as the caller promises, see `isa`; `to` begins with 32 bytes. `v` has 32 values, fewer at most in the
                // last block of a grouped format.
                unsafe {
                    let (a, b) = if v.len() == BLOCK {
                        (S::load(v.as_ptr()), S::load(v.as_ptr().add(16)))
                    } else {
                        let (a, b) = v.split_at(v.len().min(16));
                        (
                            S::load_part(a.as_ptr(), a.len()),
                            S::load_part(b.as_ptr(), b.len()),
                        )
                    };
                    let max = f32::from_bits(S::abs_bits(a, b));
                    let (inverse, scale) = steps(max);
                    let (factor, bytes) = (S::splat(inverse), to.as_mut_ptr().cast::<i8>());
                    let (a, b) = (in_steps::<S>(a, factor), in_steps::<S>(b, factor));
                    let halves = [S::store_i8(bytes, a), S::store_i8(bytes.add(16), b)];
                    let whole = [halves[0] + halves[1]];
                    let sums = if groups == 2 { &halves[..] } else { &whole };
                    for (to, sum) in to[8..].iter_mut().zip(sums) {
                        *to = match offset {
                            None => (scale * *sum as f32).to_bits(),
                            Some(offset) => (offset * sum) as u32,
                        };
                    }
                    to[8 + groups] = scale.to_bits();
                }
            }
        }
    }
}

/// Rounds sixteen values to bf16: a product means the same on all paths.
#[inline(always)]
unsafe fn rounded<S: Simd>(values: &mut [u32; 16]) {
    let mut halves = [0; 16];
    // SAFETY: as the caller promises, see `isa`; 16 values each.
    unsafe {
        S::store_bf16(halves.as_mut_ptr(), S::load(values.as_ptr().cast()));
        S::store(values.as_mut_ptr().cast(), S::load_bf16(halves.as_ptr()));
    }
}

/// Up to sixteen values as they are, or up to 32 rounded to bf16, two a dword, the last perhaps with a 0.
#[inline(always)]
unsafe fn line<S: Simd, const BF16: bool>(values: &[f32], to: &mut [u32; 16]) {
    for (part, v) in values.chunks(16).enumerate() {
        // SAFETY: as the caller promises, see `isa`; `v` has 1 to 16 values, and there are two parts at most, of half a line each.
        unsafe {
            let v = S::load_part(v.as_ptr(), v.len());
            if BF16 {
                S::store_bf16(to.as_mut_ptr().add(8 * part).cast(), v);
            } else {
                S::store(to.as_mut_ptr().cast(), v);
            }
        }
    }
}
