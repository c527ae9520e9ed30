//! The format of an int8 for each value and a scale for each row ([`crate::Format::Int8`]): its layout, its activations, its
//! inner loop.
//!
//! As in `pack`, 32 output rows are a pair:
//! ```text
//! scales   [32 rows] f32                                                                  2 lines
//! sums     [32 rows] i32, of the codes                                                    2 lines
//! codes    for each 4 columns (the last padded with 0): tile 0, then tile 1: [16 rows] of 4 bytes, plus 128
//! ```
//! A row of activations is int8 too, with a scale and a zero of its own: a value is `scale * (code - zero)`. Rows lie in groups as
//! those of a panel do (`quantize`), each group `[columns / 4][rows]` dwords of codes, then for each row what its sums begin with, the
//! zero, and the scale.
//!
//! AVX2 multiplies bytes two at a time into 16 bits, which hold 128 times a code but not more. So the weights of columns `2 i` and
//! `2 i + 1` are within 128 together: a row's scale is that of its largest value or of its largest sum of two neighbours, whichever is
//! larger ([`round`]). For normal weights steps become a third larger for it; with a few that stand out, as trained ones have, hardly.
//!
//! Invariant: the sum over the columns is an integer, exact on every path; it is scaled once, at the end.

use super::isa::Simd;
use super::pack::{Line, PAIR, TILE, memory, pairs};
use super::panel::{each_row, group_rows};
use super::quantize::Activations;
use crate::Error;
use crate::memory::Zeroed;
use rayon::prelude::*;

/// Columns of a row at most, so that no sum leaves 32 bits: `255 * 127` times as many do not.
pub(crate) const MOST_COLS: usize = 1 << 16;
/// Lines before a pair's codes: scales and sums.
const HEAD: usize = 4;
/// Rows of a group at most, on any path.
const MOST_ROWS: usize = 12;
/// Sixteens of columns whose codes are made before they are brought in order.
const PART: usize = 32;
/// Dwords of a row of activations behind its codes.
const EXTRA: usize = 3;
/// What stored weights are more than their value; or, on paths whose weights are signed, codes.
const BIAS: i32 = 128;
/// From zero to the largest code.
const MOST: f32 = 127.0;
/// Below this a scale would be subnormal; the row counts as 0.
const TINY: f32 = 1e-30;

/// Bytes of a row of `cols` values in memory.
pub(crate) const fn packed_bytes(cols: usize) -> usize {
    2 * pair_lines(cols)
}

/// Dwords of a row of activations.
pub(crate) const fn dwords(cols: usize) -> usize {
    cols.div_ceil(4) + EXTRA
}

/// Lines of a pair.
const fn pair_lines(cols: usize) -> usize {
    HEAD + 2 * cols.div_ceil(4)
}

/// Where code `col` of row `row` of a pair lies: its line, and its byte there.
fn place(row: usize, col: usize) -> (usize, usize) {
    (HEAD + col / 4 * 2 + row / TILE, row % TILE * 4 + col % 4)
}

/// Where the scale of row `row` of a pair lies; its sum is two lines behind.
fn scale_place(row: usize) -> (usize, usize) {
    (row / TILE, row % TILE * 4)
}

fn put(lines: &mut [Line], (line, at): (usize, usize), bytes: [u8; 4]) {
    lines[line].0[at..at + 4].copy_from_slice(&bytes);
}

fn get(lines: &[Line], (line, at): (usize, usize)) -> [u8; 4] {
    let b = &lines[line].0[at..at + 4];
    [b[0], b[1], b[2], b[3]]
}

/// Packs `rows` rows of `cols` codes; `fetch(row, codes)` writes a row's codes, made by [`round`], and gives its scale.
pub(crate) fn pack(
    (rows, cols): (usize, usize),
    fetch: impl Fn(usize, &mut [i8]) -> f32 + Sync,
) -> Result<Zeroed<Line>, Error> {
    let pair = pair_lines(cols);
    let mut lines = memory(pairs(rows) * pair)?;
    lines.par_chunks_exact_mut(pair).enumerate().for_each_init(
        || vec![0; cols],
        |codes, (at, lines)| {
            for line in &mut lines[HEAD..] {
                line.0.fill(0x80);
            }
            for row in at * PAIR..rows.min((at + 1) * PAIR) {
                let scale = fetch(row, codes);
                let row = row % PAIR;
                let (line, byte) = scale_place(row);
                put(lines, (line, byte), scale.to_le_bytes());
                let sum: i32 = codes.iter().map(|c| i32::from(*c)).sum();
                put(lines, (line + 2, byte), sum.to_le_bytes());
                for (col, code) in codes.iter().enumerate() {
                    let (line, byte) = place(row, col);
                    lines[line].0[byte] = *code as u8 ^ 0x80;
                }
            }
        },
    );
    Ok(lines)
}

/// Writes the nearest codes of a row of values and gives their scale: the largest absolute value, or that of a sum of two neighbours
/// that begin at an even place, is 127 steps, so that codes are within -127..=127 and two neighbours within 128 together. The scale is
/// a NaN if a value is no number or infinite.
pub(crate) fn round(values: &[f32], codes: &mut [i8]) -> f32 {
    let both = |two: &[f32]| two.iter().sum::<f32>();
    let sums = values.chunks(2).map(both);
    let max = values.iter().copied().chain(sums);
    let max = max.fold(0.0, |m: f32, v| m.max(v.abs()));
    let finite = values.iter().all(|v| v.is_finite());
    if !finite || max <= TINY {
        codes.fill(0);
        return if finite { 0.0 } else { f32::NAN };
    }
    let scale = max / MOST;
    for (code, v) in codes.iter_mut().zip(values) {
        *code = (v / scale).round_ties_even().clamp(-MOST, MOST) as i8;
    }
    scale
}

/// Row `row` as [`pack`] was given it: writes its codes and gives its scale.
pub(crate) fn unpack(lines: &[Line], row: usize, codes: &mut [i8]) -> f32 {
    let pair = pair_lines(codes.len());
    let lines = &lines[row / PAIR * pair..(row / PAIR + 1) * pair];
    let row = row % PAIR;
    for (col, code) in codes.iter_mut().enumerate() {
        let (line, byte) = place(row, col);
        *code = (lines[line].0[byte] ^ 0x80) as i8;
    }
    f32::from_le_bytes(get(lines, scale_place(row)))
}

/// The values of row `row`. `out`: `[cols]`.
pub(crate) fn dequantize_row(lines: &[Line], row: usize, out: &mut [f32]) {
    let mut codes = vec![0; out.len()];
    let scale = unpack(lines, row, &mut codes);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = scale * f32::from(code);
    }
}

/// How the values of a row become codes: `value * factor + zero`, rounded.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Steps {
    pub(crate) factor: f32,
    pub(crate) zero: f32,
    pub(crate) scale: f32,
}

impl Steps {
    /// Of a row whose values lie within `least..=most`, which includes 0: 254 steps. If some value is no number or infinite the
    /// scale is a NaN, so that a row does not turn into ordinary numbers.
    pub(crate) fn of(least: f32, most: f32, finite: bool) -> Self {
        let scale = most / (2.0 * MOST) - least / (2.0 * MOST);
        if !finite || scale <= TINY {
            return Self {
                factor: 0.0,
                zero: 0.0,
                scale: if finite { 0.0 } else { f32::NAN },
            };
        }
        let factor = 1.0 / scale;
        // Within -127..=127 but for rounding.
        let zero = (-MOST - least * factor).round_ties_even();
        Self {
            factor,
            zero: zero.clamp(-MOST, MOST),
            scale,
        }
    }
}

/// Makes the rows of `from`.
#[inline(always)]
pub(super) unsafe fn activations<S: Simd>(from: &Activations<'_>) {
    let (cols, mut first) = (from.cols, from.rows.start);
    let mut lines = [[0; 4 * PART]; 16];
    while first < from.rows.end {
        let n = group_rows(from.all - first, S::ISA.panel().0);
        let size = dwords(cols);
        // SAFETY: a group belongs to one chunk.
        let group = unsafe { from.to.part(first * size..(first + n) * size) };
        let (codes, extra) = group.split_at_mut(n * (size - EXTRA));
        let (mut steps, mut sums) = ([Steps::default(); MOST_ROWS], [0; MOST_ROWS]);
        for (i, of) in steps[..n].iter_mut().enumerate() {
            // SAFETY: as the caller promises, see `isa`.
            *of = unsafe { self::steps::<S>(from.row(first + i)) };
        }
        let mut to = codes.as_mut_ptr();
        for at in (0..cols).step_by(16 * PART) {
            let end = cols.min(at + 16 * PART);
            for i in 0..n {
                let values = &from.row(first + i)[at..end];
                // SAFETY: as the caller promises, see `isa`.
                sums[i] += unsafe { row_codes::<S>(values, steps[i], &mut lines[i]) };
            }
            let dwords = (end - at).div_ceil(4);
            for part in (0..dwords).step_by(16) {
                let depth = 16.min(dwords - part);
                let rows = lines.as_ptr().cast::<u32>().wrapping_add(part);
                // SAFETY: as the caller promises, see `isa`; sixteen lines are there, and `codes` has `[cols / 4][n]` dwords.
                unsafe {
                    S::columns((rows, lines[0].len()), (n, depth), (to, n));
                    to = to.add(depth * n);
                }
            }
        }
        for i in 0..n {
            // What is too much in the sums: 128 in each weight, or in each code and so in the zero.
            let (first, zero) = if S::SIGNED_WEIGHTS {
                (0, BIAS)
            } else {
                (-BIAS * sums[i], 0)
            };
            extra[i] = first as u32;
            extra[n + i] = (steps[i].zero as i32 + zero) as u32;
            extra[2 * n + i] = steps[i].scale.to_bits();
        }
        first += n;
    }
}

/// The steps of a row.
#[inline(always)]
unsafe fn steps<S: Simd>(row: &[f32]) -> Steps {
    // SAFETY: as the caller promises, see `isa`; `at + n <= row.len()`.
    unsafe {
        let zero = S::splat(0.0);
        let (mut least, mut most, mut finite) = ([zero; 2], [zero; 2], [zero; 2]);
        let mut take = |c: usize, v: S::F| {
            least[c] = S::min(v, least[c]);
            most[c] = S::max(v, most[c]);
            // Neither a NaN nor an infinity times 0 is 0.
            finite[c] = S::fma(v, zero, finite[c]);
        };
        let mut at = 0;
        // Two at a time, for shorter chains.
        while at + 32 <= row.len() {
            take(0, S::load(row.as_ptr().add(at)));
            take(1, S::load(row.as_ptr().add(at + 16)));
            at += 32;
        }
        while at < row.len() {
            let n = 16.min(row.len() - at);
            take(0, S::load_part(row.as_ptr().add(at), n));
            at += n;
        }
        let (least, most) = (S::min(least[0], least[1]), S::max(most[0], most[1]));
        let least = -S::largest(S::sub(zero, least));
        let finite = S::sum(S::add(finite[0], finite[1])) == 0.0;
        Steps::of(least, S::largest(most), finite)
    }
}

/// The codes of values, zeros behind the last, and their sum. `to`: a dword for each four values, at least.
#[inline(always)]
unsafe fn row_codes<S: Simd>(values: &[f32], steps: Steps, to: &mut [u32]) -> i32 {
    // A row without steps has codes of 0, whatever its values are.
    if steps.factor == 0.0 {
        to.fill(if S::SIGNED_WEIGHTS { 0x8080_8080 } else { 0 });
        return 0;
    }
    // SAFETY: as the caller promises, see `isa`; at most 16 values are read, and their dwords written, at a time.
    unsafe {
        let (factor, zero) = (S::splat(steps.factor), S::splat(steps.zero));
        let (low, high) = (S::splat(-MOST), S::splat(MOST));
        let mut sum = S::splat(0.0);
        for (values, to) in values.chunks(16).zip(to.chunks_exact_mut(4)) {
            let n = values.len();
            let v = if n == 16 {
                S::load(values.as_ptr())
            } else {
                S::load_part(values.as_ptr(), n)
            };
            let v = S::round(S::add(S::mul(v, factor), zero));
            let mut v = S::min(high, S::max(low, v));
            if n < 16 {
                // Nothing is there, which is not the same as a value of 0.
                v = S::mul(v, S::load_part([1.0; 16].as_ptr(), n));
            }
            S::store_quads(to.as_mut_ptr(), v);
            sum = S::add(sum, v);
        }
        // Whole numbers below 2^24: exact.
        S::sum(sum) as i32
    }
}

/// Rows with a pair. `w`: the pair's lines; `a`: the rows' groups; `left`: rows from the first to the last of the product, which
/// say how the rows are grouped.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd>(
    w: *const u8,
    cols: usize,
    (a, left): (*const u32, usize),
    sums: &mut [[S::F; 2]],
) {
    let (steps, size) = (cols.div_ceil(4), dwords(cols));
    let mut row = 0;
    while row < sums.len() {
        let n = group_rows(left - row, S::ISA.panel().0);
        // SAFETY: as the caller promises, see `isa`; the group is at `row * size`.
        unsafe {
            let a = a.add(row * size);
            let sums = &mut sums[row..];
            match n {
                12 => panel::<S, 12>(w, steps, a, sums),
                8 => panel::<S, 8>(w, steps, a, sums),
                6 => panel::<S, 6>(w, steps, a, sums),
                4 => panel::<S, 4>(w, steps, a, sums),
                3 => panel::<S, 3>(w, steps, a, sums),
                2 => panel::<S, 2>(w, steps, a, sums),
                _ => panel::<S, 1>(w, steps, a, sums),
            }
        }
        row += n;
    }
}

/// `R` rows with a pair, as many tiles at a time as there are registers for. `a`: `[steps, R]` dwords of codes, then what a row has
/// beside them.
#[inline(always)]
unsafe fn panel<S: Simd, const R: usize>(
    w: *const u8,
    steps: usize,
    a: *const u32,
    sums: &mut [[S::F; 2]],
) {
    let (rows, tiles) = S::ISA.panel();
    if R > rows || R > sums.len() {
        return;
    }
    // SAFETY: as the caller promises, see `isa`; `step < steps`, there are `R` sums, and a word for each `WORD` steps of a tile.
    unsafe {
        let extra = a.add(steps * R);
        let sums = sums.as_mut_ptr();
        for tile in (0..2).step_by(tiles) {
            let mut c = [[S::isplat(0); 2]; R];
            each_row!(R, I => c[I] = [S::isplat(*extra.add(I) as i32); 2]);
            let codes = w.add(64 * (HEAD + tile));
            for step in 0..steps {
                let (w, a) = (codes.add(step * 128), a.add(step * R));
                S::prefetch(w.wrapping_add(8192));
                S::prefetch(w.wrapping_add(8192 + 64));
                let first = S::load_quads(w);
                // Where there is no room for a second tile nothing is done with it.
                let second = if tiles == 2 {
                    S::load_quads(w.add(64))
                } else {
                    first
                };
                each_row!(R, I => {
                    let q = *a.add(I);
                    c[I][0] = S::dot_quads(c[I][0], first, q);
                    if tiles == 2 {
                        c[I][1] = S::dot_quads(c[I][1], second, q);
                    }
                });
            }
            each_row!(R, I => {
                let zero = *extra.add(R + I) as i32;
                let scale = S::splat(f32::from_bits(*extra.add(2 * R + I)));
                let sums = &mut *sums.add(I);
                sums[tile] = scaled::<S>((w, tile), c[I][0], (zero, scale));
                if tiles == 2 {
                    sums[1] = scaled::<S>((w, 1), c[I][1], (zero, scale));
                }
            });
        }
    }
}

/// What the sums of a row with a tile come to. `w`: the pair's lines.
#[inline(always)]
unsafe fn scaled<S: Simd>(
    (w, tile): (*const u8, usize),
    sums: S::I,
    (zero, scale): (i32, S::F),
) -> S::F {
    // SAFETY: as the caller promises, see `isa`; a pair begins with its scales and its sums.
    unsafe {
        let head = w.add(64 * tile);
        let exact = S::less(sums, head.add(128).cast(), zero);
        S::mul(S::to_f32(exact), S::mul(S::load(head.cast()), scale))
    }
}
