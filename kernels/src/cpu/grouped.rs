//! Grouped formats: their packed layout, and their inner loops.
//!
//! As in `pack`, 32 output rows are a pair. For each group of columns, in ascending order:
//! ```text
//! scales   [32 rows] f16 or bf16: 1 line; f32: 2 lines
//! zeros    [32 rows] bf16: 1 line, if there are any
//! blocks   of 32 columns, the last one of a row padded with 0:
//!   INT4   as Q4_0: tile 0, then tile 1: for each of 4 dwords: [16 rows] of 4 bytes. Byte `i` of a row holds code `i` in its
//!          low and code `i + 16` in its high nibble, plus 8
//!   INT8   as Q8_0: tile 0, then tile 1: for each of 8 dwords: [16 rows] of 4 bytes, plus 128
//!   FP8    for each column: [32 rows] bytes
//! ```
//! Invariant: a sum over the columns runs in one order that depends on their number and the format only. Integers are
//! summed exactly within a block; FP8 codes in f32, at most [`SEGMENT`] columns and never more than a group at a time.

use super::codes::BLOCK;
use super::gemm::Product;
use super::integers::{self, Block};
use super::isa::Simd;
use super::pack::{Line, PAIR, TILE, memory, pairs};
use super::panel::{each_row, group_rows};
use super::quantize::GROUPED_DWORDS;
use crate::Error;
use crate::grouped::{Code, GroupedRow, Groups, Scale};
use crate::memory::Zeroed;
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;

/// Columns after which the sums of FP8 codes are scaled and added to the total.
const SEGMENT: usize = 256;
/// How far ahead the weights are asked for, bytes.
const AHEAD: usize = 8192;
/// What an e4m3 is divided by when its bits are read as an f16's ([`Simd::load_e4m3`]).
const E4M3: f32 = 256.0;

/// Sizes of the parts of a packed pair, in lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    groups: Groups,
    scales: usize,
    head: usize,
    block: usize,
}

impl Layout {
    pub(crate) const fn of(groups: Groups) -> Self {
        let scales = match groups.scale {
            Scale::F16 | Scale::Bf16 => 1,
            Scale::F32 => 2,
        };
        let block = match groups.code {
            Code::Int4 => 8,
            Code::Int8 | Code::Fp8 => 16,
        };
        Self {
            groups,
            scales,
            head: scales + groups.zeros as usize,
            block,
        }
    }

    /// Lines of a pair.
    const fn pair(self, cols: usize) -> usize {
        // Only the last group may end within a block.
        self.groups.count(cols) * self.head + cols.div_ceil(BLOCK) * self.block
    }

    pub(crate) const fn row_bytes(self, cols: usize) -> usize {
        self.pair(cols) * 2
    }

    /// Each group's first line and its columns.
    fn each(self, cols: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let size = self.groups.cols;
        let full = self.head + size / BLOCK * self.block;
        (0..self.groups.count(cols)).map(move |g| (g * full, g * size..cols.min((g + 1) * size)))
    }

    /// Where code `col` of a group lies in the group's lines, for row `row` of the pair.
    fn place(self, row: usize, col: usize) -> usize {
        let (block, i) = (self.head + col / BLOCK * self.block, col % BLOCK);
        let tile = row / TILE;
        let at = match self.groups.code {
            Code::Int4 => (tile * 4 + i % 16 / 4) * 64 + row % TILE * 4 + i % 4,
            Code::Int8 => (tile * 8 + i / 4) * 64 + row % TILE * 4 + i % 4,
            Code::Fp8 => i * PAIR + row,
        };
        block * 64 + at
    }

    /// Where the scale of row `row` lies in a group's lines.
    fn scale(self, row: usize) -> usize {
        row * 2 * self.scales
    }

    fn zero(self, row: usize) -> usize {
        self.scales * 64 + row * 2
    }
}

/// Packs `rows` rows of `cols` columns.
pub(crate) fn pack(
    (rows, cols): (usize, usize),
    groups: Groups,
    fetch: impl Fn(usize, &mut GroupedRow<'_>) + Sync,
) -> Result<Zeroed<Line>, Error> {
    let layout = Layout::of(groups);
    let (pair, count) = (layout.pair(cols), groups.count(cols));
    let mut lines = memory(pairs(rows) * pair)?;
    let buffers = || (vec![0; cols], vec![0.0; count], vec![0; count]);
    lines.par_chunks_exact_mut(pair).enumerate().for_each_init(
        buffers,
        |(codes, scales, zeros), (at, lines)| {
            for row in at * PAIR..rows.min((at + 1) * PAIR) {
                zeros.fill(0);
                let mut whole = GroupedRow {
                    codes,
                    scales,
                    zeros,
                };
                fetch(row, &mut whole);
                put(layout, row % PAIR, &whole, lines);
            }
        },
    );
    Ok(lines)
}

fn put(layout: Layout, row: usize, from: &GroupedRow<'_>, lines: &mut [Line]) {
    for (g, (first, cols)) in layout.each(from.codes.len()).enumerate() {
        let lines = &mut lines[first..];
        let mut write = |at: usize, bytes: &[u8]| {
            lines[at / 64].0[at % 64..at % 64 + bytes.len()].copy_from_slice(bytes);
        };
        let (scale, at) = (from.scales[g], layout.scale(row));
        match layout.groups.scale {
            Scale::F16 => write(at, &f16::from_f32(scale).to_le_bytes()),
            Scale::Bf16 => write(at, &bf16::from_f32(scale).to_le_bytes()),
            Scale::F32 => write(at, &scale.to_le_bytes()),
        }
        if layout.groups.zeros {
            let zero = bf16::from_f32(from.zeros[g].into());
            write(layout.zero(row), &zero.to_le_bytes());
        }
        // What a row lacks of its last block stays 0, as do rows beyond the last: activations of 0 meet it.
        for (i, &code) in from.codes[cols].iter().enumerate() {
            let at = layout.place(row, i);
            let to = &mut lines[at / 64].0[at % 64];
            match layout.groups.code {
                Code::Int4 if i % BLOCK < 16 => *to |= code.wrapping_add(8) & 15,
                Code::Int4 => *to |= code.wrapping_add(8) << 4,
                Code::Int8 => *to = code ^ 0x80,
                Code::Fp8 => *to = code,
            }
        }
    }
}

/// Row `row` as [`pack`] was given it.
pub(crate) fn unpack(lines: &[Line], groups: Groups, row: usize, to: &mut GroupedRow<'_>) {
    let layout = Layout::of(groups);
    let pair = layout.pair(to.codes.len());
    let lines = &lines[row / PAIR * pair..(row / PAIR + 1) * pair];
    let row = row % PAIR;
    for (g, (first, cols)) in layout.each(to.codes.len()).enumerate() {
        let byte = |at: usize| lines[first + at / 64].0[at % 64];
        let two = |at: usize| [byte(at), byte(at + 1)];
        let at = layout.scale(row);
        to.scales[g] = match groups.scale {
            Scale::F16 => f16::from_le_bytes(two(at)).to_f32(),
            Scale::Bf16 => bf16::from_le_bytes(two(at)).to_f32(),
            Scale::F32 => f32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]),
        };
        if groups.zeros {
            to.zeros[g] = bf16::from_le_bytes(two(layout.zero(row))).to_f32() as i16;
        }
        for (i, code) in to.codes[cols].iter_mut().enumerate() {
            let stored = byte(layout.place(row, i));
            *code = match groups.code {
                Code::Int4 if i % BLOCK < 16 => (stored & 15).wrapping_sub(8),
                Code::Int4 => (stored >> 4).wrapping_sub(8),
                Code::Int8 => stored ^ 0x80,
                Code::Fp8 => stored,
            };
        }
    }
}

/// The largest e4m3.
const E4M3_MOST: f32 = 448.0;

/// The value of an e4m3, which must not be NaN: its bits are those of an f16 of another exponent.
fn e4m3(code: u8) -> f32 {
    let bits = u16::from(code & 0x80) << 8 | u16::from(code & 0x7f) << 7;
    f16::from_bits(bits).to_f32() * E4M3
}

/// The e4m3 nearest to `value`, ties to even; the largest for what is larger.
pub(crate) fn to_e4m3(value: f32) -> u8 {
    let bits = value.to_bits();
    let (sign, size) = ((bits >> 24 & 0x80) as u8, bits & 0x7fff_ffff);
    if value.is_nan() {
        return sign | 0x7f;
    }
    let code = if size < 0x3c80_0000 {
        // Below 2^-6 steps are 2^-9.
        (value.abs() * 512.0).round_ties_even() as u32
    } else {
        ((size + 0x7_ffff + (size >> 20 & 1)) >> 20) - (120 << 3)
    };
    sign | code.min(0x7e) as u8
}

/// The codes of a row, and their scale: its largest value becomes the largest code.
pub(crate) fn round(row: &[f32], codes: &mut [u8]) -> f32 {
    let most = row.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let scale = most / E4M3_MOST;
    for (code, v) in codes.iter_mut().zip(row) {
        *code = to_e4m3(if scale > 0.0 { v / scale } else { *v });
    }
    scale
}

/// The values of row `row`. `out`: `[cols]`.
pub(crate) fn dequantize_row(lines: &[Line], groups: Groups, row: usize, out: &mut [f32]) {
    let count = groups.count(out.len());
    let (mut codes, mut scales, mut zeros) = (vec![0; out.len()], vec![0.0; count], vec![0; count]);
    let mut whole = GroupedRow {
        codes: &mut codes,
        scales: &mut scales,
        zeros: &mut zeros,
    };
    unpack(lines, groups, row, &mut whole);
    for (i, (out, code)) in out.iter_mut().zip(codes).enumerate() {
        let group = i / groups.cols;
        let value = match groups.code {
            Code::Int4 | Code::Int8 => f32::from(code as i8) - f32::from(zeros[group]),
            Code::Fp8 => e4m3(code),
        };
        *out = scales[group] * value;
    }
}

/// The sums of some rows with one pair of the weight; as `gemm::multiply`.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd>(
    p: &Product<'_>,
    groups: Groups,
    (w, rows): (*const u8, Range<usize>),
    sums: &mut [[S::F; 2]],
) {
    let cols = p.weight.cols();
    let layout = Layout::of(groups);
    // SAFETY: as the caller promises, see `isa`. The pair's lines are at `w`; the activations of these rows lie inside `acts`,
    // whose length `linear` made for this format.
    unsafe {
        if groups.code != Code::Fp8 {
            let a = p.acts[rows.start * GROUPED_DWORDS..].as_ptr();
            let a = (a, p.rows * GROUPED_DWORDS);
            match (groups.code, groups.zeros) {
                (Code::Int4, false) => blocks::<S, true, false>(w, (layout, cols), a, sums),
                (Code::Int4, true) => blocks::<S, true, true>(w, (layout, cols), a, sums),
                (_, false) => blocks::<S, false, false>(w, (layout, cols), a, sums),
                (_, true) => blocks::<S, false, true>(w, (layout, cols), a, sums),
            }
            return;
        }
        let mut row = rows.start;
        while row < rows.end {
            let n = group_rows(p.rows - row, S::ISA.panel().0);
            let a = p.acts[row * cols..(row + n) * cols].as_ptr();
            let sums = &mut sums[row - rows.start..];
            match n {
                12 => floats::<S, 12>(w, (layout, cols), a, sums),
                8 => floats::<S, 8>(w, (layout, cols), a, sums),
                6 => floats::<S, 6>(w, (layout, cols), a, sums),
                4 => floats::<S, 4>(w, (layout, cols), a, sums),
                3 => floats::<S, 3>(w, (layout, cols), a, sums),
                2 => floats::<S, 2>(w, (layout, cols), a, sums),
                _ => floats::<S, 1>(w, (layout, cols), a, sums),
            }
            row += n;
        }
    }
}

/// The scales of a group, for 32 outputs.
#[inline(always)]
unsafe fn load_scales<S: Simd>(head: *const u8, scale: Scale) -> [S::F; 2] {
    // SAFETY: as the caller promises, see `isa`: 1 line, 2 for f32.
    unsafe {
        match scale {
            Scale::F16 => [S::load_f16(head.cast()), S::load_f16(head.add(32).cast())],
            Scale::Bf16 => [S::load_bf16(head.cast()), S::load_bf16(head.add(32).cast())],
            Scale::F32 => [S::load(head.cast()), S::load(head.add(64).cast())],
        }
    }
}

/// Rows with a pair of integers, block by block. `a`: the first row's first block, and the dwords from block to block.
#[inline(always)]
unsafe fn blocks<S: Simd, const FOUR: bool, const ZEROS: bool>(
    w: *const u8,
    (layout, cols): (Layout, usize),
    (mut a, stride): (*const u32, usize),
    sums: &mut [[S::F; 2]],
) {
    let tile = layout.block * 32;
    for (first, range) in layout.each(cols) {
        // SAFETY: as the caller promises, see `isa`; the group's lines are at `head`, the activations of its blocks at `a`.
        unsafe {
            let head = w.add(first * 64);
            let scales = load_scales::<S>(head, layout.groups.scale);
            let zeros = if ZEROS {
                let zeros = head.add(layout.scales * 64);
                [
                    S::load_bf16(zeros.cast()),
                    S::load_bf16(zeros.add(32).cast()),
                ]
            } else {
                scales
            };
            let mut at = head.add(layout.head * 64);
            for _ in 0..range.len().div_ceil(BLOCK) {
                for line in 0..layout.block {
                    S::prefetch(at.wrapping_add(AHEAD + 64 * line));
                }
                let heads = &[scales, zeros];
                let block = Integers::<S, FOUR, ZEROS> { heads, at, tile };
                integers::multiply(&block, a, sums);
                at = at.add(2 * tile);
                a = a.add(stride);
            }
        }
    }
}

/// A block of a group: the group's scales and zeros, where the codes of its first tile are, and the bytes to those of its second.
struct Integers<'a, S: Simd, const FOUR: bool, const ZEROS: bool> {
    heads: &'a [[S::F; 2]; 2],
    at: *const u8,
    tile: usize,
}

impl<S: Simd, const FOUR: bool, const ZEROS: bool> Block<S> for Integers<'_, S, FOUR, ZEROS> {
    /// And the zeros.
    type Scales = (S::F, S::F);

    #[inline(always)]
    fn parts(&self) -> usize {
        1
    }
    #[inline(always)]
    fn most(&self) -> Option<usize> {
        FOUR.then_some(15)
    }
    #[inline(always)]
    fn dwords(&self) -> usize {
        GROUPED_DWORDS
    }
    #[inline(always)]
    unsafe fn quad(&self, tile: usize, quad: usize) -> S::B {
        // SAFETY: as the caller promises, see `Block`: 4 lines, or 8.
        unsafe {
            let at = self.at.add(tile * self.tile);
            if FOUR {
                S::bits(S::load_bytes(at.add(64 * (quad % 4))), quad / 4 * 4, 0, 15)
            } else {
                S::load_bytes(at.add(64 * quad))
            }
        }
    }
    #[inline(always)]
    unsafe fn scales(&self, tile: usize) -> Self::Scales {
        (self.heads[0][tile], self.heads[1][tile])
    }
    #[inline(always)]
    unsafe fn first(&self, _: usize, a: *const u32) -> i32 {
        let bias = if FOUR { -8 } else { -S::BYTE_BIAS };
        // SAFETY: as the caller promises, see `Block`: the sum of the row's codes comes behind them.
        unsafe { bias * *a.add(8) as i32 }
    }
    #[inline(always)]
    unsafe fn add(
        &self,
        (scale, zero): &Self::Scales,
        _: usize,
        products: S::I,
        a: *const u32,
        sum: S::F,
    ) -> S::F {
        // SAFETY: as the caller promises, see `Block`: the sum of the row's codes, then its scale.
        unsafe {
            // All below 2^24: exact.
            let mut v = S::to_f32(products);
            if ZEROS {
                v = S::sub(v, S::mul(*zero, S::splat(*a.add(8) as i32 as f32)));
            }
            let row = S::splat(f32::from_bits(*a.add(9)));
            S::fma(v, S::mul(*scale, row), sum)
        }
    }
}

/// `R` rows with a pair of FP8 codes, column by column, as many tiles at a time as there are registers for. `a`: `[cols, R]` f32.
#[inline(always)]
unsafe fn floats<S: Simd, const R: usize>(
    w: *const u8,
    (layout, cols): (Layout, usize),
    a: *const u32,
    sums: &mut [[S::F; 2]],
) {
    let (rows, tiles) = S::ISA.panel();
    if R > rows || R > sums.len() {
        return;
    }
    let sums = sums.as_mut_ptr();
    for (first, range) in layout.each(cols) {
        // SAFETY: as the caller promises, see `isa`; the group's lines are at `head`, `col < cols`, and there are `R` sums.
        unsafe {
            let head = w.add(first * 64);
            let d = load_scales::<S>(head, layout.groups.scale);
            let codes = head.add(layout.head * 64);
            let e4m3 = S::splat(E4M3);
            let parts = range.clone().step_by(SEGMENT);
            for (start, tile) in parts.flat_map(|s| (0..2).step_by(tiles).map(move |t| (s, t))) {
                let mut c = [[S::splat(0.0); 2]; R];
                for col in start..range.end.min(start + SEGMENT) {
                    let w = codes.add((col - range.start) * PAIR + tile * TILE);
                    let one = S::load_e4m3(w);
                    // Where there is no room for a second tile nothing is done with it.
                    let two = if tiles == 2 {
                        S::load_e4m3(w.add(TILE))
                    } else {
                        one
                    };
                    each_row!(R, I => {
                        let a = S::splat(f32::from_bits(*a.add(col * R + I)));
                        c[I][0] = S::fma(one, a, c[I][0]);
                        if tiles == 2 {
                            c[I][1] = S::fma(two, a, c[I][1]);
                        }
                    });
                }
                each_row!(R, I => {
                    let sum = &mut *sums.add(I);
                    sum[tile] = S::fma(S::mul(c[I][0], e4m3), d[tile], sum[tile]);
                    if tiles == 2 {
                        sum[1] = S::fma(S::mul(c[I][1], e4m3), d[1], sum[1]);
                    }
                });
            }
        }
    }
}
