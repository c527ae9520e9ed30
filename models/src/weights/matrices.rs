//! Matrices and tables of a checkpoint as kernels take them: read one by one or several at once, in the precision that was asked for, and
//! brought to where they will be used.
//!
//! Must not know: files. Invariant: of a matrix only one copy stays.

use super::{Contents, Precision, Stored, Use, Weights, stack_alike};
use crate::{Dtype, LoadError};
use koma_kernels::{Format, PackedWeight};

impl Weights {
    /// The matrix `name` of shape `[rows, cols]`, in the precision that was asked for.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], or [`LoadError::Tensor`] for another shape or type, or if the kernels refuse it.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<PackedWeight, LoadError> {
        self.read(name, (rows, cols), Precision::Any)
    }

    /// As [`Weights::matrix`], but not in int8 or FP8: for tables, and for products of which a request has only one row.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub(crate) fn fine(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<PackedWeight, LoadError> {
        self.read(name, (rows, cols), Precision::Fine)
    }

    /// As [`Weights::fine`], of rows that are looked up and never multiplied.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub(crate) fn table(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<PackedWeight, LoadError> {
        let (found, entry) = self.find(name)?;
        let format = self.wanted(found, &entry.stored, Precision::Fine)?;
        if self.scheme.is_some() || format.block_len() > 1 {
            // Quantized values have their own layouts.
            return self.settled(self.fine(name, rows, cols)?);
        }
        let (name, entry) = self.entry(name, &[rows, cols])?;
        let bytes = self.files.map(entry.file, entry.range.clone())?;
        let each = bytes.len() / rows.max(1);
        let row = |r: usize| &bytes[r * each..(r + 1) * each];
        let made = if let Some(other) = self.contents.instead((rows, cols), format) {
            other.map(PackedWeight::into_table)
        } else if entry.stored == Stored::As(format) {
            PackedWeight::table(rows, cols, format, |r, to| to.copy_from_slice(row(r)))
        } else {
            PackedWeight::table(rows, cols, format, |r, to| {
                let mut values = vec![0.0; cols];
                entry.stored.read(row(r), &mut values);
                format.write(&values, to);
            })
        };
        let made = made.map_err(|e| self.tensor_error(name, e.to_string()))?;
        let used = Use {
            values: rows * cols,
            format: Some(format.name()),
        };
        self.account(entry, made.bytes(), used);
        self.settled(made)
    }

    fn read(
        &self,
        name: &str,
        (rows, cols): (usize, usize),
        precision: Precision,
    ) -> Result<PackedWeight, LoadError> {
        if let Some(packed) = self.quantized(name, (rows, cols))? {
            return Ok(packed);
        }
        let (name, entry) = self.entry(name, &[rows, cols])?;
        let bytes = self.files.map(entry.file, entry.range.clone())?;
        let packed = self.pack(name, (&entry.stored, precision), &bytes, (rows, cols))?;
        let used = Use {
            values: rows * cols,
            format: Some(packed.format().name()),
        };
        self.account(entry, packed.bytes(), used);
        Ok(packed)
    }

    /// The matrices `parts` (name, rows) of `cols` columns, one above the other, if all are computed with one format and have one
    /// order of columns; else each.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub(crate) fn stacked(
        &self,
        parts: &[(String, usize)],
        cols: usize,
        precision: Precision,
    ) -> Result<Vec<PackedWeight>, LoadError> {
        if let Some(whole) = self.packed_together(parts, cols, precision)? {
            return Ok(vec![whole]);
        }
        let matrix = |(name, rows): &(String, usize)| self.read(name, (*rows, cols), precision);
        let each: Vec<_> = parts.iter().map(matrix).collect::<Result<_, _>>()?;
        stack_alike(each).map_err(|e| self.tensor_error(&parts[0].0, e.to_string()))
    }

    /// [`Weights::stacked`] without a copy of each part: for those that the file stores as they are computed with.
    fn packed_together(
        &self,
        parts: &[(String, usize)],
        cols: usize,
        precision: Precision,
    ) -> Result<Option<PackedWeight>, LoadError> {
        if self.scheme.is_some() || !matches!(self.contents, Contents::Own) {
            return Ok(None);
        }
        let mut entries = Vec::with_capacity(parts.len());
        let mut maps = Vec::with_capacity(parts.len());
        let mut formats = Vec::with_capacity(parts.len());
        for (name, rows) in parts {
            let (name, entry) = self.entry(name, &[*rows, cols])?;
            let format = self.wanted(name, &entry.stored, precision)?;
            if entry.stored != Stored::As(format) || formats.first().is_some_and(|f| *f != format) {
                return Ok(None);
            }
            maps.push(self.files.map(entry.file, entry.range.clone())?);
            entries.push(entry);
            formats.push(format);
        }
        let Some(format) = formats.first() else {
            return Ok(None);
        };
        let bytes = parts.iter().zip(&maps);
        let bytes: Vec<_> = bytes.map(|((_, rows), map)| (*rows, &**map)).collect();
        let whole = PackedWeight::from_parts(cols, *format, &bytes);
        let whole = whole.map_err(|e| self.tensor_error(&parts[0].0, e.to_string()))?;
        for (entry, (name, rows)) in entries.into_iter().zip(parts) {
            let part = PackedWeight::hollow(*rows, cols, *format);
            let part = part.map_err(|e| self.tensor_error(name, e.to_string()))?;
            let used = Use {
                values: rows * cols,
                format: Some(format.name()),
            };
            self.account(entry, part.bytes(), used);
        }
        Ok(Some(whole))
    }

    /// The matrices that the tensor `name` of shape `[count, rows, cols]` holds one after another (experts).
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub(crate) fn matrices(
        &self,
        name: &str,
        (count, rows, cols): (usize, usize, usize),
    ) -> Result<Vec<PackedWeight>, LoadError> {
        let (name, entry) = self.entry(name, &[count, rows, cols])?;
        let bytes = self.files.map(entry.file, entry.range.clone())?;
        let each = bytes.len() / count.max(1);
        let pack = |i| {
            let bytes = &bytes[i * each..(i + 1) * each];
            self.pack(name, (&entry.stored, Precision::Any), bytes, (rows, cols))
        };
        let packed: Vec<_> = (0..count).map(pack).collect::<Result<_, _>>()?;
        let used = Use {
            values: count * rows * cols,
            format: packed.first().map(|p| p.format().name()),
        };
        let bytes = packed.iter().map(PackedWeight::bytes).sum();
        self.account(entry, bytes, used);
        Ok(packed)
    }

    /// The weight where it will be used, if that is a device; nothing is stacked any more then.
    ///
    /// # Errors
    /// If there is no room.
    pub(crate) fn settled(&self, weight: PackedWeight) -> Result<PackedWeight, LoadError> {
        #[cfg(feature = "cuda")]
        if !matches!(self.contents, Contents::None)
            && let Some(upload) = &self.options.upload
        {
            return weight.settled(upload).map_err(|e| LoadError::File {
                path: self.path.clone(),
                reason: e.to_string(),
            });
        }
        Ok(weight)
    }

    /// As [`Weights::settled`], of each.
    pub(crate) fn all_settled(
        &self,
        weights: Vec<PackedWeight>,
    ) -> Result<Vec<PackedWeight>, LoadError> {
        weights.into_iter().map(|w| self.settled(w)).collect()
    }

    /// One matrix of the bytes `bytes`, in the precision that was asked for.
    fn pack(
        &self,
        name: &str,
        (stored, precision): (&Stored, Precision),
        bytes: &[u8],
        (rows, cols): (usize, usize),
    ) -> Result<PackedWeight, LoadError> {
        let wanted = self.wanted(name, stored, precision)?;
        let packed = if let Some(other) = self.contents.instead((rows, cols), wanted) {
            other
        } else if *stored == Stored::As(wanted) {
            PackedWeight::from_bytes(rows, cols, wanted, bytes)
        } else {
            let values = self.values(name, stored, bytes, &[rows, cols])?;
            PackedWeight::from_f32(rows, cols, wanted, &values)
        };
        let packed = match wanted {
            Format::FP8 => packed.and_then(PackedWeight::with_fp8_activations),
            _ => packed,
        };
        packed.map_err(|e| self.tensor_error(name, e.to_string()))
    }

    /// The format that a matrix stored as `stored` is computed with.
    fn wanted(
        &self,
        name: &str,
        stored: &Stored,
        precision: Precision,
    ) -> Result<Format, LoadError> {
        match (self.options.dtype, stored) {
            (_, Stored::Other(_)) => Err(self.not_a_weight(name, stored)),
            (Dtype::Auto, Stored::F64 | Stored::As(Format::F32)) => {
                Ok(self.named.unwrap_or(Format::F32))
            }
            (Dtype::Auto, Stored::As(format)) => Ok(*format),
            (Dtype::F32, _) => Ok(Format::F32),
            (Dtype::Bf16, _) => Ok(Format::Bf16),
            (Dtype::Int8 | Dtype::Fp8, Stored::As(format)) if format.block_len() > 1 => Ok(*format),
            (Dtype::Int8, _) => Ok(match precision {
                Precision::Any => Format::Int8,
                Precision::Fine => Format::Bf16,
            }),
            (Dtype::Fp8, _) => Ok(match precision {
                Precision::Any => Format::FP8,
                Precision::Fine => Format::Bf16,
            }),
        }
    }
}
