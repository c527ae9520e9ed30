//! The layout of a table, whose rows are looked up and never multiplied: row after row, as they are.

use super::pack::{Line, bytes, bytes_mut, memory};
use crate::memory::Zeroed;
use crate::{Error, Format};
use half::{bf16, f16};
use rayon::prelude::*;

/// Lines that the table takes.
pub(crate) fn lines(rows: usize, row_bytes: usize) -> usize {
    (rows * row_bytes).div_ceil(size_of::<Line>())
}

/// Packs `rows` rows of `row_bytes`; `fetch(row, bytes)` writes a row's bytes.
pub(crate) fn pack(
    rows: usize,
    row_bytes: usize,
    fetch: impl Fn(usize, &mut [u8]) + Sync,
) -> Result<Zeroed<Line>, Error> {
    let mut lines = memory(lines(rows, row_bytes))?;
    let all = &mut bytes_mut(&mut lines)[..rows * row_bytes];
    let each = |(row, bytes): (usize, &mut [u8])| fetch(row, bytes);
    all.par_chunks_exact_mut(row_bytes)
        .with_min_len(64)
        .enumerate()
        .for_each(each);
    Ok(lines)
}

/// The values of row `row`. `out`: `[cols]`.
pub(crate) fn row(lines: &[Line], row: usize, format: Format, out: &mut [f32]) {
    let row_bytes = out.len() * format.block_bytes();
    let start = row * row_bytes;
    let bytes = &bytes(lines)[start..start + row_bytes];
    match format {
        Format::Bf16 => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        Format::F16 => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = f16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        _ => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
    }
}
