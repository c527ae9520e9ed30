//! [`PackedWeight`]: a matrix `[rows, cols]` (out, in) in the layout that the product reads, one per format.

use crate::{Cx, Error, Rows};
use half::{bf16, f16};

/// How the values of a weight are stored. Block formats are GGML's: 32 values share a scale (and a minimum).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// 4 bytes a value; activations stay f32: the exact mode.
    F32,
    /// 2 bytes a value; activations are rounded to bf16 before the product, sums are f32.
    Bf16,
    /// 2 bytes a value; activations stay f32.
    F16,
    /// Blocks of f16 scale and 32 int8; activations are quantized to int8 in blocks of 32.
    Q8_0,
    /// Blocks of f16 scale and 32 nibbles (minus 8); activations as for `Q8_0`.
    Q4_0,
    /// Blocks of f16 scale, f16 minimum and 32 nibbles; activations as for `Q8_0`.
    Q4_1,
}

impl Format {
    /// Its name in messages (GGML's for block formats).
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
        }
    }

    /// Values in one block (1 for plain formats).
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::Bf16 | Self::F16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 32,
        }
    }

    /// Bytes of one block as files store it.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
        }
    }
}

/// A weight matrix `[rows, cols]`, rows being outputs. The product of a row of activations with a row of the weight is a
/// sum in one fixed order that depends on nothing but `cols` and the format.
#[derive(Debug)]
pub struct PackedWeight {
    rows: usize,
    cols: usize,
    format: Format,
    data: Vec<u8>,
}

impl PackedWeight {
    /// Packs the bytes of a file: `rows * cols` values in `format`, row-major, little-endian, blocks along a row.
    ///
    /// # Errors
    /// [`Error::BlockLength`] or [`Error::WeightBytes`] if length and shape do not agree.
    pub fn from_bytes(
        rows: usize,
        cols: usize,
        format: Format,
        bytes: &[u8],
    ) -> Result<Self, Error> {
        if cols == 0 || !cols.is_multiple_of(format.block_len()) {
            return Err(Error::BlockLength {
                cols,
                block: format.block_len(),
                format: format.name(),
            });
        }
        let expected = rows * (cols / format.block_len()) * format.block_bytes();
        if bytes.len() != expected {
            return Err(Error::WeightBytes {
                rows,
                cols,
                format: format.name(),
                expected,
                got: bytes.len(),
            });
        }
        Ok(Self {
            rows,
            cols,
            format,
            data: bytes.to_vec(),
        })
    }

    /// Packs `f32` values as [`Format::F32`] or rounded to [`Format::Bf16`] (nearest even).
    ///
    /// # Errors
    /// As [`PackedWeight::from_bytes`]; a block format is refused, since quantizing is not this crate's business.
    pub fn from_f32(
        rows: usize,
        cols: usize,
        format: Format,
        values: &[f32],
    ) -> Result<Self, Error> {
        let bytes: Vec<u8> = match format {
            Format::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Format::Bf16 => values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                .collect(),
            _ => {
                return Err(Error::Stack(format!(
                    "{} cannot be made from f32",
                    format.name()
                )));
            }
        };
        Self::from_bytes(rows, cols, format, &bytes)
    }

    /// One weight of all rows of `parts`, in order (q, k, v; gate, up).
    ///
    /// # Errors
    /// [`Error::Stack`] if columns or formats differ, or there is no part.
    pub fn stack(parts: Vec<Self>) -> Result<Self, Error> {
        let mut parts = parts.into_iter();
        let mut all = parts
            .next()
            .ok_or_else(|| Error::Stack("no parts".to_owned()))?;
        for part in parts {
            if (part.cols, part.format) != (all.cols, all.format) {
                return Err(Error::Stack(format!(
                    "{} columns of {} beside {} of {}",
                    all.cols,
                    all.format.name(),
                    part.cols,
                    part.format.name()
                )));
            }
            all.rows += part.rows;
            all.data.extend_from_slice(&part.data);
        }
        Ok(all)
    }

    /// Output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Row `row` as f32, bit-equal to the reference dequantization of its format. `out`: `[cols]`.
    ///
    /// # Panics
    /// If the row does not exist or `out` has another length.
    #[track_caller]
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "dequantize_row: length");
        let stride = self.data.len() / self.rows;
        let bytes = &self.data[row * stride..(row + 1) * stride];
        let half_at = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
        let blocks = bytes
            .chunks_exact(self.format.block_bytes())
            .zip(out.chunks_exact_mut(self.format.block_len()));
        for (b, o) in blocks {
            match self.format {
                Format::F32 => o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                Format::Bf16 => o[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
                Format::F16 => o[0] = half_at(b),
                Format::Q8_0 => {
                    let d = half_at(b);
                    o.iter_mut()
                        .zip(&b[2..])
                        .for_each(|(o, q)| *o = f32::from(*q as i8) * d);
                }
                Format::Q4_0 => {
                    let d = half_at(b);
                    for (i, q) in b[2..].iter().enumerate() {
                        o[i] = (f32::from(q & 15) - 8.0) * d;
                        o[i + 16] = (f32::from(q >> 4) - 8.0) * d;
                    }
                }
                Format::Q4_1 => {
                    let (d, m) = (half_at(b), half_at(&b[2..]));
                    for (i, q) in b[4..].iter().enumerate() {
                        o[i] = f32::from(q & 15) * d + m;
                        o[i + 16] = f32::from(q >> 4) * d + m;
                    }
                }
            }
        }
    }
}

/// Looks up rows of a weight: `out` becomes `[ids.len(), weight.cols()]`.
///
/// # Panics
/// If an id is not a row: ids are validated when a request is admitted.
#[track_caller]
pub fn embed(cx: &Cx, ids: &[u32], weight: &PackedWeight, out: &mut Rows) {
    let _ = cx;
    out.reset(ids.len(), weight.cols());
    for (r, &id) in ids.iter().enumerate() {
        weight.dequantize_row(id as usize, out.row_mut(r));
    }
}
