//! The packed layout of weights, one for every CPU path.
//!
//! 32 output rows are a *pair*: two tiles of 16, in one ascending stream that both the one-row and the many-row kernel
//! read. A row is a string of *units*: one value (F32, F16), two (BF16, the last padded with 0), or one block of 32. For
//! each unit of the 32 rows, in the order of the columns:
//! ```text
//! halves   for each f16 of the unit (a scale, a minimum, an F16 value): [32 rows] u16        64 bytes
//! dwords   tile 0, then tile 1: for each 4 bytes of the unit's values:  [16 rows] dword      64 bytes
//! ```
//! The bytes of a unit are those of the file, so unpacking gives them back; only `Q8_0`'s values get their top bit
//! inverted (value + 128), which is what the AVX-512 dot product wants. Rows beyond the last are zero.

use crate::Format;
use half::{bf16, f16};
use rayon::prelude::*;

/// Output rows of a tile: the lanes of a vector.
pub(crate) const TILE: usize = 16;
/// Output rows that are packed together.
pub(crate) const PAIR: usize = 2 * TILE;
/// The most bytes that a unit has in a file.
const UNIT_BYTES: usize = 36;

/// Sixty-four aligned bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

/// What a unit of a format is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    /// Columns.
    pub(crate) cols: usize,
    /// f16 values that come first.
    pub(crate) halves: usize,
    /// Groups of 4 bytes after them.
    pub(crate) dwords: usize,
}

impl Unit {
    pub(crate) fn of(format: Format) -> Self {
        let (cols, halves, dwords) = match format {
            Format::F32 => (1, 0, 1),
            Format::F16 => (1, 1, 0),
            Format::Bf16 => (2, 0, 1),
            Format::Q8_0 => (32, 1, 8),
            Format::Q4_0 => (32, 1, 4),
            Format::Q4_1 => (32, 2, 4),
        };
        Self {
            cols,
            halves,
            dwords,
        }
    }

    /// Lines of one unit of a pair.
    pub(crate) fn lines(self) -> usize {
        self.halves + 2 * self.dwords
    }

    /// Lines of a pair with `cols` columns.
    pub(crate) fn pair_lines(self, cols: usize) -> usize {
        cols.div_ceil(self.cols) * self.lines()
    }

    fn bytes(self) -> usize {
        2 * self.halves + 4 * self.dwords
    }

    /// Where byte `byte` of a unit of row `row` of the pair lies in the packed unit.
    fn place(self, row: usize, byte: usize) -> usize {
        if byte < 2 * self.halves {
            return byte / 2 * 64 + row * 2 + byte % 2;
        }
        let (byte, tile) = (byte - 2 * self.halves, row / TILE);
        (self.halves + tile * self.dwords + byte / 4) * 64 + row % TILE * 4 + byte % 4
    }
}

/// What a byte of a unit is combined with on its way in and out.
fn flip(format: Format, byte: usize) -> u8 {
    if format == Format::Q8_0 && byte >= 2 {
        0x80
    } else {
        0
    }
}

/// Pairs that `rows` rows take.
pub(crate) fn pairs(rows: usize) -> usize {
    rows.div_ceil(PAIR)
}

/// Bytes of a row as files store it.
pub(crate) fn row_bytes(cols: usize, format: Format) -> usize {
    cols / format.block_len() * format.block_bytes()
}

/// Packs `rows` rows; `fetch(row, bytes)` writes a row as files store it.
pub(crate) fn pack(
    rows: usize,
    cols: usize,
    format: Format,
    fetch: impl Fn(usize, &mut [u8]) + Sync,
) -> Vec<Line> {
    let unit = Unit::of(format);
    let pair_lines = unit.pair_lines(cols);
    let mut lines = vec![Line([0; 64]); pairs(rows) * pair_lines];
    let buffer = || vec![0; cols.div_ceil(unit.cols) * unit.bytes()];
    lines
        .par_chunks_exact_mut(pair_lines)
        .enumerate()
        .for_each_init(buffer, |bytes, (pair, lines)| {
            for row in pair * PAIR..rows.min((pair + 1) * PAIR) {
                fetch(row, &mut bytes[..row_bytes(cols, format)]);
                let units = bytes.chunks_exact(unit.bytes());
                for (from, to) in units.zip(lines.chunks_exact_mut(unit.lines())) {
                    for (i, b) in from.iter().enumerate() {
                        let at = unit.place(row % PAIR, i);
                        to[at / 64].0[at % 64] = b ^ flip(format, i);
                    }
                }
            }
        });
    lines
}

/// Calls `each(unit, bytes)` for the units of row `row` as files store them, the last one perhaps padded.
fn units(
    lines: &[Line],
    (row, cols): (usize, usize),
    format: Format,
    mut each: impl FnMut(usize, &[u8]),
) {
    let unit = Unit::of(format);
    let pair_lines = unit.pair_lines(cols);
    let pair = &lines[row / PAIR * pair_lines..(row / PAIR + 1) * pair_lines];
    let mut bytes = [0; UNIT_BYTES];
    for (u, from) in pair.chunks_exact(unit.lines()).enumerate() {
        for (i, b) in bytes[..unit.bytes()].iter_mut().enumerate() {
            let at = unit.place(row % PAIR, i);
            *b = from[at / 64].0[at % 64] ^ flip(format, i);
        }
        each(u, &bytes[..unit.bytes()]);
    }
}

/// The bytes of row `row` as files store them.
pub(crate) fn unpack_row(
    lines: &[Line],
    (row, cols): (usize, usize),
    format: Format,
    out: &mut [u8],
) {
    let size = Unit::of(format).bytes();
    units(lines, (row, cols), format, |u, bytes| {
        let out = &mut out[u * size..];
        let n = size.min(out.len());
        out[..n].copy_from_slice(&bytes[..n]);
    });
}

/// The values of row `row`. `out`: `[cols]`.
pub(crate) fn dequantize_row(lines: &[Line], row: usize, format: Format, out: &mut [f32]) {
    let cols = out.len();
    let width = Unit::of(format).cols;
    units(lines, (row, cols), format, |u, bytes| {
        let end = cols.min((u + 1) * width);
        dequantize_unit(format, bytes, &mut out[u * width..end]);
    });
}

fn dequantize_unit(format: Format, b: &[u8], out: &mut [f32]) {
    let half = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    match format {
        Format::F32 => out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        Format::F16 => out[0] = half(0),
        Format::Bf16 => {
            for (o, b) in out.iter_mut().zip(b.chunks_exact(2)) {
                *o = bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        Format::Q8_0 => {
            let d = half(0);
            for (o, q) in out.iter_mut().zip(&b[2..]) {
                *o = f32::from(*q as i8) * d;
            }
        }
        Format::Q4_0 => {
            let d = half(0);
            let (low, high) = out.split_at_mut(16);
            for (q, (low, high)) in b[2..].iter().zip(low.iter_mut().zip(high)) {
                *low = (f32::from(q & 15) - 8.0) * d;
                *high = (f32::from(q >> 4) - 8.0) * d;
            }
        }
        Format::Q4_1 => {
            let (d, m) = (half(0), half(2));
            let (low, high) = out.split_at_mut(16);
            for (q, (low, high)) in b[4..].iter().zip(low.iter_mut().zip(high)) {
                *low = f32::from(q & 15) * d + m;
                *high = f32::from(q >> 4) * d + m;
            }
        }
    }
}
