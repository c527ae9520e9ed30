//! The packed layout of weights, one for every CPU path.
//!
//! 32 output rows are a *pair*: two tiles of 16, in one ascending stream that both the one-row and the many-row kernel
//! read. A row is a string of units (`cpu::codes`). For each unit of the 32 rows, in the order of the columns:
//! ```text
//! heads    for each head of the unit:  [32 rows]                                             64 or 128 bytes
//! and for each block of the unit:
//!   subs     for each byte:              [32 rows] u8                                          32 bytes
//!   codes    tile 0, then tile 1: for each 4 bytes of the block's codes: [16 rows] dword     64 bytes
//! ```
//! The bytes are those of the row's unit, so unpacking gives them back. Rows beyond the last are zero.

use super::codes::Unit;
use super::encode::decode_unit;
use crate::memory::{Plain, Zeroed};
use crate::{Error, Format};
use rayon::prelude::*;
use std::array;

/// Output rows of a tile: the lanes of a vector.
pub(crate) const TILE: usize = 16;
/// Output rows that are packed together.
pub(crate) const PAIR: usize = 2 * TILE;
/// The most bytes that a unit of one row has.
const UNIT_BYTES: usize = 260;

/// Sixty-four aligned bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);
// SAFETY: any 64 bytes are a line, and 64 divides a page.
unsafe impl Plain for Line {}

/// The bytes of lines, one after another.
pub(crate) fn bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 bytes and nothing else.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}

/// As [`bytes`].
pub(crate) fn bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: a line is 64 bytes and nothing else, and any bytes are one.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}

/// Lines of one unit of a pair: each byte of a row is half a line.
fn unit_lines(unit: Unit) -> usize {
    unit.bytes() / 2
}

/// Lines of a pair with `cols` columns.
pub(crate) fn pair_lines(format: Format, cols: usize) -> usize {
    format.packed_bytes(cols) / 2
}

/// Calls `each(at, packed, n)` for the runs of `n` bytes, at `at` in a unit of row `row` and at `packed` in the pair's.
#[inline]
fn runs(unit: Unit, row: usize, mut each: impl FnMut(usize, usize, usize)) {
    for at in (0..unit.heads).step_by(unit.head) {
        each(at, at * PAIR + row * unit.head, unit.head);
    }
    for block in 0..unit.blocks {
        let start = unit.heads + block * unit.block();
        for at in start..start + unit.subs {
            each(at, at * PAIR + row, 1);
        }
        let (start, tile) = (start + unit.subs, row / TILE);
        for at in (0..unit.codes).step_by(4) {
            let packed = start * PAIR + tile * unit.codes * TILE + at * TILE;
            each(start + at, packed + row % TILE * 4, 4);
        }
    }
}

/// Pairs that `rows` rows take.
pub(crate) fn pairs(rows: usize) -> usize {
    rows.div_ceil(PAIR)
}

/// Packs `rows` rows; `fetch(row, units)` writes a row's units.
pub(crate) fn pack(
    rows: usize,
    cols: usize,
    format: Format,
    fetch: impl Fn(usize, &mut [u8]) + Sync,
) -> Result<Zeroed<Line>, Error> {
    let row_bytes = format.packed_bytes(cols);
    let pair_lines = pair_lines(format, cols);
    let mut lines = memory(pairs(rows) * pair_lines)?;
    lines
        .par_chunks_exact_mut(pair_lines)
        .enumerate()
        .for_each_init(
            || vec![0; PAIR * row_bytes],
            |units, (pair, lines)| {
                for (i, units) in units.chunks_exact_mut(row_bytes).enumerate() {
                    match pair * PAIR + i {
                        row if row < rows => fetch(row, units),
                        _ => units.fill(0),
                    }
                }
                interleave(Unit::of(format), units, lines);
            },
        );
    Ok(lines)
}

/// Puts the units of 32 rows in the order of [`runs`], line after line.
fn interleave(unit: Unit, units: &[u8], lines: &mut [Line]) {
    let row = |i| &units[i * units.len() / PAIR..(i + 1) * units.len() / PAIR];
    let tiles: [[&[u8]; TILE]; 2] = array::from_fn(|t| array::from_fn(|i| row(t * TILE + i)));
    for (u, to) in lines.chunks_exact_mut(unit_lines(unit)).enumerate() {
        let first = u * unit.bytes();
        for (t, tile) in tiles.iter().enumerate() {
            // 16 rows' `n` bytes at `at` of the unit; in no layout do they cross the end of a line.
            let mut put = |at: usize, n: usize, packed: usize| {
                let to = &mut to[packed / 64].0[packed % 64..][..TILE * n];
                match n {
                    1 => gather::<1>(tile, first + at, to),
                    2 => gather::<2>(tile, first + at, to),
                    _ => gather::<4>(tile, first + at, to),
                }
            };
            for at in (0..unit.heads).step_by(unit.head) {
                put(at, unit.head, at * PAIR + t * TILE * unit.head);
            }
            for block in 0..unit.blocks {
                let start = unit.heads + block * unit.block();
                for at in start..start + unit.subs {
                    put(at, 1, at * PAIR + t * TILE);
                }
                let start = start + unit.subs;
                for at in (0..unit.codes).step_by(4) {
                    put(start + at, 4, start * PAIR + (t * unit.codes + at) * TILE);
                }
            }
        }
    }
}

/// The `N` bytes at `at` of each row.
fn gather<const N: usize>(rows: &[&[u8]; TILE], at: usize, to: &mut [u8]) {
    for (to, row) in to.chunks_exact_mut(N).zip(rows) {
        to.copy_from_slice(&row[at..at + N]);
    }
}

/// Lines of zeros.
pub(crate) fn memory(lines: usize) -> Result<Zeroed<Line>, Error> {
    Zeroed::side_by_side(lines).ok_or(Error::OutOfMemory {
        what: "a weight",
        bytes: lines.saturating_mul(size_of::<Line>()),
    })
}

/// Calls `each(number, unit)` for the units of row `row`.
fn units(
    lines: &[Line],
    (row, cols): (usize, usize),
    format: Format,
    mut each: impl FnMut(usize, &[u8]),
) {
    let unit = Unit::of(format);
    let pair_lines = pair_lines(format, cols);
    let pair = &lines[row / PAIR * pair_lines..(row / PAIR + 1) * pair_lines];
    let mut bytes = [0; UNIT_BYTES];
    for (u, from) in pair.chunks_exact(unit_lines(unit)).enumerate() {
        runs(unit, row % PAIR, |at, packed, n| {
            bytes[at..at + n].copy_from_slice(&from[packed / 64].0[packed % 64..][..n]);
        });
        each(u, &bytes[..unit.bytes()]);
    }
}

/// The units of row `row`. `out`: [`Format::packed_bytes`] bytes.
pub(crate) fn unpack_row(
    lines: &[Line],
    (row, cols): (usize, usize),
    format: Format,
    out: &mut [u8],
) {
    units(lines, (row, cols), format, |u, bytes| {
        out[u * bytes.len()..][..bytes.len()].copy_from_slice(bytes);
    });
}

/// The values of row `row`. `out`: `[cols]`.
pub(crate) fn dequantize_row(lines: &[Line], row: usize, format: Format, out: &mut [f32]) {
    let cols = out.len();
    let width = Unit::of(format).cols;
    units(lines, (row, cols), format, |u, bytes| {
        let end = cols.min((u + 1) * width);
        decode_unit(format, bytes, &mut out[u * width..end]);
    });
}
